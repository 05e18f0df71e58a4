// A SentencePiece model as files that `transformers` opens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "locus/data/tokenizers/sentencepiece_model.h"
#include "locus/data/tokenizers/tokenizer_files.h"

namespace locus::data {

// Why tokenizer.json cannot say the same as this model; empty: it can.
std::string hf_obstacle(const SentencePieceModel& model);

// tokenizer.json, if hf_obstacle() finds none, tokenizer_config.json and special_tokens_map.json.
std::vector<TokenizerFile> hf_files(const SentencePieceModel& model);

// Is this tokenizer.json the one that hf_files() makes of this model file?
bool made_from_sentencepiece(std::string_view tokenizer_json, std::string_view serialized);

}  // namespace locus::data
