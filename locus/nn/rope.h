// The angles of rotary position embedding (Su et al., 2021); ops/heads.h rotates by them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace locus::nn {

struct RopeConfig {
  int64_t head_dim = 0;
  double theta = 10000.0;
  std::string scaling =
      "none";  // none | linear (positions / factor) | ntk (theta * factor^(d/(d-2))) | llama3
  double factor = 1.0;
  // llama3 (Llama 3.1, as transformers has it): waves longer than original_context /
  // low_freq_factor are stretched by `factor`, those shorter than original_context /
  // high_freq_factor are not, and between them the share of the two moves evenly with the number of
  // waves in the context.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_context = 8192;
};

// cos and sin for each position, float32 [..., head_dim / 2]; position_ids: int64 of any shape.
struct RopeTable {
  at::Tensor cos, sin;
};
RopeTable rope_table(const at::Tensor& position_ids, const RopeConfig& config);

}  // namespace locus::nn
