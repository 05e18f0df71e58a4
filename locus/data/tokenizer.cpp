#include "locus/data/tokenizer.h"

#include <filesystem>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/data/tokenizers/hf_tokenizer.h"
#include "locus/data/tokenizers/tokenizer_files.h"

namespace locus::data {

// sentencepiece_tokenizer.cpp
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string serialized,
                                                        const std::string& name);

namespace {

// A SentencePiece model begins with a line feed and the length of its first piece.
bool looks_like_json(std::string_view content) {
  const size_t first = content.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && content[first] == '{';
}

}  // namespace

std::vector<TokenizerFile> Tokenizer::source_files() const { return {{file_name(), serialized()}}; }

std::vector<TokenizerFile> Tokenizer::files() const { return source_files(); }

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path) {
  if (fs::is_directory(path)) {
    auto tokenizer = load_folder_tokenizer(path);
    if (tokenizer != nullptr) return tokenizer;
    throw DataError("{}: holds neither tokenizer.json nor tokenizer.model", path);
  }
  std::string content = read_file(path);
  if (!looks_like_json(content)) return make_sentencepiece_tokenizer(std::move(content), path);
  return make_hf_tokenizer(files_beside(path, std::move(content)), path);
}

std::unique_ptr<Tokenizer> parse_tokenizer(std::string serialized, const std::string& name) {
  if (!looks_like_json(serialized))
    return make_sentencepiece_tokenizer(std::move(serialized), name);
  return make_hf_tokenizer({{"tokenizer.json", std::move(serialized)}}, name);
}

}  // namespace locus::data
