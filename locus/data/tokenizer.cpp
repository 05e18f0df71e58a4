#include "locus/data/tokenizer.h"

#include "locus/base/file.h"

namespace locus::data {

// sentencepiece_tokenizer.cpp
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string serialized,
                                                        const std::string& name);

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path) {
  return parse_tokenizer(read_file(path), path);
}

std::unique_ptr<Tokenizer> parse_tokenizer(std::string serialized, const std::string& name) {
  return make_sentencepiece_tokenizer(std::move(serialized), name);
}

}  // namespace locus::data
