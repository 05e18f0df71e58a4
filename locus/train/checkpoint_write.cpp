// Writing checkpoints. A folder is filled under a temporary name, flushed, and renamed: whoever is
// killed at any byte leaves the earlier checkpoints as they were.

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/hash.h"
#include "locus/base/log.h"
#include "locus/comm/collectives.h"
#include "locus/comm/together.h"
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

// Which of the tensors a rank writes: of those that several ranks have, the one with the least to
// write so far. All ranks that have a tensor come to the same answer.
class Shares {
 public:
  explicit Shares(const comm::ParallelContext& parallel)
      : parallel_(parallel),
        dense_bytes_(static_cast<size_t>(parallel.world_size)),
        expert_bytes_(parallel.edp == nullptr ? 1 : static_cast<size_t>(parallel.edp->size())) {}

  // The rank of the world that writes the next tensor; of an expert's, the rank of the edp group.
  int64_t next_writer(size_t num_bytes, bool is_expert) {
    std::vector<size_t>& bytes = is_expert ? expert_bytes_ : dense_bytes_;
    const auto least = std::min_element(bytes.begin(), bytes.end());
    *least += num_bytes;
    return least - bytes.begin();
  }

  bool takes(const at::Tensor& value, bool is_expert) {
    const int64_t own = !is_expert                 ? parallel_.rank
                        : parallel_.edp == nullptr ? 0
                                                   : parallel_.edp->rank();
    return next_writer(value.nbytes(), is_expert) == own;
  }

 private:
  const comm::ParallelContext& parallel_;
  std::vector<size_t> dense_bytes_, expert_bytes_;  // by rank of the world, of the edp group
};

TensorCopy copy_of(const std::string& name, const at::Tensor& value) {
  return {name, value.detach().to(at::kCPU).clone(at::MemoryFormat::Contiguous)};
}

