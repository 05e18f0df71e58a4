#include "locus/io/safetensors_folder.h"

#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/io/json_check.h"

namespace locus::io {
namespace {

constexpr std::string_view kSingleName = "model.safetensors";
constexpr std::string_view kIndexName = "model.safetensors.index.json";

// <cache>/snapshots/<commit>/x -> ../../blobs/<hash>
bool is_cache_blob(const fs::path& folder, const fs::path& target) {
  const fs::path snapshots = folder.parent_path();
  return snapshots.filename() == "snapshots" &&
         target.parent_path() == snapshots.parent_path() / "blobs";
}

}  // namespace

// An index could name any file of the machine, by its text or through a link.
fs::path folder_member(const fs::path& folder, const std::string& name, const fs::path& wanted_by) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    throw DataError("{}: {} is not the name of a file in the same folder", wanted_by.string(),
                    shown(name));
  }
  const fs::path path = folder / name;
  std::error_code code;
  if (!fs::is_regular_file(path, code)) {
    if (fs::exists(path, code)) throw DataError("{}: is not a regular file", path.string());
    if (fs::is_symlink(fs::symlink_status(path, code))) {
      throw DataError("{}: is a link to nothing", path.string());
    }
    throw DataError("{}: the file is missing; {} needs it", path.string(), wanted_by.string());
  }
  const fs::path target = fs::canonical(path, code);
  const fs::path home = fs::canonical(folder, code);
  if (code || (target.parent_path() != home && !is_cache_blob(home, target))) {
    throw DataError("{}: the link leads out of the folder, to {}; copy that file here",
                    path.string(), target.string());
  }
  return path;
}

namespace {

// Shard name -> the tensors that the index places there.
using Placement = std::map<std::string, std::vector<std::string>>;

Placement read_index(const fs::path& path) {
  const std::string text = read_file(path);
  check_json_object(text, path.string() + ": the index");
  const nlohmann::json json = nlohmann::json::parse(text);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object()) {
    throw DataError("{}: has no object \"weight_map\"", path.string());
  }
  Placement placement;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string()) {
      throw DataError("{}: the file of tensor {} is not text", path.string(), shown(name));
    }
    placement[file.get<std::string>()].push_back(name);
  }
  if (placement.empty()) throw DataError("{}: weight_map is empty", path.string());
  return placement;
}

void check_shard(const SafetensorsFile& shard, const std::vector<std::string>& listed,
                 const fs::path& index) {
  for (const std::string& name : listed) {
    if (shard.find(name) == nullptr) {
      throw DataError("{}: tensor {} is absent, but {} places it here", shard.path().string(),
                      shown(name), index.string());
    }
  }
}

// Pickle files run code when they are opened: they are never read.
[[noreturn]] void refuse_without_weights(const fs::path& folder) {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    const std::string end = entry.path().extension().string();
    if (!name.starts_with("pytorch_model") && end != ".bin" && end != ".pt" && end != ".pth")
      continue;
    throw DataError(
        "{}: pickle files run code when they are opened; Locus reads safetensors alone. Convert "
        "the "
        "folder where you trust it: AutoModelForCausalLM.from_pretrained(old).save_pretrained(new) "
        "of transformers writes them",
        entry.path().string());
  }
  throw DataError("{}: holds neither {} nor {}", folder.string(), kSingleName, kIndexName);
}

}  // namespace

void SafetensorsFolder::add(SafetensorsFile file) {
  metadata_.insert(file.metadata().begin(), file.metadata().end());
  files_.push_back(std::move(file));
}

void SafetensorsFolder::make_index() {
  std::map<std::string_view, const SafetensorsFile*> owners;
  for (const SafetensorsFile& file : files_) {
    for (const TensorView& tensor : file.tensors()) {
      const auto [owner, is_new] = owners.emplace(tensor.name, &file);
      if (!is_new) {
        throw DataError("{}: tensor {} is also in {}", file.path().string(), shown(tensor.name),
                        owner->second->path().string());
      }
      tensors_.push_back(&tensor);
      index_.emplace(tensor.name, &tensor);
    }
  }
}

const TensorView* SafetensorsFolder::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : found->second;
}

