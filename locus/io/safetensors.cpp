#include "locus/io/safetensors.h"

#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "locus/base/error.h"
#include "locus/io/json_check.h"

namespace locus::io {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference library's limit
constexpr std::string_view kMetadataKey = "__metadata__";

[[noreturn]] void fail(const fs::path& path, const std::string& what) {
  throw DataError("{}: {}", path.string(), what);
}

[[noreturn]] void fail(const fs::path& path, const std::string& tensor, const std::string& what) {
  throw DataError("{}: tensor {}: {}", path.string(), shown(tensor), what);
}

// A shape for a message: a hostile one may have millions of entries.
std::string brief(const nlohmann::json& shape) {
  constexpr size_t kLongest = 100;
  const std::string text = shape.dump();
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

std::string_view header_of(const MappedFile& file) {
  const auto bytes = file.bytes();
  if (bytes.size() < kLengthBytes) {
    fail(file.path(), format("{} bytes are too few for a safetensors file", bytes.size()));
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxHeaderBytes) {
    fail(file.path(),
         format("a header of {} bytes is over the limit of {}: not a safetensors file?", length,
                kMaxHeaderBytes));
  }
  if (length > bytes.size() - kLengthBytes) {
    fail(file.path(), format("the header of {} bytes is longer than the file of {}: truncated?",
                             length, bytes.size()));
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (!header.starts_with('{')) fail(file.path(), "the header is not a JSON object");
  return header;
}

Metadata read_metadata(const fs::path& path, const nlohmann::json& json) {
  if (!json.is_object()) fail(path, "__metadata__ is not an object");
  Metadata metadata;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) fail(path, "__metadata__: the value of " + shown(key) + " is not text");
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

std::vector<int64_t> read_shape(const fs::path& path, const std::string& name,
                                const nlohmann::json& entry) {
  const auto found = entry.find("shape");
  if (found == entry.end() || !found->is_array()) fail(path, name, "has no list \"shape\"");
  std::vector<int64_t> shape;
  for (const nlohmann::json& size : *found) {
    if (!size.is_number_unsigned() || !std::in_range<int64_t>(size.get<uint64_t>())) {
      fail(path, name, "shape " + brief(*found) + " holds a size that is no count");
    }
    shape.push_back(size.get<int64_t>());
  }
  return shape;
}

DType read_dtype(const fs::path& path, const std::string& name, const nlohmann::json& entry) {
  const auto found = entry.find("dtype");
  if (found == entry.end() || !found->is_string()) fail(path, name, "has no text \"dtype\"");
  if (const auto dtype = find_dtype(found->get<std::string>())) return *dtype;
  std::string known;
  for (const DTypeInfo& info : kDTypes)
    known += (known.empty() ? "" : ", ") + std::string(info.name);
  fail(path, name,
       "dtype " + shown(found->get_ref<const std::string&>()) + " is not known; known: " + known);
}

// Elements times element size; empty when it does not fit 64 bits.
std::optional<uint64_t> checked_bytes(DType dtype, const std::vector<int64_t>& shape) {
  uint64_t bytes = dtype_size(dtype);
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) return {};
  }
  return bytes;
}

// `data`: all bytes behind the header.
TensorView read_tensor(const fs::path& path, const std::string& name, const nlohmann::json& entry,
                       std::span<const std::byte> data) {
  if (!entry.is_object()) fail(path, name, "its entry is not an object");
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    fail(path, name, "data_offsets is not a pair of counts");
  }
  const auto begin = (*offsets)[0].get<uint64_t>();
  const auto end = (*offsets)[1].get<uint64_t>();
  if (begin > end) fail(path, name, format("data_offsets [{}, {}] run backwards", begin, end));
  if (end > data.size()) {
    fail(path, name,
         format("data_offsets [{}, {}] end behind the data of {} bytes: truncated?", begin, end,
                data.size()));
  }
  const DType dtype = read_dtype(path, name, entry);
  std::vector<int64_t> shape = read_shape(path, name, entry);
  const auto expected = checked_bytes(dtype, shape);
  if (!expected) fail(path, name, "shape " + brief(entry["shape"]) + " is too large for 64 bits");
  if (*expected != end - begin) {
    fail(path, name,
         format("shape {} of {} takes {} bytes; data_offsets [{}, {}] hold {}",
                brief(entry["shape"]), dtype_name(dtype), *expected, begin, end, end - begin));
  }
  return {name, dtype, std::move(shape), data.subspan(begin, end - begin)};
}

