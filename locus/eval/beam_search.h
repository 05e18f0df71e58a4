// Translates texts by beam search over an encoder-decoder.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "locus/model/transformer.h"

namespace locus::eval {

struct BeamSearchOptions {
  int64_t num_beams = 5;
  // A finished translation of n tokens, its end included, with log probability s counts
  // s / n^length_penalty: over 0 favours longer ones.
  double length_penalty = 1.0;
  // Longest translation of a text of n tokens, its end included: n * max_length_ratio +
  // max_length_extra, within the model's context.
  double max_length_ratio = 2.0;
  int64_t max_length_extra = 10;
  int64_t batch_size = 32;  // texts at a time; has no influence on the translations
  std::function<void(int64_t done, int64_t total)> progress = {};  // in texts
};

struct Translation {
  std::vector<int32_t> ids;  // without the end-of-document token
  double log_probability = 0;
  double score = 0;  // log_probability by length; the greatest found
};

// Tokens of each text, without an end-of-document token, in; their translations out, in this order.
// Each beam is the likeliest of its length, until as many have ended as there are beams and none
// that goes on has a better score by its present length. One beam takes the likeliest token each
// time, and ends where that is the end. `vocab_size`: the tokenizer's; a model's may be padded
// beyond it, and those tokens never come. ConfigError for impossible options or a text beyond the
// model's context; DivergedError if the model's output is not finite; Interrupted between two
// tokens after a signal.
std::vector<Translation> beam_search(model::Transformer& model, int32_t eod_id, int64_t vocab_size,
                                     const std::vector<std::vector<int32_t>>& texts,
                                     const BeamSearchOptions& options);

}  // namespace locus::eval
