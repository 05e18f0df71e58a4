#include "locus/nn/attention.h"

#include <ATen/ATen.h>

#include <limits>

#include "locus/ops/heads.h"

namespace locus::nn {

at::Tensor additive_mask(const at::Tensor& allowed_BSL, at::ScalarType type) {
  return at::zeros(allowed_BSL.sizes(), allowed_BSL.options().dtype(type))
      .masked_fill_(allowed_BSL.logical_not(), -std::numeric_limits<double>::infinity())
      .unsqueeze(1);
}

at::Tensor norm_heads(const AttentionConfig& config, Norm* norm, const at::Tensor& x) {
  if (norm == nullptr) return x;
  if (config.qk_norm == "full") return norm->forward(x);
  return norm->forward(x.reshape({x.size(0), x.size(1), -1, config.head_dim})).flatten(2);
}

at::Tensor attend(const AttentionConfig& config, const at::Tensor& q_BHSC, const at::Tensor& k_BGLC,
                  const at::Tensor& v_BGLC, const at::Tensor& mask_B1SL, bool is_causal) {
  const bool has_mask = mask_B1SL.defined();
  const bool grouped = config.num_heads != config.num_key_value_heads;
  return at::scaled_dot_product_attention(q_BHSC, k_BGLC, v_BGLC,
                                          has_mask ? std::optional(mask_B1SL) : std::nullopt, 0.0,
                                          is_causal && !has_mask, std::nullopt, grouped)
      .transpose(1, 2)
      .flatten(2);
}

Attention::Attention(const AttentionConfig& config) : config_(config) {
  const int64_t q_size = config.num_heads * config.head_dim;
  const int64_t kv_size = config.num_key_value_heads * config.head_dim;
  qkv_proj_ = register_module(
      "qkv_proj",
      std::make_shared<Linear>(config.hidden_size, q_size + 2 * kv_size, config.qkv_bias));
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

at::Tensor Attention::forward(const at::Tensor& x_BSD, const AttentionInput& input,
                              KvCache* cache) {
  const int64_t batch = x_BSD.size(0);
  const int64_t length = x_BSD.size(1);
  const int64_t q_size = config_.num_heads * config_.head_dim;
  const int64_t kv_size = config_.num_key_value_heads * config_.head_dim;
  const auto parts = qkv_proj_->forward(x_BSD).split_with_sizes({q_size, kv_size, kv_size}, -1);
  at::Tensor q = norm_heads(config_, q_norm_.get(), parts[0]);
  at::Tensor k = norm_heads(config_, k_norm_.get(), parts[1]);
  q = ops::to_heads(q, config_.num_heads, input.rope.cos, input.rope.sin);
  k = ops::to_heads(k, config_.num_key_value_heads, input.rope.cos, input.rope.sin);
  at::Tensor v = ops::to_heads(parts[2], config_.num_key_value_heads, {}, {});
  if (cache != nullptr) {
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t begin = input.cache_lengths[static_cast<size_t>(b)];
      cache->key_BGLC[b].narrow(1, begin, length).copy_(k[b]);
      cache->value_BGLC[b].narrow(1, begin, length).copy_(v[b]);
    }
    const int64_t used = input.mask_B1SL.size(-1);
    k = cache->key_BGLC.narrow(2, 0, used);
    v = cache->value_BGLC.narrow(2, 0, used);
  }
  return o_proj_->forward(attend(config_, q, k, v, input.mask_B1SL, input.is_causal));
}

at::Tensor document_mask(const at::Tensor& document_BS, at::ScalarType type, bool is_causal) {
  if (document_BS.eq(document_BS.narrow(1, 0, 1)).all().item<bool>()) return {};
  const int64_t length = document_BS.size(1);
  at::Tensor allowed = document_BS.unsqueeze(2).eq(document_BS.unsqueeze(1));
  if (is_causal) {
    allowed.logical_and_(at::ones({length, length}, document_BS.options().dtype(at::kBool)).tril());
  }
  return additive_mask(allowed, type);
}

}  // namespace locus::nn
