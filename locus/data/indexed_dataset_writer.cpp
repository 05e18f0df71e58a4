#include <algorithm>
#include <limits>

#include "locus/base/error.h"
#include "locus/data/byte_io.h"
#include "locus/data/dataset_format.h"
#include "locus/data/indexed_dataset.h"

namespace locus::data {
namespace {

// The spool keeps one record a document until the .idx can be written: its arrays come one after
// the other, and its header counts them.
constexpr size_t kRecordBytes = 6;  // int32 length, uint16 domain

template <class T>
void write_number(FileWriter& file, T value) {
  file.write(&value, sizeof(T));
}

int32_t spooled_length(const MappedFile& spool, int64_t document) {
  return load_unaligned<int32_t>(spool.bytes().data() + document * kRecordBytes);
}

uint16_t spooled_domain(const MappedFile& spool, int64_t document) {
  return load_unaligned<uint16_t>(spool.bytes().data() + document * kRecordBytes + 4);
}

}  // namespace

IndexedDatasetWriter::IndexedDatasetWriter(std::string prefix, int64_t vocab_size)
    : prefix_(std::move(prefix)), vocab_size_(vocab_size), type_(smallest_token_type(vocab_size)) {
  LOCUS_CHECK(vocab_size > 0, "vocab_size {}", vocab_size);
  spool_.emplace(prefix_ + ".spool");
  tokens_.emplace(prefix_ + ".bin");
}

IndexedDatasetWriter::~IndexedDatasetWriter() {
  std::error_code ignored;  // a destructor has nobody to tell
  fs::remove(prefix_ + ".spool", ignored);
  if (finished_) return;
  for (const char* suffix : {".bin", ".idx", ".domains"}) fs::remove(prefix_ + suffix, ignored);
}

void IndexedDatasetWriter::add_document(std::span<const int32_t> tokens, int32_t domain) {
  LOCUS_CHECK(open_length_ == 0, "a document of {} tokens is not ended", open_length_);
  append_tokens(tokens);
  end_document(domain);
}

void IndexedDatasetWriter::append_tokens(std::span<const int32_t> tokens) {
  for (const int32_t id : tokens) {
    LOCUS_CHECK(id >= 0 && id < vocab_size_, "token {} of a vocabulary of {}", id, vocab_size_);
  }
  open_length_ += static_cast<int64_t>(tokens.size());
  if (open_length_ > std::numeric_limits<int32_t>::max()) {
    throw DataError(
        "{}.idx: a document has more than 2^31 - 1 tokens, which the format cannot hold", prefix_);
  }
  if (type_ == TokenType::kUint16) {
    narrow_.resize(tokens.size());
    std::transform(tokens.begin(), tokens.end(), narrow_.begin(),
                   [](int32_t id) { return static_cast<uint16_t>(id); });
    tokens_->write(narrow_.data(), narrow_.size() * sizeof(uint16_t));
  } else {
    tokens_->write(tokens.data(), tokens.size_bytes());
  }
}

void IndexedDatasetWriter::end_document(int32_t domain) {
  LOCUS_CHECK(domain >= -1 && domain < static_cast<int32_t>(kMaxDomains), "domain {}", domain);
  write_number(*spool_, static_cast<int32_t>(open_length_));
  write_number(*spool_, domain < 0 ? kUnknownDomain : static_cast<uint16_t>(domain));
  largest_domain_ = std::max(largest_domain_, domain);
  num_documents_ += 1;
  num_tokens_ += open_length_;
  open_length_ = 0;
}

void IndexedDatasetWriter::finish(const std::vector<std::string>& domain_names) {
  LOCUS_CHECK(!finished_ && open_length_ == 0, "finish() twice or within a document");
  LOCUS_CHECK(domain_names.size() <= kMaxDomains &&
                  largest_domain_ < static_cast<int32_t>(domain_names.size()),
              "domain {} with {} names", largest_domain_, domain_names.size());
  tokens_->close();
  spool_->close();
  const std::string spool_path = prefix_ + ".spool";
  const MappedFile spool(spool_path);
  write_index(spool);
  write_domain_file(prefix_, domain_names, num_documents_, [&spool](int64_t document) {
    const uint16_t domain = spooled_domain(spool, document);
    return domain == kUnknownDomain ? -1 : int32_t{domain};
  });
  fs::remove(spool_path);
  finished_ = true;
}

void IndexedDatasetWriter::write_index(const MappedFile& spool) const {
  FileWriter index(prefix_ + ".idx");
  index.write(kIndexMagic);
  write_number(index, kIndexVersion);
  write_number(index, static_cast<uint8_t>(type_));
  write_number(index, static_cast<uint64_t>(num_documents_));
  write_number(index, static_cast<uint64_t>(num_documents_ + 1));
  for (int64_t i = 0; i < num_documents_; ++i) write_number(index, spooled_length(spool, i));
  int64_t pointer = 0;
  for (int64_t i = 0; i < num_documents_; ++i) {
    write_number(index, pointer);
    pointer += spooled_length(spool, i) * static_cast<int64_t>(token_bytes(type_));
  }
  for (int64_t i = 0; i <= num_documents_; ++i) write_number(index, i);
  index.close();
}

void write_domain_file(const std::string& prefix, const std::vector<std::string>& domain_names,
                       int64_t num_documents, const std::function<int32_t(int64_t)>& domain_of) {
  const std::string path = prefix + ".domains";
  FileWriter file(path + ".new");  // the old one may be mapped
  file.write(kDomainsMagic);
  write_number(file, static_cast<uint64_t>(num_documents));
  write_number(file, static_cast<uint32_t>(domain_names.size()));
  for (const std::string& name : domain_names) {
    write_number(file, static_cast<uint32_t>(name.size()));
    file.write(name);
  }
  for (int64_t i = 0; i < num_documents; ++i) {
    const int32_t domain = domain_of(i);
    write_number(file, domain < 0 ? kUnknownDomain : static_cast<uint16_t>(domain));
  }
  file.close();
  fs::rename(path + ".new", path);
}

}  // namespace locus::data
