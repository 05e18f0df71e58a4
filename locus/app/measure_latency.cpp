// `locus measure-latency`: how long a token takes on this machine, for layers of many shapes.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/describe.h"
#include "locus/app/elastic.h"
#include "locus/base/error.h"
#include "locus/base/progress.h"
#include "locus/base/signals.h"
#include "locus/search/latency.h"
#include "locus/train/machine.h"

namespace locus::app {
namespace {

// Machines drift: within seconds the same token takes a fifth more or less. So a shape is measured
// against the whole model, a few tokens of each by turns, and what counts is their ratio.
constexpr int kTokensOfTurn = 4, kWarmupTurns = 2, kLeastTurns = 30;
constexpr double kLeastSeconds = 0.2, kSecondsAlone = 3;
constexpr int64_t kMostHeadPoints = 8, kChannelPoints = 4;

// Evenly spread whole numbers from `least` to `most`, at most so many.
std::vector<double> spread(int64_t least, int64_t most, int64_t count) {
  std::vector<double> points;
  count = std::min(count, most - least + 1);
  for (int64_t i = 0; i < count; ++i) {
    points.push_back(
        static_cast<double>(count == 1 ? most : least + i * (most - least) / (count - 1)));
  }
  return points;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// A model of some shape, its weights drawn at random, that generates.
class Generation {
 public:
  Generation(const RunConfig& config, const search::ModelCut& cut, int64_t batch_size,
             int64_t context)
      : transformer_(shape_of(config, cut)),
        context_(static_cast<size_t>(batch_size), context),
        one_(static_cast<size_t>(batch_size), 1) {
    transformer_.eval();
    cache_ = transformer_.make_cache(batch_size, context + 1);
    ids_ = at::randint(config.model.vocab_size, {kDifferentTokens, batch_size, 1},
                       at::TensorOptions(at::kLong));
  }

  // Median seconds of some tokens for each sequence, after `context` others; the first, which finds
  // another model's weights in the processor's cache, does not count.
  double turn_s() {
    using Clock = std::chrono::steady_clock;
    if (const int signal = received_signal()) throw Interrupted(signal);
    const at::NoGradGuard no_grad;
    std::vector<double> seconds;
    for (int i = 0; i < kTokensOfTurn; ++i) {
      cache_.lengths = context_;
      const auto begin = Clock::now();
      transformer_.logits(
          transformer_.forward_cached(ids_[next_++ % kDifferentTokens], cache_, one_));
      if (i > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    }
    return median(std::move(seconds));
  }

 private:
  // They go to different experts: weights that are always the same would stay in the cache.
  static constexpr int64_t kDifferentTokens = 64;

  static model::TransformerConfig shape_of(const RunConfig& config, const search::ModelCut& cut) {
    model::TransformerConfig shape = transformer_config(config);
    shape.token_frequency.assign(static_cast<size_t>(shape.model.vocab_size), 1);
    std::tie(shape.model, shape.moe) = search::cut_config(config.model, config.moe, cut);
    return shape;
  }

  model::Transformer transformer_;
  std::vector<int64_t> context_, one_;
  model::TransformerCache cache_;
  at::Tensor ids_;
  int64_t next_ = 0;
};

// Of one token for each sequence.
double alone_s(const RunConfig& config, int64_t batch_size, int64_t context) {
  Generation generation(config, search::whole_cut(config.model, config.moe), batch_size, context);
  std::vector<double> turns;
  double total = 0;
  for (int i = -kWarmupTurns; i < kLeastTurns || total < kSecondsAlone; ++i) {
    const double seconds = generation.turn_s();
    if (i < 0) continue;
    turns.push_back(seconds);
    total += kTokensOfTurn * seconds;
  }
  return median(std::move(turns));
}

std::vector<int64_t> first(double count) {
  return search::first_numbers(static_cast<int64_t>(count));
}

// As far as a router takes fewer than the layer has.
struct ExpertAxes {
  std::vector<double> top_k, experts;
};

ExpertAxes expert_axes(const RunConfig& config, const search::LayerLatency& layer) {
  const OptionSet& options = config.chosen_router_options();
  const bool slots_stay = !search::why_slots_stay(config.moe, options).empty();
  const bool experts_stay =
      !search::why_experts_stay(options).empty() || !config.moe.domain_groups.empty();
  const auto factor = static_cast<int64_t>(std::ceil(config.moe.router.capacity_factor));
  const int64_t least = experts_stay
                            ? layer.experts
                            : std::min(layer.experts, std::max({layer.top_k, factor, int64_t{1}}));
  return {spread(slots_stay ? layer.top_k : 1, layer.top_k, layer.top_k),
          spread(least, layer.experts, 2)};
}

// Measures a branch of layers that are alike by what it adds to the model around it, so that caches
// are as full as they will be. All times are shares of the whole model's.
class Measurement {
 public:
  Measurement(const RunConfig& config, int64_t batch_size, int64_t context, ProgressBar& bar)
      : config_(config),
        batch_size_(batch_size),
        context_(context),
        bar_(bar),
        whole_cut_(search::whole_cut(config.model, config.moe)),
        whole_(config, whole_cut_, batch_size, context) {}

  // Median over all turns so far.
  double whole_s() const { return median(whole_turns_); }
  int64_t num_shapes() const { return num_shapes_; }

  search::LatencyGrid attention(const std::vector<size_t>& layers, int64_t heads) {
    search::LatencyGrid grid{{spread(1, heads, kMostHeadPoints)}, {}};
    const double none = with(layers, [](search::LayerCut& cut) { cut.heads.clear(); });
    for (const double count : grid.axes[0]) {
      const double share = with(layers, [&](search::LayerCut& cut) { cut.heads = first(count); });
      grid.seconds.push_back(of_each(layers, share - none));
    }
    grid.make_rising();
    return grid;
  }

  search::LatencyGrid feed_forward(const std::vector<size_t>& layers,
                                   const search::LayerLatency& layer) {
    const std::vector<double> widths =
        spread(std::max<int64_t>(1, layer.channels / 8), layer.channels, kChannelPoints);
    const double none = with(layers, [](search::LayerCut& cut) {
      cut.channels.clear();
      cut.experts.clear();
    });
    if (layer.experts == 0) {
      search::LatencyGrid grid{{widths}, {}};
      for (const double width : widths) {
        const double share =
            with(layers, [&](search::LayerCut& cut) { cut.channels = first(width); });
        grid.seconds.push_back(of_each(layers, share - none));
      }
      grid.make_rising();
      return grid;
    }
    const ExpertAxes axes = expert_axes(config_, layer);
    search::LatencyGrid grid{{widths, axes.top_k, axes.experts}, {}};
    for (const double width : grid.axes[0]) {
      for (const double k : grid.axes[1]) {
        for (const double count : grid.axes[2]) {
          const double share = with(layers, [&](search::LayerCut& cut) {
            cut.channels = first(width);
            cut.experts = first(count);
            cut.top_k = static_cast<int64_t>(k);
          });
          grid.seconds.push_back(of_each(layers, share - none));
        }
      }
    }
    grid.make_rising();
    return grid;
  }

 private:
  double share_of_whole(const search::ModelCut& cut) {
    Generation shape(config_, cut, batch_size_, context_);
    std::vector<double> shares;
    double total = 0;
    for (int i = -kWarmupTurns; i < kLeastTurns || total < kLeastSeconds; ++i) {
      const double whole = whole_.turn_s(), own = shape.turn_s();
      if (i < 0) continue;
      whole_turns_.push_back(whole);
      shares.push_back(own / whole);
      total += kTokensOfTurn * own;
    }
    const double share = median(std::move(shares));
    bar_.update(++num_shapes_,
                format("{:.2f} of the whole model's {:.3f} ms", share, whole_s() * 1e3));
    return share;
  }

  // Of the model with these layers changed.
  template <class Change>
  double with(const std::vector<size_t>& layers, Change change) {
    search::ModelCut cut = whole_cut_;
    for (const size_t layer : layers) change(cut[layer]);
    return share_of_whole(cut);
  }

  // Of each of these layers.
  static double of_each(const std::vector<size_t>& layers, double share) {
    return std::max(0.0, share) / static_cast<double>(layers.size());
  }

  const RunConfig& config_;
  int64_t batch_size_, context_;
  ProgressBar& bar_;
  search::ModelCut whole_cut_;
  Generation whole_;
  std::vector<double> whole_turns_;
  int64_t num_shapes_ = 0;
};

// Of all kinds of layers.
std::vector<search::LayerLatency> measure_layers(const RunConfig& config,
                                                 Measurement& measurement) {
  std::vector<search::LayerLatency> layers;
  for (int64_t i = 0; i < config.model.num_hidden_layers; ++i) {
    const model::LayerConfig layer = model::layer_config(config.model, config.moe, i);
    const bool is_known =
        std::any_of(layers.begin(), layers.end(),
                    [&](const search::LayerLatency& one) { return is_alike(one, layer); });
    if (is_known) continue;
    search::LayerLatency own = search::latency_of_whole(layer);
    std::vector<size_t> alike;
    for (int64_t j = i; j < config.model.num_hidden_layers; ++j) {
      if (is_alike(own, model::layer_config(config.model, config.moe, j))) {
        alike.push_back(static_cast<size_t>(j));
      }
    }
    if (own.heads > 0) own.attention = measurement.attention(alike, own.heads);
    if (own.channels > 0) own.feed_forward = measurement.feed_forward(alike, own);
    layers.push_back(std::move(own));
  }
  return layers;
}

double reckoned_s(const search::LatencyTable& table, const RunConfig& config) {
  const search::ArchSpace space(config.model, config.moe, config.chosen_router_options(), {});
  const std::vector<search::LayerSizes> sizes = space.sizes(space.all());
  double sum = table.constant_s;
  for (size_t i = 0; i < sizes.size(); ++i) sum += table.layer_s(space.layers()[i], sizes[i]);
  return sum;
}

}  // namespace

void measure_latency(const MeasureLatencyOptions& options, std::ostream& out) {
  constexpr int64_t kMostSequences = 65536;
  if (options.batch_size < 1 || options.batch_size > kMostSequences || options.context < 0) {
    throw ConfigError("--batch-size {} must be 1 to {}, --context {} 0 or more", options.batch_size,
                      kMostSequences, options.context);
  }
  watch_signals();
  const ModelFolder folder = resolve_model_folder(options.checkpoint);
  RunConfig config = folder_config(folder);
  if (!config.model.is_decoder()) {
    throw ConfigError(
        "{}: is no decoder (model.num_encoder_layers = {}), which has no token to "
        "generate",
        folder.text(), config.model.num_encoder_layers);
  }
  constexpr int64_t kContext = 128;
  const int64_t context = options.context > 0
                              ? options.context
                              : std::min(kContext, config.model.max_position_embeddings - 1);
  if (options.context + 1 > config.model.max_position_embeddings) {
    throw ConfigError("--context {} is over model.max_position_embeddings = {} - 1",
                      options.context, config.model.max_position_embeddings);
  }
  set_threads(check_threads(options.num_threads));
  if (options.output.empty()) {
    out << format("a token of the model {:.3f} ms\n",
                  alone_s(config, options.batch_size, context) * 1e3);
    return;
  }
  ProgressBar bar("shapes", 0);
  Measurement measurement(config, options.batch_size, context, bar);
  search::LatencyTable table;
  table.machine = train::machine_name();
  table.dtype = config.train.dtype;
  table.model = search::latency_model_text(config.model, config.moe);
  table.num_threads = at::get_num_threads();
  table.batch_size = options.batch_size;
  table.context = context;
  table.layers = measure_layers(config, measurement);
  for (search::LayerLatency& layer : table.layers) {
    for (search::LatencyGrid* grid : {&layer.attention, &layer.feed_forward}) {
      for (double& seconds : grid->seconds) seconds *= measurement.whole_s();
    }
  }
  // Embeddings and logits, and what branches save each other: the whole model is reckoned as it
  // was.
  table.constant_s = measurement.whole_s() - reckoned_s(table, config);
  bar.finish();
  write_file_atomic(options.output, search::to_json(table));
  out << format("{}: {} shapes; a token of the whole model {:.3f} ms\n", options.output,
                measurement.num_shapes(), measurement.whole_s() * 1e3);
}

}  // namespace locus::app
