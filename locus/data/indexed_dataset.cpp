#include "locus/data/indexed_dataset.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "locus/base/error.h"
#include "locus/data/byte_io.h"
#include "locus/data/dataset_format.h"
#include "locus/data/utf8.h"

namespace locus::data {
namespace {

// Copies `out.size()` tokens of type T from token `first` on; the index of the first bad one, or
// -1. `limit` is the first id that is too large.
template <class T>
int64_t copy_tokens(const std::byte* tokens, int64_t first, int64_t limit, std::span<int32_t> out) {
  const std::byte* source = tokens + static_cast<size_t>(first) * sizeof(T);
  bool all_good = true;  // one branch at the end: the loop vectorises
  for (size_t i = 0; i < out.size(); ++i) {
    const auto value = static_cast<int64_t>(load_entry<T>(source, static_cast<int64_t>(i)));
    all_good &= value >= 0 && value < limit;
    out[i] = static_cast<int32_t>(value);
  }
  if (all_good) return -1;
  for (int64_t i = 0;; ++i) {
    const auto value = static_cast<int64_t>(load_entry<T>(source, i));
    if (value < 0 || value >= limit) return i;
  }
}

int64_t token_value(TokenType type, const std::byte* tokens, int64_t index) {
  switch (type) {
    case TokenType::kUint8: return load_entry<uint8_t>(tokens, index);
    case TokenType::kInt8: return load_entry<int8_t>(tokens, index);
    case TokenType::kInt16: return load_entry<int16_t>(tokens, index);
    case TokenType::kInt32: return load_entry<int32_t>(tokens, index);
    case TokenType::kInt64: return load_entry<int64_t>(tokens, index);
    case TokenType::kUint16: return load_entry<uint16_t>(tokens, index);
  }
  LOCUS_CHECK(false, "token type {}", static_cast<int>(type));
}

TokenType parse_token_type(uint8_t code, const std::string& path) {
  switch (code) {
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 8: return static_cast<TokenType>(code);
    default:
      throw DataError(
          "{}: dtype code {} is none of a token file; known: 1 uint8, 2 int8, 3 int16, "
          "4 int32, 5 int64, 8 uint16",
          path, code);
  }
}

}  // namespace

size_t token_bytes(TokenType type) {
  switch (type) {
    case TokenType::kUint8:
    case TokenType::kInt8: return 1;
    case TokenType::kInt16:
    case TokenType::kUint16: return 2;
    case TokenType::kInt32: return 4;
    case TokenType::kInt64: return 8;
  }
  LOCUS_CHECK(false, "token type {}", static_cast<int>(type));
}

const char* token_type_name(TokenType type) {
  switch (type) {
    case TokenType::kUint8: return "uint8";
    case TokenType::kInt8: return "int8";
    case TokenType::kInt16: return "int16";
    case TokenType::kInt32: return "int32";
    case TokenType::kInt64: return "int64";
    case TokenType::kUint16: return "uint16";
  }
  LOCUS_CHECK(false, "token type {}", static_cast<int>(type));
}

TokenType smallest_token_type(int64_t vocab_size) {
  return vocab_size < 65500 ? TokenType::kUint16 : TokenType::kInt32;
}

IndexedDataset::IndexedDataset(std::string prefix, int64_t vocab_size, int32_t eod_id,
                               bool has_pairs)
    : prefix_(std::move(prefix)),
      vocab_size_(vocab_size),
      eod_id_(eod_id),
      has_pairs_(has_pairs),
      index_(std::make_unique<MappedFile>(prefix_ + ".idx")),
      tokens_(std::make_unique<MappedFile>(prefix_ + ".bin")) {
  open_index();
  check_sequences();
  check_document_indices();
  if (has_pairs_ && num_documents_ % 2 != 0) {
    throw DataError("{}.idx: holds {} documents, an odd number, but dataset.json says pairs",
                    prefix_, num_documents_);
  }
  const std::string sidecar = prefix_ + ".domains";
  if (fs::exists(sidecar)) open_domains(sidecar);
}

void IndexedDataset::open_index() {
  const std::string path = index_->path().string();
  const auto bytes = index_->bytes();
  if (bytes.size() < kIndexHeaderBytes) {
    throw DataError("{}: {} bytes are too few for the header of {} bytes of a Megatron index", path,
                    bytes.size(), kIndexHeaderBytes);
  }
  const std::byte* data = bytes.data();
  if (std::memcmp(data, kIndexMagic.data(), kIndexMagic.size()) != 0) {
    throw DataError("{}: is no Megatron index: it does not begin with MMIDIDX", path);
  }
  const auto version = load_unaligned<uint64_t>(data + 9);
  if (version != kIndexVersion) {
    throw DataError("{}: version {} of the index format; known: {}", path, version, kIndexVersion);
  }
  type_ = parse_token_type(load_unaligned<uint8_t>(data + 17), path);
  const auto num_sequences = load_unaligned<uint64_t>(data + 18);
  const auto num_indices = load_unaligned<uint64_t>(data + 26);
  // By division, so that no claimed count can overflow.
  const uint64_t payload = bytes.size() - kIndexHeaderBytes;
  if (num_sequences > payload / 12 || num_indices > (payload - num_sequences * 12) / 8 ||
      num_sequences * 12 + num_indices * 8 != payload) {
    throw DataError("{}: {} sequences and {} document indices do not fit the file's {} bytes", path,
                    num_sequences, num_indices, bytes.size());
  }
  if (num_indices == 0) {
    throw DataError("{}: holds no document indices; an empty dataset has one", path);
  }
  num_sequences_ = static_cast<int64_t>(num_sequences);
  num_documents_ = static_cast<int64_t>(num_indices) - 1;
  lengths_ = data + kIndexHeaderBytes;
  pointers_ = lengths_ + num_sequences * 4;
  document_indices_ = pointers_ + num_sequences * 8;
}

void IndexedDataset::check_sequences() {
  const std::string path = index_->path().string();
  const uint64_t token_size = token_bytes(type_);
  const uint64_t file_bytes = tokens_->bytes().size();
  uint64_t place = 0;  // at most the size of the .bin, so it cannot overflow
  for (int64_t i = 0; i < num_sequences_; ++i) {
    const auto length = load_entry<int32_t>(lengths_, i);
    const auto pointer = load_entry<int64_t>(pointers_, i);
    if (length < 0) throw DataError("{}: sequence {} has the length {}", path, i, length);
    if (pointer != static_cast<int64_t>(place)) {
      throw DataError("{}: sequence {} is said to begin at byte {}, but those before it end at {}",
                      path, i, pointer, place);
    }
    const uint64_t size = static_cast<uint64_t>(length) * token_size;
    if (size > file_bytes - place) {
      throw DataError("{}: sequence {} ends at byte {}, but {} has only {} bytes", path, i,
                      place + size, tokens_->path().string(), file_bytes);
    }
    place += size;
  }
  if (place != file_bytes) {
    throw DataError("{}: its sequences end at byte {}, but {} has {} bytes", path, place,
                    tokens_->path().string(), file_bytes);
  }
  num_tokens_ = static_cast<int64_t>(file_bytes / token_size);
}

void IndexedDataset::check_document_indices() const {
  const std::string path = index_->path().string();
  int64_t previous = 0;
  for (int64_t i = 0; i <= num_documents_; ++i) {
    const auto sequence = load_entry<int64_t>(document_indices_, i);
    if (i == 0 && sequence != 0) {
      throw DataError("{}: the first document index is {} and must be 0", path, sequence);
    }
    if (sequence > num_sequences_) {
      throw DataError("{}: document index {} is {}, beyond the {} sequences", path, i, sequence,
                      num_sequences_);
    }
    if (sequence < previous) {
      throw DataError("{}: document index {} is {}, less than the one before, {}", path, i,
                      sequence, previous);
    }
    previous = sequence;
  }
  if (previous != num_sequences_) {
    throw DataError("{}: the last document index is {} and must be the number of sequences, {}",
                    path, previous, num_sequences_);
  }
}

void IndexedDataset::open_domains(const std::string& path) {
  domains_ = std::make_unique<MappedFile>(path);
  auto rest = domains_->bytes();
  const auto take = [&](size_t num_bytes, const char* what) {
    if (num_bytes > rest.size()) throw DataError("{}: ends within {}", path, what);
    const std::byte* taken = rest.data();
    rest = rest.subspan(num_bytes);
    return taken;
  };
  if (std::memcmp(take(8, "its magic"), kDomainsMagic.data(), 8) != 0) {
    throw DataError("{}: is no domain file: it does not begin with {}", path, kDomainsMagic);
  }
  const auto documents = load_unaligned<uint64_t>(take(8, "its header"));
  const auto num_domains = load_unaligned<uint32_t>(take(4, "its header"));
  if (documents != static_cast<uint64_t>(num_documents_)) {
    throw DataError("{}: tells the domains of {} documents, but {} holds {}", path, documents,
                    index_->path().string(), num_documents_);
  }
  if (num_domains > kMaxDomains) {
    throw DataError("{}: {} domains; at most {} are possible", path, num_domains, kMaxDomains);
  }
  for (uint32_t i = 0; i < num_domains; ++i) {
    const auto length = load_unaligned<uint32_t>(take(4, "the domain names"));
    const auto* name = reinterpret_cast<const char*>(take(length, "the domain names"));
    domain_names_.emplace_back(name, length);
    if (valid_utf8_prefix(domain_names_.back()) < length) {
      throw DataError("{}: the name of domain {} is no valid UTF-8", path, i);
    }
  }
  if (rest.size() != documents * 2) {
    throw DataError("{}: {} bytes are left for the domains of {} documents, which take {}", path,
                    rest.size(), documents, documents * 2);
  }
  document_domains_ = rest.data();
  for (int64_t i = 0; i < num_documents_; ++i) {
    const auto id = load_entry<uint16_t>(document_domains_, i);
    if (id != kUnknownDomain && id >= num_domains) {
      throw DataError("{}: document {} has the domain {} of {}", path, i, id, num_domains);
    }
  }
}

int64_t IndexedDataset::sequence_begin(int64_t sequence) const {
  if (sequence == num_sequences_) return num_tokens_;
  return load_entry<int64_t>(pointers_, sequence) / static_cast<int64_t>(token_bytes(type_));
}

IndexedDataset::Range IndexedDataset::document(int64_t index) const {
  LOCUS_CHECK(index >= 0 && index < num_documents_, "document {} of {}", index, num_documents_);
  return {sequence_begin(load_entry<int64_t>(document_indices_, index)),
          sequence_begin(load_entry<int64_t>(document_indices_, index + 1))};
}

int64_t IndexedDataset::document_at(int64_t position) const {
  LOCUS_CHECK(position >= 0 && position < num_tokens_, "token {} of {}", position, num_tokens_);
  int64_t low = 0;  // the last document that begins at or before `position`: never an empty one
  int64_t high = num_documents_;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const bool before = sequence_begin(load_entry<int64_t>(document_indices_, middle)) <= position;
    (before ? low : high) = middle;
  }
  return low;
}

