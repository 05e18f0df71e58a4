// Checkpoints: one folder a step, complete or not there at all. Byte by byte:
// docs/formats/checkpoint.md.
//
//   checkpoints/step_00000100/  model.safetensors  config.json  generation_config.json  and the
//                               tokenizer's files: a model folder of Hugging Face
//                               optimizer.safetensors  trainer.json  config.toml
//                               manifest.json (sizes and checksums of the others)
//   checkpoints/latest          name of the newest folder
//
// With several ranks each writes a part of the tensors, into files of its own; together they are
// the same checkpoint. Tensors are whole and carry global numbers of experts, so that any layout
// reads what any other has written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "locus/comm/parallel_context.h"
#include "locus/model/weights.h"
#include "locus/placement/sequence_placer.h"
#include "locus/train/config.h"
#include "locus/train/expert_moves.h"
#include "locus/train/optimizer.h"

namespace locus::train {

namespace fs = std::filesystem;

inline constexpr int64_t kCheckpointVersion = 2;  // of the manifest

// What the trainer itself has to remember.
struct TrainerState {
  int64_t step = 0;    // finished steps
  int64_t tokens = 0;  // trained on so far
  double flops = 0;    // of that training, by the experts that tokens really had
  int64_t skipped_steps = 0;
  int64_t skipped_in_row = 0;
  double loss_mean = 0.0;                           // running mean of the loss, for the spike guard
  int64_t loss_mean_steps = 0;                      // steps in it
  placement::SequencePlacer::State placement = {};  // of sequences
  ExpertMoves::State experts = {};                  // where they are
};

// A file that travels with the weights: settings, config.json, those of the tokenizer.
struct TextFile {
  std::string name, content;
};

struct CheckpointRef {
  fs::path path;
  int64_t step = 0;
};

// The committed checkpoints in a folder, newest first.
std::vector<CheckpointRef> list_checkpoints(const fs::path& checkpoints);

// Empty when every file of the manifest is there with its size and, with `checksums`, its content;
// else what is wrong. The optimiser's state is the largest file and of no use to an evaluation: its
// checksum can be left out.
std::optional<std::string> checkpoint_damage(const fs::path& checkpoint, bool checksums,
                                             bool optimizer_checksum = true);

// The newest intact checkpoint; damaged ones are passed over with a warning. Empty: there is none.
std::optional<CheckpointRef> newest_intact(const fs::path& checkpoints,
                                           bool optimizer_checksum = true);

// For evaluation: a checkpoint folder itself, or the newest intact one of a run folder. DataError
// when there is none.
CheckpointRef resolve_checkpoint(const fs::path& path);

// The numbers of the experts that this rank has of a parameter, by its name or that of its state.
using ExpertNumbers = std::function<std::vector<int64_t>(const std::string& name)>;
ExpertNumbers expert_numbers(const model::Transformer& transformer);

// Whole tensors under global names: experts one by one, by their numbers in the layer. Shares
// memory with them.
NamedTensors global_state(const NamedTensors& state, const ExpertNumbers& numbers);

TrainerState load_trainer_state(const CheckpointRef& checkpoint);
// `transformer`: whose parameters the optimiser has.
void load_optimizer(const CheckpointRef& checkpoint, Optimizer& optimizer,
                    const model::Transformer& transformer);
void load_model(const CheckpointRef& checkpoint, model::Transformer& transformer);

class CheckpointWriter {
 public:
  // Removes what a killed process left half-made. One writer per folder: the run's lock sees to it.
  // All ranks make one.
  CheckpointWriter(fs::path checkpoints, const CheckpointConfig& config,
                   const comm::ParallelContext& parallel = comm::alone());
  // Waits for a write in progress; its error is logged.
  ~CheckpointWriter();

  // Copies everything and returns; a thread writes. All ranks call it together. Waits for the
  // previous write first; where that failed, waits for this one too, and throws if it fails as
  // well. With several ranks, the folder appears when all have written their parts, and not at all
  // when one has failed.
  void save(model::Transformer& transformer, Optimizer& optimizer, const TrainerState& state,
            const std::vector<TextFile>& texts);
  // Until the last write is on the disk; throws its error.
  void wait();

 private:
  struct Snapshot;
  void write(const Snapshot& snapshot) const;
  void write_part(const Snapshot& snapshot, const fs::path& folder) const;
  void commit(const Snapshot& snapshot, const fs::path& folder,
              const std::vector<std::string>& parts) const;
  void prune(int64_t newest_step) const;

  fs::path checkpoints_;
  CheckpointConfig config_;
  comm::ParallelContext parallel_;
  std::future<void> pending_;
};

}  // namespace locus::train
