// Collectives as functions of tensors. A null group is this rank alone: its result is the input.
//
// N rows in, M rows out.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "locus/comm/process_group.h"

namespace locus::comm {

// The sum over the ranks, on every rank. No gradient.
at::Tensor sum_over(ProcessGroup* group, const at::Tensor& x);

// The rows of all ranks in order of ranks; how many each has may differ. No gradient.
struct GatheredRows {
  at::Tensor all;
  int64_t begin = 0;  // where this rank's rows are
};
GatheredRows gather_rows(ProcessGroup* group, const at::Tensor& x_ND);
// The same where all ranks have equally many: one message, and no word of how many first.
GatheredRows gather_equal_rows(ProcessGroup* group, const at::Tensor& x_ND);

// The texts of all ranks, in order; of this one alone where the group is null.
std::vector<std::string> gather_texts(ProcessGroup* group, const std::string& text);

}  // namespace locus::comm
