#include "locus/train/layout_trace.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>
#include <tuple>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "locus/comm/thread_ranks.h"
#include "locus/model/layer_config.h"
#include "locus/moe/exchange.h"
#include "locus/train/checkpoint.h"
#include "locus/train/expert_migration.h"
#include "locus/train/train_step.h"

namespace locus::train {
namespace {

// Adam's first updates are g / |g|: the rounding of a gradient near zero would become as large as a
// whole step. With this eps an update is a smooth function of its gradient.
constexpr double kFloat32Eps = 1e-3;

// Reads "ep4" off the front of `text`; 1 where it does not begin with `name`.
int64_t take_size(std::string_view& text, std::string_view name) {
  if (!text.starts_with(name)) return 1;
  int64_t size = 0;
  const char* begin = text.data() + name.size();
  const auto [end, code] = std::from_chars(begin, text.data() + text.size(), size);
  if (code != std::errc() || size < 1) return 0;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return size;
}

// Reads an option off the front of `text`.
bool take_option(std::string_view& text, LayoutName& layout) {
  const std::string_view word = text.substr(0, text.find(':'));
  if (word.starts_with("chunks")) {
    layout.chunks = take_size(text, "chunks");
    return layout.chunks >= 1;
  }
  if (word == "zero1") {
    layout.zero1 = true;
  } else if (word == "placed") {
    layout.placed = true;
  } else if (word == "moved") {
    layout.moved = true;
  } else {
    const std::vector<std::string> known = moe::exchange_names();
    if (std::find(known.begin(), known.end(), word) == known.end()) return false;
    layout.exchange = word;
  }
  text.remove_prefix(word.size());
  return true;
}

double relative(double expected, double found) {
  const double scale = std::max(std::abs(expected), std::abs(found));
  if (!std::isfinite(scale)) return std::numeric_limits<double>::infinity();
  return scale == 0 ? 0 : std::abs(expected - found) / scale;
}

double relative(const at::Tensor& expected, const at::Tensor& found) {
  if (expected.numel() == 0) return 0;
  const double scale = expected.abs().max().item<double>();
  const double apart = (expected - found).abs().max().item<double>();
  if (!std::isfinite(apart)) return std::numeric_limits<double>::infinity();
  return scale == 0 ? apart : apart / scale;
}

// Integers among the buffers stay: Module::to() would turn those, too.
void to_float64(model::Transformer& transformer) {
  for (at::Tensor& parameter : transformer.parameters()) {
    parameter.set_data(parameter.detach().to(at::kDouble));
  }
  for (at::Tensor& buffer : transformer.buffers()) {
    if (buffer.is_floating_point()) buffer.set_data(buffer.to(at::kDouble));
  }
}

// To places that have nothing to do with who wants them.
void shuffle_experts(model::Transformer& transformer, Optimizer& optimizer, int64_t step) {
  for (const auto& [number, moe] : transformer.moe_layers()) {
    placement::ExpertOfSlot places(moe->expert_of_slot().size());
    const uint64_t key = random_key({static_cast<uint64_t>(step), static_cast<uint64_t>(number)});
    for (size_t slot = 0; slot < places.size(); ++slot) {
      places[slot] = static_cast<int64_t>(permute_index(key, slot, places.size()));
    }
    migrate_experts(transformer, optimizer, number, places);
  }
}

// The same for sequences: a new order at every step.
std::vector<int64_t> shuffled_sequences(int64_t step,
                                        const std::vector<std::vector<int64_t>>& tokens_by_domain) {
  std::vector<int64_t> order(tokens_by_domain.size());
  const uint64_t key = random_key({static_cast<uint64_t>(step), name_key("sequences")});
  for (size_t place = 0; place < order.size(); ++place) {
    order[place] = static_cast<int64_t>(permute_index(key, place, order.size()));
  }
  return order;
}

}  // namespace

LayoutName parse_layout(const std::string& text) {
  LayoutName layout{text};
  std::string_view rest = text;
  if (rest == "1") return layout;
  layout.ep = take_size(rest, "ep");
  layout.dp = take_size(rest, "dp");
  bool is_known = !text.empty() && layout.ep >= 1 && layout.dp >= 1 && !text.starts_with(':');
  while (is_known && rest.starts_with(':')) {
    rest.remove_prefix(1);
    is_known = take_option(rest, layout);
  }
  if (!is_known || !rest.empty()) {
    throw ConfigError(
        "\"{}\" is not a layout; 1, ep4, dp2, ep2dp2, ep4:hierarchical, ep4:dedup:chunks2, "
        "dp2:zero1 or ep4:placed:moved, for example",
        text);
  }
  return layout;
}

void check_layout(const LayoutName& layout, const TraceConfig& config) {
  const int64_t world_size = layout.world_size();
  if (config.train.micro_batch_size % world_size != 0) {
    throw ConfigError(
        "layout {}: train.micro_batch_size = {} (of all ranks together) is not a multiple of its "
        "{} ranks",
        layout.text, config.train.micro_batch_size, world_size);
  }
  const auto& [model, moe] = std::tie(config.transformer.model, config.transformer.moe);
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const int64_t num_experts = model::layer_config(model, moe, i).moe.num_experts;
    if (num_experts % layout.ep == 0) continue;
    throw ConfigError("layout {}: the {} experts of layer {} are not a multiple of {}", layout.text,
                      num_experts, i, layout.ep);
  }
  if (layout.moved && layout.zero1 && layout.dp > 1) {
    throw ConfigError(
        "layout {}: experts cannot move while the optimiser's state of them is spread",
        layout.text);
  }
  constexpr int64_t kMostChunks = 64;  // as parallel.exchange.chunks has it
  if (layout.chunks > kMostChunks) {
    throw ConfigError("layout {}: chunks{} is more than {}", layout.text, layout.chunks,
                      kMostChunks);
  }
}

