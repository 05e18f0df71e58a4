// SentencePiece's ids, several times as fast as the library gives them.
//
// Where no piece goes on behind the first letter after its spaces ("__ab", never "a_b"), no piece
// crosses the place in front of a space, and a text can be encoded word by word, each distinct word
// once. Models as `locus prepare` trains them are so.
//
//   bpe      A word's pieces depend on the word alone.
//   unigram  The library adds scores up from the beginning of the text in single precision: its
//            rounding, and with it the choice among equally good pieces, depends on what stands
//            before. So a word is kept with all its candidate pieces, and the library's sums are
//            done again, unless the best choice is better than rounding could undo.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "locus/data/tokenizers/sentencepiece_model.h"

namespace locus::data {

class SentencePieceEncoder {
 public:
  virtual ~SentencePieceEncoder() = default;
  // The library's ids for valid UTF-8. Any number of threads may encode.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // Cut in front of spaces or around line breaks, a text has the same ids.
  virtual bool is_divisible() const = 0;
};

// nullptr: the model is of another kind.
std::unique_ptr<SentencePieceEncoder> make_sentencepiece_encoder(const SentencePieceModel& model);

}  // namespace locus::data
