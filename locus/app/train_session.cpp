#include "locus/app/train_session.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>
#include <ostream>

#include "locus/app/describe.h"
#include "locus/app/elastic.h"
#include "locus/app/ranks.h"
#include "locus/app/run_identity.h"
#include "locus/app/session.h"
#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/signals.h"
#include "locus/base/toml.h"
#include "locus/base/version.h"
#include "locus/cluster/launch.h"
#include "locus/comm/agreement.h"
#include "locus/comm/collectives.h"
#include "locus/comm/together.h"
#include "locus/eval/perplexity.h"
#include "locus/evolve/spawn.h"
#include "locus/model/size.h"
#include "locus/moe/router.h"
#include "locus/train/train_step.h"

namespace locus::app {
namespace {

std::string iso_time() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S%z", &local);
  return text;
}

train::MetricObject scores(const eval::Score& score) {
  return {{"loss", score.loss()},
          {"perplexity", score.perplexity()},
          {"accuracy", score.accuracy()},
          {"tokens", score.tokens}};
}

int64_t most_of_ranks(const comm::ParallelContext& parallel, int64_t value) {
  at::Tensor values = at::zeros({parallel.world_size}, at::kLong);
  values[parallel.rank] = value;
  return comm::sum_over(parallel.world.get(), values).max().item<int64_t>();
}

}  // namespace

TrainSession::TrainSession(RunConfig config, std::unique_ptr<data::Tokenizer> tokenizer,
                           bool resume, const comm::ParallelContext& parallel, const Speed& speed)
    : config_(std::move(config)),
      parallel_(parallel),
      speed_(speed),
      tokenizer_(std::move(tokenizer)) {
  comm::together(parallel_.world.get(),
                 [&] { folder_.emplace(config_.train.output_dir, resume, leads()); });
  comm::together(parallel_.world.get(), [&] {
    if (!fs::exists(folder_->path() / ".lock")) {
      throw DataError(
          "{}: rank {} on {} does not see what rank 0 has made there: all ranks need one "
          "file system",
          folder_->path().string(), parallel_.rank, cluster::host_name());
    }
    open();
  });
  check_data();
  const std::optional<int64_t> step = resume ? find_checkpoint() : std::nullopt;
  if (resume && !step) {
    log::info("{} has no checkpoint: training starts from the beginning", folder_->path().string());
  }
  comm::together(parallel_.world.get(), [&] { begin_from(step); });
  check_weights();
  comm::together(parallel_.world.get(), [&] { teacher_ = load_teacher(config_, parallel_); });
  check_teachers();
  // A run that was killed before its first checkpoint keeps what it wrote, too.
  comm::together(parallel_.world.get(), [&] {
    if (!leads()) return;
    write_file_atomic(folder_->path() / "config.toml", to_toml(config_));
    const bool has_history = fs::exists(folder_->path() / "metrics.jsonl");
    metrics_.emplace(folder_->path(), has_history ? std::optional(state_.step) : std::nullopt,
                     config_.log.tensorboard);
  });
}

namespace {

// Settings by which a token's experts, or their gradients, depend on the node that computes it:
// what is learned then depends on where sequences and experts are.
std::string depends_on_places(const RunConfig& config) {
  std::string found;
  for (const Field& field : config.chosen_router_options().fields()) {
    const bool* flag = field.path == "relu" ? std::get<bool*>(field.value) : nullptr;
    const double* coeff =
        field.path == "locality_loss_coeff" ? std::get<double*>(field.value) : nullptr;
    const std::string* rule =
        field.path == "selection" ? std::get<std::string*>(field.value) : nullptr;
    if ((flag && *flag) || (coeff && *coeff > 0) || (rule && *rule == "rank")) {
      found += (found.empty() ? "moe." : ", moe.") + config.moe.router.type + "." + field.path;
    }
  }
  return found;
}

}  // namespace

void TrainSession::warn_of_places() const {
  const bool moves =
      config_.parallel.place_sequences || config_.parallel.place_experts_interval > 0;
  if (parallel_.is_alone() || config_.moe.num_experts == 0 || !moves) return;
  const std::string found = depends_on_places(config_);
  if (found.empty()) return;
  log::warning(
      "{}: with it, what is learned depends on the nodes on which sequences and experts are, and "
      "parallel.place_sequences and place_experts_interval move them",
      found);
}