TracedModel TraceConfig::make(const model::TransformerConfig& shape) const {
  OptimizerConfig settings = optimizer;
  if (!float64) settings.adam_eps = std::max(settings.adam_eps, kFloat32Eps);
  TracedModel made;
  made.transformer = std::make_shared<model::Transformer>(shape);
  if (float64) to_float64(*made.transformer);
  made.optimizer = make_optimizer(settings, named_parameters(*made.transformer), shape.parallel);
  return made;
}

std::vector<TraceStep> trace_layout(const LayoutName& layout, const TraceConfig& config,
                                    const std::shared_ptr<const data::SampleSource>& source) {
  check_layout(layout, config);
  const int64_t world_size = layout.world_size();
  const int64_t micro = config.train.micro_batch_size / world_size;
  std::vector<TraceStep> trace(static_cast<size_t>(config.num_steps));
  std::mutex mutex;
  comm::ParallelConfig parallel;
  parallel.expert_model_parallel_size = layout.ep;
  parallel.use_distributed_optimizer = layout.zero1;
  parallel.exchange.type = layout.exchange;
  parallel.exchange.chunks = layout.chunks;
  if (moe::find_exchange(layout.exchange).needs_nodes) {
    parallel.ranks_per_node =
        config.ranks_per_node > 0 ? config.ranks_per_node : std::max<int64_t>(layout.ep / 2, 1);
  }
  comm::run_thread_ranks(world_size, parallel, [&](const comm::ParallelContext& context) {
    at::set_num_threads(1);
    model::TransformerConfig shape = config.transformer;
    shape.parallel = context;
    if (config.hooks.shape) config.hooks.shape(shape);
    TracedModel traced = config.make(shape);
    traced.transformer->set_domain_names(source->domain_names());
    if (config.hooks.model) config.hooks.model(context, *traced.transformer);
    std::optional<TrainStep> train_step;
    train_step.emplace(*traced.transformer, *traced.optimizer, config.train, at::kCPU);
    std::unique_ptr<ExtraPasses> extra;
    if (config.make_extra) extra = config.make_extra(*traced.transformer);
    train_step->set_extra_passes(extra.get());
    data::PrefetchingLoader loader(source, config.train.global_batch_size, micro, 0, 0,
                                   {.rank = context.rank, .num_ranks = world_size},
                                   layout.placed ? shuffled_sequences : data::PlaceSequences());
    TrainerState state;
    for (TraceStep& step : trace) {
      std::vector<data::Batch> batches = loader.next();
      if (config.hooks.batches) config.hooks.batches(context, batches);
      const StepResult result = train_step->run(batches, config.lr, state);
      ++state.step;
      if (layout.moved) shuffle_experts(*traced.transformer, *traced.optimizer, state.step);
      if (config.after_step && config.after_step(state.step, traced)) {
        traced.transformer->set_domain_names(source->domain_names());
        train_step.emplace(*traced.transformer, *traced.optimizer, config.train, at::kCPU);
      }
      const model::Transformer& transformer = *traced.transformer;
      const std::lock_guard lock(mutex);
      step.loss = result.loss;
      step.aux_loss = result.aux_loss;
      step.grad_norm = result.grad_norm;
      for (const auto& [name, value] :
           global_state(named_parameters(transformer), expert_numbers(transformer))) {
        // Every rank's copy is looked at: one that has drifted off replaces the good ones.
        const at::Tensor copy = value.detach().to(at::kDouble).clone();
        const auto [place, is_new] = step.parameters.emplace(name, copy);
        if (!is_new && !at::equal(place->second, copy)) {
          place->second.fill_(std::numeric_limits<double>::quiet_NaN());
        }
      }
    }
  });
  return trace;
}

TraceDifference compare_traces(const std::vector<TraceStep>& expected,
                               const std::vector<TraceStep>& found, double tolerance) {
  LOCUS_CHECK(expected.size() == found.size(), "{} and {} steps", expected.size(), found.size());
  TraceDifference difference;
  const auto look = [&](size_t step, const std::string& what, double apart) {
    difference.largest = std::max(difference.largest, apart);
    if (difference.step != 0 || apart <= tolerance) return;
    difference.step = static_cast<int64_t>(step) + 1;
    difference.what = what;
    difference.relative = apart;
  };
  for (size_t i = 0; i < expected.size(); ++i) {
    look(i, "loss", relative(expected[i].loss, found[i].loss));
    look(i, "router loss", relative(expected[i].aux_loss, found[i].aux_loss));
    look(i, "gradient norm", relative(expected[i].grad_norm, found[i].grad_norm));
    for (const auto& [name, value] : expected[i].parameters) {
      const auto other = found[i].parameters.find(name);
      look(i, name,
           other == found[i].parameters.end() ? std::numeric_limits<double>::infinity()
                                              : relative(value, other->second));
    }
  }
  return difference;
}

}  // namespace locus::train
