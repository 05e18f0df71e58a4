// Writing checkpoints. A folder is filled under a temporary name, flushed, and renamed: whoever is
// killed at any byte leaves the earlier checkpoints as they were.

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/hash.h"
#include "locus/base/log.h"
#include "locus/train/checkpoint.h"

namespace locus::train {
namespace {

using nlohmann::json;

// Folders that are not committed (being written, being removed).
constexpr std::string_view kUncommitted = ".uncommitted-";

std::string folder_name(int64_t step) { return format("step_{:08}", step); }

struct TensorCopy {
  std::string name;
  at::Tensor value;  // contiguous, on the CPU
};

TensorCopy copy_of(const std::string& name, const at::Tensor& value) {
  return {name, value.detach().to(at::kCPU).clone(at::MemoryFormat::Contiguous)};
}

std::vector<io::TensorSpec> specs(const std::vector<TensorCopy>& tensors) {
  std::vector<io::TensorSpec> out;
  for (const TensorCopy& tensor : tensors) {
    out.push_back(
        {tensor.name, model::to_dtype(tensor.value.scalar_type()), tensor.value.sizes().vec()});
  }
  return out;
}

json manifest_entry(uint64_t num_bytes, const Hash128& hash) {
  return {{"bytes", num_bytes}, {"xxh128", to_hex(hash)}};
}

json write_text(const fs::path& path, const std::string& text) {
  FileWriter writer(path);
  writer.write(text);
  writer.close();
  return manifest_entry(text.size(), hash128(text));
}

json write_model(const fs::path& folder, const std::vector<TensorCopy>& tensors,
                 uint64_t max_shard_bytes) {
  json files = json::object();
  io::SafetensorsFolderWriter writer(folder, specs(tensors), {{"format", "pt"}}, max_shard_bytes);
  for (const TensorCopy& tensor : tensors)
    writer.write(tensor.name, model::tensor_bytes(tensor.value));
  for (const io::WrittenFile& file : writer.close())
    files[file.name] = manifest_entry(file.num_bytes, file.hash);
  return files;
}

json write_optimizer(const fs::path& path, const std::vector<TensorCopy>& tensors) {
  io::SafetensorsWriter writer(path, specs(tensors), {{"format", "pt"}});
  for (const TensorCopy& tensor : tensors)
    writer.write(tensor.name, model::tensor_bytes(tensor.value));
  const Hash128 hash = writer.close();
  return manifest_entry(writer.num_bytes(), hash);
}

json to_json(const TrainerState& state) {
  return {{"step", state.step},
          {"tokens", state.tokens},
          {"skipped_steps", state.skipped_steps},
          {"skipped_in_row", state.skipped_in_row},
          {"loss_mean", state.loss_mean},
          {"loss_mean_steps", state.loss_mean_steps}};
}

// Out of sight in one step, then gone: a half-removed folder never looks committed.
void remove_folder(const fs::path& path) {
  const std::string name = path.filename().string();
  const fs::path hidden = path.parent_path() / format("{}old-{}", kUncommitted, name);
  fs::remove_all(hidden);
  rename_durable(path, hidden);
  fs::remove_all(hidden);
}

}  // namespace

struct CheckpointWriter::Snapshot {
  std::vector<TensorCopy> model, optimizer;
  TrainerState state;
  std::vector<TextFile> texts;
};

CheckpointWriter::CheckpointWriter(fs::path checkpoints, const CheckpointConfig& config)
    : checkpoints_(std::move(checkpoints)), config_(config) {
  make_folders(checkpoints_);
  for (const auto& entry : fs::directory_iterator(checkpoints_)) {
    if (entry.path().filename().string().starts_with(kUncommitted)) fs::remove_all(entry.path());
  }
}

CheckpointWriter::~CheckpointWriter() {
  try {
    wait();
  } catch (const std::exception& error) {
    log::error("{}", error.what());
  }
}

void CheckpointWriter::wait() {
  if (pending_.valid()) pending_.get();
}

void CheckpointWriter::save(model::Decoder& decoder, Optimizer& optimizer,
                            const TrainerState& state, const std::vector<TextFile>& texts) {
  bool failed_before = false;
  try {
    wait();
  } catch (const std::exception& error) {
    log::error("{}; trying again with step {}", error.what(), state.step);
    failed_before = true;
  }
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->state = state;
  snapshot->texts = texts;
  for (const model::StoredTensor& tensor : model::stored_tensors(decoder)) {
    snapshot->model.push_back(copy_of(tensor.name, tensor.value));
  }
  for (const auto& [name, tensor] : optimizer.state())
    snapshot->optimizer.push_back(copy_of(name, tensor));
  pending_ = std::async(std::launch::async, [this, snapshot] { write(*snapshot); });
  if (failed_before) wait();  // twice in a row: the caller has to know
}

void CheckpointWriter::write(const Snapshot& snapshot) const {
  const std::string name = folder_name(snapshot.state.step);
  const fs::path temporary = checkpoints_ / format("{}{}", kUncommitted, name);
  const fs::path final = checkpoints_ / name;
  fs::remove_all(temporary);
  make_folders(temporary);
  try {
    // Both large files at once: while one waits for the disk, the other is hashed.
    std::future<json> optimizer = std::async(std::launch::async, [&] {
      return write_optimizer(temporary / "optimizer.safetensors", snapshot.optimizer);
    });
    json files =
        write_model(temporary, snapshot.model, static_cast<uint64_t>(config_.max_shard_bytes));
    files["optimizer.safetensors"] = optimizer.get();
    files["trainer.json"] =
        write_text(temporary / "trainer.json", to_json(snapshot.state).dump(2) + "\n");
    for (const TextFile& text : snapshot.texts) {
      files[text.name] = write_text(temporary / text.name, text.content);
    }
    const json manifest = {{"version", 1}, {"step", snapshot.state.step}, {"files", files}};
    write_text(temporary / "manifest.json", manifest.dump(2) + "\n");
    sync_path(temporary);
    if (fs::exists(final)) remove_folder(final);  // a resumed run passes a step a second time
    rename_durable(temporary, final);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
  write_file_atomic(checkpoints_ / "latest", name + "\n");
  prune(snapshot.state.step);
}

void CheckpointWriter::prune(int64_t newest_step) const {
  if (config_.keep_last == 0) return;
  int64_t kept = 0;
  for (const CheckpointRef& checkpoint : list_checkpoints(checkpoints_)) {
    // Beyond the newest: left by a run that went further before it was resumed from an earlier
    // step.
    const bool keep = checkpoint.step <= newest_step &&
                      (kept < config_.keep_last ||
                       (config_.keep_every > 0 && checkpoint.step % config_.keep_every == 0));
    if (checkpoint.step <= newest_step) ++kept;
    if (!keep) remove_folder(checkpoint.path);
  }
}

}  // namespace locus::train
