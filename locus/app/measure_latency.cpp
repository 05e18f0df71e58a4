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
#include "locus/search/extract.h"
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
  count = std::clamp<int64_t>(count, 1, most - least + 1);
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

// A model that generates.
class Generation {
 public:
  Generation(std::shared_ptr<model::Transformer> transformer, int64_t batch_size, int64_t context)
      : transformer_(std::move(transformer)),
        context_(static_cast<size_t>(batch_size), context),
        one_(static_cast<size_t>(batch_size), 1) {
    transformer_->eval();
    cache_ = transformer_->make_cache(batch_size, context + 1);
    ids_ = at::randint(transformer_->config().model.vocab_size, {kDifferentTokens, batch_size, 1},
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
      transformer_->logits(
          transformer_->forward_cached(ids_[next_++ % kDifferentTokens], cache_, one_));
      if (i > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    }
    return median(std::move(seconds));
  }

 private:
  // They go to different experts: weights that are always the same would stay in the cache.
  static constexpr int64_t kDifferentTokens = 64;

  std::shared_ptr<model::Transformer> transformer_;
  std::vector<int64_t> context_, one_;
  model::TransformerCache cache_;
  at::Tensor ids_;
  int64_t next_ = 0;
};

// Of one token for each sequence.
double alone_s(Generation generation) {
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

bool has_units(const search::ArchSpace& space, search::UnitKind kind, size_t layer) {
  return std::any_of(space.units().begin(), space.units().end(), [&](const search::Unit& unit) {
    return unit.kind == kind && unit.layer == static_cast<int64_t>(layer);
  });
}

// The experts of a layer: as few as its tokens and domains allow, and all; all alone where none can
// go.
std::vector<std::vector<int64_t>> expert_sets(const search::ArchSpace& space, size_t layer) {
  search::Mask mask = space.all();
  const std::vector<int64_t> all = space.to_cut(mask)[layer].experts;
  for (size_t unit = mask.size(); unit-- > 0;) {
    const search::Unit& one = space.units()[unit];
    const bool is_expert =
        one.kind == search::UnitKind::kExpert && one.layer == static_cast<int64_t>(layer);
    if (is_expert && space.can_drop(mask, unit)) mask[unit] = 0;
  }
  const std::vector<int64_t> least = space.to_cut(mask)[layer].experts;
  if (least == all) return {all};
  return {least, all};
}

// Measures a branch of layers that are alike by what it adds to the model around it, so that caches
// are as full as they will be. All times are shares of the whole model's.
class Measurement {
 public:
  Measurement(std::shared_ptr<model::Transformer> whole, const search::ArchSpace& space,
              int64_t batch_size, int64_t context, ProgressBar& bar)
      : transformer_(std::move(whole)),
        space_(space),
        batch_size_(batch_size),
        context_(context),
        bar_(bar),
        whole_(transformer_, batch_size, context) {}

  // Median over all turns so far.
  double whole_s() const { return median(whole_turns_); }
  int64_t num_shapes() const { return num_shapes_; }

  search::LatencyGrid attention(const std::vector<size_t>& layers, int64_t heads) {
    const bool heads_go = has_units(space_, search::UnitKind::kHead, layers.front());
    search::LatencyGrid grid{{spread(heads_go ? 1 : heads, heads, kMostHeadPoints)}, {}};
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
    std::vector<std::vector<std::vector<int64_t>>> sets;  // of each of these layers
    for (const size_t one : layers) sets.push_back(expert_sets(space_, one));
    const bool slots_go = has_units(space_, search::UnitKind::kSlot, layers.front());
    search::LatencyGrid grid{
        {widths, spread(slots_go ? 1 : layer.top_k, layer.top_k, layer.top_k), {}}, {}};
    for (const auto& set : sets.front()) grid.axes[2].push_back(static_cast<double>(set.size()));
    for (const double width : grid.axes[0]) {
      for (const double k : grid.axes[1]) {
        for (size_t point = 0; point < grid.axes[2].size(); ++point) {
          search::ModelCut cut = whole_cut();
          for (size_t i = 0; i < layers.size(); ++i) {
            search::LayerCut& own = cut[layers[i]];
            own.channels = first(width);
            own.experts = sets[i][std::min(point, sets[i].size() - 1)];
            own.top_k = static_cast<int64_t>(k);
          }
          grid.seconds.push_back(of_each(layers, share_of_whole(cut) - none));
        }
      }
    }
    grid.make_rising();
    return grid;
  }

 private:
  search::ModelCut whole_cut() const { return space_.to_cut(space_.all()); }

  double share_of_whole(const search::ModelCut& cut) {
    Generation shape(search::extract(*transformer_, cut), batch_size_, context_);
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
    search::ModelCut cut = whole_cut();
    for (const size_t layer : layers) change(cut[layer]);
    return share_of_whole(cut);
  }

  // Of each of these layers.
  static double of_each(const std::vector<size_t>& layers, double share) {
    return std::max(0.0, share) / static_cast<double>(layers.size());
  }

  std::shared_ptr<model::Transformer> transformer_;
  const search::ArchSpace& space_;
  int64_t batch_size_, context_;
  ProgressBar& bar_;
  Generation whole_;
  std::vector<double> whole_turns_;
  int64_t num_shapes_ = 0;
};

// Of all kinds of layers.
std::vector<search::LayerLatency> measure_layers(const search::ArchSpace& space,
                                                 Measurement& measurement) {
  std::vector<search::LayerLatency> layers;
  for (const model::LayerConfig& layer : space.layers()) {
    const bool is_known =
        std::any_of(layers.begin(), layers.end(),
                    [&](const search::LayerLatency& one) { return is_alike(one, layer); });
    if (is_known) continue;
    search::LayerLatency own = search::latency_of_whole(layer);
    std::vector<size_t> alike;
    for (size_t i = 0; i < space.layers().size(); ++i) {
      if (is_alike(own, space.layers()[i])) alike.push_back(i);
    }
    if (own.heads > 0) own.attention = measurement.attention(alike, own.heads);
    if (own.channels > 0) own.feed_forward = measurement.feed_forward(alike, own);
    layers.push_back(std::move(own));
  }
  return layers;
}

double layers_s(const search::LatencyTable& table, const search::ArchSpace& space) {
  const std::vector<search::LayerSizes> sizes = space.sizes(space.all());
  double sum = 0;
  for (size_t i = 0; i < sizes.size(); ++i) sum += table.layer_s(space.layers()[i], sizes[i]);
  return sum;
}

// Before minutes of measuring.
void check_output(const fs::path& file) {
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  std::error_code code;
  if (!fs::is_directory(folder, code)) {
    throw ConfigError("--output {}: there is no folder {}", file.string(), folder.string());
  }
  if (fs::is_directory(file, code)) {
    throw ConfigError("--output {}: is a folder; name a file", file.string());
  }
}

}  // namespace

void measure_latency(const MeasureLatencyOptions& options, std::ostream& out) {
  constexpr int64_t kMostSequences = 65536;
  if (options.batch_size < 1 || options.batch_size > kMostSequences || options.context < 0) {
    throw ConfigError("--batch-size {} must be 1 to {}, --context {} 0 or more", options.batch_size,
                      kMostSequences, options.context);
  }
  if (!options.output.empty()) check_output(options.output);
  watch_signals();
  const LoadedModel loaded =
      load_model(options.checkpoint, options.dtype, check_threads(options.num_threads));
  const RunConfig& config = loaded.config;
  if (!config.model.is_decoder()) {
    throw ConfigError(
        "{}: is no decoder (model.num_encoder_layers = {}), which has no token to "
        "generate",
        loaded.folder.text(), config.model.num_encoder_layers);
  }
  constexpr int64_t kContext = 128;
  const int64_t context = options.context > 0
                              ? options.context
                              : std::min(kContext, config.model.max_position_embeddings - 1);
  if (options.context + 1 > config.model.max_position_embeddings) {
    throw ConfigError("--context {} is over model.max_position_embeddings = {} - 1",
                      options.context, config.model.max_position_embeddings);
  }
  const std::string how =
      format("{}, threads: {}, sequences: {}, tokens before: {}", config.train.dtype,
             at::get_num_threads(), options.batch_size, context);
  if (options.output.empty()) {
    const double seconds = alone_s({loaded.transformer, options.batch_size, context});
    out << format("a token of the model {:.3f} ms ({})\n", seconds * 1e3, how);
    return;
  }
  const search::ArchSpace space(config.model, config.moe, config.chosen_router_options(), {});
  ProgressBar bar("shapes", 0);
  Measurement measurement(loaded.transformer, space, options.batch_size, context, bar);
  search::LatencyTable table;
  table.machine = train::machine_name();
  table.dtype = config.train.dtype;
  table.model = search::latency_model_text(config.model, config.moe);
  table.num_threads = at::get_num_threads();
  table.batch_size = options.batch_size;
  table.context = context;
  table.layers = measure_layers(space, measurement);
  for (search::LayerLatency& layer : table.layers) {
    for (search::LatencyGrid* grid : {&layer.attention, &layer.feed_forward}) {
      for (double& seconds : grid->seconds) seconds *= measurement.whole_s();
    }
  }
  // Embeddings and logits, and what branches save each other: the whole model is reckoned as it
  // was.
  table.constant_s = measurement.whole_s() - layers_s(table, space);
  bar.finish();
  write_file_atomic(options.output, search::to_json(table));
  out << format("{}: {} shapes; a token of the whole model {:.3f} ms ({})\n", options.output,
                measurement.num_shapes(), measurement.whole_s() * 1e3, how);
}

}  // namespace locus::app
