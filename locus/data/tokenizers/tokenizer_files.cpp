#include "locus/data/tokenizers/tokenizer_files.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "locus/base/file.h"
#include "locus/data/tokenizers/hf_tokenizer.h"
#include "locus/data/tokenizers/sentencepiece_files.h"

namespace locus::data {
namespace {

// What may lie beside a tokenizer.json.
constexpr std::array<std::string_view, 7> kOtherFiles{"tokenizer_config.json",
                                                      "special_tokens_map.json",
                                                      "added_tokens.json",
                                                      "vocab.json",
                                                      "merges.txt",
                                                      "tokenizer.model",
                                                      "chat_template.jinja"};

}  // namespace

std::vector<TokenizerFile> tokenizer_files(const Tokenizer& tokenizer) { return tokenizer.files(); }

bool is_tokenizer_file(const std::string& name) {
  return name == "tokenizer.json" || std::ranges::find(kOtherFiles, name) != kOtherFiles.end();
}

std::vector<TokenizerFile> files_beside(const fs::path& path, std::string content) {
  std::vector<TokenizerFile> files{{"tokenizer.json", std::move(content)}};
  for (const std::string_view name : kOtherFiles) {
    const fs::path other = path.parent_path() / name;
    if (fs::is_regular_file(other)) files.push_back({std::string(name), read_file(other)});
  }
  return files;
}

std::unique_ptr<Tokenizer> load_folder_tokenizer(const fs::path& folder) {
  const fs::path json = folder / "tokenizer.json", model = folder / "tokenizer.model";
  const bool has_model = fs::exists(model);
  if (!fs::exists(json)) return has_model ? load_tokenizer(model.string()) : nullptr;
  std::string content = read_file(json);
  if (has_model) {
    std::string serialized = read_file(model);
    if (made_from_sentencepiece(content, serialized)) {
      return parse_tokenizer(std::move(serialized), model.string());
    }
  }
  return make_hf_tokenizer(files_beside(json, std::move(content)), json.string());
}

}  // namespace locus::data
