// The steps of a tokenizer.json as their own structures.
#pragma once

#include "locus/data/tokenizers/hf_decoder.h"
#include "locus/data/tokenizers/hf_normalizer.h"
#include "locus/data/tokenizers/hf_pre_tokenizer.h"
#include "locus/data/tokenizers/json_part.h"

namespace locus::data {

HfNormalizer read_normalizer(const JsonPart& part);
HfPreTokenizer read_pre_tokenizer(const JsonPart& part);
HfDecoder read_decoder(const JsonPart& part);

}  // namespace locus::data
