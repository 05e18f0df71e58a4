// `locus verify`: layouts of ranks compute the same model, or the first thing that differs is
// named.

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <ostream>
#include <sstream>

#include "locus/app/commands.h"
#include "locus/app/elastic.h"
#include "locus/app/evolution.h"
#include "locus/app/session.h"
#include "locus/app/text_table.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/log.h"
#include "locus/base/random.h"
#include "locus/base/toml.h"
#include "locus/data/indexed_dataset.h"
#include "locus/evolve/spawn.h"
#include "locus/moe/router.h"
#include "locus/train/layout_trace.h"

namespace locus::app {
namespace {

constexpr double kFloat64Tolerance = 1e-9;
constexpr double kFloat32Tolerance = 2e-5;

// Removed with all that is in it.
class ScratchFolder {
 public:
  ScratchFolder() : path_(fs::temp_directory_path() / format("locus-verify-{}", ::getpid())) {
    fs::create_directories(path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// Random documents of two domains, for an encoder-decoder two and two a pair: enough of them for
// the steps.
std::shared_ptr<const data::IndexedDataset> random_data(const fs::path& folder,
                                                        const RunConfig& config,
                                                        int64_t num_tokens) {
  const std::string prefix = (folder / "random").string();
  const auto vocabulary = static_cast<uint64_t>(config.model.vocab_size);
  const auto seed = static_cast<uint64_t>(config.train.seed);
  data::IndexedDatasetWriter writer(prefix, config.model.vocab_size);
  const bool has_pairs = config.model.is_encoder_decoder();
  // With its end, a text of a pair has to fit in a row.
  const int64_t longest = has_pairs ? std::max<int64_t>(config.data.sequence_length / 2, 1) : 119;
  const int64_t shortest = has_pairs ? 1 : 20;
  uint64_t draw = 0;
  while (writer.num_tokens() < num_tokens || (has_pairs && writer.num_documents() % 2 != 0)) {
    std::vector<int32_t> document(static_cast<size_t>(
        shortest + static_cast<int64_t>(random_bits(seed, draw++) %
                                        static_cast<uint64_t>(longest - shortest + 1))));
    for (int32_t& id : document) {
      id = static_cast<int32_t>(1 + random_bits(seed, draw++) % (vocabulary - 1));
    }
    document.push_back(0);
    writer.add_document(document, static_cast<int32_t>(random_bits(seed, draw++) % 2));
  }
  writer.finish({"one", "two"});
  return std::make_shared<const data::IndexedDataset>(prefix, config.model.vocab_size, 0,
                                                      has_pairs);
}

std::shared_ptr<const data::SampleSource> open_source(RunConfig& config, const fs::path& scratch,
                                                      int64_t num_steps) {
  if (!config.data.train.empty()) {
    const std::string path = tokenizer_path(config.data);
    const auto tokenizer = data::load_tokenizer(path);
    settle_vocabulary(config, *tokenizer, path);
    return open_data(config.data.train, "train", config.data.train_weights, config, *tokenizer);
  }
  if (config.model.vocab_size < 2) {
    throw ConfigError("without data.train, verify draws random tokens: set model.vocab_size");
  }
  const int64_t tokens =
      2 * num_steps * config.train.global_batch_size * (config.data.sequence_length + 1);
  std::optional<data::Masking> masking;
  if (config.model.is_encoder()) {
    masking = {.share = config.data.mask_share,
               .mask_id = 1,
               .eod_id = 0,
               .vocab_size = config.model.vocab_size,
               .begins_word = {}};
  }
  return std::make_shared<const data::SampleSource>(
      std::vector{random_data(scratch, config, tokens)}, std::vector<double>{}, config.data,
      static_cast<uint64_t>(config.train.seed), masking);
}

train::TraceConfig trace_config(const RunConfig& config, const VerifyOptions& options,
                                const data::SampleSource& source) {
  train::TraceConfig trace;
  trace.transformer = transformer_config(config);
  add_data_counts(config, source, trace.transformer);
  trace.train = config.train;
  trace.train.max_steps = options.steps;  // what routers change over a training, they change here
  trace.optimizer = config.optimizer;
  trace.lr = config.lr_schedule.lr;
  trace.num_steps = options.steps;
  trace.ranks_per_node = config.parallel.ranks_per_node;
  trace.float64 = options.dtype == "float64";
  return trace;
}

// From one expert to all of them, after the step that the settings say: the model of one expert is
// whole on every rank.
void add_evolution(RunConfig& config, const data::SampleSource& source, train::TraceConfig& trace) {
  const evolve::EvolveConfig& evolve = config.evolve;
  if (evolve.num_experts.empty()) return;
  if (evolve.num_experts != std::vector<int64_t>{1} || evolve.spawn_steps.front() == 0 ||
      evolve.spawn_steps.front() >= trace.num_steps) {
    throw ConfigError(
        "verify grows a model from one expert, within its steps: set evolve.num_experts = [1] and "
        "evolve.spawn_steps to 1 to {}, not {} and {}",
        trace.num_steps - 1, locus::to_toml(&config.evolve.num_experts),
        locus::to_toml(&config.evolve.spawn_steps));
  }
  model::TransformerConfig grown = trace.transformer;
  grown.first_step = evolve.spawn_steps.front();
  const RunConfig one_expert = in_phase(config, 0);
  trace.transformer = transformer_config(one_expert);
  add_data_counts(one_expert, source, trace.transformer);
  trace.after_step = [grown, evolve, &trace](int64_t step, train::TracedModel& traced) {
    if (step != grown.first_step) return false;
    model::TransformerConfig shape = grown;
    shape.parallel = traced.transformer->config().parallel;
    train::TracedModel child = trace.make(shape);
    evolve::spawn({*traced.transformer, traced.optimizer.get()}, *child.transformer,
                  *child.optimizer, evolve);
    traced = std::move(child);
    return true;
  };
}

// One step to look at how important each unit is, then smaller models in each.
void add_dance(const RunConfig& config, int64_t num_steps,
               const std::vector<train::LayoutName>& layouts, train::TraceConfig& trace,
               std::vector<std::unique_ptr<search::JointState>>& states) {
  if (!config.dance.is_on()) return;
  for (const train::LayoutName& layout : layouts) {
    if (!layout.zero1 && !layout.moved) continue;
    throw ConfigError(
        "layout {}: smaller models (dance.budgets) are not trained with an optimiser's state that "
        "is spread, nor with experts that move",
        layout.text);
  }
  if (num_steps < 2 || trace.after_step) {
    throw ConfigError(
        "verify trains smaller models (dance.budgets) from the second step on, with experts that "
        "are there from the start: --steps 2 or more, and no evolve.num_experts");
  }
  search::DanceConfig dance = config.dance;
  dance.begin = 0;
  dance.calibration_steps = 1;
  const search::JointStage::Training training{num_steps, static_cast<uint64_t>(config.train.seed),
                                              cost_settings(config),
                                              config.parallel.expert_model_parallel_size};
  auto mutex = std::make_shared<std::mutex>();
  trace.make_extra = [dance, training, mutex, &states](model::Transformer& transformer) {
    const std::lock_guard lock(*mutex);
    search::JointState& state = *states.emplace_back(std::make_unique<search::JointState>());
    return std::make_unique<search::JointStage>(transformer, dance, training, state);
  };
}

}  // namespace

void verify(const VerifyOptions& options, std::ostream& out) {
  if (options.steps < 1) throw ConfigError("--steps {} must be at least 1", options.steps);
  if (options.dtype != "float64" && options.dtype != "float32") {
    throw ConfigError("--dtype \"{}\" is not known; float64 or float32", options.dtype);
  }
  std::vector<train::LayoutName> layouts;
  std::istringstream words(options.layouts);
  for (std::string text; words >> text;) layouts.push_back(train::parse_layout(text));
  if (layouts.empty()) throw ConfigError("--layouts names no layout; \"dp2 ep2 ep4\", for example");
  RunConfig config = load_run_config(options.config, options.overrides);
  validate(config);
  if (!config.distillation.teacher_path.empty()) {
    throw ConfigError("distillation.teacher_path: verify compares layouts without a teacher");
  }
  set_threads(1);
  const ScratchFolder scratch;
  const auto source = open_source(config, scratch.path(), options.steps);
  source->check_trainable();
  settle_domain_groups(config, *source);
  train::TraceConfig trace = trace_config(config, options, *source);
  add_evolution(config, *source, trace);
  std::vector<std::unique_ptr<search::JointState>> joint_states;
  add_dance(config, options.steps, layouts, trace, joint_states);
  for (const train::LayoutName& layout : layouts) train::check_layout(layout, trace);
  const double tolerance = trace.float64 ? kFloat64Tolerance : kFloat32Tolerance;

  log::info("{} steps of {} sequences in {}, tolerance {}", options.steps,
            config.train.global_batch_size, options.dtype, tolerance);
  const auto expected = train::trace_layout(train::parse_layout("1"), trace, source);
  TextTable table({"layout", ">ranks", ">loss", ">gradient norm", ">largest difference", "",
                   "first difference"});
  table.add_row({"1", "1", format("{:.9f}", expected.back().loss),
                 format("{:.9f}", expected.back().grad_norm), "", "", ""});
  std::string differing;
  for (const train::LayoutName& layout : layouts) {
    const auto found = train::trace_layout(layout, trace, source);
    const train::TraceDifference difference = train::compare_traces(expected, found, tolerance);
    const bool same = difference.step == 0;
    table.add_row({layout.text, std::to_string(layout.world_size()),
                   format("{:.9f}", found.back().loss), format("{:.9f}", found.back().grad_norm),
                   format("{:.1e}", difference.largest), same ? "same" : "DIFFERS",
                   same ? ""
                        : format("step {}: {} by {:.1e}", difference.step, difference.what,
                                 difference.relative)});
    log::info("layout {}: {}", layout.text, same ? "same" : "differs");
    if (!same) differing += (differing.empty() ? "" : ", ") + layout.text;
  }
  table.print(out);
  if (!differing.empty()) throw LayoutsDiffer(differing);
}

}  // namespace locus::app
