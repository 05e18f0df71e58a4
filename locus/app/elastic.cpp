#include "locus/app/elastic.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/format.h"
#include "locus/base/log.h"
#include "locus/base/random.h"
#include "locus/eval/perplexity.h"
#include "locus/model/batch_tensors.h"
#include "locus/ops/cross_entropy.h"
#include "locus/search/extract.h"
#include "locus/search/unit_gradients.h"
#include "locus/train/machine.h"

namespace locus::app {

namespace {

// What importance for a domain is of: as many batches as the joint stage looks at, found among so
// many sequences of the training stream.
constexpr int64_t kDomainBatches = 16, kSequencesLookedAt = 1 << 16, kScan = 1024;

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
                              at::get_num_threads(), config.model, config.moe);
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
  for (const double budget : config.dance.budgets) {
    try {
      search::check_reach(config.dance, costs, search::budget_limit(config.dance, budget, costs));
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

ElasticModel::ElasticModel(const ElasticOptions& options)
    : options_(options),
      loaded_(load_model(options.checkpoint, "",
                         checked_threads(options.num_threads, options.max_batches))) {
  const RunConfig& config = loaded_.config;
  state_ = load_joint_state(loaded_.folder.path);
  space_ = std::make_unique<search::ArchSpace>(
      config.model, config.moe, config.chosen_router_options(),
      search::arch_options(config.dance, config.parallel.expert_model_parallel_size));
  search::CostSettings settings = cost_settings(config);
  if (!options.target.empty()) settings.latency = read_target(options.target, config);
  costs_ = std::make_unique<search::CostModel>(*space_, settings);
  if (state_.num_units() != 0 && state_.num_units() != space_->units().size()) {
    throw DataError("{}: is of {} units, the model has {}",
                    (loaded_.folder.path / kDanceFile).string(), state_.num_units(),
                    space_->units().size());
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
  open_data();
  check_rule();
  const bool asks_for_it = options.rule == "auto" || options.rule == "domain";
  if (!options.domain.empty() && asks_for_it) domain_importance_ = domain_importance();
}

void ElasticModel::open_data() {
  const RunConfig& config = loaded_.config;
  const auto paths = split_paths(config.data, "valid");
  if (!paths.empty()) valid_data_ = app::open_data(paths, "valid", {}, config, *loaded_.tokenizer);
  if (valid_data_ && valid_data_->num_evaluation_sequences() == 0) valid_data_ = nullptr;
  if (!valid_data_ && has_joint_stage()) {
    log::warning("there is no validation data: what the gates choose is not compared");
  }
}

void ElasticModel::check_rule() const {
  const std::string& rule = options_.rule;
  if (std::find(kChoiceRules.begin(), kChoiceRules.end(), rule) == kChoiceRules.end()) {
    std::string known;
    for (const char* one : kChoiceRules) known += (known.empty() ? "" : ", ") + std::string(one);
    throw ConfigError("--rule \"{}\" is not known; one of {}", rule, known);
  }
  if (rule == "learned" && !has_joint_stage()) {
    throw ConfigError("--rule learned: {} was trained without dance.budgets and has no gates",
                      loaded_.folder.text());
  }
  if (rule == "domain" && options_.domain.empty()) {
    throw ConfigError("--rule domain: name one by --domain");
  }
  if ((rule == "use" || !options_.domain.empty()) && !valid_data_) {
    throw ConfigError("--rule use and --domain look at the run's data, and there are none here");
  }
  if (rule == "use" && !options_.domain.empty()) {
    throw ConfigError("--rule use counts the tokens of all domains: leave --domain out");
  }
  if (rule == "use" && loaded_.transformer->moe_layers().empty()) {
    throw ConfigError("--rule use: the model has no experts");
  }
}

double ElasticModel::loss_of(model::Transformer& transformer) {
  if (!valid_data_) return std::numeric_limits<double>::quiet_NaN();
  transformer.set_domain_names(valid_data_->domain_names());
  const eval::Evaluation all = eval::evaluate(
      transformer, *valid_data_, {},
      {.batch_size = loaded_.config.eval.batch_size, .max_batches = options_.max_batches});
  if (options_.domain.empty()) return all.total.loss();
  const auto found = all.by_domain.find(options_.domain);
  if (found != all.by_domain.end()) return found->second.loss();
  throw DataError("--domain {}: none of the validation data's tokens that were looked at is of it",
                  options_.domain);
}

namespace {

size_t find_domain(const std::vector<std::string>& names, const std::string& domain) {
  const auto found = std::find(names.begin(), names.end(), domain);
  if (found != names.end()) return static_cast<size_t>(found - names.begin());
  std::string known;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  throw ConfigError("--domain {}: the training data have {}", domain,
                    known.empty() ? "no domains" : known);
}

// Of the training stream, the first sequences that are mostly of this domain, at most `most`.
std::vector<int64_t> sequences_of(const data::SampleSource& source, size_t domain,
                                  int64_t sequence_length, int64_t most) {
  std::vector<int64_t> numbers;
  for (int64_t first = 0; first < kSequencesLookedAt; first += kScan) {
    const auto tokens = source.tokens_by_domain(first, kScan);
    for (int64_t i = 0; i < kScan; ++i) {
      if (std::ssize(numbers) == most) return numbers;
      if (2 * tokens[static_cast<size_t>(i)][domain] > sequence_length)
        numbers.push_back(first + i);
    }
  }
  if (!numbers.empty()) return numbers;
  throw DataError("--domain {}: none of {} sequences of the training data is mostly of it",
                  source.domain_names()[domain], kSequencesLookedAt);
}

}  // namespace

// As the joint stage's importance: slopes of the loss over batches of the domain's tokens, squared
// and summed.
std::vector<double> ElasticModel::domain_importance() {
  const RunConfig& config = loaded_.config;
  const auto source = app::open_data(config.data.train, "train", config.data.train_weights, config,
                                     *loaded_.tokenizer);
  const size_t domain = find_domain(source->domain_names(), options_.domain);
  const int64_t batch_size = config.eval.batch_size;
  const std::vector<int64_t> numbers =
      sequences_of(*source, domain, config.data.sequence_length, kDomainBatches * batch_size);
  model::Transformer& transformer = *loaded_.transformer;
  transformer.set_domain_names(source->domain_names());
  const search::ModelCut all = search::whole_cut(config.model, config.moe);
  std::vector<double> sums(space_->units().size());
  for (int64_t begin = 0; begin < std::ssize(numbers); begin += batch_size) {
    const int64_t end = std::min(std::ssize(numbers), begin + batch_size);
    data::Batch batch = source->training_batch({numbers.begin() + begin, numbers.begin() + end});
    for (size_t i = 0; i < batch.labels.size(); ++i) {
      if (batch.domain_ids[i] != static_cast<int64_t>(domain)) batch.labels[i] = -1;
    }
    const model::BatchTensors tensors =
        model::to_tensors(batch, transformer.output_weight().device());
    const at::Tensor hidden_TD = transformer.forward(tensors.input).hidden_TD;
    const ops::CrossEntropy entropy =
        ops::linear_cross_entropy(hidden_TD, transformer.output_weight(), tensors.labels_T);
    (entropy.loss_sum / tensors.labels_T.ge(0).sum().clamp_min(1)).backward();
    const search::UnitGradients slopes =
        search::unit_gradients(*space_, transformer, transformer, all);
    for (size_t unit = 0; unit < sums.size(); ++unit) {
      const double slope = slopes.dense[unit] + slopes.experts[unit];
      sums[unit] += slope * slope;
    }
    for (at::Tensor& parameter : transformer.parameters()) parameter.mutable_grad().reset();
  }
  return sums;
}

// Experts by the tokens that they get of the validation data; all else stays.
std::vector<double> ElasticModel::ranks_by_use() {
  model::Transformer& transformer = *loaded_.transformer;
  for (const auto& [layer, moe] : transformer.moe_layers()) moe->start_stats(0);
  loss_of(transformer);
  std::map<int64_t, std::vector<int64_t>> tokens;
  for (const auto& [layer, moe] : transformer.moe_layers()) {
    tokens[layer] = moe->take_stats().tokens_per_expert;
  }
  std::vector<double> ranks(space_->units().size());
  for (size_t unit = 0; unit < ranks.size(); ++unit) {
    const search::Unit& one = space_->units()[unit];
    ranks[unit] = std::numeric_limits<double>::infinity();
    if (one.kind != search::UnitKind::kExpert) continue;
    ranks[unit] = 0;
    for (const int64_t expert : space_->experts_of(one)) {
      ranks[unit] += static_cast<double>(tokens[one.layer][static_cast<size_t>(expert)]);
    }
  }
  return ranks;
}

double ElasticModel::whole_loss() { return loss_of(*loaded_.transformer); }

std::vector<double> ElasticModel::ranks_by(const std::string& rule) {
  const size_t num_units = space_->units().size();
  if (rule == "use") return ranks_by_use();
  if (rule == "random") {
    return search::with_noise(std::vector<double>(num_units), 1.0, name_key("extract.random"));
  }
  if (rule == "even") {  // the same for all: ties go by number
    return search::proportional_ranks(*space_, std::vector<double>(num_units));
  }
  if (rule == "magnitude") {
    return search::proportional_ranks(*space_,
                                      search::unit_magnitudes(*space_, *loaded_.transformer));
  }
  return search::proportional_ranks(*space_, rule == "domain" ? domain_importance_ : importance_);
}

// By gates, inside what the next larger budget of the training leaves; for other limits, and with
// mode = "paper", inside all of it.
search::Mask ElasticModel::learned_choice(const std::vector<search::Limit>& limits) const {
  const std::vector<double>& logits = state_.gates.logits;
  if (dance().is_paper()) return search::paper_choice(*costs_, logits, state_.paper, limits);
  search::Mask candidates = space_->all();
  const search::Resource trained = search::parse_resource(dance().resource);
  const bool is_trained_for = limits.size() == 1 && limits.front().resource == trained;
  std::vector<double> budgets = is_trained_for ? dance().budgets : std::vector<double>();
  std::sort(budgets.rbegin(), budgets.rend());
  for (const double budget : budgets) {
    const search::Limit larger = search::budget_limit(dance(), budget, *costs_);
    if (larger.most <= limits.front().most) break;
    candidates = search::choose_units(*costs_, logits, {larger}, candidates);
  }
  return search::choose_units(*costs_, logits, limits, candidates);
}

SmallerModel ElasticModel::make(const std::string& rule, const std::vector<search::Limit>& limits) {
  SmallerModel out;
  out.rule = rule;
  out.mask = rule == "learned"
                 ? learned_choice(limits)
                 : search::choose_units(*costs_, ranks_by(rule), limits, space_->all());
  out.cut = space_->to_cut(out.mask);
  for (size_t unit = 0; rule == "use" && unit < out.mask.size(); ++unit) {
    if (out.mask[unit] != 0 || space_->units()[unit].kind == search::UnitKind::kExpert) continue;
    throw ConfigError(
        "--rule use: the budget is not met by dropping experts alone, which are left as many as a "
        "token asks for");
  }
  out.transformer = search::extract(*loaded_.transformer, out.cut);
  out.transformer->eval();
  out.loss = loss_of(*out.transformer);
  return out;
}

SmallerModel ElasticModel::choose(const std::vector<search::Limit>& limits) {
  if (options_.rule != "auto") return make(options_.rule, limits);
  std::vector<std::string> rules;  // without data, the first
  if (has_joint_stage()) rules.push_back("learned");
  rules.push_back("proportional");
  if (!options_.domain.empty()) rules.push_back("domain");
  std::optional<SmallerModel> best;
  for (const std::string& rule : rules) {
    SmallerModel one = make(rule, limits);
    if (!best || one.loss < best->loss) best = std::move(one);
  }
  return std::move(*best);
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
