// `locus train`: from settings to a finished run.

#include "locus/app/describe.h"
#include "locus/app/dry_run.h"
#include "locus/app/exchange_settings.h"
#include "locus/app/ranks.h"
#include "locus/app/run_folder.h"
#include "locus/app/run_identity.h"
#include "locus/app/session.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <optional>
#include <ostream>
#include <thread>

#include "locus/app/commands.h"
#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/progress.h"
#include "locus/base/signals.h"
#include "locus/base/toml.h"
#include "locus/base/version.h"
#include "locus/comm/agreement.h"
#include "locus/comm/collectives.h"
#include "locus/comm/together.h"
#include "locus/eval/perplexity.h"
#include "locus/model/size.h"
#include "locus/moe/router.h"
#include "locus/train/machine.h"
#include "locus/train/trainer.h"

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

// What was found out before anything was built.
struct Speed {
  double peak_flops = 0;  // of all ranks, measured at once: what they share they share here, too
  std::string exchange;   // how tokens travel, and why
};

// Everything of a run that lives as long as the run.
class TrainSession {
 public:
  // model.vocab_size is settled already.
  TrainSession(RunConfig config, std::unique_ptr<data::Tokenizer> tokenizer, bool resume,
               const comm::ParallelContext& parallel, const Speed& speed);
  void run(std::ostream& out);

 private:
  void prepare();
  void check_data();
  void check_weights();
  std::optional<int64_t> find_checkpoint() const;
  void resume_from(std::optional<int64_t> step);
  void load_checkpoint(const train::CheckpointRef& checkpoint);
  void load_initial_weights();
  void check_continuation(const train::CheckpointRef& checkpoint);
  void write_run_line();
  void evaluate(int64_t step);
  train::TrainerSettings settings();

  bool leads() const { return parallel_.rank == 0; }
  const std::string& host() const {
    return parallel_.topology.node_name(parallel_.topology.node_of(parallel_.rank));
  }
  void open_log();
  void write(const train::MetricLine& line);

  RunConfig config_;
  comm::ParallelContext parallel_;
  Speed speed_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::shared_ptr<const data::SampleSource> train_data_, valid_data_;  // valid_data_ null: none
  std::optional<RunFolder> folder_;
  std::shared_ptr<model::Decoder> decoder_;
  std::unique_ptr<train::Optimizer> optimizer_;
  train::TrainerState state_;
  std::optional<int64_t> resumed_step_;
  std::optional<train::MetricsWriter> metrics_;
  std::vector<int32_t> bytes_per_token_;
};

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
    prepare();
  });
  check_data();
  if (resume) resume_from(find_checkpoint());
  comm::together(parallel_.world.get(), [&] {
    if (!resumed_step_ && !config_.checkpoint.initial_load_path.empty()) load_initial_weights();
  });
  check_weights();
  // A run that was killed before its first checkpoint keeps what it wrote, too.
  comm::together(parallel_.world.get(), [&] {
    if (!leads()) return;
    write_file_atomic(folder_->path() / "config.toml", to_toml(config_));
    const bool has_history = fs::exists(folder_->path() / "metrics.jsonl");
    metrics_.emplace(folder_->path(), has_history ? std::optional(state_.step) : std::nullopt,
                     config_.log.tensorboard);
  });
}

// Data, model and optimiser.
void TrainSession::prepare() {
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
  const at::Device device = find_device(config_.train.device, parallel_);
  model::DecoderConfig shape = decoder_config(config_);
  shape.parallel = parallel_;
  add_data_counts(config_, *train_data_, shape);
  decoder_ = std::make_shared<model::Decoder>(shape);
  decoder_->to(device);
  optimizer_ =
      train::make_optimizer(config_.optimizer, train::named_parameters(*decoder_), parallel_);
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
    shared = weights_identity(*decoder_, false);
    experts = weights_identity(*decoder_, true);
  });
  comm::check_agreement(parallel_.world.get(), host(), {shared});
  // Each group tells for itself, and one of them for all. No call of `world` is in it, and nothing
  // but the comparison may throw.
  comm::together(parallel_.world.get(),
                 [&] { comm::check_agreement(parallel_.edp.get(), host(), {experts}); });
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

void TrainSession::resume_from(std::optional<int64_t> step) {
  if (!step) {
    log::info("{} has no checkpoint: training starts from the beginning", folder_->path().string());
    return;
  }
  comm::together(parallel_.world.get(), [&] {
    const auto all = train::list_checkpoints(folder_->checkpoints());
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.step == *step; });
    if (found == all.end()) {
      throw DataError("{}: rank {} does not see the checkpoint of step {}",
                      folder_->checkpoints().string(), parallel_.rank, *step);
    }
    load_checkpoint(*found);
  });
}

