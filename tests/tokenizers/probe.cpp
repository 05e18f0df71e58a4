// What a tokenizer of Locus makes of texts, for the Python tests to compare:
//
//   tokenizer_probe PATH < texts.jsonl     each line a JSON string -> {"ids": [...], "text": "..."}
//   tokenizer_probe PATH --files FOLDER    writes tokenizer_files() there
//   tokenizer_probe MODEL --train TYPE SIZE < texts.jsonl    trains as `locus prepare` does
//
// Errors of the library go to stderr, with their exit codes.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/data/tokenizers/tokenizer_files.h"
#include "locus/data/train_tokenizer.h"

namespace {

using nlohmann::json;

void encode_lines(const locus::data::Tokenizer& tokenizer) {
  std::ios::sync_with_stdio(false);
  const json about = {{"vocab_size", tokenizer.vocab_size()}, {"eod_id", tokenizer.eod_id()}};
  std::cout << about.dump() << "\n";
  for (std::string line; std::getline(std::cin, line);) {
    const auto ids = tokenizer.encode(json::parse(line).get<std::string>());
    std::string pieces;
    for (const int32_t id : ids) pieces += tokenizer.piece(id);
    const json answer = {{"ids", ids}, {"text", tokenizer.decode(ids)}, {"pieces", pieces}};
    std::cout << answer.dump(-1, ' ', true, json::error_handler_t::replace) << "\n";
  }
}

void train(const char* path, const char* type, const char* size) {
  std::vector<std::string> texts;
  for (std::string line; std::getline(std::cin, line);) texts.push_back(json::parse(line));
  const std::vector<std::string_view> pieces(texts.begin(), texts.end());
  locus::write_file_atomic(path, locus::data::train_tokenizer(pieces, {type, std::stol(size)}));
}

void write_files(const locus::data::Tokenizer& tokenizer, const char* folder) {
  for (const auto& file : locus::data::tokenizer_files(tokenizer)) {
    locus::write_file_atomic(locus::fs::path(folder) / file.name, file.content);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string action = argc > 2 ? argv[2] : "";
  try {
    if (action == "--train") {
      train(argv[1], argv[3], argv[4]);
      return 0;
    }
    const auto tokenizer = locus::data::load_tokenizer(argv[1]);
    if (action == "--files") {
      write_files(*tokenizer, argv[3]);
    } else {
      encode_lines(*tokenizer);
    }
  } catch (const locus::Error& error) {
    std::cerr << error.what() << "\n";
    return error.exit_code();
  }
}
