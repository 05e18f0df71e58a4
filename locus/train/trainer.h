// The training loop: steps, metrics, evaluation, checkpoints, signals. It knows nothing of the
// phases, searches or evaluations that others hang on its callbacks.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "locus/base/timeline.h"
#include "locus/data/loader.h"
#include "locus/train/checkpoint.h"
#include "locus/train/config.h"
#include "locus/train/expert_moves.h"
#include "locus/train/metrics.h"
#include "locus/train/placement.h"
#include "locus/train/train_step.h"

namespace locus::train {

// What the loop works on; all of it outlives the trainer. With several ranks all of them run one,
// with transformers of the same ParallelContext; `metrics` is rank 0's alone.
struct TrainerParts {
  model::Transformer& transformer;
  Optimizer& optimizer;
  std::shared_ptr<const data::SampleSource> source;
  MetricsWriter* metrics;  // null: says nothing
  CheckpointWriter& checkpoints;
  ExtraPasses* extra = nullptr;                           // of every step; null: none
  std::shared_ptr<model::Transformer> teacher = nullptr;  // of every step; null: none
};

struct TrainerSettings {
  TrainConfig train;
  LrScheduleConfig lr_schedule;
  CheckpointConfig checkpoint;
  LogConfig log;
  DistillationConfig distillation;
  int64_t eval_interval = 0;  // 0: only at the end
  int64_t prefetch = 4;
  bool place_sequences = false;        // parallel.place_sequences
  int64_t place_experts_interval = 0;  // parallel.place_experts_interval
  // Of training: of a token, without its experts, and with one expert of a layer.
  double flops_per_token = 0;
  std::map<int64_t, double> flops_per_expert;
  double peak_flops = 0;
  std::function<std::vector<TextFile>()> texts;  // of a checkpoint that is written now
  std::filesystem::path trace_file;              // of log.timeline_step; rank 0 writes it
};

struct TrainOutcome {
  std::string reason;  // finished | interrupted | stopped (by stop_when())
  TrainerState state;
  double loss = std::nan("");  // of the last logged steps; NaN: there was no step
  double wall_s = 0;
  int64_t peak_rss_bytes = 0;  // of this rank, when the last step was done
  int signal = 0;
};

class Trainer {
 public:
  Trainer(const TrainerParts& parts, TrainerSettings settings);

  // Called after a step whose number (finished steps) is due for evaluation, and after the last
  // one.
  void on_evaluation(std::function<void(int64_t step)> callback) {
    evaluate_ = std::move(callback);
  }

  // Ends the run after a step for which this is true. `loss` is the step's, the same on all ranks.
  void stop_when(std::function<bool(int64_t step, double loss)> callback) {
    stops_ = std::move(callback);
  }

  // Trains from `state` to max_steps, or until a signal. Writes a checkpoint at the end of either.
  // DivergedError after max_skipped_in_row skipped steps in a row.
  TrainOutcome run(TrainerState state);

 private:
  struct Interval;
  void evaluate(TrainOutcome& outcome);
  void start_router_stats(int64_t step);
  void write_router_stats(int64_t step);
  void start_exchange_stats(int64_t step);
  void write_exchange_stats(int64_t step);
  StepResult run_step(const std::vector<data::Batch>& batches, double lr);
  void write_timeline(const Timeline& timeline) const;
  void write(const MetricLine& line) const;
  void write_train_line(const Interval& interval, double lr);
  void note_skipped(const StepResult& result);
  void save_checkpoint();
  void start_placement();
  void start_expert_moves();
  double step_flops(int64_t num_tokens) const;
  void set_measured(const moe::RouterStats& stats, double batches, MetricLine& line) const;
  void bring_together(int64_t step, const std::map<int64_t, DomainExpert>& counts,
                      const std::map<int64_t, std::vector<int64_t>>& own_tokens);

  TrainerParts parts_;
  TrainerSettings settings_;
  TrainStep train_step_;
  TrainerState state_;
  std::function<void(int64_t)> evaluate_;
  std::function<bool(int64_t, double)> stops_;
  // By layer: [domain][expert], summed up until the next line that tells it. One step alone sees
  // few domains.
  std::map<int64_t, DomainExpert> domain_expert_;
  std::map<int64_t, double> experts_per_token_;  // by layer, when last counted
  std::unique_ptr<Placement> placement_;         // null: sequences stay where they come
  std::unique_ptr<ExpertMoves> moves_;           // null: experts stay where they are
};

}  // namespace locus::train
