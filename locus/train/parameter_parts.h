// What the optimiser of this rank updates: whole parameters, or, with a distributed optimiser
// (ZeRO-1, Rajbhandari et al., 2020), one contiguous part of each. Experts are shared out among the
// ranks that hold the same ones, all else among all ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "locus/comm/parallel_context.h"

namespace locus::train {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// True for the parameters of experts, of which each rank has its own.
bool is_expert_parameter(const std::string& name);

// Whether weight decay applies: matrices alone, not norms, biases or router biases.
bool has_weight_decay(const std::string& name, const at::Tensor& parameter);

struct ParameterPart {
  std::string name;      // of the parameter
  at::Tensor parameter;  // all of it
  // What is updated, with the gradient for it: the parameter itself, or a flat view of a part.
  at::Tensor value;
  bool is_expert = false;
  bool has_decay = false;
  std::shared_ptr<comm::ProcessGroup> group;  // the ranks that hold the same parameter; null: alone
  int64_t num_parts = 1;                      // 1, or one for each rank of the group
  int64_t part_size = 0;                      // values of a part; the last ones may have fewer

  bool is_whole() const { return num_parts == 1; }
  // Among the values of the parameter; equal where the part of that rank is empty.
  int64_t begin(int64_t rank) const { return std::min(rank * part_size, parameter.numel()); }
  int64_t end(int64_t rank) const { return begin(rank + 1); }
  int64_t own_begin() const { return is_whole() ? 0 : begin(group->rank()); }
};

using ParameterParts = std::vector<ParameterPart>;

// Of this rank: parts where the context has a distributed optimiser, else whole parameters. Views
// share memory with the parameters, whose storage has to stay from here on.
ParameterParts make_parts(const NamedTensors& parameters, const comm::ParallelContext& parallel);

// A tensor of the parameter's shape out of the parts that the ranks of its group have of it, on
// rank `root` of the group; undefined on the others. All of them call it; the part is not whole.
at::Tensor gather_parts(const ParameterPart& part, const at::Tensor& own, int64_t root);

}  // namespace locus::train
