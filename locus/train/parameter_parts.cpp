#include "locus/train/parameter_parts.h"

#include <ATen/ops/empty.h>

#include "locus/base/error.h"

namespace locus::train {
namespace {

// Parts begin at multiples of this, 64 bytes of float32: an optimiser's vector instructions then
// cover the same values as over the whole parameter, and round alike.
constexpr int64_t kAlignment = 16;

}  // namespace

bool is_expert_parameter(const std::string& name) {
  return name.find(".experts.") != std::string::npos;
}

bool has_weight_decay(const std::string& name, const at::Tensor& parameter) {
  return parameter.dim() >= 2 && !name.ends_with("bias");
}

ParameterParts make_parts(const NamedTensors& parameters, const comm::ParallelContext& parallel) {
  ParameterParts parts;
  for (const auto& [name, parameter] : parameters) {
    ParameterPart part{.name = name,
                       .parameter = parameter,
                       .value = parameter,
                       .is_expert = is_expert_parameter(name),
                       .has_decay = has_weight_decay(name, parameter),
                       .group = is_expert_parameter(name) ? parallel.edp : parallel.world,
                       .part_size = parameter.numel()};
    if (part.group != nullptr && parallel.use_distributed_optimizer) {
      LOCUS_CHECK(parameter.is_contiguous(), "{} is not contiguous", name);
      part.num_parts = part.group->size();
      const int64_t unit = part.num_parts * kAlignment;
      part.part_size = (parameter.numel() + unit - 1) / unit * kAlignment;
      const int64_t begin = part.own_begin();
      part.value =
          parameter.detach().view(-1).narrow(0, begin, part.end(part.group->rank()) - begin);
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

at::Tensor gather_parts(const ParameterPart& part, const at::Tensor& own, int64_t root) {
  const auto num_ranks = static_cast<size_t>(part.num_parts);
  const bool is_root = part.group->rank() == root;
  std::vector<int64_t> sent(num_ranks), received(num_ranks);
  sent[static_cast<size_t>(root)] = own.numel();
  for (size_t r = 0; is_root && r < num_ranks; ++r) {
    const auto rank = static_cast<int64_t>(r);
    received[r] = part.end(rank) - part.begin(rank);
  }
  const at::Tensor whole = at::empty({is_root ? part.parameter.numel() : 0}, own.options());
  part.group->all_to_all(whole, own, received, sent)->wait();
  return is_root ? whole.view(part.parameter.sizes()) : at::Tensor();
}

}  // namespace locus::train