// Data and log.
void TrainSession::open() {
  warn_of_places();
  train_data_ =
      open_data(config_.data.train, "train", config_.data.train_weights, config_, *tokenizer_);
  train_data_->check_trainable();
  settle_domain_groups(config_, *train_data_);
  const std::vector<std::string> valid = split_paths(config_.data, "valid");
  if (!valid.empty()) valid_data_ = open_data(valid, "valid", {}, config_, *tokenizer_);
  if (valid_data_ && valid_data_->num_evaluation_sequences() == 0) valid_data_ = nullptr;
  if (!valid_data_) log::warning("there is no validation data: no evaluation during training");
  bytes_per_token_ = eval::bytes_per_token(*tokenizer_);

  open_log();
}

// Of the phase that the training is in.
void TrainSession::make_model() {
  phase_ = in_phase(config_, progress_.phase());
  const at::Device device = find_device(config_.train.device, parallel_);
  model::TransformerConfig shape = transformer_config(phase_);
  shape.parallel = parallel_;
  shape.first_step = progress_.first_step();
  add_data_counts(phase_, *train_data_, shape);
  transformer_ = std::make_shared<model::Transformer>(shape);
  transformer_->to(device);
  optimizer_ =
      train::make_optimizer(config_.optimizer, train::named_parameters(*transformer_), parallel_);
}

// That all ranks see the same.
void TrainSession::check_data() {
  std::vector<comm::Agreement> data;
  comm::together(parallel_.world.get(), [&] {
    if (parallel_.is_alone()) return;
    for (const char* split : {"train", "valid"}) {
      data.push_back(data_identity(config_, split, *tokenizer_));
    }
  });
  comm::check_agreement(parallel_.world.get(), host(), data);
}

// That all ranks begin with the same.
void TrainSession::check_weights() {
  if (parallel_.is_alone()) return;
  comm::Agreement shared, experts;
  comm::together(parallel_.world.get(), [&] {
    shared = weights_identity(*transformer_, false);
    experts = weights_identity(*transformer_, true);
  });
  comm::check_agreement(parallel_.world.get(), host(), {shared});
  // Each group tells for itself, and one of them for all. No call of `world` is in it, and nothing
  // but the comparison may throw.
  comm::together(parallel_.world.get(),
                 [&] { comm::check_agreement(parallel_.edp.get(), host(), {experts}); });
}

// That all ranks learn from the same.
void TrainSession::check_teachers() {
  if (parallel_.is_alone() || teacher_.transformer == nullptr) return;
  std::vector<comm::Agreement> weights;
  comm::together(parallel_.world.get(), [&] {
    for (const bool of_experts : {false, true}) {
      weights.push_back(weights_identity(*teacher_.transformer, of_experts));
    }
  });
  check_agreement(parallel_.world.get(), host(), weights);
}

// One rank speaks on stderr; each has a file.
void TrainSession::open_log() {
  if (leads()) {
    log::open_file((folder_->path() / "log.txt").string());
    return;
  }
  const fs::path logs = folder_->path() / "logs";
  make_folders(logs);
  log::open_file((logs / format("rank_{:04}.log", parallel_.rank)).string());
}

void TrainSession::write(const train::MetricLine& line) {
  if (metrics_) metrics_->write(line);
}

// The step of the newest intact one. One rank reads all checksums; the others take its word.
std::optional<int64_t> TrainSession::find_checkpoint() const {
  std::optional<train::CheckpointRef> found;
  comm::together(parallel_.world.get(), [&] {
    if (!leads()) return;
    found = train::newest_intact(folder_->checkpoints());
    if (found) {
      write_file_atomic(folder_->checkpoints() / "latest", found->path.filename().string() + "\n");
    } else if (!train::list_checkpoints(folder_->checkpoints()).empty()) {
      throw DataError(
          "{}: not one of its checkpoints is intact; move the folder away to begin anew",
          folder_->checkpoints().string());
    }
  });
  const std::string own = found ? std::to_string(found->step) : "";
  const std::string step = comm::gather_texts(parallel_.world.get(), own).front();
  return step.empty() ? std::nullopt : std::optional(std::stoll(step));
}

train::CheckpointRef TrainSession::checkpoint_of(int64_t step) const {
  for (const train::CheckpointRef& one : train::list_checkpoints(folder_->checkpoints())) {
    if (one.step == step) return one;
  }
  throw DataError("{}: rank {} does not see the checkpoint of step {}",
                  folder_->checkpoints().string(), parallel_.rank, step);
}

