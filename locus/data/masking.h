// Masked language modelling: which tokens a model has to tell, and what it sees in their place
// (Devlin et al., 2019, section 3.1; drawn anew each time a text is seen: Liu et al., 2019, section
// 4.1).
#pragma once

#include <cstdint>
#include <vector>

#include "locus/data/batch.h"
#include "locus/data/tokenizer.h"

namespace locus::data {

struct Masking {
  double share = 0.15;     // of the words that are drawn
  int32_t mask_id = -1;    // what 80% of their tokens become; 10% become any token, 10% stay
  int32_t eod_id = -1;     // is never drawn
  int64_t vocab_size = 0;  // ids of any token lie below
  std::vector<bool> begins_word =
      {};  // by id: tokens of a word are drawn together; empty: each alone
};

// ConfigError if the tokenizer has no token to mask with.
Masking make_masking(const Tokenizer& tokenizer, double share, bool whole_words);

// The labels of `batch` become the tokens that were drawn, -1 elsewhere. All draws of row i follow
// from keys[i], the row's place, and nothing else. `at_least_one`: of a row that none was drawn of,
// one token is, if it has any. DataError for ids beyond the vocabulary.
void mask_tokens(Batch& batch, const Masking& masking, const std::vector<uint64_t>& keys,
                 bool at_least_one = false);

}  // namespace locus::data
