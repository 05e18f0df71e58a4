// A dataset and a model small enough to train in a test.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "locus/base/random.h"
#include "locus/data/indexed_dataset.h"
#include "locus/data/loader.h"
#include "locus/model/transformer.h"
#include "locus/moe/router.h"

namespace locus::test {

constexpr int64_t kTinyVocabulary = 64;
constexpr int32_t kTinyEod = 0;

// Random documents of 10 to 40 tokens in two domains, or as many pairs of 2 to 9, at least
// `num_tokens` in all, at <folder>/tiny.
inline std::shared_ptr<const data::IndexedDataset> make_tiny_dataset(
    const std::filesystem::path& folder, int64_t num_tokens, uint64_t seed = 1,
    bool has_pairs = false) {
  const std::string prefix = (folder / "tiny").string();
  data::IndexedDatasetWriter writer(prefix, kTinyVocabulary);
  uint64_t draw = 0;
  const auto below = [&](uint64_t limit) { return random_bits(seed, draw++) % limit; };
  while (writer.num_tokens() < num_tokens || (has_pairs && writer.num_documents() % 2 != 0)) {
    std::vector<int32_t> document(has_pairs ? 2 + below(8) : 10 + below(31));
    for (int32_t& id : document) id = static_cast<int32_t>(1 + below(kTinyVocabulary - 1));
    document.push_back(kTinyEod);
    writer.add_document(document, static_cast<int32_t>(below(2)));
  }
  writer.finish({"left", "right"});
  return std::make_shared<const data::IndexedDataset>(prefix, kTinyVocabulary, kTinyEod, has_pairs);
}

inline data::DataConfig tiny_data_config(int64_t sequence_length = 16) {
  data::DataConfig config;
  config.sequence_length = sequence_length;
  config.prefetch = 2;
  return config;
}

inline model::TransformerConfig tiny_transformer_config(const std::string& router = "top_k") {
  model::TransformerConfig config;
  config.model.vocab_size = kTinyVocabulary;
  config.model.hidden_size = 32;
  config.model.num_hidden_layers = 2;
  config.model.num_attention_heads = 4;
  config.model.intermediate_size = 64;
  config.model.max_position_embeddings = 64;
  config.moe.num_experts = 4;
  config.moe.intermediate_size = 48;
  config.moe.router.type = router;
  config.router_options = moe::find_router(router).options();
  config.token_frequency.assign(kTinyVocabulary, 1);
  config.seed = 7;
  return config;
}

}  // namespace locus::test