SafetensorsFolder open_safetensors_folder(const fs::path& path) {
  SafetensorsFolder result;
  std::error_code code;
  fs::path index = path;
  if (fs::is_directory(path, code)) {
    index = path / kIndexName;
    const fs::path single = path / kSingleName;
    if (fs::exists(fs::symlink_status(single, code))) {
      result.add(SafetensorsFile(folder_member(path, std::string(kSingleName), path)));
      result.make_index();
      return result;
    }
    if (!fs::exists(index, code)) refuse_without_weights(path);
  } else if (path.extension() != ".json") {
    result.add(SafetensorsFile(path));
    result.make_index();
    return result;
  }
  const fs::path folder = index.has_parent_path() ? index.parent_path() : fs::path(".");
  size_t num_listed = 0;
  for (const auto& [name, listed] : read_index(index)) {
    SafetensorsFile shard(folder_member(folder, name, index));
    check_shard(shard, listed, index);
    num_listed += listed.size();
    result.add(std::move(shard));
  }
  result.make_index();
  // Every listed tensor was found in its shard and none is twice: more tensors are unlisted ones.
  if (result.tensors().size() != num_listed) {
    throw DataError("{}: lists {} tensors, but its files hold {}", index.string(), num_listed,
                    result.tensors().size());
  }
  return result;
}

SafetensorsFolderWriter::SafetensorsFolderWriter(fs::path folder, std::vector<TensorSpec> tensors,
                                                 Metadata metadata, uint64_t max_shard_bytes,
                                                 const ShardNumbers& numbers)
    : folder_(std::move(folder)), metadata_(std::move(metadata)), shared_(numbers.total > 0) {
  for (const TensorSpec& tensor : tensors) total_bytes_ += num_bytes(tensor);
  shards_ = cut(std::move(tensors), max_shard_bytes);
  const auto total = shared_ ? static_cast<size_t>(numbers.total) : shards_.size();
  for (size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].name = total == 1 ? std::string(kSingleName)
                                 : format("model-{:05}-of-{:05}.safetensors",
                                          static_cast<size_t>(numbers.first) + i + 1, total);
  }
  open_shard();
}

std::vector<SafetensorsFolderWriter::Shard> SafetensorsFolderWriter::cut(
    std::vector<TensorSpec> tensors, uint64_t max_shard_bytes) {
  std::vector<Shard> shards(1);
  uint64_t shard_bytes = 0;
  for (TensorSpec& tensor : tensors) {
    const uint64_t bytes = num_bytes(tensor);
    if (!shards.back().tensors.empty() && shard_bytes + bytes > max_shard_bytes) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shard_bytes += bytes;
    shards.back().tensors.push_back(std::move(tensor));
  }
  return shards;
}

int64_t SafetensorsFolderWriter::count_shards(const std::vector<TensorSpec>& tensors,
                                              uint64_t max_shard_bytes) {
  return static_cast<int64_t>(cut(tensors, max_shard_bytes).size());
}

std::map<std::string, std::string> SafetensorsFolderWriter::weight_map() const {
  std::map<std::string, std::string> map;
  for (const Shard& shard : shards_) {
    for (const TensorSpec& tensor : shard.tensors) map[tensor.name] = shard.name;
  }
  return map;
}

void SafetensorsFolderWriter::open_shard() {
  const Shard& shard = shards_[shard_];
  writer_ = std::make_unique<SafetensorsWriter>(folder_ / shard.name, shard.tensors, metadata_);
  num_in_shard_ = 0;
}

void SafetensorsFolderWriter::close_shard() {
  const Hash128 hash = writer_->close();
  written_.push_back({shards_[shard_].name, writer_->num_bytes(), hash});
  writer_.reset();
}

void SafetensorsFolderWriter::write(std::string_view name, std::span<const std::byte> data) {
  if (num_in_shard_ == shards_[shard_].tensors.size() && shard_ + 1 < shards_.size()) {
    close_shard();
    ++shard_;
    open_shard();
  }
  writer_->write(name, data);
  ++num_in_shard_;
}

std::vector<WrittenFile> SafetensorsFolderWriter::close() {
  LOCUS_CHECK(shard_ + 1 == shards_.size(), "{} of {} shards written", shard_ + 1, shards_.size());
  close_shard();
  if (shards_.size() > 1 && !shared_) {
    written_.push_back(write_safetensors_index(folder_, weight_map(), total_bytes_));
  }
  sync_path(folder_);
  return std::move(written_);
}

WrittenFile write_safetensors_index(const fs::path& folder,
                                    const std::map<std::string, std::string>& weight_map,
                                    uint64_t total_bytes) {
  const nlohmann::json json = {{"metadata", {{"total_size", total_bytes}}},
                               {"weight_map", weight_map}};
  const std::string text = json.dump(2) + "\n";
  const std::string name(kIndexName);
  write_file_atomic(folder / name, text);
  return {name, text.size(), hash128(text)};
}

}  // namespace locus::io
