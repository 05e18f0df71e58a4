// Corpus BLEU, as sacrebleu 2 computes it unless told otherwise (Papineni et al., 2002; Post,
// 2018): one reference a sentence, case counts, tokens of mteval-v13a, n-grams of 1 to 4 tokens,
// exponential smoothing (signature nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace locus::eval {

struct Bleu {
  double score = 0;                    // 0 to 100
  std::array<double, 4> precisions{};  // percent, by n-gram order from 1; smoothed
  double brevity_penalty = 1;          // 0 to 1
  int64_t hypothesis_length = 0;       // tokens
  int64_t reference_length = 0;        // tokens
};

// The i-th hypothesis belongs to the i-th reference: as many of both, or a LOCUS_CHECK fails. Each
// is one sentence of detokenized UTF-8 text; it may be empty. Without any match score and
// precisions are 0; without a hypothesis of four tokens or more the score is 0.
Bleu corpus_bleu(std::span<const std::string> hypotheses, std::span<const std::string> references);

// The tokens of one sentence of UTF-8 text, by the rules of mteval-v13a. Only ASCII punctuation is
// set apart. Whitespace is Python's: Unicode's and U+001C to U+001F.
std::vector<std::string> tokenize_13a(std::string_view text);

}  // namespace locus::eval
