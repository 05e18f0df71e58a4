// Settings of training: [train], [optimizer], [lr_schedule], [checkpoint], [distillation], [log].
#pragma once

#include <cstdint>
#include <string>

namespace locus::train {

struct TrainConfig {
  std::string output_dir = "runs/train";
  int64_t seed = 1234;
  int64_t max_steps = 1000;
  int64_t micro_batch_size = 8;
  int64_t global_batch_size = 8;
  std::string dtype = "float32";
  std::string device = "cpu";
  int64_t num_threads = 0;
  bool recompute = false;
  double clip_grad = 1.0;
  double label_smoothing = 0.0;
  double loss_spike_factor = 0.0;
  int64_t max_skipped_in_row = 10;

  template <class V>
  void visit_fields(V& v) {
    v("output_dir", output_dir, "folder of the run");
    v("seed", seed, "of initialisation, data order and every random draw");
    v("max_steps", max_steps, "optimiser steps");
    v("micro_batch_size", micro_batch_size, "sequences in one forward and backward pass");
    v("global_batch_size", global_batch_size,
      "sequences in one optimiser step; a multiple of micro_batch_size");
    v("dtype", dtype,
      "type that computes: float32 | bfloat16; weights and optimiser state stay float32");
    v("device", device, "cpu | cuda | cuda:<n>");
    v("num_threads", num_threads,
      "threads of tensor operations, of each rank; 0: one a core, shared among a machine's ranks");
    v("recompute", recompute,
      "recompute activations layer by layer in the backward pass: less memory, more time");
    v("label_smoothing", label_smoothing,
      "probability that is wanted of all tokens together instead of the right one; losses are told "
      "without it");
    v("clip_grad", clip_grad, "largest global norm of the gradient; 0: no clipping");
    v("loss_spike_factor", loss_spike_factor,
      "skip a step whose loss is over this factor times the running mean; 0: never");
    v("max_skipped_in_row", max_skipped_in_row,
      "give up after so many skipped steps in a row (loss or gradient not finite, or a spike)");
  }
};

struct OptimizerConfig {
  std::string type = "adamw";
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.95;
  double adam_eps = 1e-8;
  double weight_decay = 0.1;

  template <class V>
  void visit_fields(V& v) {
    v("type", type, "optimiser; see `locus list optimizers`");
    v("adam_beta1", adam_beta1, "decay of the first moment");
    v("adam_beta2", adam_beta2, "decay of the second moment");
    v("adam_eps", adam_eps, "added to the root of the second moment");
    v("weight_decay", weight_decay,
      "decoupled decay of matrices; norms, biases and router biases have none");
  }
};

struct LrScheduleConfig {
  std::string type = "cosine";
  double lr = 1e-3;
  double min_lr = 1e-4;
  int64_t warmup_steps = 100;
  int64_t decay_steps = 0;

  template <class V>
  void visit_fields(V& v) {
    v("type", type, "constant | linear | cosine | inverse_sqrt | wsd; see `locus list schedules`");
    v("lr", lr, "peak learning rate");
    v("min_lr", min_lr, "learning rate at the end of the decay");
    v("warmup_steps", warmup_steps, "steps of linear warm-up from 0");
    v("decay_steps", decay_steps,
      "length of the decay: of linear and cosine after the warm-up (0: to max_steps), of wsd at "
      "the end (0: a tenth of max_steps)");
  }
};

struct CheckpointConfig {
  int64_t interval = 500;
  int64_t keep_last = 2;
  int64_t keep_every = 0;
  int64_t max_shard_bytes = 5'000'000'000;
  std::string initial_load_path;

  template <class V>
  void visit_fields(V& v) {
    v("interval", interval, "steps between checkpoints; 0: only at the end");
    v("keep_last", keep_last, "newest checkpoints that are kept; 0: all");
    v("keep_every", keep_every, "also keep checkpoints of steps that this divides; 0: none");
    v("max_shard_bytes", max_shard_bytes,
      "largest safetensors file; more weights go to several with an index");
    v("initial_load_path", initial_load_path,
      "model folder, checkpoint or run whose weights and shape a new run starts from; empty: none");
  }
};

// A trained model that this one learns from beside the labels (Hinton et al., 2015).
struct DistillationConfig {
  std::string teacher_path;
  double label_share = 0.5;

  template <class V>
  void visit_fields(V& v) {
    v("teacher_path", teacher_path,
      "run, checkpoint or model folder of a model with the same tokenizer, whose distribution is "
      "learned, too; each rank holds all of it; empty: none");
    v("label_share", label_share,
      "share of the labels in the loss; the rest is KL(teacher || model)");
  }
};

struct LogConfig {
  int64_t interval = 10;
  int64_t router_interval = 1;
  int64_t domain_interval = 20;
  bool tensorboard = false;
  int64_t timeline_step = 0;

  template <class V>
  void visit_fields(V& v) {
    v("interval", interval, "steps between lines of training metrics");
    v("router_interval", router_interval, "steps between lines of router statistics");
    v("domain_interval", domain_interval,
      "steps that are summed up to tell where the tokens of each domain go");
    v("tensorboard", tensorboard, "also write TensorBoard events");
    v("timeline_step", timeline_step,
      "step whose timeline on all ranks goes to trace.json, for Perfetto or chrome://tracing, and "
      "to "
      "the report; 0: none");
  }
};

}  // namespace locus::train
