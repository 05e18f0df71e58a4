// Rotary position embedding (Su et al., 2021) in Hugging Face's layout: the two halves of a head
// rotate together (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin).
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace locus::nn {

struct RopeConfig {
  int64_t head_dim = 0;
  double theta = 10000.0;
  std::string scaling =
      "none";  // none | linear (positions / factor) | ntk (theta * factor^(d/(d-2)))
  double factor = 1.0;
};

// cos and sin for each position, float32 [..., head_dim / 2]; position_ids: int64 of any shape.
struct RopeTable {
  at::Tensor cos, sin;
};
RopeTable rope_table(const at::Tensor& position_ids, const RopeConfig& config);

// x [B, S, H, head_dim]; the table's position_ids were [B, S].
at::Tensor apply_rope(const at::Tensor& x_BSHC, const RopeTable& table);

}  // namespace locus::nn
