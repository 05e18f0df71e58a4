#include "locus/app/elastic.h"

#include <cmath>
#include <limits>

#include "locus/base/file.h"
#include "locus/base/format.h"
#include "locus/base/log.h"
#include "locus/eval/perplexity.h"
#include "locus/search/extract.h"
#include "locus/search/unit_gradients.h"
#include "locus/train/machine.h"

namespace locus::app {

namespace {

// Of this machine, for this model.
std::shared_ptr<const search::LatencyTable> read_target(const std::string& path,
                                                        const RunConfig& config) {
  auto table = std::make_shared<search::LatencyTable>(
      search::read_latency_table(path, read_file(path)));
  search::check_latency_table(*table, path, train::machine_name(), config.train.dtype,
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

search::JointState load_joint_state(const fs::path& checkpoint) {
  const fs::path file = checkpoint / kDanceFile;
  if (!fs::exists(file)) return {};
  return search::read_joint_state(file.string(), read_file(file));
}

ElasticModel::ElasticModel(const std::string& path, int64_t num_threads, int64_t max_batches,
                           const std::string& target)
    : loaded_(load_model(path, "", num_threads)), max_batches_(max_batches) {
  const RunConfig& config = loaded_.config;
  state_ = load_joint_state(loaded_.folder.path);
  space_ = std::make_unique<search::ArchSpace>(
      config.model, config.moe, config.chosen_router_options(),
      search::arch_options(config.dance, config.parallel.expert_model_parallel_size));
  search::CostSettings settings = cost_settings(config);
  if (!target.empty()) settings.latency = read_target(target, config);
  costs_ = std::make_unique<search::CostModel>(*space_, settings);
  importance_ = state_.importance;
  if (importance_.empty()) importance_ = search::unit_magnitudes(*space_, *loaded_.transformer);
  if (!has_joint_stage()) {
    log::warning(
        "{}: was trained without a joint stage (dance.budgets): its smaller models are not "
        "trained, and much worse than they could be",
        loaded_.folder.text());
  }
  const auto paths = split_paths(config.data, "valid");
  if (!paths.empty()) valid_data_ = open_data(paths, "valid", {}, config, *loaded_.tokenizer);
}

double ElasticModel::loss_of(model::Transformer& transformer) {
  if (!valid_data_) return std::numeric_limits<double>::quiet_NaN();
  transformer.set_domain_names(valid_data_->domain_names());
  return eval::evaluate(transformer, *valid_data_, {},
                        {.batch_size = loaded_.config.eval.batch_size, .max_batches = max_batches_})
      .total.loss();
}

double ElasticModel::whole_loss() { return loss_of(*loaded_.transformer); }

SmallerModel ElasticModel::choose(const std::vector<search::Limit>& limits,
                                  const search::Mask& candidates) {
  const auto make = [&](const std::string& rule, const std::vector<double>& ranks) {
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
      make("proportional", search::proportional_ranks(*space_, importance_));
  if (!has_joint_stage()) return proportional;
  SmallerModel learned = make("learned", state_.gates.logits);
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
