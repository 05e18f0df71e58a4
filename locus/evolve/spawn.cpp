#include "locus/evolve/spawn.h"

#include <ATen/ATen.h>

#include <map>
#include <string>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "locus/ops/keyed_random.h"
#include "locus/train/train_step.h"

namespace locus::evolve {
namespace {

using train::NamedTensors;

constexpr double kGateNoise = 0.1;  // of the standard deviation that gates start with

std::map<std::string, at::Tensor> by_name(const NamedTensors& tensors) {
  return {tensors.begin(), tensors.end()};
}

NamedTensors named_buffers(const torch::nn::Module& module) {
  NamedTensors out;
  for (const auto& item : module.named_buffers()) out.emplace_back(item.key(), item.value());
  return out;
}

// "layers.3.moe.experts.up_proj": where the parent has it, as expert or as dense network.
struct ExpertSource {
  at::Tensor all;  // [E0, ...]
  std::string name;
};

// Of a distributed optimiser, brought together from its ranks: all of them call it.
std::map<std::string, at::Tensor> whole_state(train::Optimizer& optimizer) {
  std::map<std::string, at::Tensor> whole;
  for (const auto& [name, state] : optimizer.state()) {
    const train::ParameterPart& part = optimizer.part_of(name);
    at::Tensor& found = whole[name];
    if (state.dim() == 0 || part.is_whole()) {
      found = state;
      continue;
    }
    for (int64_t root = 0; root < part.num_parts; ++root) {
      const at::Tensor gathered = train::gather_parts(part, state, root);
      if (gathered.defined()) found = gathered;
    }
  }
  return whole;
}

// An expert's weights after they were told apart from its parent's.
struct Change {
  at::Tensor value;
  at::Tensor touched;  // bool: those that are not the parent's; undefined: none
};

class Spawner {
 public:
  Spawner(const Parent& parent, model::Transformer& child, train::Optimizer& child_optimizer,
          const EvolveConfig& config)
      : parent_(parent),
        child_(child),
        child_optimizer_(child_optimizer),
        config_(config),
        old_parameters_(by_name(train::named_parameters(parent.transformer))),
        old_buffers_(by_name(named_buffers(parent.transformer))) {
    const bool is_whole = parent.transformer.config().parallel.ep_size == 1 ||
                          parent.transformer.moe_layers().empty();
    LOCUS_CHECK(is_whole, "experts are spawned from a model that is here as a whole");
    if (parent.optimizer != nullptr) old_state_ = whole_state(*parent.optimizer);
    new_state_ = by_name(child_optimizer.state());
  }

  void run() {
    for (const train::ParameterPart& part : child_optimizer_.parts()) fill(part);
    for (auto& [name, buffer] : named_buffers(child_)) {
      if (name.find(".router.") != std::string::npos) continue;  // its schedule begins anew
      const auto found = old_buffers_.find(name);
      if (found != old_buffers_.end() && found->second.sizes() == buffer.sizes()) {
        buffer.copy_(found->second);
      }
    }
  }

 private:
  void fill(const train::ParameterPart& part) {
    if (part.is_expert) return fill_experts(part);
    const auto found = old_parameters_.find(part.name);
    if (found == old_parameters_.end()) return;  // a new router's
    const at::Tensor& old = found->second;
    if (old.sizes() == part.parameter.sizes()) {
      part.parameter.copy_(old);
      copy_state(part, part.name, [](const at::Tensor& state) { return state; });
      return;
    }
    fill_router_rows(part, old);
  }

  // A router's matrix with a row for each expert.
  void fill_router_rows(const train::ParameterPart& part, const at::Tensor& old) {
    const at::Tensor& now = part.parameter;
    const bool has_rows = part.name.find(".router.") != std::string::npos && now.dim() >= 1 &&
                          old.dim() == now.dim() && now.size(0) % old.size(0) == 0 &&
                          now.sizes().slice(1) == old.sizes().slice(1);
    LOCUS_CHECK(has_rows, "{} has another shape than that of the model before", part.name);
    const at::Tensor parent_E = parents_of(now.size(0), old.size(0)).to(old.device());
    at::Tensor noise = at::empty(now.sizes(), at::kFloat);
    ops::keyed_normal_(noise, kGateNoise * child_.config().model.initializer_range,
                       random_key({child_.config().seed, name_key("spawn"), name_key(part.name)}));
    noise.narrow(0, 0, old.size(0)).zero_();
    now.copy_(old.index_select(0, parent_E) + noise.to(old.options()));
    copy_state(part, part.name,
               [&](const at::Tensor& state) { return state.index_select(0, parent_E); });
  }

