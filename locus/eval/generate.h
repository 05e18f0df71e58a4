// Continues prompts with tokens drawn from the model.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "locus/data/tokenizer.h"
#include "locus/eval/sampler.h"
#include "locus/model/transformer.h"

namespace locus::eval {

struct GenerationRequest {
  std::vector<int32_t> prompt;  // empty: the model starts behind an end of document
};

struct GenerationOptions {
  SamplerOptions sampler;
  int64_t max_new_tokens = 128;
  std::vector<std::string> stop = {};  // a text ends before the first of these; UTF-8
  int64_t batch_size = 16;             // prompts at a time; has no influence on the texts
  bool use_cache = true;               // false: each token reads the whole text again
  // Pieces of a prompt's text as they become certain: whole characters, no part of a stop string.
  std::function<void(size_t prompt, std::string_view piece)> on_text = {};
};

enum class FinishReason {
  kEod,     // the model ended the document
  kLength,  // max_new_tokens, or the end of the model's context
  kStop,    // a stop string
};

struct Generation {
  std::vector<int32_t> ids;  // the new tokens without an end-of-document token
  std::string text;          // of the new tokens, before a stop string
  FinishReason reason = FinishReason::kLength;
};

struct GenerationReport {
  std::vector<Generation> results;  // in the order of the requests
  int64_t prompt_tokens = 0;
  double prompt_s = 0;           // passes that read prompts; they give the first new tokens, too
  int64_t generated_tokens = 0;  // all further ones, end-of-document tokens included
  double generation_s = 0;

  double prompt_tokens_per_s() const;  // 0 where no time was measured
  double generated_tokens_per_s() const;
};

// The same tokens with and without the cache, one by one and in a batch, as far as rounding does
// not tip the balance between equally good tokens. The model comes back in the mode it was in.
// ConfigError for impossible options and for a prompt that leaves no room in the model's context;
// DataError if the tokenizer is not the model's; Interrupted between two tokens after a signal.
GenerationReport generate(model::Transformer& model, const data::Tokenizer& tokenizer,
                          const std::vector<GenerationRequest>& requests,
                          const GenerationOptions& options);

}  // namespace locus::eval
