#include "locus/nn/cross_attention.h"

#include <ATen/ATen.h>

#include "locus/ops/heads.h"

namespace locus::nn {

CrossAttention::CrossAttention(const AttentionConfig& config) : config_(config) {
  const int64_t q_size = config.num_heads * config.head_dim;
  const int64_t kv_size = config.num_key_value_heads * config.head_dim;
  q_proj_ = register_module("q_proj",
                            std::make_shared<Linear>(config.hidden_size, q_size, config.qkv_bias));
  kv_proj_ = register_module(
      "kv_proj", std::make_shared<Linear>(config.hidden_size, 2 * kv_size, config.qkv_bias));
  o_proj_ = register_module(
      "o_proj", std::make_shared<Linear>(q_size, config.hidden_size, config.output_bias));
  if (config.qk_norm != "none") {
    const bool full = config.qk_norm == "full";
    q_norm_ = register_module(
        "q_norm",
        std::make_shared<Norm>(config.norm_type, full ? q_size : config.head_dim, config.norm_eps));
    k_norm_ = register_module(
        "k_norm", std::make_shared<Norm>(config.norm_type, full ? kv_size : config.head_dim,
                                         config.norm_eps));
  }
}

KvCache CrossAttention::read(const at::Tensor& memory_BLD) {
  const auto parts = kv_proj_->forward(memory_BLD).chunk(2, -1);
  const int64_t heads = config_.num_key_value_heads;
  const at::Tensor k = norm_heads(config_, k_norm_.get(), parts[0]);
  return {ops::to_heads(k, heads, {}, {}), ops::to_heads(parts[1], heads, {}, {})};
}

at::Tensor CrossAttention::forward(const at::Tensor& x_BSD, const KvCache& memory,
                                   const at::Tensor& mask_B1SL) {
  const at::Tensor q = norm_heads(config_, q_norm_.get(), q_proj_->forward(x_BSD));
  return o_proj_->forward(attend(config_, ops::to_heads(q, config_.num_heads, {}, {}),
                                 memory.key_BGLC, memory.value_BGLC, mask_B1SL, false));
}

at::Tensor pair_mask(const at::Tensor& document_BS, const at::Tensor& other_document_BL,
                     at::ScalarType type) {
  const at::Tensor same_BSL = document_BS.unsqueeze(2).eq(other_document_BL.unsqueeze(1));
  const at::Tensor has_none_BS1 = same_BSL.any(2, /*keepdim=*/true).logical_not_();
  return additive_mask(same_BSL.logical_or(has_none_BS1), type);
}

}  // namespace locus::nn