// From this checkpoint, or from the beginning.
void TrainSession::begin_from(std::optional<int64_t> step) {
  if (step) {
    const train::CheckpointRef checkpoint = checkpoint_of(*step);
    progress_ = load_progress(checkpoint);
    make_model();
    load_checkpoint(checkpoint);
    return;
  }
  make_model();
  if (!config_.checkpoint.initial_load_path.empty()) load_initial_weights();
  evolve::ends_after(config_.evolve, 0, std::nan(""), progress_);  // upcycling begins with spawning
}

void TrainSession::load_checkpoint(const train::CheckpointRef& checkpoint) {
  check_continuation(checkpoint);
  state_ = train::load_trainer_state(checkpoint);
  joint_state_ = load_joint_state(checkpoint.path);
  train::restore_places(*transformer_, state_.experts);
  train::load_model(checkpoint, *transformer_);
  train::load_optimizer(checkpoint, *optimizer_, *transformer_);
  resumed_step_ = state_.step;
  log::info("continuing from {} (step {})", checkpoint.path.string(), state_.step);
}

// Weights alone: the optimiser and the steps begin anew.
void TrainSession::load_initial_weights() {
  const ModelFolder folder = resolve_model_folder(config_.checkpoint.initial_load_path);
  model::load_weights(*transformer_, io::open_safetensors_folder(folder.path));
  log::info("starting from the weights of {}", folder.text());
}

// What a resumed run must have in common with its past, and what had better be equal.
void TrainSession::check_continuation(const train::CheckpointRef& checkpoint) {
  if (!has_tokenizer(checkpoint.path, *tokenizer_)) {
    throw DataError("{}: was trained with another tokenizer than {}", checkpoint.path.string(),
                    tokenizer_path(config_.data));
  }
  const std::string file = (checkpoint.path / "config.toml").string();
  RunConfig past = parse_run_config(file, read_file(file), {});
  if (config_.dance.expert_ranks == 0) {  // as it was settled at first
    config_.dance.expert_ranks = phase_.dance.expert_ranks = past.dance.expert_ranks;
  }
  const Fields before = past.fields();
  const Fields now = phase_.fields();
  for (size_t i = 0; i < now.size(); ++i) {
    const std::string& key = now[i].path;
    const bool matters =
        key.starts_with("model.") || key.starts_with("moe.") || key.starts_with("data.") ||
        key.starts_with("optimizer.") || key.starts_with("lr_schedule.") ||
        key.starts_with("evolve.") || key.starts_with("dance.") ||
        key.starts_with("distillation.") || key == "train.seed" || key == "train.label_smoothing" ||
        key == "train.max_steps" || key == "train.global_batch_size" || key == "train.dtype";
    const std::string was = locus::to_toml(before[i].value);
    const std::string is = locus::to_toml(now[i].value);
    if (was != is && makes_shape(key)) {
      throw ConfigError("{} cannot change on --resume: it is {} in {}, and {} now", key, was, file,
                        is);
    }
    if (matters && key != "data.prefetch" && was != is) {
      log::warning("{} was {} and is {} from this step on", key, was, is);
    }
  }
}

// has_grown: it goes on with other experts, not with another process.
void TrainSession::write_run_line(bool has_grown) {
  const model::ParameterCount count = model::count_parameters(phase_.model, phase_.moe);
  std::vector<int64_t> moe_layers;
  for (const auto& [layer, moe] : transformer_->moe_layers()) moe_layers.push_back(layer);
  train::MetricLine line("run", state_.step);
  line.set("time", iso_time())
      .set("version", std::string(kVersion))
      .set("parameters", count.total())
      .set("active_parameters", count.active())
      .set("flops_per_token", 3 * forward_flops_per_token(phase_) + teacher_.flops_per_token)
      .set("tokens_per_step", config_.train.global_batch_size * config_.data.sequence_length)
      .set("router", moe_layers.empty() ? "none" : phase_.moe.router.type)
      .set("num_layers", config_.model.num_hidden_layers)
      .set("num_encoder_layers", config_.model.num_encoder_layers)
      .set("moe_layers", moe_layers)
      .set("num_experts", moe_layers.empty() ? 0 : phase_.moe.num_experts)
      .set("domains", train_data_->domain_names())
      .set("peak_flops", speed_.peak_flops)
      .set("ranks", parallel_.world_size)
      .set("node_of_ep_rank", parallel_.ep_node_of)
      .set("threads", at::get_num_threads());
  line.set("has_grown", has_grown);
  line.set("resumed_from",
           resumed_step_ ? train::MetricValue(*resumed_step_) : train::MetricValue(nullptr));
  write(line);
}

