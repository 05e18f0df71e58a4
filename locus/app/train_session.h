// One run of `locus train`: what lives as long as it does, and its phases.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "locus/app/evolution.h"
#include "locus/app/run_config.h"
#include "locus/app/run_folder.h"
#include "locus/app/teacher.h"
#include "locus/comm/parallel_context.h"
#include "locus/data/loader.h"
#include "locus/data/tokenizer.h"
#include "locus/evolve/phases.h"
#include "locus/model/transformer.h"
#include "locus/search/joint_stage.h"
#include "locus/train/checkpoint.h"
#include "locus/train/metrics.h"
#include "locus/train/optimizer.h"
#include "locus/train/trainer.h"

namespace locus::app {

// What was found out before anything was built.
struct Speed {
  double peak_flops = 0;  // of all ranks, measured at once: what they share they share here, too
  std::string exchange;   // how tokens travel, and why
};

class TrainSession {
 public:
  // model.vocab_size is settled already.
  TrainSession(RunConfig config, std::unique_ptr<data::Tokenizer> tokenizer, bool resume,
               const comm::ParallelContext& parallel, const Speed& speed);
  void run(std::ostream& out);

 private:
  void warn_of_places() const;
  void open();
  void make_model();
  void check_data();
  void check_weights();
  void check_teachers();
  std::optional<int64_t> find_checkpoint() const;
  train::CheckpointRef checkpoint_of(int64_t step) const;
  void begin_from(std::optional<int64_t> step);
  void load_checkpoint(const train::CheckpointRef& checkpoint);
  void load_initial_weights();
  void grow();
  train::TrainOutcome train_phase(train::CheckpointWriter& checkpoints);
  void make_joint_stage();
  void check_continuation(const train::CheckpointRef& checkpoint);
  void write_run_line(bool has_grown);
  void evaluate(int64_t step);
  train::TrainerSettings settings();

  bool leads() const { return parallel_.rank == 0; }
  const std::string& host() const {
    return parallel_.topology.node_name(parallel_.topology.node_of(parallel_.rank));
  }
  void open_log();
  void write(const train::MetricLine& line);

  RunConfig config_;
  RunConfig phase_;  // settings of the model that is being trained (app/evolution.h)
  evolve::Progress progress_;
  comm::ParallelContext parallel_;
  Speed speed_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::shared_ptr<const data::SampleSource> train_data_, valid_data_;  // valid_data_ null: none
  std::optional<RunFolder> folder_;
  std::shared_ptr<model::Transformer> transformer_;
  Teacher teacher_;
  std::unique_ptr<train::Optimizer> optimizer_;
  train::TrainerState state_;
  search::JointState joint_state_;
  std::unique_ptr<search::JointStage> joint_stage_;  // null: no smaller models in this phase
  std::optional<int64_t> resumed_step_;
  std::optional<train::MetricsWriter> metrics_;
  std::vector<int32_t> bytes_per_token_;
};

}  // namespace locus::app
