// dataset.json, the description of a folder made by `locus prepare`: docs/formats/dataset.md.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace locus::data {

struct TextCounts {
  int64_t documents = 0;
  int64_t tokens = 0;  // end-of-document tokens included
  int64_t bytes = 0;   // of the text, as UTF-8

  TextCounts& operator+=(const TextCounts& other) {
    documents += other.documents;
    tokens += other.tokens;
    bytes += other.bytes;
    return *this;
  }
  bool operator==(const TextCounts&) const = default;
};

struct SplitInfo {
  TextCounts total;
  std::map<std::string, TextCounts> by_domain;
};

struct DatasetInfo {
  int64_t vocab_size = 0;
  int32_t eod_id = -1;
  bool has_pairs = false;  // documents 2p and 2p + 1 are a text and its translation
  std::string tokenizer = "tokenizer.model";  // relative to the folder
  std::string tokenizer_hash;                 // to_hex(hash128(content of the file))
  std::vector<std::string> domains;           // the list that all .domains files of the folder hold
  std::map<std::string, SplitInfo> splits;    // "train", "valid", "test"
};

// The text of dataset.json, with a final newline.
std::string to_json(const DatasetInfo& info);

// DataError that names `source` and the key that is missing, ill-typed or out of range.
DatasetInfo parse_dataset_info(std::string_view source, std::string_view text);

// <folder>/dataset.json; DataError if there is none.
DatasetInfo read_dataset_info(const std::string& folder);

}  // namespace locus::data