void TrainSession::load_checkpoint(const train::CheckpointRef& checkpoint) {
  check_continuation(checkpoint);
  state_ = train::load_trainer_state(checkpoint);
  train::restore_places(*decoder_, state_.experts);
  train::load_model(checkpoint, *decoder_);
  train::load_optimizer(checkpoint, *optimizer_, *decoder_);
  resumed_step_ = state_.step;
  log::info("continuing from {} (step {})", checkpoint.path.string(), state_.step);
}

// Weights alone: the optimiser and the steps begin anew.
void TrainSession::load_initial_weights() {
  const ModelFolder folder = resolve_model_folder(config_.checkpoint.initial_load_path);
  model::load_weights(*decoder_, io::open_safetensors_folder(folder.path));
  log::info("starting from the weights of {}", folder.text());
}

// What a resumed run must have in common with its past, and what had better be equal.
void TrainSession::check_continuation(const train::CheckpointRef& checkpoint) {
  const auto is_ours = [&](const char* name) {
    const fs::path path = checkpoint.path / name;
    return fs::exists(path) && read_file(path) == tokenizer_->serialized();
  };
  if (!is_ours("tokenizer.model") && !is_ours("tokenizer.json")) {
    throw DataError("{}: was trained with another tokenizer than {}", checkpoint.path.string(),
                    tokenizer_path(config_.data));
  }
  const std::string file = (checkpoint.path / "config.toml").string();
  RunConfig past = parse_run_config(file, read_file(file), {});
  const Fields before = past.fields();
  const Fields now = config_.fields();
  for (size_t i = 0; i < now.size(); ++i) {
    const std::string& key = now[i].path;
    const bool matters = key.starts_with("model.") || key.starts_with("moe.") ||
                         key.starts_with("data.") || key.starts_with("optimizer.") ||
                         key.starts_with("lr_schedule.") || key == "train.seed" ||
                         key == "train.global_batch_size" || key == "train.dtype";
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

void TrainSession::write_run_line() {
  const model::ParameterCount count = model::count_parameters(config_.model, config_.moe);
  std::vector<int64_t> moe_layers;
  for (const auto& [layer, moe] : decoder_->moe_layers()) moe_layers.push_back(layer);
  train::MetricLine line("run", state_.step);
  line.set("time", iso_time())
      .set("version", std::string(kVersion))
      .set("parameters", count.total())
      .set("active_parameters", count.active())
      .set("flops_per_token", 3 * model::forward_flops_per_token(config_.model, config_.moe,
                                                                 config_.data.sequence_length))
      .set("tokens_per_step", config_.train.global_batch_size * config_.data.sequence_length)
      .set("router", moe_layers.empty() ? "none" : config_.moe.router.type)
      .set("num_layers", config_.model.num_hidden_layers)
      .set("moe_layers", moe_layers)
      .set("num_experts", moe_layers.empty() ? 0 : config_.moe.num_experts)
      .set("domains", train_data_->domain_names())
      .set("peak_flops", speed_.peak_flops)
      .set("ranks", parallel_.world_size)
      .set("node_of_ep_rank", parallel_.ep_node_of)
      .set("threads", at::get_num_threads());
  line.set("resumed_from",
           resumed_step_ ? train::MetricValue(*resumed_step_) : train::MetricValue(nullptr));
  write(line);
}

void TrainSession::evaluate(int64_t step) {
  if (!valid_data_) return;
  const eval::Evaluation result = eval::evaluate(
      *decoder_, *valid_data_, bytes_per_token_,
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
  return {.train = config_.train,
          .lr_schedule = config_.lr_schedule,
          .checkpoint = config_.checkpoint,
          .log = config_.log,
          .eval_interval = config_.eval.interval,
          .prefetch = config_.data.prefetch,
          .place_sequences = config_.parallel.place_sequences,
          .place_experts_interval = config_.parallel.place_experts_interval,
          .flops_per_token = 3 * model::forward_flops_per_token(config_.model, config_.moe,
                                                                config_.data.sequence_length),
          .peak_flops = speed_.peak_flops,
          .texts = checkpoint_texts(config_, *tokenizer_),
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
  write_run_line();
  warn_of_losses(config_);
  std::optional<train::CheckpointWriter> checkpoints;
  comm::together(parallel_.world.get(), [&] {
    checkpoints.emplace(folder_->checkpoints(), config_.checkpoint, parallel_);
  });
  train::Trainer trainer(
      {*decoder_, *optimizer_, train_data_, metrics_ ? &*metrics_ : nullptr, *checkpoints},
      settings());
  trainer.on_evaluation([this](int64_t step) { evaluate(step); });
  const train::TrainOutcome outcome = trainer.run(state_);
  write(train::MetricLine("end", outcome.state.step)
            .set("reason", outcome.reason)
            .set("loss", outcome.loss)
            .set("wall_s", outcome.wall_s)
            .set("tokens", outcome.state.tokens)
            .set("peak_rss_bytes", most_of_ranks(parallel_, outcome.peak_rss_bytes)));
  if (outcome.state.step == state_.step) {
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

constexpr int64_t kPatience_ms = 4000, kTurn_ms = 200;

// Settings that are right for this many ranks. The ranks of a node see the same files and settings,
// and cannot talk yet: one of them tells what is wrong.
RunConfig checked_config(const TrainOptions& options, const cluster::Launch& launch) {
  try {
    RunConfig config = load_run_config(options.config, options.overrides);
    validate(config);
    validate_ranks(config, options.dry_run ? described_ranks(config, launch) : launch.world_size);
    return config;
  } catch (const Error& error) {
    if (launch.local_rank == 0) throw;
    if (launch.launcher == "srun") {  // does not end the others
      throw comm::PeerError(launch.rank - launch.local_rank, error.exit_code());
    }
    // Alone with the error, or ended by the launcher, because the first of the node has told it.
    std::this_thread::sleep_for(
        std::chrono::milliseconds(kPatience_ms + kTurn_ms * launch.local_rank));
    throw;
  }
}

// What ranks must agree on before they make groups of each other.
std::vector<comm::Agreement> in_common(RunConfig& config, const TrainOptions& options) {
  comm::Agreement settings = settings_identity(config);
  settings.text += format("--resume = {}\n", options.resume);
  return {program_identity(), settings};
}

// Settles the exchange, too, which depends on it; `config` says what came out, for a resume.
Speed measure(RunConfig& config, bool resume, const cluster::Launch& launch,
              comm::ParallelContext& parallel) {
  double own_peak = 0;
  const int64_t sharing = ranks_on_the_same_cores(parallel.world.get(), launch.host);
  comm::together(parallel.world.get(), [&] {
    const at::Device device = find_device(config.train.device, parallel);
    set_threads(config.train.num_threads, sharing);
    own_peak = train::measure_matmul_rate(parse_dtype(config.train.dtype), device);
  });
  Speed speed;
  speed.peak_flops =
      comm::sum_over(parallel.world.get(), at::full({1}, own_peak, at::kDouble)).item<double>();
  comm::together(parallel.world.get(), [&] {
    if (resume) keep_exchange(config, parallel);
    speed.exchange = settle_exchange(
        config, speed.peak_flops / static_cast<double>(parallel.world_size), parallel);
  });
  comm::check_agreement(parallel.world.get(), launch.host,
                        {{comm::Agreement::Kind::kFiles, "links",
                          format("parallel.exchange.type = {}\nparallel.exchange.chunks = {}\n",
                                 parallel.exchange.type, parallel.exchange.chunks)}});
  if (parallel.ep != nullptr) config.parallel.exchange = parallel.exchange;
  return speed;
}

}  // namespace

void train(const TrainOptions& options, std::ostream& out) {
  const cluster::Launch launch = find_launch();
  if (launch.rank != 0) log::silence_stderr();
  RunConfig config = checked_config(options, launch);
  if (options.dry_run) {
    const int64_t num_ranks = described_ranks(config, launch);
    if (launch.rank == 0) dry_run(std::move(config), num_ranks, out);
    return;
  }
  warn_of_few_cores(launch, config.train.num_threads);
  comm::ParallelContext parallel = connect_ranks(launch, config.parallel, config.comm,
                                                 in_common(config, options), config.train.device);
  watch_signals();
  std::unique_ptr<data::Tokenizer> tokenizer;
  comm::together(parallel.world.get(), [&] {
    const std::string path = tokenizer_path(config.data);
    tokenizer = data::load_tokenizer(path);
    check_initial_tokenizer(config, *tokenizer, path);
    settle_vocabulary(config, *tokenizer, path);
  });
  const Speed speed = measure(config, options.resume, launch, parallel);
  try {
    TrainSession(std::move(config), std::move(tokenizer), options.resume, parallel, speed).run(out);
  } catch (const Error& error) {
    log::write_to_file(log::Level::kError, error.what());
    const bool is_of_all = dynamic_cast<const Interrupted*>(&error) != nullptr ||
                           dynamic_cast<const DivergedError*>(&error) != nullptr;
    if (!is_of_all || launch.rank == 0) throw;
    throw comm::PeerError(0, error.exit_code());
  }
}

}  // namespace locus::app