// What this rank writes of one tensor of the optimiser's state. Where each rank has a part of it,
// they all send theirs to the one that writes.
void copy_state(const std::string& name, const at::Tensor& value, const ParameterPart& part,
                const ExpertNumbers& numbers, Shares& shares, std::vector<TensorCopy>& out) {
  const bool is_scalar = value.dim() == 0;  // of the whole parameter
  const bool is_expert = part.is_expert && !is_scalar;
  if (part.is_whole() || is_scalar) {
    for (const auto& [tensor_name, tensor] : global_state({{name, value}}, numbers)) {
      if (shares.takes(tensor, is_expert)) out.push_back(copy_of(tensor_name, tensor));
    }
    return;
  }
  const auto num_values = static_cast<size_t>(part.parameter.numel());
  const int64_t writer = shares.next_writer(num_values * value.element_size(), is_expert);
  const at::Tensor whole = gather_parts(part, value, writer);
  if (!whole.defined()) return;
  for (const auto& [tensor_name, tensor] : global_state({{name, whole.to(at::kCPU)}}, numbers))
    out.push_back({tensor_name, tensor});
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

json write_optimizer(const fs::path& path, const std::vector<TensorCopy>& tensors) {
  io::SafetensorsWriter writer(path, specs(tensors), {{"format", "pt"}});
  for (const TensorCopy& tensor : tensors)
    writer.write(tensor.name, model::tensor_bytes(tensor.value));
  const Hash128 hash = writer.close();
  return manifest_entry(writer.num_bytes(), hash);
}

std::string optimizer_file(const comm::ParallelContext& parallel) {
  if (parallel.is_alone()) return "optimizer.safetensors";
  return format("optimizer-{:05}-of-{:05}.safetensors", parallel.rank + 1, parallel.world_size);
}

json to_json(const TrainerState& state) {
  json versions = json::array();
  for (const auto& version : state.placement.versions) {
    versions.push_back({{"from_step", version.from_step},
                        {"expert_use", version.use_MGE},
                        {"places", version.places}});
  }
  json experts = json::array();
  for (const auto& [layer, of] : state.experts) {
    experts.push_back(
        {{"layer", layer}, {"expert_of_slot", of.expert_of_slot}, {"tokens", of.tokens_RE}});
  }
  return {{"step", state.step},
          {"tokens", state.tokens},
          {"flops", state.flops},
          {"skipped_steps", state.skipped_steps},
          {"skipped_in_row", state.skipped_in_row},
          {"loss_mean", state.loss_mean},
          {"loss_mean_steps", state.loss_mean_steps},
          {"placement", {{"versions", versions}, {"counted", state.placement.counted_MGE}}},
          {"experts", experts}};
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
  std::vector<TensorCopy> model, optimizer;  // this rank's part
  TrainerState state;
  std::vector<TextFile> texts;
};

CheckpointWriter::CheckpointWriter(fs::path checkpoints, const CheckpointConfig& config,
                                   const comm::ParallelContext& parallel)
    : checkpoints_(std::move(checkpoints)), config_(config), parallel_(parallel) {
  if (parallel_.rank != 0) return;
  make_folders(checkpoints_);
  for (const auto& entry : fs::directory_iterator(checkpoints_)) {
    if (entry.path().filename().string().starts_with(kUncommitted)) fs::remove_all(entry.path());
  }
}

CheckpointWriter::~CheckpointWriter() {
  try {
    wait();
  } catch (const Error& error) {
    if (!error.is_told_elsewhere()) log::error("{}", error.what());
  } catch (const std::exception& error) {
    log::error("{}", error.what());
  }
}

void CheckpointWriter::wait() {
  if (pending_.valid()) pending_.get();
}

void CheckpointWriter::save(model::Transformer& transformer, Optimizer& optimizer,
                            const TrainerState& state, const std::vector<TextFile>& texts) {
  bool failed_before = false;
  try {
    wait();
  } catch (const CommError&) {
    throw;
  } catch (const std::exception& error) {
    log::error("{}; trying again with step {}", error.what(), state.step);
    failed_before = true;
  }
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->state = state;
  snapshot->texts = texts;
  Shares shares(parallel_);
  for (const model::StoredTensor& tensor : model::stored_tensors(transformer)) {
    if (!shares.takes(tensor.value, tensor.is_expert)) continue;
    snapshot->model.push_back(copy_of(tensor.name, tensor.value));
  }
  const ExpertNumbers numbers = expert_numbers(transformer);
  for (const auto& [name, tensor] : optimizer.state()) {
    copy_state(name, tensor, optimizer.part_of(name), numbers, shares, snapshot->optimizer);
  }
  pending_ = std::async(std::launch::async, [this, snapshot] { write(*snapshot); });
  if (failed_before) wait();  // twice in a row: the caller has to know
}

void CheckpointWriter::write(const Snapshot& snapshot) const {
  comm::ProcessGroup* ranks = parallel_.checkpoint.get();
  const fs::path folder =
      checkpoints_ / format("{}{}", kUncommitted, folder_name(snapshot.state.step));
  const bool leads = parallel_.rank == 0;
  try {
    comm::together(ranks, [&] {
      if (!leads) return;
      fs::remove_all(folder);
      make_folders(folder);
    });
    write_part(snapshot, folder);
  } catch (...) {
    std::error_code ignored;
    if (leads) fs::remove_all(folder, ignored);
    throw;
  }
}

// Phase one: all ranks write their files and say what they wrote. Phase two: rank 0 makes one
// checkpoint of them.
void CheckpointWriter::write_part(const Snapshot& snapshot, const fs::path& folder) const {
  comm::ProcessGroup* ranks = parallel_.checkpoint.get();
  const auto max_bytes = static_cast<uint64_t>(config_.max_shard_bytes);
  const std::vector<io::TensorSpec> model = specs(snapshot.model);
  io::ShardNumbers numbers;
  if (ranks != nullptr) {
    const int64_t own = io::SafetensorsFolderWriter::count_shards(model, max_bytes);
    int64_t rank = 0;
    for (const std::string& text : comm::gather_texts(ranks, std::to_string(own))) {
      const int64_t count = std::stoll(text);
      if (rank++ < parallel_.rank) numbers.first += count;
      numbers.total += count;
    }
  }
  json part;
  comm::together(ranks, [&] {
    // Both large files at once: while one waits for the disk, the other is hashed.
    std::future<json> optimizer = std::async(std::launch::async, [&] {
      return write_optimizer(folder / optimizer_file(parallel_), snapshot.optimizer);
    });
    io::SafetensorsFolderWriter writer(folder, model, {{"format", "pt"}}, max_bytes, numbers);
    for (const TensorCopy& tensor : snapshot.model)
      writer.write(tensor.name, model::tensor_bytes(tensor.value));
    for (const io::WrittenFile& file : writer.close())
      part["files"][file.name] = manifest_entry(file.num_bytes, file.hash);
    part["files"][optimizer_file(parallel_)] = optimizer.get();
    part["weight_map"] = writer.weight_map();
    part["total_bytes"] = writer.total_bytes();
  });
  const std::vector<std::string> parts = comm::gather_texts(ranks, part.dump());
  comm::together(ranks, [&] {
    if (parallel_.rank == 0) commit(snapshot, folder, parts);
  });
}

void CheckpointWriter::commit(const Snapshot& snapshot, const fs::path& folder,
                              const std::vector<std::string>& parts) const {
  json files = json::object();
  std::map<std::string, std::string> weight_map;
  uint64_t total_bytes = 0;
  for (const std::string& text : parts) {
    const json part = json::parse(text);
    files.update(part.at("files"));
    weight_map.merge(part.at("weight_map").get<std::map<std::string, std::string>>());
    total_bytes += part.at("total_bytes").get<uint64_t>();
  }
  if (parts.size() > 1) {
    const io::WrittenFile index = io::write_safetensors_index(folder, weight_map, total_bytes);
    files[index.name] = manifest_entry(index.num_bytes, index.hash);
  }
  files["trainer.json"] =
      write_text(folder / "trainer.json", to_json(snapshot.state).dump(2) + "\n");
  for (const TextFile& text : snapshot.texts) {
    files[text.name] = write_text(folder / text.name, text.content);
  }
  const json manifest = {
      {"version", kCheckpointVersion}, {"step", snapshot.state.step}, {"files", files}};
  write_text(folder / "manifest.json", manifest.dump(2) + "\n");
  sync_path(folder);
  const std::string name = folder_name(snapshot.state.step);
  const fs::path final = checkpoints_ / name;
  if (fs::exists(final)) remove_folder(final);  // a resumed run passes a step a second time
  rename_durable(folder, final);
  write_file_atomic(checkpoints_ / "latest", name + "\n");
  try {
    prune(snapshot.state.step);
  } catch (const std::exception& error) {  // the new one is safe
    log::warning("an old checkpoint could not be removed: {}", error.what());
  }
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
