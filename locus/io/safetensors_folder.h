// A model folder as Hugging Face lays it out: `model.safetensors`, or past a size several shards
// and `model.safetensors.index.json` that says which tensor is in which.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "locus/io/safetensors.h"

namespace locus::io {

// All tensors of a folder. Views live as long as this object.
class SafetensorsFolder {
 public:
  const std::vector<SafetensorsFile>& files() const { return files_; }
  // In order of the files, then of the bytes.
  const std::vector<const TensorView*>& tensors() const { return tensors_; }
  const TensorView* find(std::string_view name) const;  // nullptr: not there
  // Of the single file, or of all shards together; the first shard's word counts.
  const Metadata& metadata() const { return metadata_; }

 private:
  friend SafetensorsFolder open_safetensors_folder(const fs::path& path);
  void add(SafetensorsFile file);
  void make_index();

  std::vector<SafetensorsFile> files_;
  std::vector<const TensorView*> tensors_;
  std::map<std::string_view, const TensorView*> index_;
  Metadata metadata_;
};

// `path`: the folder, or one .safetensors or .safetensors.index.json file. DataError when neither
// file is there, a shard is missing, lies outside the folder, or does not hold what the index says.
SafetensorsFolder open_safetensors_folder(const fs::path& path);

// The path of the file `name` in `folder`. DataError, naming `wanted_by`, when it is not there or a
// link leads out of the folder; the links of Hugging Face's cache, from snapshots/<commit>/ to
// blobs/, are at home there.
fs::path folder_member(const fs::path& folder, const std::string& name, const fs::path& wanted_by);

// A file that was written, for a manifest.
struct WrittenFile {
  std::string name;
  uint64_t num_bytes;
  Hash128 hash;
};

// Which of the shards of a folder a writer writes, where several writers share the folder.
struct ShardNumbers {
  int64_t first = 0;
  int64_t total = 0;  // 0: all, counted by the writer
};

// Writes tensors in order into one file, or into shards of at most `max_shard_bytes` of data each
// (a larger tensor has a shard to itself) with an index. Like the file writer: use a temporary
// folder.
class SafetensorsFolderWriter {
 public:
  SafetensorsFolderWriter(fs::path folder, std::vector<TensorSpec> tensors, Metadata metadata,
                          uint64_t max_shard_bytes, const ShardNumbers& numbers = {});

  // How many shards these tensors fill.
  static int64_t count_shards(const std::vector<TensorSpec>& tensors, uint64_t max_shard_bytes);

  void write(std::string_view name, std::span<const std::byte> data);

  // All files, flushed to the disk; the index among them, unless other writers share the folder.
  std::vector<WrittenFile> close();

  // The file of each tensor.
  std::map<std::string, std::string> weight_map() const;
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  struct Shard {
    std::string name;
    std::vector<TensorSpec> tensors;
  };
  static std::vector<Shard> cut(std::vector<TensorSpec> tensors, uint64_t max_shard_bytes);
  void open_shard();
  void close_shard();

  fs::path folder_;
  Metadata metadata_;
  std::vector<Shard> shards_;
  bool shared_ = false;  // with other writers
  uint64_t total_bytes_ = 0;
  size_t shard_ = 0;         // being written
  size_t num_in_shard_ = 0;  // tensors already in it
  std::unique_ptr<SafetensorsWriter> writer_;
  std::vector<WrittenFile> written_;
};

// The index of several shards: which tensor is in which file.
WrittenFile write_safetensors_index(const fs::path& folder,
                                    const std::map<std::string, std::string>& weight_map,
                                    uint64_t total_bytes);

}  // namespace locus::io
