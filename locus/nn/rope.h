// The angles of rotary position embedding (Su et al., 2021); ops/heads.h rotates by them.
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

}  // namespace locus::nn
