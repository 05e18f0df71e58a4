// What is wrong with the settings of a run, each in one text that says what would be right.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "locus/app/run_config.h"
#include "locus/base/error.h"
#include "locus/base/toml.h"
#include "locus/evolve/phases.h"
#include "locus/model/layer_config.h"
#include "locus/moe/domain_groups.h"
#include "locus/moe/exchange.h"
#include "locus/moe/experts.h"
#include "locus/moe/router.h"
#include "locus/search/joint_stage.h"
#include "locus/train/lr_schedule.h"
#include "locus/train/optimizer.h"

namespace locus::app {
namespace {

// Collects the problems of a configuration as texts.
class Problems {
 public:
  template <class... Args>
  void add_if(bool wrong, std::string_view pattern, const Args&... args) {
    if (wrong) texts_.push_back(format(pattern, args...));
  }
  void one_of(std::string_view key, const std::string& value,
              const std::vector<std::string>& known) {
    if (std::find(known.begin(), known.end(), value) != known.end()) return;
    std::string list;
    for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
    const std::string hint = nearest(value, known);
    texts_.push_back(format("{} = \"{}\" is not known; one of {}{}", key, value, list,
                            hint.empty() ? "" : " (did you mean " + hint + "?)"));
  }
  void positive(std::string_view key, int64_t value) {
    add_if(value <= 0, "{} = {} must be positive", key, value);
  }
  void not_negative(std::string_view key, double value) {
    add_if(!(value >= 0 && std::isfinite(value)), "{} = {} must be 0 or more, and finite", key,
           value);
  }
  void share(std::string_view key, double value) {
    add_if(!(value >= 0 && value < 1), "{} = {} must be at least 0 and below 1", key, value);
  }
  bool is_empty() const { return texts_.empty(); }
  std::vector<std::string> take() { return std::move(texts_); }
  void append(std::vector<std::string> more) {
    texts_.insert(texts_.end(), more.begin(), more.end());
  }

