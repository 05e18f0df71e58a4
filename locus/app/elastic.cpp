#include "locus/app/elastic.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/format.h"
#include "locus/base/log.h"
#include "locus/eval/perplexity.h"
#include "locus/search/extract.h"
#include "locus/search/unit_gradients.h"
#include "locus/train/machine.h"

namespace locus::app {

namespace {

int64_t checked_threads(int64_t num_threads, int64_t max_batches) {
  if (max_batches < 0) throw ConfigError("--max-batches {} must be 0 (all) or more", max_batches);
  return check_threads(num_threads);
}

// Of this machine, for this model.
std::shared_ptr<const search::LatencyTable> read_target(const std::string& path,
                                                        const RunConfig& config) {
  auto table =
      std::make_shared<search::LatencyTable>(search::read_latency_table(path, read_file(path)));
  search::check_latency_table(*table, path, train::machine_name(), config.train.dtype,
                              at::get_num_threads(),
                              search::latency_model_text(config.model, config.moe));
  return table;
}

}  // namespace

search::CostSettings cost_settings(const RunConfig& config) {
  const double ranks = static_cast<double>(config.parallel.expert_model_parallel_size);
  return {.sequence_length = config.data.sequence_length,
          .labelled_share = config.model.is_encoder() ? config.data.mask_share : 1.0,
          .away_share = ranks > 1 ? 1 - 1 / ranks : 1.0};
}

int64_t check_threads(int64_t num_threads) {
  constexpr int64_t kMost = 4096;
  if (num_threads < 0 || num_threads > kMost) {
    throw ConfigError("--num-threads {} must be 0 (one a core) to {}", num_threads, kMost);
  }
  return num_threads;
}

void check_dance_budgets(const RunConfig& config) {
  if (!config.dance.is_on()) return;
  const search::ArchSpace space(
      config.model, config.moe, config.chosen_router_options(),
      search::arch_options(config.dance, config.parallel.expert_model_parallel_size));
  const search::CostModel costs(space, cost_settings(config));
  const std::vector<double> even(space.units().size());
  for (const double budget : config.dance.budgets) {
    try {
      search::choose_units(costs, even, {search::parse_limit(format("flops={}", budget), costs)},
                           space.all());
    } catch (const ConfigError& error) {
      throw ConfigError(
          "dance.budgets: {}; embeddings and logits stay, so a wider or deeper model, a smaller "
          "vocabulary, dance.block_size or dance.least_channels would allow less",
          error.what());
    }
  }
}

search::JointState load_joint_state(const fs::path& checkpoint) {
  const fs::path file = checkpoint / kDanceFile;
  if (!fs::exists(file)) return {};
  return search::read_joint_state(file.string(), read_file(file));
}

ElasticModel::ElasticModel(const std::string& path, int64_t num_threads, int64_t max_batches,
                           const std::string& target)
    : loaded_(load_model(path, "", checked_threads(num_threads, max_batches))),
      max_batches_(max_batches) {
  const RunConfig& config = loaded_.config;
  state_ = load_joint_state(loaded_.folder.path);
  space_ = std::make_unique<search::ArchSpace>(
      config.model, config.moe, config.chosen_router_options(),
      search::arch_options(config.dance, config.parallel.expert_model_parallel_size));
  search::CostSettings settings = cost_settings(config);
  if (!target.empty()) settings.latency = read_target(target, config);
  costs_ = std::make_unique<search::CostModel>(*space_, settings);
  const size_t num_units = space_->units().size();
  for (const auto* values : {&state_.importance, &state_.gates.logits}) {
    if (values->empty() || values->size() == num_units) continue;
    throw DataError("{}: is of {} units, the model has {}",
                    (loaded_.folder.path / kDanceFile).string(), values->size(), num_units);
  }
  importance_ = state_.importance;
  if (importance_.empty()) importance_ = search::unit_magnitudes(*space_, *loaded_.transformer);
  if (!has_joint_stage() && loaded_.folder.is_checkpoint()) {
    log::warning(
        "{}: was trained without a joint stage (dance.budgets), or it has not begun: its smaller "
        "models are not trained, and much worse than they could be",
        loaded_.folder.text());
  } else if (!has_joint_stage()) {
    log::warning(
        "{}: is no checkpoint of a run: what stays is chosen by the size of weights, and not "
        "compared",
        loaded_.folder.text());
  }
  const auto paths = split_paths(config.data, "valid");
  if (!paths.empty()) valid_data_ = open_data(paths, "valid", {}, config, *loaded_.tokenizer);
  if (valid_data_ && valid_data_->num_evaluation_sequences() == 0) valid_data_ = nullptr;
  if (!valid_data_ && has_joint_stage()) {
    log::warning("there is no validation data: what the gates choose is not compared");
  }
}

double ElasticModel::loss_of(model::Transformer& transformer) {
  if (!valid_data_) return std::numeric_limits<double>::quiet_NaN();
  transformer.set_domain_names(valid_data_->domain_names());
  return eval::evaluate(transformer, *valid_data_, {},
                        {.batch_size = loaded_.config.eval.batch_size, .max_batches = max_batches_})
      .total.loss();
}

double ElasticModel::whole_loss() { return loss_of(*loaded_.transformer); }

// What the next larger budget of the training leaves; all of it for other limits.
search::Mask ElasticModel::trained_candidates(const std::vector<search::Limit>& limits) const {
  search::Mask candidates = space_->all();
  if (limits.size() != 1 || limits.front().resource != search::Resource::kFlops) return candidates;
  std::vector<double> budgets = dance().budgets;
  std::sort(budgets.rbegin(), budgets.rend());
  for (const double budget : budgets) {
    const search::Limit larger = search::parse_limit(format("flops={}", budget), *costs_);
    if (larger.most <= limits.front().most) break;
    candidates = search::choose_units(*costs_, state_.gates.logits, {larger}, candidates);
  }
  return candidates;
}

SmallerModel ElasticModel::choose(const std::vector<search::Limit>& limits) {
  const auto make = [&](const std::string& rule, const std::vector<double>& ranks,
                        const search::Mask& candidates) {
    SmallerModel out;
    out.rule = rule;
    out.mask = search::choose_units(*costs_, ranks, limits, candidates);
    out.cut = space_->to_cut(out.mask);
    out.transformer = search::extract(*loaded_.transformer, out.cut);
    out.transformer->eval();
    out.loss = loss_of(*out.transformer);
    return out;
  };
  SmallerModel proportional =
      make("proportional", search::proportional_ranks(*space_, importance_), space_->all());
  if (!has_joint_stage()) return proportional;
  SmallerModel learned = make("learned", state_.gates.logits, trained_candidates(limits));
  if (learned.mask == proportional.mask) return learned;
  const bool is_worse = proportional.loss < learned.loss;  // without data, the learned one
  return is_worse ? std::move(proportional) : std::move(learned);
}

std::vector<std::string> describe_cut(const search::ArchSpace& space, const search::ModelCut& cut) {
  std::vector<std::string> lines;
  const int64_t per_group = space.model().heads_per_group();
  for (size_t i = 0; i < cut.size(); ++i) {
    const search::LayerCut& own = cut[i];
    const model::LayerConfig& before = space.layers()[i];
    std::string text = own.heads.empty()
                           ? "no attention"
                           : format("{} of {} heads", std::ssize(own.heads) * per_group,
                                    before.model.num_attention_heads);
    if (before.has_cross_attention) {
      text += format(", {} of {} to the other text", std::ssize(own.cross_heads) * per_group,
                     before.cross_kv_heads * per_group);
    }
    if (own.channels.empty()) {
      text += ", no feed-forward";
    } else if (before.has_experts()) {
      text += format(", {} of {} experts, {} of {} channels, {} per token", own.experts.size(),
                     before.moe.num_experts, own.channels.size(), before.moe.intermediate_size,
                     own.top_k);
    } else {
      text += format(", {} of {} channels", own.channels.size(), before.model.intermediate_size);
    }
    lines.push_back(text);
  }
  return lines;
}

}  // namespace locus::app