// Sorted tensors must tile the data: no overlap, no hole, nothing left at the end.
void check_tiling(const fs::path& path, const std::vector<TensorView>& tensors,
                  std::span<const std::byte> data) {
  size_t position = 0;
  for (const TensorView& tensor : tensors) {
    const auto begin = static_cast<size_t>(tensor.data.data() - data.data());
    if (begin < position) {
      fail(path, tensor.name, format("its data at {} overlaps with another tensor's", begin));
    }
    if (begin > position) {
      fail(path, tensor.name,
           format("bytes {} to {} in front of it belong to no tensor", position, begin));
    }
    position = begin + tensor.data.size();
  }
  if (position != data.size()) {
    fail(path, format("the last {} bytes belong to no tensor", data.size() - position));
  }
}

std::string make_header(const std::vector<TensorSpec>& tensors, const Metadata& metadata) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata.empty()) json[std::string(kMetadataKey)] = metadata;
  std::set<std::string_view> names;
  uint64_t position = 0;
  for (const TensorSpec& tensor : tensors) {
    LOCUS_CHECK(names.insert(tensor.name).second && tensor.name != kMetadataKey,
                "tensor name {} is taken", tensor.name);
    const uint64_t end = position + num_bytes(tensor);
    json[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                         {"shape", tensor.shape},
                         {"data_offsets", {position, end}}};
    position = end;
  }
  std::string header = json.dump();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  LOCUS_CHECK(header.size() <= kMaxHeaderBytes, "a header of {} bytes", header.size());
  return header;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path) : file_(std::make_unique<MappedFile>(path)) {
  const std::string_view header = header_of(*file_);
  const auto data = file_->bytes().subspan(kLengthBytes + header.size());
  check_json_object(header, path.string() + ": the header");
  const nlohmann::json json = nlohmann::json::parse(header);
  for (const auto& [name, entry] : json.items()) {
    if (name == kMetadataKey) {
      metadata_ = read_metadata(path, entry);
    } else {
      tensors_.push_back(read_tensor(path, name, entry, data));
    }
  }
  // An empty tensor lies before the one that begins at the same byte.
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorView& a, const TensorView& b) {
    return std::pair(a.data.data(), a.data.size()) < std::pair(b.data.data(), b.data.size());
  });
  check_tiling(path, tensors_, data);
  for (size_t i = 0; i < tensors_.size(); ++i) index_[tensors_[i].name] = i;
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

struct SafetensorsWriter::Hasher {
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state{XXH3_createState()};

  Hasher() {
    if (state == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(state.get());
  }
};

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<TensorSpec> tensors,
                                     const Metadata& metadata)
    : file_(path), hasher_(std::make_unique<Hasher>()), tensors_(std::move(tensors)) {
  const std::string header = make_header(tensors_, metadata);
  const uint64_t length = header.size();
  append(&length, kLengthBytes);
  append(header.data(), header.size());
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::append(const void* data, size_t size) {
  constexpr size_t kPiece = 1 << 20;  // hashed and written while it is in the cache
  const auto* bytes = static_cast<const char*>(data);
  for (size_t begin = 0; begin < size; begin += kPiece) {
    const size_t piece = std::min(kPiece, size - begin);
    XXH3_128bits_update(hasher_->state.get(), bytes + begin, piece);
    file_.write(bytes + begin, piece);
  }
}

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> data) {
  LOCUS_CHECK(next_ < tensors_.size(), "tensor {} comes after the last", name);
  const TensorSpec& spec = tensors_[next_++];
  LOCUS_CHECK(spec.name == name, "got tensor {} expected {}", name, spec.name);
  LOCUS_CHECK(data.size() == io::num_bytes(spec), "tensor {} has {} bytes, expected {}", name,
              data.size(), io::num_bytes(spec));
  append(data.data(), data.size());
}

Hash128 SafetensorsWriter::close() {
  LOCUS_CHECK(next_ == tensors_.size(), "{} of {} tensors written", next_, tensors_.size());
  file_.close();
  const XXH128_hash_t hash = XXH3_128bits_digest(hasher_->state.get());
  return {hash.high64, hash.low64};
}

void release(const TensorView& view) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(view.data.data());
  const uintptr_t first = (begin + page - 1) / page * page;  // neighbours keep the pages they share
  const uintptr_t last = (begin + view.data.size()) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

uint64_t num_bytes(const TensorSpec& spec) {
  const auto bytes = checked_bytes(spec.dtype, spec.shape);
  LOCUS_CHECK(bytes.has_value(), "tensor {} has an impossible shape", spec.name);
  return *bytes;
}

}  // namespace locus::io
