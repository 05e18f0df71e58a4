#include "locus/evolve/phases.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/model/transformer.h"

namespace locus::evolve {
namespace {

using nlohmann::json;

int64_t experts_of(const EvolveConfig& config, size_t phase, int64_t last) {
  return phase < config.num_experts.size() ? config.num_experts[phase] : last;
}

bool has_dense_layers(const model::ModelConfig& model, const moe::MoeConfig& moe) {
  for (int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    if (!model::is_moe_layer(moe, layer)) return true;
  }
  return false;
}

// Whether the loss of this phase hardly falls any more.
bool is_flat(const EvolveConfig& config, double loss, Progress& progress) {
  if (config.spawn_slope == 0 || !std::isfinite(loss)) return false;
  progress.window_sum += loss;
  if (++progress.window_steps < config.slope_window) return false;
  const auto length = static_cast<double>(config.slope_window);
  const double mean = progress.window_sum / length;
  const double slope = (progress.mean_before - mean) / length;
  progress.window_sum = 0;
  progress.window_steps = 0;
  progress.mean_before = mean;
  return slope < config.spawn_slope;  // not so where there is nothing to compare with yet
}

}  // namespace

std::string to_json(const Progress& progress) {
  const json mean = std::isnan(progress.mean_before) ? json(nullptr) : json(progress.mean_before);
  return json{{"spawned_at", progress.spawned_at},
              {"phase_ended", progress.phase_ended},
              {"window_sum", progress.window_sum},
              {"window_steps", progress.window_steps},
              {"mean_before", mean}}
             .dump(2) +
         "\n";
}

Progress read_progress(const std::string& source, const std::string& text) {
  try {
    const json content = json::parse(text);
    Progress progress;
    content.at("spawned_at").get_to(progress.spawned_at);
    content.at("phase_ended").get_to(progress.phase_ended);
    content.at("window_sum").get_to(progress.window_sum);
    content.at("window_steps").get_to(progress.window_steps);
    if (!content.at("mean_before").is_null()) {
      content.at("mean_before").get_to(progress.mean_before);
    }
    return progress;
  } catch (const json::exception& error) {
    throw DataError("{}: {}", source, error.what());
  }
}

size_t num_phases(const EvolveConfig& config) { return config.num_experts.size() + 1; }

void apply_phase(const EvolveConfig& config, size_t phase, model::ModelConfig& model,
                 moe::MoeConfig& moe) {
  if (phase >= config.num_experts.size()) return;
  const int64_t num_experts = config.num_experts[phase];
  if (num_experts > 1) {
    moe.num_experts = num_experts;
    moe.router.top_k = std::min(moe.router.top_k, num_experts);
    return;
  }
  if (!has_dense_layers(model, moe)) model.intermediate_size = moe.intermediate_size;
  moe.num_experts = 0;
}

bool ends_after(const EvolveConfig& config, int64_t step, double loss, Progress& progress,
                int64_t warmup_steps) {
  const size_t phase = progress.phase();
  if (phase + 1 >= num_phases(config)) return false;
  progress.phase_ended =
      step >= config.spawn_steps[phase] || (step > warmup_steps && is_flat(config, loss, progress));
  return progress.phase_ended;
}

void begin_next_phase(int64_t step, Progress& progress) {
  std::vector<int64_t> spawned_at = std::move(progress.spawned_at);
  spawned_at.push_back(step);
  progress = Progress();
  progress.spawned_at = std::move(spawned_at);
}

std::vector<std::string> problems(const EvolveConfig& config, const model::ModelConfig& model,
                                  const moe::MoeConfig& moe, const PhaseContext& context) {
  std::vector<std::string> out;
  const auto add = [&out](std::string_view pattern, const auto&... args) {
    out.push_back(format(pattern, args...));
  };
  if (config.spawn_steps.size() != config.num_experts.size()) {
    add("evolve.spawn_steps has {} numbers for the {} phases of evolve.num_experts",
        config.spawn_steps.size(), config.num_experts.size());
  }
  if (config.num_experts.empty() || !out.empty()) return out;

  if (moe.num_experts == 0) {
    add("evolve.num_experts: moe.num_experts = 0, the last phase has no experts");
    return out;
  }
  for (size_t phase = 0; phase < config.num_experts.size(); ++phase) {
    const int64_t now = config.num_experts[phase];
    const int64_t next = experts_of(config, phase + 1, moe.num_experts);
    if (now < 1 || next <= now || next % now != 0) {
      add("evolve.num_experts: {} experts cannot become {}, it must be a multiple of them", now,
          next);
    }
    if (now > 1 && now % context.expert_model_parallel_size != 0) {
      add("evolve.num_experts: parallel.expert_model_parallel_size = {} does not divide {} experts",
          context.expert_model_parallel_size, now);
    }
    const int64_t step = config.spawn_steps[phase];
    const bool at_start = step == 0 && phase == 0;
    if (at_start && !context.starts_from_weights) {
      add("evolve.spawn_steps = [0]: there is nothing to spawn experts from yet; name trained "
          "weights by checkpoint.initial_load_path, or a later step");
    } else if (!at_start && step <= (phase == 0 ? 0 : config.spawn_steps[phase - 1])) {
      add("evolve.spawn_steps: {} must be after the step before", step);
    } else if (!at_start && step < context.warmup_steps) {
      add("evolve.spawn_steps: {} is before the warm-up ends (lr_schedule.warmup_steps = {}): "
          "experts would be spawned from one that has learned nothing",
          step, context.warmup_steps);
    }
    if (step >= context.max_steps) {
      add("evolve.spawn_steps: {} is not before train.max_steps = {}", step, context.max_steps);
    }
  }
  if (config.num_experts.front() == 1) {
    if (has_dense_layers(model, moe) && model.intermediate_size != moe.intermediate_size) {
      add("evolve.num_experts = [1]: one expert is the feed-forward network of a dense model, all "
          "of one width: model.intermediate_size = {} and moe.intermediate_size = {} must be equal",
          model.intermediate_size, moe.intermediate_size);
    }
    if (moe.shared_expert_intermediate_size > 0) {
      add("evolve.num_experts = [1]: a dense model has no shared expert; set "
          "moe.shared_expert_intermediate_size = 0");
    }
  }
  if (moe.num_domain_groups != 0 || !moe.domain_groups.empty()) {
    add("evolve.num_experts: groups of experts by domain (moe.num_domain_groups, "
        "moe.domain_groups) need all experts from the start");
  }
  return out;
}

}  // namespace locus::evolve
