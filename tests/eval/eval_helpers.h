// What the tests of evaluation and generation share: small models, and a tokenizer out of a list.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "locus/base/error.h"
#include "locus/data/tokenizer.h"
#include "locus/model/transformer.h"
#include "locus/moe/router.h"

namespace locus::eval {

constexpr int64_t kVocabSize = 40;

inline model::TransformerConfig transformer_config(const std::string& router,
                                                   int64_t vocab_size = kVocabSize) {
  model::TransformerConfig config;
  config.model.vocab_size = vocab_size;
  config.model.hidden_size = 16;
  config.model.num_hidden_layers = 2;
  config.model.num_attention_heads = 4;
  config.model.num_key_value_heads = 2;
  config.model.intermediate_size = 24;
  config.model.max_position_embeddings = 48;
  config.model.initializer_range = 0.5;  // far from uniform: near-ties between tokens are rare
  config.moe.num_experts = router == "dense" ? 0 : 4;
  config.moe.intermediate_size = 12;
  if (router != "dense") {
    config.moe.router.type = router;
    config.router_options = moe::find_router(router).options();
  }
  config.seed = 5;
  return config;
}

// Each piece is a token; the first one ends documents.
class ListTokenizer final : public data::Tokenizer {
 public:
  explicit ListTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {
    pieces_.insert(pieces_.begin(), "");
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      size_t id = 1;
      while (id < pieces_.size() && !text.starts_with(pieces_[id])) ++id;
      LOCUS_CHECK(id < pieces_.size(), "no piece for {}", text);
      ids.push_back(static_cast<int32_t>(id));
      text.remove_prefix(pieces_[id].size());
    }
    return ids;
  }
  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    for (const int32_t id : ids) text += piece(id);
    return text;
  }
  std::string piece(int32_t id) const override { return pieces_.at(static_cast<size_t>(id)); }
  int64_t vocab_size() const override { return static_cast<int64_t>(pieces_.size()); }
  int32_t eod_id() const override { return 0; }
  const std::string& serialized() const override { return serialized_; }

 private:
  std::vector<std::string> pieces_;
  std::string serialized_;
};

// One piece for each id of transformer_config(): "<1>" and so on.
inline ListTokenizer numbered_tokenizer() {
  std::vector<std::string> pieces;
  for (int64_t id = 1; id < kVocabSize; ++id) pieces.push_back(format("<{}>", id));
  return ListTokenizer(std::move(pieces));
}

// A model that knows one succession: after token i comes next[i], almost surely.
inline std::shared_ptr<model::Transformer> chain_model(const std::vector<int32_t>& next) {
  const auto size = static_cast<int64_t>(next.size());
  model::TransformerConfig config = transformer_config("dense", size);
  config.model.hidden_size = (size + 7) / 8 * 8;  // one dimension for each token
  auto transformer = std::make_shared<model::Transformer>(config);
  const at::NoGradGuard no_grad;
  for (auto& item : transformer->named_parameters()) {
    const std::string& name = item.key();
    // Attention and feed-forward add nothing: the last token alone decides.
    if (name.find("o_proj") != std::string::npos || name.find("down_proj") != std::string::npos ||
        name == "embed_tokens" || name == "lm_head") {
      item.value().zero_();
    }
  }
  auto parameters = transformer->named_parameters();
  for (int64_t id = 0; id < size; ++id) {
    parameters["embed_tokens"][id][id] = 1;
    parameters["lm_head"][next[static_cast<size_t>(id)]][id] = 20;
  }
  return transformer;
}

}  // namespace locus::eval
