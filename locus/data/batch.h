// What the loader hands to the trainer: sequences of tokens with all that a model may ask of a
// token.
#pragma once

#include <cstdint>
#include <vector>

namespace locus::data {

// `num_sequences` rows of `sequence_length` tokens; each vector is [num_sequences,
// sequence_length], row-major.
struct Batch {
  int64_t num_sequences = 0;
  int64_t sequence_length = 0;
  std::vector<int32_t> input_ids;
  std::vector<int32_t> labels;        // what to tell here: the next token of the same document, or
                                      // the token that is masked; -1: no loss
  std::vector<int32_t> position_ids;  // restart at each document when reset_position_ids
  std::vector<int32_t> document_ids;  // 0, 1, ... in the order of the row: tokens of equal number
                                      // may see each other; all 0 without reset_attention_mask
  std::vector<int16_t> domain_ids;    // domain of the token's document; -1 unknown
  // Place of each sequence in the global batch: key of every random draw.
  std::vector<int64_t> global_sequence_index;  // [num_sequences]
  // True where the sequences that all ranks compute at this moment are not in the order of the
  // ranks.
  bool is_placed = false;
  // Of pairs, the texts to translate; documents of equal number belong together. Else empty.
  std::vector<int32_t> source_ids = {}, source_position_ids = {}, source_document_ids = {};
};

}  // namespace locus::data
