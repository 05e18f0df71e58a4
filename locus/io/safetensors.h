// The safetensors format: https://github.com/huggingface/safetensors#format
//
//   u64 N | JSON header, N bytes, padded with spaces | the tensors' bytes, without holes
//
//   {"__metadata__": {"key": "text"},
//    "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
//
// A file comes from anywhere: the reader believes nothing that it has not checked, and every lie is
// a DataError that names the file and the tensor. The values themselves are not looked at.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "locus/base/file.h"
#include "locus/base/hash.h"
#include "locus/io/tensor_view.h"

namespace locus::io {

using Metadata = std::map<std::string, std::string>;

// A mapped file. Views point into it and die with it.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const fs::path& path);

  const std::vector<TensorView>& tensors() const { return tensors_; }  // in order of their bytes
  const TensorView* find(std::string_view name) const;                 // nullptr: not there
  const Metadata& metadata() const { return metadata_; }
  const fs::path& path() const { return file_->path(); }

 private:
  std::unique_ptr<MappedFile> file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  Metadata metadata_;
};

// Writes one file from front to back: memory holds no more than what the caller hands in. A writer
// that is destroyed before close() leaves an unfinished file: write under a temporary name.
class SafetensorsWriter {
 public:
  // The bytes lie in the order of `tensors`. Wide types first keep all of them aligned.
  SafetensorsWriter(const fs::path& path, std::vector<TensorSpec> tensors,
                    const Metadata& metadata);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The whole data of the next tensor in order; the name is there to be checked.
  void write(std::string_view name, std::span<const std::byte> data);

  // Flushes to the disk. The hash of the whole file, taken while it was written.
  Hash128 close();
  uint64_t num_bytes() const { return file_.num_bytes(); }

 private:
  struct Hasher;
  void append(const void* data, size_t num_bytes);

  FileWriter file_;
  std::unique_ptr<Hasher> hasher_;
  std::vector<TensorSpec> tensors_;
  size_t next_ = 0;
};

// The pages of a view go back to the system; a later look at it reads them from the file again.
void release(const TensorView& view);

// Bytes of a tensor of this spec. Ours to get right: InternalError on overflow or a negative size.
uint64_t num_bytes(const TensorSpec& spec);

}  // namespace locus::io
