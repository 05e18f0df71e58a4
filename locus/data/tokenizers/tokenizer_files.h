// The tokenizer of a Hugging Face model folder: what Locus writes there for AutoTokenizer, and what
// it reads there.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "locus/data/tokenizer.h"

namespace locus::data {

struct TokenizerFile {
  std::string name;
  std::string content;
};

// The files by which `AutoTokenizer.from_pretrained` opens this tokenizer with equal ids.
std::vector<TokenizerFile> tokenizer_files(const Tokenizer& tokenizer);

// From tokenizer.json, else tokenizer.model; nullptr when the folder has neither. A tokenizer.json
// that tokenizer_files() made from the tokenizer.model beside it stands for that one. DataError
// that names the file and the part of it that is broken or not supported.
std::unique_ptr<Tokenizer> load_folder_tokenizer(const std::filesystem::path& folder);

// The name of a file that may belong to a tokenizer.
bool is_tokenizer_file(const std::string& name);

// A tokenizer.json with this content, then the other files of a tokenizer in its folder.
std::vector<TokenizerFile> files_beside(const std::filesystem::path& path, std::string content);

}  // namespace locus::data