void TrainSession::evaluate(int64_t step) {
  if (!valid_data_) return;
  const eval::Evaluation result = eval::evaluate(
      *transformer_, *valid_data_, bytes_per_token_,
      {.batch_size = config_.eval.batch_size, .max_batches = config_.eval.max_batches});
  train::MetricObject by_domain;
  for (const auto& [domain, score] : result.by_domain) by_domain.push_back({domain, scores(score)});
  write(train::MetricLine("valid", step)
            .set("loss", result.total.loss())
            .set("perplexity", result.total.perplexity())
            .set("bits_per_byte", result.total.bits_per_byte())
            .set("accuracy", result.total.accuracy())
            .set("tokens", result.total.tokens)
            .set("by_domain", by_domain));
  log::info("step {}: validation loss {:.4f}, perplexity {:.2f}, bits per byte {:.4f}", step,
            result.total.loss(), result.total.perplexity(), result.total.bits_per_byte());
}

train::TrainerSettings TrainSession::settings() {
  const double planned = model::planned_experts_flops(phase_.model, phase_.moe);
  std::map<int64_t, double> of_expert;
  for (const auto& [layer, moe] : transformer_->moe_layers()) {
    of_expert[layer] = 3 * model::expert_forward_flops(phase_.model, phase_.moe, layer);
  }
  return {
      .train = config_.train,
      .lr_schedule = config_.lr_schedule,
      .checkpoint = config_.checkpoint,
      .log = config_.log,
      .distillation = config_.distillation,
      .eval_interval = config_.eval.interval,
      .prefetch = config_.data.prefetch,
      .place_sequences = config_.parallel.place_sequences,
      .place_experts_interval = config_.parallel.place_experts_interval,
      .flops_per_token = 3 * (forward_flops_per_token(phase_) - planned) + teacher_.flops_per_token,
      .flops_per_expert = of_expert,
      .peak_flops = speed_.peak_flops,
      .texts =
          [this] {
            std::vector<train::TextFile> texts = checkpoint_texts(phase_, *tokenizer_);
            if (evolve::num_phases(config_.evolve) > 1) {
              texts.push_back({kProgressFile, evolve::to_json(progress_)});
            }
            if (joint_stage_) texts.push_back({kDanceFile, search::to_json(joint_state_)});
            return texts;
          },
      .trace_file = folder_->path() / "trace.json"};
}

void TrainSession::run(std::ostream& out) {
  log::info(
      "settings of this run\n{}training\n  {:<28}{}\n  {:<28}{}\n  {:<28}{}, {}, {} threads\n  "
      "{:<28}{}\n"
      "  {:<28}{} of {} sequences\n"
      "  {:<28}{} tokens, {} domains\n  {:<28}{} GFLOP/s",
      describe_model(config_, parallel_.world_size), "ranks", describe_ranks(parallel_),
      "exchange of tokens", speed_.exchange, "device, dtype", config_.train.device,
      config_.train.dtype, at::get_num_threads(), "run folder", folder_->path().string(), "steps",
      config_.train.max_steps, config_.train.global_batch_size, "training data",
      short_number(static_cast<double>(train_data_->num_tokens())),
      train_data_->domain_names().size(), "measured matmul rate",
      short_number(speed_.peak_flops / 1e9));
  warn_of_losses(config_);
  std::optional<train::CheckpointWriter> checkpoints;
  comm::together(parallel_.world.get(), [&] {
    checkpoints.emplace(folder_->checkpoints(), config_.checkpoint, parallel_);
  });
  const int64_t first_step = state_.step;
  train::TrainOutcome outcome = train_phase(*checkpoints);
  while (outcome.reason == "stopped") {
    const double wall_s = outcome.wall_s;
    outcome = train_phase(*checkpoints);
    outcome.wall_s += wall_s;
  }
  write(train::MetricLine("end", outcome.state.step)
            .set("reason", outcome.reason)
            .set("loss", outcome.loss)
            .set("wall_s", outcome.wall_s)
            .set("tokens", outcome.state.tokens)
            .set("peak_rss_bytes", most_of_ranks(parallel_, outcome.peak_rss_bytes)));
  if (outcome.state.step == first_step) {
    log::warning("nothing was trained: the run is at step {}, train.max_steps = {}",
                 outcome.state.step, config_.train.max_steps);
  }
  // Without a loss where there was no step, or where all of the last ones were skipped.
  const std::string loss = std::isnan(outcome.loss) ? "" : format(" loss={:.6f}", outcome.loss);
  if (leads()) {
    out << format("{} step={} tokens={}{} wall_s={:.1f} run={}\n", outcome.reason,
                  outcome.state.step, outcome.state.tokens, loss, outcome.wall_s,
                  folder_->path().string());
  }
  log::close_file();
  if (outcome.signal != 0) throw Interrupted(outcome.signal);
}

