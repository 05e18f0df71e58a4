#include "locus/search/joint_stage.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/format.h"
#include "locus/base/log.h"
#include "locus/base/random.h"
#include "locus/comm/collectives.h"
#include "locus/ops/distillation.h"
#include "locus/search/unit_gradients.h"

namespace locus::search {

namespace {

std::vector<double> summed(comm::ProcessGroup* group, const std::vector<double>& values) {
  const at::Tensor sum = comm::sum_over(group, at::tensor(values, at::kDouble));
  const auto* begin = sum.const_data_ptr<double>();
  return {begin, begin + values.size()};
}

bool is_finite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

// Latency is not among them: it is of one machine, and a training goes from one to another.
std::vector<std::string> budget_resources() {
  return {"flops", "parameters", "memory", "exchange"};
}

}  // namespace

int64_t first_joint_step(const DanceConfig& config, int64_t max_steps) {
  if (!config.is_on()) return max_steps;
  const auto step =
      static_cast<int64_t>(std::llround(config.begin * static_cast<double>(max_steps)));
  return std::max(step, config.calibration_steps);
}

Limit budget_limit(const DanceConfig& config, double budget, const CostModel& costs) {
  return parse_limit(format("{}={}", config.resource, budget), costs);
}

void check_reach(const DanceConfig& config, const CostModel& costs, const Limit& limit) {
  const std::vector<double> even(costs.space().units().size());
  if (config.is_paper()) {
    find_dropped_share(costs, even, {limit});
  } else {
    choose_units(costs, even, {limit}, costs.space().all());
  }
}

ArchOptions arch_options(const DanceConfig& config, int64_t ep_size) {
  return {.block_size = config.block_size,
          .least_channels = config.least_channels,
          .depth = config.depth,
          .ep_size = config.expert_ranks > 0 ? config.expert_ranks : ep_size};
}

std::vector<std::string> problems(const DanceConfig& config, int64_t max_steps) {
  std::vector<std::string> out;
  const auto add_if = [&](bool wrong, std::string_view pattern, const auto&... args) {
    if (wrong) out.push_back(format(pattern, args...));
  };
  add_if(config.mode != "budget" && !config.is_paper(),
         "dance.mode = \"{}\" is not one of budget, paper", config.mode);
  add_if(config.is_paper() && config.budgets.size() != 1,
         "dance.mode = \"paper\" takes one budget; dance.budgets has {}", config.budgets.size());
  if (!config.is_on()) return out;
  for (const double budget : config.budgets) {
    add_if(!(budget > 0 && budget < 1),
           "dance.budgets holds {}: a smaller model's share of the costs is over 0 and below 1",
           budget);
  }
  const auto share = [&](std::string_view key, double value) {
    add_if(!(value >= 0 && value <= 1), "dance.{} = {} must be 0 to 1", key, value);
  };
  share("begin", config.begin);
  share("least_channels", config.least_channels);
  share("label_share", config.label_share);
  share("gate_share", config.gate_share);
  add_if(!(config.full_weight > 0 && config.full_weight < 1),
         "dance.full_weight = {} must be over 0 and below 1", config.full_weight);
  const auto kinds = budget_resources();
  add_if(std::find(kinds.begin(), kinds.end(), config.resource) == kinds.end(),
         "dance.resource = \"{}\" is not one of flops, parameters, memory, exchange",
         config.resource);
  add_if(config.block_size < 1, "dance.block_size = {} must be at least 1", config.block_size);
  add_if(config.expert_ranks < 0, "dance.expert_ranks = {} must be 0 or more", config.expert_ranks);
  add_if(config.gate_interval < 1, "dance.gate_interval = {} must be at least 1",
         config.gate_interval);
  add_if(config.calibration_steps < 1, "dance.calibration_steps = {} must be at least 1",
         config.calibration_steps);
  constexpr double kMost = 1e3;
  add_if(!(config.gate_lr >= 0 && config.gate_lr <= kMost) ||
             !(config.gate_noise >= 0 && config.gate_noise <= kMost) ||
             !(config.gate_temperature >= 1 / kMost && config.gate_temperature <= kMost),
         "dance.gate_lr = {} and gate_noise = {} must be 0 to 1000, gate_temperature = {} 0.001 to "
         "1000",
         config.gate_lr, config.gate_noise, config.gate_temperature);
  add_if(out.empty() && first_joint_step(config, max_steps) >= max_steps,
         "dance.begin = {} with dance.calibration_steps = {} leaves no joint step of "
         "train.max_steps = {}",
         config.begin, config.calibration_steps, max_steps);
  return out;
}

JointStage::JointStage(model::Transformer& whole, const DanceConfig& config,
                       const Training& training, JointState& state)
    : whole_(whole),
      config_(config),
      training_(training),
      state_(state),
      space_(whole.config().model, whole.config().moe, whole.config().router_options,
             arch_options(config, training.ep_size)),
      costs_(space_, training.costs),
      budgets_(config.budgets) {
  std::sort(budgets_.rbegin(), budgets_.rend());
  if (state.num_units() != 0 && state.num_units() != space_.units().size()) {
    throw ConfigError(
        "dance: the checkpoint's gates are of {} units, this model has {}: block_size, depth, "
        "expert_ranks or the model are not what they were",
        state.num_units(), space_.units().size());
  }
  for (const double budget : budgets_) {
    limits_.push_back(budget_limit(config_, budget, costs_));
  }
  // Before any step: what cannot be reached.
  check_reach(config_, costs_, limits_.back());
  if (!config_.is_paper()) return;
  LOCUS_CHECK(budgets_.size() == 1, "{} budgets", budgets_.size());
  if (!state.gates.logits.empty() && state.paper.running.empty()) {
    throw ConfigError("dance: the checkpoint's gates are not of mode = \"paper\"");
  }
  paper_ = std::make_unique<PaperGates>(costs_, limits_.front(), state_.gates, state_.paper);
  activations_ = std::make_unique<ActivationStats>(space_);
}

JointStage::~JointStage() = default;

const std::vector<Mask>& JointStage::masks() {
  LOCUS_CHECK(!paper_, "gates of the paper are drawn in step {}", step_);
  if (!masks_.empty()) return masks_;
  Mask candidates = space_.all();
  for (const Limit& limit : limits_) {
    candidates = choose_units(costs_, state_.gates.logits, {limit}, candidates);
    masks_.push_back(candidates);
  }
  return masks_;
}

double JointStage::begin_step(int64_t step) {
  step_ = step;
  flops_per_token_ = 0;
  nets_.clear();
  own_.clear();
  learns_ = false;
  // Once begun it goes on, whatever a resume makes of its first step.
  if (state_.gates.logits.empty()) {
    if (step < first_joint_step(config_, training_.max_steps)) return 1.0;
    begin_joint_stage();
  }
  learns_ = paper_ != nullptr || learns_gates(step);
  for (const size_t budget : draw_budgets()) {
    JointNet& net = net_of(budget);
    net.copy_weights(whole_);
    net.transformer().train();
    net.transformer().set_domain_names(whole_.domain_names());
    for (const auto& [layer, moe] : net.transformer().moe_layers()) {
      moe->router().on_step(step, training_.max_steps);
    }
    flops_per_token_ += 3 * costs_.cost(Resource::kFlops, net.computed());
    nets_.push_back(&net);
  }
  return config_.full_weight;
}

// Of this step: where gates are learned, one that is drawn.
JointNet& JointStage::net_of(size_t budget) {
  if (learns_) {
    const Mask mask = paper_ ? paper_->draw(gate_key(budget)) : noisy_mask(budget);
    return *own_.emplace_back(
        std::make_unique<JointNet>(whole_, space_, budget, mask, /*is_gated=*/true));
  }
  std::unique_ptr<JointNet>& kept = kept_[budget];
  const Mask& mask = masks()[budget];
  if (!kept || kept->mask() != mask) {
    kept = std::make_unique<JointNet>(whole_, space_, budget, mask, /*is_gated=*/false);
  }
  return *kept;
}

uint64_t JointStage::gate_key(size_t budget) const {
  return random_key({training_.seed, name_key("dance.gates"), static_cast<uint64_t>(step_),
                     static_cast<uint64_t>(budget)});
}

// What is left where gates are learned: with noise that falls to 0 over these steps.
Mask JointStage::noisy_mask(size_t budget) const {
  const auto first = static_cast<double>(first_joint_step(config_, training_.max_steps));
  const double learning = config_.gate_share * (static_cast<double>(training_.max_steps) - first);
  const double done = (static_cast<double>(step_) - first) / std::max(1.0, learning);
  const double noise = config_.gate_noise * std::max(0.0, 1 - done);
  return choose_units(costs_, with_noise(state_.gates.logits, noise, gate_key(budget)),
                      {limits_[budget]}, space_.all());
}

// The smallest one, and one of the others.
std::vector<size_t> JointStage::draw_budgets() const {
  const size_t smallest = budgets_.size() - 1;
  if (smallest == 0) return {smallest};
  const uint64_t draw =
      random_key({training_.seed, name_key("dance.budget"), static_cast<uint64_t>(step_)});
  return {smallest, static_cast<size_t>(draw % smallest)};
}

bool JointStage::learns_gates(int64_t step) const {
  const int64_t first = first_joint_step(config_, training_.max_steps);
  const double share = static_cast<double>(step - first) /
                       static_cast<double>(std::max<int64_t>(1, training_.max_steps - first));
  return config_.gate_lr > 0 && share >= 0 && share < config_.gate_share &&
         (step - first) % config_.gate_interval == 0;
}

// Not looked at: what is computed again in the backward pass.
model::TransformerOutput JointStage::forward(const JointNet& net,
                                             const model::TransformerInput& input) {
  const auto probe = paper_ ? activations_->watch(net.transformer()) : nullptr;
  return net.transformer().forward(input);
}

void JointStage::run(const MicroBatch& batch) {
  const double weight = (1 - config_.full_weight) / static_cast<double>(nets_.size());
  for (JointNet* net : nets_) {
    const model::TransformerOutput out = forward(*net, batch.tensors.input);
    const ops::Distillation losses = ops::linear_distillation(
        out.hidden_TD, net->transformer().output_weight(), batch.tensors.labels_T, batch.hidden_TD,
        whole_.output_weight(), config_.label_share);
    const at::Tensor loss = losses.loss_sum / batch.num_labels + out.aux_loss * batch.batch_share;
    (loss * weight).backward();
    net->loss += losses.cross_entropy_sum.item<double>() / batch.num_labels;
  }
}

void JointStage::add_gradients() {
  if (paper_) {
    learn_gates_of_the_paper();
  } else if (learns_) {
    learn_gates();
  }
  std::vector<double> losses;
  for (JointNet* net : nets_) losses.push_back(std::exchange(net->loss, 0));
  losses = summed(whole_.config().parallel.world.get(), losses);
  for (size_t i = 0; i < nets_.size(); ++i) {
    Mean& mean = losses_[budgets_[nets_[i]->budget()]];
    mean.sum += losses[i];
    ++mean.steps;
  }
  for (JointNet* net : nets_) {
    net->add_gradients(whole_);
    for (const auto& [layer, moe] : net->transformer().moe_layers()) {
      moe->router().requested_E.reset();
    }
  }
}

// dLoss/dm of each unit, the sum over the ranks; before what is off loses its gradients.
std::vector<double> JointStage::slopes_of(const JointNet& net) const {
  UnitGradients own = unit_gradients(space_, whole_, net.transformer(), net.cut());
  for (size_t unit = 0; unit < own.dense.size(); ++unit) own.dense[unit] += own.experts[unit];
  return summed(whole_.config().parallel.world.get(), own.dense);
}

void JointStage::learn_gates() {
  std::vector<double> gradient(space_.units().size());
  for (const JointNet* net : nets_) {
    // A slot has no weights, and an expert that is not there no gradient.
    Mask is_known = space_.all();
    for (size_t unit = 0; unit < is_known.size(); ++unit) {
      const UnitKind kind = space_.units()[unit].kind;
      if (kind == UnitKind::kSlot) is_known[unit] = 0;
      if (kind == UnitKind::kExpert) is_known[unit] = net->mask()[unit];
    }
    const std::vector<double> of_net =
        gate_gradient(costs_, state_.gates.logits, limits_[net->budget()], config_.gate_temperature,
                      slopes_of(*net), is_known);
    for (size_t unit = 0; unit < gradient.size(); ++unit) gradient[unit] += of_net[unit];
  }
  if (!is_finite(gradient)) return;  // the step will be skipped
  update_gates(state_.gates, gradient, config_.gate_lr);
  masks_.clear();
}

void JointStage::learn_gates_of_the_paper() {
  const auto seen = activations_->take(whole_.config().parallel.world.get());
  std::vector<double> slopes = slopes_of(*nets_.front());
  if (!is_finite(slopes)) return;                                 // the step will be skipped
  for (double& slope : slopes) slope /= 1 - config_.full_weight;  // beside losses that weigh 0.1
  gate_losses_.sum += paper_->learn(slopes, seen, config_.gate_lr);
  ++gate_losses_.steps;
}

void JointStage::see_gradients() {
  const int64_t first = first_joint_step(config_, training_.max_steps);
  if (!state_.gates.logits.empty()) return;
  if (step_ >= first - config_.calibration_steps && step_ < first) calibrate();
}

// The gradients are sums over all ranks; of experts each rank has its own.
void JointStage::calibrate() {
  const UnitGradients own =
      unit_gradients(space_, whole_, whole_, whole_cut(whole_.config().model, whole_.config().moe));
  const std::vector<double> experts = summed(whole_.config().parallel.ep.get(), own.experts);
  state_.importance.resize(experts.size());
  for (size_t unit = 0; unit < experts.size(); ++unit) {
    const double slope = own.dense[unit] + experts[unit];
    if (std::isfinite(slope)) state_.importance[unit] += slope * slope;
  }
  ++state_.calibrated_steps;
}

void JointStage::begin_joint_stage() {
  if (state_.calibrated_steps == 0) {
    throw ConfigError(
        "dance: the joint stage would begin at step {} without having looked at any gradient "
        "before; train.max_steps, dance.begin and dance.calibration_steps have to stay as they "
        "were",
        step_);
  }
  if (paper_) {
    paper_->begin(random_key({training_.seed, name_key("dance.paper")}));
  } else {
    state_.gates.logits = proportional_ranks(space_, state_.importance);
  }
  std::string text;
  for (const double budget : budgets_) text += format("{}{}", text.empty() ? "" : ", ", budget);
  log::info("step {}: models of {} of the {} are trained from here on, too; {} units", step_, text,
            config_.resource, space_.units().size());
}

void JointStage::report(train::MetricLine& line) {
  if (losses_.empty()) return;
  train::MetricObject object;
  for (const auto& [budget, mean] : losses_) {
    object.push_back({format("{}", budget), mean.sum / static_cast<double>(mean.steps)});
  }
  line.set("smaller_losses", object);
  losses_.clear();
  if (gate_losses_.steps == 0) return;
  line.set("gate_loss", gate_losses_.sum / static_cast<double>(gate_losses_.steps));
  gate_losses_ = {};
}

}  // namespace locus::search
