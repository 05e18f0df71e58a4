// Tokenizers of imported models: Hugging Face's tokenizer.json with a BPE model (docs/formats).
//
//   text -> added tokens -> normaliser -> normalised added tokens -> words -> merges -> ids
//
// Ids and decoded text are those of the Python package `tokenizers`, special tokens in the text
// included, none added.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "locus/data/tokenizer.h"
#include "locus/data/tokenizers/hf_added_tokens.h"
#include "locus/data/tokenizers/hf_bpe.h"
#include "locus/data/tokenizers/hf_decoder.h"
#include "locus/data/tokenizers/hf_normalizer.h"
#include "locus/data/tokenizers/hf_pre_tokenizer.h"
#include "locus/data/tokenizers/tokenizer_files.h"

namespace locus::data {

// What a tokenizer.json says.
struct HfTokenizerParts {
  HfNormalizer normalizer;
  HfPreTokenizer pre_tokenizer;
  HfDecoder decoder;
  std::vector<HfAddedToken> added_tokens;
  std::unordered_map<std::string, int32_t> vocab;  // of the model
  MergeTable merges;
  HfBpe::Options bpe;
  std::vector<std::string> tokens;  // by id, added ones included
};

// DataError that names the file and the part of it that is broken or not supported.
HfTokenizerParts parse_tokenizer_json(std::string_view text, const std::string& name);

// The token that ends documents: what tokenizer_config.json or special_tokens_map.json calls
// eos_token, else a special token with one of the usual names. DataError if there is none.
int32_t find_eos(const std::vector<TokenizerFile>& files, const HfTokenizerParts& parts,
                 const std::string& name);

// `files`: tokenizer.json first, then what lies beside it.
std::unique_ptr<Tokenizer> make_hf_tokenizer(std::vector<TokenizerFile> files,
                                             const std::string& name);

}  // namespace locus::data
