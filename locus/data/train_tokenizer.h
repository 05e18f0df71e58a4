// Trains a SentencePiece model that gives back every text exactly.
//
// No normalisation, no space put in front, spaces kept, digits alone, bytes for rare characters.
// "\n" and "\t" are pieces of their own: SentencePiece's merges never cross them, so that a text
// may be cut by part_end() at a line or a word and be encoded in parts: bpe gives the same tokens,
// unigram may choose another of two segmentations of equal probability. (Within a word without an
// end, the last resort of part_end(), a cut can cost a token.) The one character that does not come
// back is U+2581, SentencePiece's mark of a space.
//
// bpe is the default: with 8,192 pieces on 15 MB of mixed text (two cores) it trained in half the
// time and memory of unigram, 7 s and 170 MB against 14 s and 370 MB, and 50 MB of text became 2.7
// % fewer tokens. unigram is encoded about four times as fast by SentencePiece.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace locus::data {

struct TokenizerTraining {
  std::string model_type = "bpe";  // or "unigram"
  int64_t vocab_size = 8192;       // <unk>, <s>, </s>, "\n", "\t" and the 256 bytes included
};

// The serialised model, the same for the same pieces on any machine and number of cores. `pieces`
// is text as TextSample cuts it. A text too small for so many pieces of vocabulary gives a smaller
// one and a warning, since a model can live with that. ConfigError for an unknown type or a
// vocabulary too small for the alphabet (says the smallest that is possible).
std::string train_tokenizer(const std::vector<std::string_view>& pieces,
                            const TokenizerTraining& settings);

}  // namespace locus::data