 private:
  std::vector<std::string> texts_;
};

template <class Entries>
std::vector<std::string> names_of(const Entries& entries) {
  std::vector<std::string> names;
  for (const auto& entry : entries) names.emplace_back(entry.name);
  return names;
}

void check_model(const model::ModelConfig& m, int64_t sequence_length, Problems& out) {
  out.positive("model.hidden_size", m.hidden_size);
  out.positive("model.num_hidden_layers", m.num_hidden_layers);
  out.add_if(m.num_encoder_layers < 0 || m.num_encoder_layers > m.num_hidden_layers,
             "model.num_encoder_layers = {} must be 0 (a decoder) to model.num_hidden_layers = {} "
             "(an encoder)",
             m.num_encoder_layers, m.num_hidden_layers);
  out.positive("model.num_attention_heads", m.num_attention_heads);
  out.positive("model.intermediate_size", m.intermediate_size);
  out.positive("model.max_position_embeddings", m.max_position_embeddings);
  out.not_negative("model.vocab_size", static_cast<double>(m.vocab_size));
  out.not_negative("model.num_key_value_heads", static_cast<double>(m.num_key_value_heads));
  out.not_negative("model.head_dim", static_cast<double>(m.head_dim));
  out.add_if(
      m.num_attention_heads > 0 && m.head_dim == 0 && m.hidden_size % m.num_attention_heads != 0,
      "model.hidden_size = {} is not divisible by model.num_attention_heads = {}; set "
      "model.head_dim or change one",
      m.hidden_size, m.num_attention_heads);
  out.add_if(m.kv_heads() > 0 && m.num_attention_heads % m.kv_heads() != 0,
             "model.num_attention_heads = {} is not a multiple of model.num_key_value_heads = {}",
             m.num_attention_heads, m.kv_heads());
  const bool whole_heads =
      m.head_dim > 0 || (m.num_attention_heads > 0 && m.hidden_size % m.num_attention_heads == 0);
  out.add_if(whole_heads && m.position_embedding_type == "rope" && m.head_size() % 2 != 0,
             "model.head_dim = {} must be even for rotary positions", m.head_size());
  out.one_of("model.hidden_act", m.hidden_act, {"swiglu", "gelu", "gelu_new"});
  out.one_of("model.qk_norm", m.qk_norm, {"none", "head", "full"});
  out.one_of("model.norm_type", m.norm_type, {"rmsnorm", "layernorm"});
  out.one_of("model.position_embedding_type", m.position_embedding_type, {"rope", "learned"});
  out.one_of("model.rope_scaling", m.rope_scaling, {"none", "linear", "ntk", "llama3"});
  out.add_if(
      !(m.rope_low_freq_factor > 0 && m.rope_high_freq_factor > m.rope_low_freq_factor),
      "model.rope_high_freq_factor = {} must be above rope_low_freq_factor = {}, and both above 0",
      m.rope_high_freq_factor, m.rope_low_freq_factor);
  out.add_if(m.rope_original_max_position_embeddings < 1,
             "model.rope_original_max_position_embeddings = {} must be at least 1",
             m.rope_original_max_position_embeddings);
  out.add_if(!(m.rope_scaling_factor >= 1), "model.rope_scaling_factor = {} must be at least 1",
             m.rope_scaling_factor);
  out.add_if(!(m.rope_theta > 0), "model.rope_theta = {} must be positive", m.rope_theta);
  out.add_if(!(m.norm_eps > 0), "model.norm_eps = {} must be positive", m.norm_eps);
  out.add_if(!(m.initializer_range > 0), "model.initializer_range = {} must be positive",
             m.initializer_range);
  out.share("model.hidden_dropout", m.hidden_dropout);
  out.share("model.embedding_dropout", m.embedding_dropout);
  out.add_if(sequence_length > m.max_position_embeddings,
             "data.sequence_length = {} is over model.max_position_embeddings = {}",
             sequence_length, m.max_position_embeddings);
}

std::string routers_by_domain() {
  std::string names;
  for (const moe::RouterEntry& entry : moe::router_entries()) {
    if (!entry.heeds_domain_groups) continue;
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  return names;
}

void check_moe(const RunConfig& config, Problems& out) {
  const moe::MoeConfig& moe = config.moe;
  out.not_negative("moe.num_experts", static_cast<double>(moe.num_experts));
  if (moe.num_experts <= 0) return;
  out.positive("moe.intermediate_size", moe.intermediate_size);
  out.positive("moe.layer_freq", moe.layer_freq);
  out.not_negative("moe.shared_expert_intermediate_size",
                   static_cast<double>(moe.shared_expert_intermediate_size));
  out.add_if(
      moe.shared_expert_gate && moe.shared_expert_intermediate_size == 0,
      "moe.shared_expert_gate needs a shared expert: moe.shared_expert_intermediate_size is 0");
  out.one_of("moe.shared_expert_scope", moe.shared_expert_scope, {"all", "unclaimed"});
  out.add_if(moe.shared_expert_scope == "unclaimed" && moe.shared_expert_intermediate_size == 0,
             "moe.shared_expert_scope = \"unclaimed\" needs a shared expert: "
             "moe.shared_expert_intermediate_size is 0");
  out.add_if(std::set<int64_t>(moe.layers.begin(), moe.layers.end()).size() != moe.layers.size(),
             "moe.layers names a layer twice");
  for (const int64_t layer : moe.layers) {
    out.add_if(layer < 0 || layer >= config.model.num_hidden_layers,
               "moe.layers names layer {}; model.num_hidden_layers = {}", layer,
               config.model.num_hidden_layers);
  }
  out.one_of("moe.experts", moe.experts, moe::expert_kernel_names());
  const moe::RouterConfig& router = moe.router;
  out.one_of("moe.router.type", router.type, moe::router_names());
  if (config.router_options.contains(router.type)) {
    out.append(moe::find_router(router.type)
                   .validate(router, moe.num_experts, config.chosen_router_options()));
    const bool has_groups = moe.num_domain_groups != 0 || !moe.domain_groups.empty();
    out.add_if(has_groups && !moe::find_router(router.type).heeds_domain_groups,
               "moe.router.type = \"{}\" does not route by domain (moe.num_domain_groups, "
               "moe.domain_groups); {} do",
               router.type, routers_by_domain());
  }
  out.append(moe::domain_group_problems(moe));
  out.add_if(config.model.is_encoder_decoder() &&
                 (moe.num_domain_groups != 0 || !moe.domain_groups.empty()),
             "moe.num_domain_groups, moe.domain_groups: not in an encoder-decoder "
             "(model.num_encoder_layers = {}), whose pairs have no domains",
             config.model.num_encoder_layers);
}

void check_data(const data::DataConfig& data, Problems& out) {
  out.positive("data.sequence_length", data.sequence_length);
  out.not_negative("data.prefetch", static_cast<double>(data.prefetch));
  out.add_if(!(data.mask_share > 0 && data.mask_share <= 1),
             "data.mask_share = {} must be over 0 and at most 1", data.mask_share);
  out.add_if(!data.train_weights.empty() && data.train_weights.size() != data.train.size(),
             "data.train_weights has {} numbers for {} datasets in data.train",
             data.train_weights.size(), data.train.size());
  for (const double weight : data.train_weights) out.not_negative("data.train_weights", weight);
  out.add_if(!data.train_weights.empty() &&
                 !(std::accumulate(data.train_weights.begin(), data.train_weights.end(), 0.0) > 0),
             "data.train_weights are all 0");
}

bool is_device(const std::string& name) {
  if (name == "cpu" || name == "cuda") return true;
  const std::string index = name.starts_with("cuda:") ? name.substr(5) : "";
  return !index.empty() && index.size() < 4 &&
         std::all_of(index.begin(), index.end(), [](char c) { return c >= '0' && c <= '9'; });
}

void check_emulation(const comm::EmulateConfig& emulate, Problems& out) {
  out.not_negative("comm.emulate.nodes", static_cast<double>(emulate.nodes));
  for (const auto& [key, value] : {std::pair("latency_us", emulate.latency_us),
                                   std::pair("intra_latency_us", emulate.intra_latency_us)}) {
    out.add_if(!(value >= 0 && value <= 1e6), "comm.emulate.{} = {} must be 0 to 1e6", key, value);
  }
  for (const auto& [key, value] : {std::pair("gbit_per_s", emulate.gbit_per_s),
                                   std::pair("intra_gbit_per_s", emulate.intra_gbit_per_s)}) {
    out.add_if(value != 0 && !(value >= 1e-3 && value <= 1e6),
               "comm.emulate.{} = {} must be 0 (takes no time) or 1e-3 to 1e6", key, value);
  }
}

void check_training(const RunConfig& config, Problems& out) {
  const train::TrainConfig& train = config.train;
  out.add_if(train.output_dir.empty(), "train.output_dir must name a folder");
  out.positive("train.max_steps", train.max_steps);
  out.positive("train.micro_batch_size", train.micro_batch_size);
  out.positive("train.global_batch_size", train.global_batch_size);
  out.positive("train.max_skipped_in_row", train.max_skipped_in_row);
  out.add_if(train.micro_batch_size > 0 && train.global_batch_size % train.micro_batch_size != 0,
             "train.global_batch_size = {} is not a multiple of train.micro_batch_size = {}",
             train.global_batch_size, train.micro_batch_size);
  out.positive("parallel.expert_model_parallel_size", config.parallel.expert_model_parallel_size);
  out.one_of("parallel.ep_placement", config.parallel.ep_placement,
             {"within_node", "across_nodes"});
  out.not_negative("parallel.ranks_per_node", static_cast<double>(config.parallel.ranks_per_node));
  out.not_negative("parallel.place_experts_interval",
                   static_cast<double>(config.parallel.place_experts_interval));
  const int64_t counted = std::max<int64_t>(config.log.router_interval, 1);
  out.add_if(config.parallel.place_experts_interval % counted != 0,
             "parallel.place_experts_interval = {} is not a multiple of log.router_interval = {}, "
             "after which tokens are counted",
             config.parallel.place_experts_interval, config.log.router_interval);
  out.add_if(config.parallel.place_sequences && config.log.domain_interval % counted != 0,
             "parallel.place_sequences: log.domain_interval = {} is not a multiple of "
             "log.router_interval = {}, after which tokens are counted",
             config.log.domain_interval, config.log.router_interval);
  out.add_if(
      config.parallel.place_experts_interval > 0 && config.parallel.use_distributed_optimizer,
      "parallel.place_experts_interval = {}: experts cannot move while the optimiser's state "
      "of them is spread (parallel.use_distributed_optimizer)",
      config.parallel.place_experts_interval);
  std::vector<std::string> exchanges = moe::exchange_names();
  exchanges.insert(exchanges.begin(), "auto");
  out.one_of("parallel.exchange.type", config.parallel.exchange.type, exchanges);
  out.one_of("parallel.exchange.wire_dtype", config.parallel.exchange.wire_dtype,
             {"auto", "float32", "bfloat16"});
  out.add_if(config.parallel.exchange.chunks < 0 || config.parallel.exchange.chunks > 64,
             "parallel.exchange.chunks = {} must be 0 (chosen) to 64",
             config.parallel.exchange.chunks);
  out.one_of("comm.backend", config.comm.backend, {"auto", "gloo", "mpi", "nccl"});
  out.add_if(!(config.comm.timeout_s > 0 && config.comm.timeout_s < 1e6),
             "comm.timeout_s = {} must be over 0 and below 1e6", config.comm.timeout_s);
  check_emulation(config.comm.emulate, out);
  out.one_of("train.dtype", train.dtype, {"float32", "bfloat16"});
  out.add_if(!is_device(train.device),
             "train.device = \"{}\" is not a device; cpu, cuda or cuda:<n>", train.device);
  out.not_negative("train.seed", static_cast<double>(train.seed));
  out.not_negative("train.clip_grad", train.clip_grad);
  out.share("train.label_smoothing", train.label_smoothing);
  out.add_if(train.num_threads < 0 || train.num_threads > 4096,
             "train.num_threads = {} must be 0 (one a core) to 4096", train.num_threads);
  out.add_if(train.loss_spike_factor != 0 && !(train.loss_spike_factor > 1),
             "train.loss_spike_factor = {} must be over 1, or 0 for no guard",
             train.loss_spike_factor);
  out.one_of("optimizer.type", config.optimizer.type, names_of(train::optimizer_entries()));
  out.share("optimizer.adam_beta1", config.optimizer.adam_beta1);
  out.share("optimizer.adam_beta2", config.optimizer.adam_beta2);
  out.add_if(!(config.optimizer.adam_eps > 0), "optimizer.adam_eps = {} must be positive",
             config.optimizer.adam_eps);
  out.not_negative("optimizer.weight_decay", config.optimizer.weight_decay);
  const train::LrScheduleConfig& lr = config.lr_schedule;
  out.one_of("lr_schedule.type", lr.type, names_of(train::lr_schedule_entries()));
  out.not_negative("lr_schedule.lr", lr.lr);
  out.not_negative("lr_schedule.min_lr", lr.min_lr);
  out.add_if(lr.min_lr > lr.lr, "lr_schedule.min_lr = {} is over lr_schedule.lr = {}", lr.min_lr,
             lr.lr);
  out.not_negative("lr_schedule.warmup_steps", static_cast<double>(lr.warmup_steps));
  out.not_negative("lr_schedule.decay_steps", static_cast<double>(lr.decay_steps));
  out.not_negative("checkpoint.interval", static_cast<double>(config.checkpoint.interval));
  out.not_negative("checkpoint.keep_last", static_cast<double>(config.checkpoint.keep_last));
  out.not_negative("checkpoint.keep_every", static_cast<double>(config.checkpoint.keep_every));
  out.positive("checkpoint.max_shard_bytes", config.checkpoint.max_shard_bytes);
  out.share("distillation.label_share", config.distillation.label_share);
  out.add_if(!config.distillation.teacher_path.empty() && config.train.label_smoothing > 0,
             "distillation.teacher_path: not with train.label_smoothing; a teacher's distribution "
             "is smooth");
  out.positive("log.interval", config.log.interval);
  out.positive("log.router_interval", config.log.router_interval);
  out.positive("log.domain_interval", config.log.domain_interval);
  out.not_negative("eval.interval", static_cast<double>(config.eval.interval));
  out.not_negative("eval.max_batches", static_cast<double>(config.eval.max_batches));
  out.positive("eval.batch_size", config.eval.batch_size);
}

void check_evolution(const RunConfig& config, Problems& out) {
  const evolve::EvolveConfig& evolve = config.evolve;
  const std::string& router = config.moe.router.type;
  out.one_of("evolve.diversify", evolve.diversify,
             {"copy", "mask", "mask_rescale", "noise", "reinit"});
  out.one_of("evolve.optimizer_state", evolve.optimizer_state, {"copy", "masked_copy", "reset"});
  out.share("evolve.ratio", evolve.ratio);
  out.not_negative("evolve.sigma", evolve.sigma);
  out.not_negative("evolve.spawn_slope", evolve.spawn_slope);
  out.positive("evolve.slope_window", evolve.slope_window);
  out.append(evolve::problems(evolve, config.model, config.moe,
                              {.max_steps = config.train.max_steps,
                               .warmup_steps = config.lr_schedule.warmup_steps,
                               .starts_from_weights = !config.checkpoint.initial_load_path.empty(),
                               .expert_model_parallel_size = std::max<int64_t>(
                                   1, config.parallel.expert_model_parallel_size)}));
  if (config.moe.num_experts == 0 || !config.router_options.contains(router)) return;
  for (size_t phase = 0; phase < evolve.num_experts.size(); ++phase) {
    if (evolve.num_experts[phase] <= 1) continue;
    model::ModelConfig model = config.model;
    moe::MoeConfig moe = config.moe;
    evolve::apply_phase(evolve, phase, model, moe);
    for (const std::string& problem : moe::find_router(router).validate(
             moe.router, moe.num_experts, config.chosen_router_options())) {
      out.add_if(true, "evolve.num_experts: with {} experts: {}", moe.num_experts, problem);
    }
  }
}

void check_dance(const RunConfig& config, Problems& out) {
  const search::DanceConfig& dance = config.dance;
  out.append(search::problems(dance, config.train.max_steps));
  if (!dance.is_on()) return;
  const comm::ParallelConfig& parallel = config.parallel;
  out.add_if(parallel.use_distributed_optimizer,
             "dance.budgets: not with parallel.use_distributed_optimizer, where no rank has all of "
             "a gradient");
  const int64_t ep = parallel.expert_model_parallel_size;
  out.add_if(
      dance.expert_ranks > 0 && ep > 0 && dance.expert_ranks % ep != 0,
      "dance.expert_ranks = {} is not a multiple of parallel.expert_model_parallel_size = {}",
      dance.expert_ranks, ep);
  out.add_if(
      parallel.place_experts_interval > 0,
      "dance.budgets: not with parallel.place_experts_interval, which moves the experts that "
      "smaller models have on each rank");
  const std::vector<int64_t>& spawns = config.evolve.spawn_steps;
  const int64_t first = search::first_joint_step(dance, config.train.max_steps);
  for (const int64_t step : spawns) {
    out.add_if(
        step > first - dance.calibration_steps,
        "evolve.spawn_steps holds {}: the last experts have to be there when dance begins to "
        "look at them, at step {}",
        step, first - dance.calibration_steps);
  }
}

}  // namespace

std::vector<std::string> RunConfig::problems() const {
  Problems out;
  check_model(model, data.sequence_length, out);
  check_moe(*this, out);
  if (out.is_empty()) out.append(model::layer_problems(model, moe, chosen_router_options()));
  check_data(data, out);
  check_training(*this, out);
  check_evolution(*this, out);
  check_dance(*this, out);
  return out.take();
}

namespace {

void refuse(const std::vector<std::string>& problems) {
  if (problems.empty()) return;
  std::string text;
  for (const std::string& problem : problems) text += (text.empty() ? "" : "\n") + problem;
  throw ConfigError("{}", text);
}

}  // namespace

void validate(const RunConfig& config) { refuse(config.problems()); }

namespace {

// Of several ranks each has a GPU, or none has.
void check_devices(const RunConfig& config, Problems& out) {
  const std::string& device = config.train.device;
  const std::string& backend = config.comm.backend;
  const bool on_gpus = device != "cpu";
  out.add_if(on_gpus && device != "cuda",
             "train.device = \"{}\": of several ranks each takes the GPU of its place on its node; "
             "set it to \"cuda\"",
             device);
  out.add_if(on_gpus && (backend == "gloo" || backend == "mpi"),
             "comm.backend = \"{}\" moves what is in the host's memory: with train.device = \"{}\" "
             "set it to \"nccl\" or \"auto\"",
             backend, device);
  const std::string& exchange = config.parallel.exchange.type;
  out.add_if(on_gpus && exchange != "auto" && exchange != "flat",
             "parallel.exchange.type = \"{}\": exchanges by nodes run on cpu alone so far; with "
             "train.device = \"{}\" set it to \"flat\"",
             exchange, device);
  out.add_if(!on_gpus && backend == "nccl",
             "comm.backend = \"nccl\" moves what is in the memory of GPUs: set train.device = "
             "\"cuda\", or another back end");
}

}  // namespace

void validate_ranks(const RunConfig& config, int64_t world_size) {
  const auto& [train, parallel] = std::tie(config.train, config.parallel);
  const int64_t ep = parallel.expert_model_parallel_size;
  Problems out;
  out.add_if(world_size % ep != 0,
             "parallel.expert_model_parallel_size = {} does not divide the {} {}", ep, world_size,
             world_size == 1 ? "rank (start more by mpirun, srun or torchrun)" : "ranks");
  const int64_t nodes = config.comm.emulate.nodes;
  out.add_if(nodes > 0 && world_size % nodes != 0,
             "comm.emulate.nodes = {} does not divide the {} {}", nodes, world_size,
             world_size == 1 ? "rank (start more by mpirun, srun or torchrun)" : "ranks");
  out.add_if(
      nodes > 0 && parallel.ranks_per_node > 0 && nodes * parallel.ranks_per_node != world_size,
      "comm.emulate.nodes = {} contradicts parallel.ranks_per_node = {} with {} ranks: leave "
      "one of them out",
      nodes, parallel.ranks_per_node, world_size);
  out.add_if(ep > 1 && config.moe.num_experts % ep != 0,
             "parallel.expert_model_parallel_size = {} does not divide moe.num_experts = {}", ep,
             config.moe.num_experts);
  for (int64_t i = 0; ep > 1 && i < config.model.num_hidden_layers; ++i) {
    if (config.moe.experts_per_layer.empty()) break;
    const int64_t left = model::layer_config(config.model, config.moe, i).moe.num_experts;
    out.add_if(left % ep != 0,
               "parallel.expert_model_parallel_size = {} does not divide the {} experts that "
               "moe.experts_per_layer leaves layer {}",
               ep, left, i);
  }
  out.add_if(ep > 1 && config.moe.num_experts == 0,
             "parallel.expert_model_parallel_size = {}: the model has no experts", ep);
  out.add_if(train.global_batch_size % (train.micro_batch_size * world_size) != 0,
             "train.global_batch_size = {} is not a multiple of train.micro_batch_size = {} times "
             "the {} ranks",
             train.global_batch_size, train.micro_batch_size, world_size);
  if (world_size > 1) check_devices(config, out);
  refuse(out.take());
}

}  // namespace locus::app
