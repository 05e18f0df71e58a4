// How well a model predicts text: cross entropy and what is derived from it, by domain.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "locus/data/batch.h"
#include "locus/data/loader.h"
#include "locus/data/tokenizer.h"
#include "locus/model/transformer.h"

namespace locus::eval {

// Sums over the predicted tokens. The means of no token are NaN.
struct Score {
  double loss_sum = 0;  // nats
  int64_t tokens = 0;
  int64_t correct = 0;  // the most probable token was the right one
  int64_t bytes = 0;    // of text that these tokens stand for

  double loss() const;           // nats per token
  double perplexity() const;     // exp(loss)
  double accuracy() const;       // share, 0 to 1
  double bits_per_byte() const;  // comparable across tokenizers

  Score& operator+=(const Score& other);
};

struct Evaluation {
  Score total;
  // Adds up to `total`; tokens of no known domain stand under "unknown". Empty: no domains known.
  std::map<std::string, Score> by_domain;
  // With EvaluateOptions::training_rule: share of tokens, over all layers, whose experts the causal
  // rule would not change; padding counts. NaN otherwise.
  double rule_agreement = std::numeric_limits<double>::quiet_NaN();
};

struct EvaluateOptions {
  int64_t batch_size = 8;   // sequences
  int64_t max_batches = 0;  // of these, spread evenly over the data, the same at each call; 0: all
  // Routers that look ahead in training do so here, too: a perplexity that no generation can reach.
  // Ranks then need batches of equal size.
  bool training_rule = false;
  // Domains are told from the tokens, as in generation, though the data name them.
  bool infer_domains = false;
  std::function<void(int64_t done, int64_t total)> progress = {};  // in batches
};

// True if options.training_rule makes a difference for this model.
bool looks_ahead_in_training(const model::Transformer& model);

// True if options.infer_domains makes a difference, where the data name domains.
bool routes_by_domain(const model::Transformer& model);

// Bytes of text by token id; the end-of-document token has none. Exact for tokenizers whose pieces
// join to the text, as those of `locus prepare` do.
std::vector<int32_t> bytes_per_token(const data::Tokenizer& tokenizer);

// Ranks share the batches and get the same result; all of them call it together.
// The model comes back in the mode it was in. `bytes_per_token` empty: bytes stay 0.
// DataError if there is no token to predict or a token id does not fit the model; Interrupted
// between two batches after a signal.
Evaluation evaluate(model::Transformer& model, const data::SampleSource& source,
                    const std::vector<int32_t>& bytes_per_token,
                    const EvaluateOptions& options = {});

// The same over given batches, as large as they are; their domain ids index `domain_names`.
Evaluation evaluate(model::Transformer& model, const std::vector<data::Batch>& batches,
                    const std::vector<int32_t>& bytes_per_token,
                    const EvaluateOptions& options = {},
                    const std::vector<std::string>& domain_names = {});

// One text as batches: its first token is predicted from `eod`; windows follow one another without
// overlap, and every token is a label exactly once. A text shorter than a window gets a shorter
// window.
std::vector<data::Batch> windows(const std::vector<int32_t>& ids, int32_t eod,
                                 int64_t sequence_length, int64_t batch_size);

}  // namespace locus::eval