  void fill_experts(const train::ParameterPart& part) {
    const std::vector<int64_t> numbers = child_.held_experts(part.name);
    const ExpertSource source = find_source(part.name);
    const int64_t num_parents = source.all.size(0);
    std::vector<at::Tensor> touched;
    for (size_t place = 0; place < numbers.size(); ++place) {
      const int64_t expert = numbers[place];
      at::Tensor target = part.parameter[static_cast<int64_t>(place)];
      const Change change = changed(source.all[expert % num_parents], target, expert, part.name,
                                    expert < num_parents);
      target.copy_(change.value);
      touched.push_back(change.touched.defined() ? change.touched
                                                 : at::zeros(target.sizes(), at::kBool));
    }
    if (config_.optimizer_state == "reset") return;
    const at::Tensor touched_all = at::stack(touched);
    copy_state(part, source.name, [&](const at::Tensor& state) {
      const at::Tensor old = state.dim() == source.all.dim() ? state : state.unsqueeze(0);
      std::vector<at::Tensor> own;
      for (const int64_t expert : numbers) own.push_back(old[expert % num_parents]);
      const at::Tensor all = at::stack(own);
      return config_.optimizer_state == "masked_copy"
                 ? all.masked_fill(touched_all.to(all.device()), 0)
                 : all;
    });
  }

  static at::Tensor parents_of(int64_t num_experts, int64_t num_parents) {
    return at::arange(num_experts, at::kLong).remainder(num_parents);
  }

  ExpertSource find_source(const std::string& name) const {
    const auto as_expert = old_parameters_.find(name);
    if (as_expert != old_parameters_.end()) return {as_expert->second, name};
    constexpr std::string_view kExperts = ".moe.experts.";
    const size_t begin = name.find(kExperts);
    LOCUS_CHECK(begin != std::string::npos, "{} is no expert's", name);
    const std::string dense =
        name.substr(0, begin) + ".mlp." + name.substr(begin + kExperts.size());
    const auto found = old_parameters_.find(dense);
    LOCUS_CHECK(found != old_parameters_.end(), "{}: the model before has no {}", name, dense);
    return {found->second.unsqueeze(0), dense};
  }

  // `fresh`: the weights that the new expert was made with.
  Change changed(const at::Tensor& old, const at::Tensor& fresh, int64_t expert,
                 const std::string& name, bool is_first) const {
    const bool is_matrix = !name.ends_with("bias");
    if (config_.diversify == "copy" || !is_matrix || (is_first && config_.keep_first)) {
      return {old, {}};
    }
    const uint64_t key = random_key(
        {child_.config().seed, name_key("spawn"), name_key(name), static_cast<uint64_t>(expert)});
    if (config_.diversify == "noise") {
      at::Tensor noise = at::empty(old.sizes(), at::kFloat);
      ops::keyed_normal_(noise, config_.sigma, key);
      return {old + noise.to(old.options()) * old.std(), {}};
    }
    const at::Tensor draw =
        ops::keyed_uniform(key, at::arange(old.size(0), at::kLong), old.size(1));
    const at::Tensor touched = draw.lt(config_.ratio).to(old.device());
    if (config_.diversify == "reinit")
      return {at::where(touched, fresh.to(old.device()), old), touched};
    const double scale = config_.diversify == "mask_rescale" ? 1 / (1 - config_.ratio) : 1;
    return {(old * scale).masked_fill(touched, 0), touched};
  }

  // What the optimiser of the new model goes on with, for one parameter: `grown` turns the whole
  // state of the old one into that of this rank's. Scalars (counts of updates) are as they were.
  template <class Grown>
  void copy_state(const train::ParameterPart& part, const std::string& old_name, Grown grown) {
    if (parent_.optimizer == nullptr) return;
    for (auto& [name, state] : new_state_) {
      const size_t dot = name.find('.');
      if (name.substr(dot + 1) != part.name) continue;
      const auto found = old_state_.find(name.substr(0, dot + 1) + old_name);
      LOCUS_CHECK(found != old_state_.end(), "the optimiser before has no {}", name);
      if (state.dim() == 0) {
        state.copy_(found->second);
        continue;
      }
      const at::Tensor whole = grown(found->second).reshape({-1});
      state.view(-1).copy_(whole.narrow(0, part.own_begin(), state.numel()));
    }
  }

  const Parent& parent_;
  model::Transformer& child_;
  train::Optimizer& child_optimizer_;
  const EvolveConfig& config_;
  const std::map<std::string, at::Tensor> old_parameters_, old_buffers_;
  std::map<std::string, at::Tensor> old_state_, new_state_;
};

}  // namespace

void spawn(const Parent& parent, model::Transformer& child, train::Optimizer& child_optimizer,
           const EvolveConfig& config) {
  const at::NoGradGuard no_grad;
  Spawner(parent, child, child_optimizer, config).run();
}

}  // namespace locus::evolve