void IndexedDataset::read(int64_t first, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  LOCUS_CHECK(first >= 0 && count <= num_tokens_ && first <= num_tokens_ - count,
              "tokens {} + {} of {}", first, count, num_tokens_);
  constexpr auto kMaxId = int64_t{std::numeric_limits<int32_t>::max()};
  const int64_t limit = vocab_size_ > 0 ? vocab_size_ : kMaxId + 1;
  const std::byte* tokens = tokens_->bytes().data();
  int64_t bad = -1;
  switch (type_) {
    case TokenType::kUint8: bad = copy_tokens<uint8_t>(tokens, first, limit, out); break;
    case TokenType::kInt8: bad = copy_tokens<int8_t>(tokens, first, limit, out); break;
    case TokenType::kInt16: bad = copy_tokens<int16_t>(tokens, first, limit, out); break;
    case TokenType::kInt32: bad = copy_tokens<int32_t>(tokens, first, limit, out); break;
    case TokenType::kInt64: bad = copy_tokens<int64_t>(tokens, first, limit, out); break;
    case TokenType::kUint16: bad = copy_tokens<uint16_t>(tokens, first, limit, out); break;
  }
  if (bad < 0) return;
  throw DataError("{}: token {} has the id {}, which is not in [0, {}), the vocabulary",
                  tokens_->path().string(), first + bad, token_value(type_, tokens, first + bad),
                  limit);
}

int32_t IndexedDataset::domain(int64_t document) const {
  LOCUS_CHECK(document >= 0 && document < num_documents_, "document {} of {}", document,
              num_documents_);
  if (!has_domains()) return -1;
  const auto id = load_entry<uint16_t>(document_domains_, document);
  return id == kUnknownDomain ? -1 : id;
}

}  // namespace locus::data
