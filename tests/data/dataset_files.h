// Writes the dataset formats byte by byte, independently of the library's writer, with every number
// open to corruption.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace locus::test {

// The lowest `num_bytes` bytes of a number, lowest first.
inline std::string little_endian(uint64_t value, int num_bytes) {
  std::string bytes;
  for (int i = 0; i < num_bytes; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

inline void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// An .idx with all its parts. The counts follow the arrays unless they are set.
struct IndexFile {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  uint64_t version = 1;
  uint8_t dtype = 8;
  std::vector<int32_t> lengths;
  std::vector<int64_t> pointers;
  std::vector<int64_t> document_indices;
  int64_t num_sequences = -1;
  int64_t num_document_indices = -1;

  std::string bytes() const {
    const auto count = [](int64_t set, size_t size) {
      return little_endian(set < 0 ? size : static_cast<uint64_t>(set), 8);
    };
    std::string text = magic + little_endian(version, 8) + little_endian(dtype, 1);
    text += count(num_sequences, lengths.size());
    text += count(num_document_indices, document_indices.size());
    for (const int32_t v : lengths) text += little_endian(static_cast<uint32_t>(v), 4);
    for (const int64_t v : pointers) text += little_endian(static_cast<uint64_t>(v), 8);
    for (const int64_t v : document_indices) text += little_endian(static_cast<uint64_t>(v), 8);
    return text;
  }
};

// A sidecar with all its parts.
struct DomainFile {
  std::string magic = "LOCUSDM1";
  uint64_t num_documents = 0;
  std::vector<std::string> names;
  std::vector<uint16_t> domains;

  std::string bytes() const {
    std::string text = magic + little_endian(num_documents, 8) + little_endian(names.size(), 4);
    for (const std::string& name : names) text += little_endian(name.size(), 4) + name;
    for (const uint16_t domain : domains) text += little_endian(domain, 2);
    return text;
  }
};

using Documents = std::vector<std::vector<int32_t>>;

// One sequence a document, token ids of `token_bytes` bytes; domains optional.
inline void write_dataset(const std::string& prefix, const Documents& documents,
                          const std::vector<std::string>& domain_names = {},
                          const std::vector<uint16_t>& domains = {}, uint8_t dtype = 8,
                          int token_bytes = 2) {
  IndexFile index;
  index.dtype = dtype;
  index.document_indices.push_back(0);
  std::string tokens;
  for (const auto& document : documents) {
    index.lengths.push_back(static_cast<int32_t>(document.size()));
    index.pointers.push_back(static_cast<int64_t>(tokens.size()));
    index.document_indices.push_back(static_cast<int64_t>(index.lengths.size()));
    for (const int32_t id : document) {
      tokens += little_endian(static_cast<uint64_t>(int64_t{id}), token_bytes);
    }
  }
  write_bytes(prefix + ".bin", tokens);
  write_bytes(prefix + ".idx", index.bytes());
  if (domain_names.empty()) return;
  write_bytes(
      prefix + ".domains",
      DomainFile{.num_documents = documents.size(), .names = domain_names, .domains = domains}
          .bytes());
}

}  // namespace locus::test
