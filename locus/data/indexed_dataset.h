// Megatron-LM's .bin/.idx token files, read through memory maps and written as a stream, with our
// sidecar of domains. Byte tables: docs/formats/dataset.md.
//
//   <prefix>.bin      token ids, one document after the other
//   <prefix>.idx      dtype, length and place of each sequence, first sequence of each document
//   <prefix>.domains  domain names and one domain id a document (optional, Locus only)
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "locus/base/file.h"

namespace locus::data {

// Megatron's codes. The codes 6 and 7 are float64 and float32: no token files.
enum class TokenType : uint8_t {
  kUint8 = 1,
  kInt8 = 2,
  kInt16 = 3,
  kInt32 = 4,
  kInt64 = 5,
  kUint16 = 8,
};

size_t token_bytes(TokenType type);
const char* token_type_name(TokenType type);  // "uint16"

// What Megatron chooses for a vocabulary (DType.optimal_dtype): uint16 below 65,500, else int32.
TokenType smallest_token_type(int64_t vocab_size);

// One opened dataset: a stream of tokens, cut into documents. Immutable: any number of threads may
// read. Memory does not grow with the corpus: everything stays in the maps.
//
// The constructor checks the whole .idx and .domains against each other and against the size of the
// .bin; DataError names the file and what is wrong. Tokens are checked when they are read.
class IndexedDataset {
 public:
  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
    int64_t size() const { return end - begin; }
  };

  // vocab_size 0 and eod_id -1: unknown. The sidecar is read if it exists.
  // `has_pairs`: documents 2p and 2p + 1 are a text and its translation.
  explicit IndexedDataset(std::string prefix, int64_t vocab_size = 0, int32_t eod_id = -1,
                          bool has_pairs = false);

  const std::string& prefix() const { return prefix_; }
  TokenType token_type() const { return type_; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_documents() const { return num_documents_; }
  int64_t vocab_size() const { return vocab_size_; }
  int32_t eod_id() const { return eod_id_; }
  bool has_pairs() const { return has_pairs_; }

  // Tokens of a document as a range of the stream; may be empty.
  Range document(int64_t index) const;
  // The (non-empty) document that holds token `position` of the stream: binary search, no table.
  int64_t document_at(int64_t position) const;
  // Tokens [first, first + out.size()) of the stream, which must lie inside. DataError for an id
  // that is negative or not below vocab_size.
  void read(int64_t first, std::span<int32_t> out) const;

  bool has_domains() const { return domains_ != nullptr; }
  const std::vector<std::string>& domain_names() const { return domain_names_; }
  int32_t domain(int64_t document) const;  // index into domain_names(); -1 unknown

 private:
  void open_index();
  void check_sequences();
  void check_document_indices() const;
  void open_domains(const std::string& path);
  int64_t sequence_begin(int64_t sequence) const;  // in tokens; of the last + 1: num_tokens()

  std::string prefix_;
  int64_t vocab_size_;
  int32_t eod_id_;
  bool has_pairs_;
  std::unique_ptr<MappedFile> index_;
  std::unique_ptr<MappedFile> tokens_;
  std::unique_ptr<MappedFile> domains_;  // null: no sidecar
  TokenType type_ = TokenType::kInt32;
  int64_t num_sequences_ = 0;
  int64_t num_documents_ = 0;
  int64_t num_tokens_ = 0;
  const std::byte* lengths_ = nullptr;           // int32, not aligned, as all arrays of the map
  const std::byte* pointers_ = nullptr;          // int64, in bytes
  const std::byte* document_indices_ = nullptr;  // int64, num_documents + 1
  const std::byte* document_domains_ = nullptr;  // uint16
  std::vector<std::string> domain_names_;
};

// Opens `path`, which is one of
//   a folder made by `locus prepare`: its `split` ("train", "valid", "test"), with the vocabulary
//     and the counts that its dataset.json states (a difference is a DataError);
//   a prefix of .bin/.idx: `split` plays no part; the vocabulary is known if a dataset.json beside
//   it
//     lists the prefix's last part as a split, else it is 0.
std::shared_ptr<const IndexedDataset> open_split(const std::string& path, const std::string& split);

// Writes <prefix>.domains, in place of one that may be there: names, and the domain of each
// document
// (-1: unknown).
void write_domain_file(const std::string& prefix, const std::vector<std::string>& domain_names,
                       int64_t num_documents, const std::function<int32_t(int64_t)>& domain_of);

// Writes <prefix>.bin, .idx and .domains; memory does not grow with the number of documents. An
// unfinished writer removes what it wrote. One thread at a time.
class IndexedDatasetWriter {
 public:
  IndexedDatasetWriter(std::string prefix, int64_t vocab_size);
  ~IndexedDatasetWriter();
  IndexedDatasetWriter(const IndexedDatasetWriter&) = delete;
  IndexedDatasetWriter& operator=(const IndexedDatasetWriter&) = delete;

  // One whole document, end-of-document token included by the caller. domain -1: unknown.
  void add_document(std::span<const int32_t> tokens, int32_t domain);

  // The same in pieces, for documents that do not fit in memory. DataError beyond 2^31 - 1 tokens.
  void append_tokens(std::span<const int32_t> tokens);
  void end_document(int32_t domain);

  // Writes .idx and .domains, flushes all three to the disk. The domain ids given before index
  // `domain_names`, which may be learned while writing: all splits of a dataset state the same
  // list.
  void finish(const std::vector<std::string>& domain_names);

  int64_t num_documents() const { return num_documents_; }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  void write_index(const MappedFile& spool) const;

  std::string prefix_;
  int64_t vocab_size_;
  TokenType type_;
  std::optional<FileWriter> tokens_;
  std::optional<FileWriter> spool_;  // <prefix>.spool: length and domain of each document
  std::vector<uint16_t> narrow_;     // scratch
  int64_t open_length_ = 0;          // tokens of the document that is not ended yet
  int64_t num_documents_ = 0;
  int64_t num_tokens_ = 0;
  int32_t largest_domain_ = -1;
  bool finished_ = false;
};

}  // namespace locus::data