// Until the phase ends, or the training.
train::TrainOutcome TrainSession::train_phase(train::CheckpointWriter& checkpoints) {
  const bool grows = progress_.phase_ended;
  if (grows) {
    grow();
    resumed_step_ = state_.step;  // from here on: what metrics tell of the steps before stays
  }
  write_run_line(grows);
  comm::together(parallel_.world.get(), [&] { make_joint_stage(); });
  train::Trainer trainer({*transformer_, *optimizer_, train_data_, metrics_ ? &*metrics_ : nullptr,
                          checkpoints, joint_stage_.get(), teacher_.transformer},
                         settings());
  trainer.on_evaluation([this](int64_t step) { evaluate(step); });
  trainer.stop_when([this](int64_t step, double loss) {
    return evolve::ends_after(config_.evolve, step, loss, progress_,
                              config_.lr_schedule.warmup_steps);
  });
  const train::TrainOutcome outcome = trainer.run(state_);
  state_ = outcome.state;
  return outcome;
}

// In the last phase, whose experts are all there.
void TrainSession::make_joint_stage() {
  const bool is_last = progress_.phase() + 1 >= evolve::num_phases(config_.evolve);
  if (!config_.dance.is_on() || !is_last) return;
  // From here on it does not depend on the layout: other ranks may go on with this run.
  if (config_.dance.expert_ranks == 0) {
    config_.dance.expert_ranks = config_.parallel.expert_model_parallel_size;
  }
  phase_.dance.expert_ranks = config_.dance.expert_ranks;
  if (config_.dance.expert_ranks % config_.parallel.expert_model_parallel_size != 0) {
    throw ConfigError(
        "parallel.expert_model_parallel_size = {}: smaller models of this run have equal numbers "
        "of experts on {} ranks, or a divisor of that (dance.expert_ranks, settled when it began)",
        config_.parallel.expert_model_parallel_size, config_.dance.expert_ranks);
  }
  joint_stage_ = std::make_unique<search::JointStage>(
      *transformer_, config_.dance,
      search::JointStage::Training{config_.train.max_steps,
                                   static_cast<uint64_t>(config_.train.seed), cost_settings(phase_),
                                   config_.dance.expert_ranks},
      joint_state_);
}

// The experts of the next phase. Each rank reads the model before as a whole, and keeps its part.
void TrainSession::grow() {
  const int64_t before = std::max<int64_t>(1, phase_.moe.num_experts);
  comm::together(parallel_.world.get(), [&] {
    std::optional<train::CheckpointRef> checkpoint;
    if (state_.step > 0) checkpoint = checkpoint_of(state_.step);
    const WholeModel parent = load_whole(phase_, checkpoint ? &*checkpoint : nullptr);
    evolve::begin_next_phase(state_.step, progress_);
    make_model();
    evolve::spawn({*parent.transformer, parent.optimizer.get()}, *transformer_, *optimizer_,
                  config_.evolve);
    state_.experts.clear();  // all are where they are made
    state_.placement = {};
  });
  check_weights();
  write(train::MetricLine("spawn", state_.step)
            .set("num_experts_before", before)
            .set("num_experts", phase_.moe.num_experts)
            .set("diversify", config_.evolve.diversify)
            .set("optimizer_state", config_.evolve.optimizer_state));
  log::info("step {}: {} experts in each of {} layers, spawned from {} ({})", state_.step,
            phase_.moe.num_experts, transformer_->moe_layers().size(), before,
            config_.evolve.diversify);
  if (state_.step > 0) evaluate(state_.step);
}

}  // namespace locus::app
