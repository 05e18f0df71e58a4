#include "locus/search/latency.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/base/format.h"

namespace locus::search {

using nlohmann::json;

namespace {

constexpr int64_t kVersion = 1;

// Between which two points of an axis a place lies, and how far on.
struct Between {
  size_t low = 0, high = 0;
  double share = 0;
};

Between find(const std::vector<double>& points, double place) {
  if (place <= points.front()) return {0, 0, 0};
  if (place >= points.back()) return {points.size() - 1, points.size() - 1, 0};
  const auto above = std::upper_bound(points.begin(), points.end(), place);
  const auto high = static_cast<size_t>(above - points.begin());
  return {high - 1, high, (place - points[high - 1]) / (points[high] - points[high - 1])};
}

json grid_json(const LatencyGrid& grid) { return {{"axes", grid.axes}, {"seconds", grid.seconds}}; }

LatencyGrid read_grid(const json& content, size_t num_axes, const std::string& source) {
  LatencyGrid grid{content.at("axes").get<std::vector<std::vector<double>>>(),
                   content.at("seconds").get<std::vector<double>>()};
  size_t size = 1;
  for (const auto& axis : grid.axes) {
    size *= axis.size();
    if (std::adjacent_find(axis.begin(), axis.end(), std::greater_equal<>()) != axis.end())
      size = 0;
  }
  const auto is_time = [](double value) { return std::isfinite(value) && value >= 0; };
  if (!std::all_of(grid.seconds.begin(), grid.seconds.end(), is_time)) size = 0;
  if (grid.axes.size() != num_axes || size == 0 || size != grid.seconds.size()) {
    throw DataError(
        "{}: a grid of {} directions with {} values; right are {} rising directions "
        "and a time of 0 or more for each place",
        source, grid.axes.size(), grid.seconds.size(), num_axes);
  }
  return grid;
}

const LayerLatency* find_alike(const LatencyTable& table, const model::LayerConfig& layer) {
  const auto found = std::find_if(table.layers.begin(), table.layers.end(),
                                  [&](const LayerLatency& one) { return is_alike(one, layer); });
  return found == table.layers.end() ? nullptr : &*found;
}

}  // namespace

double LatencyGrid::at(const std::vector<double>& place) const {
  LOCUS_CHECK(place.size() == axes.size(), "a place of {} in {} directions", place.size(),
              axes.size());
  std::vector<double> values = seconds;
  for (size_t d = axes.size(); d-- > 0;) {
    const Between between = find(axes[d], place[d]);
    const size_t length = axes[d].size();
    std::vector<double> next;
    for (size_t begin = 0; begin < values.size(); begin += length) {
      const double low = values[begin + between.low], high = values[begin + between.high];
      next.push_back(low + between.share * (high - low));
    }
    values = std::move(next);
  }
  return values.front();
}

void LatencyGrid::make_rising() {
  size_t step = 1;  // between neighbours in this direction
  for (size_t d = axes.size(); d-- > 0;) {
    const size_t length = axes[d].size();
    std::vector<double> highest = seconds, lowest = seconds;
    const auto place = [&](size_t i) { return i / step % length; };
    for (size_t i = 0; i < seconds.size(); ++i) {
      if (place(i) > 0) highest[i] = std::max(highest[i], highest[i - step]);
    }
    for (size_t i = seconds.size(); i-- > 0;) {
      if (place(i) + 1 < length) lowest[i] = std::min(lowest[i], lowest[i + step]);
    }
    for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = (highest[i] + lowest[i]) / 2;
    step *= length;
  }
}

double LatencyTable::layer_s(const model::LayerConfig& layer, const LayerSizes& sizes) const {
  const LayerLatency* found = find_alike(*this, layer);
  LOCUS_CHECK(found != nullptr, "the table of latencies has no such layer");
  double sum = 0;
  if (layer.has_attention) sum += sizes.attention * found->attention.at({sizes.heads});
  if (layer.has_feed_forward) {
    const std::vector<double> place =
        layer.has_experts() ? std::vector<double>{sizes.channels, sizes.top_k, sizes.experts}
                            : std::vector<double>{sizes.channels};
    sum += sizes.feed_forward * found->feed_forward.at(place);
  }
  return sum;
}

LayerLatency latency_of_whole(const model::LayerConfig& layer) {
  LayerLatency out;
  if (layer.has_attention) out.heads = layer.model.num_key_value_heads;
  if (!layer.has_feed_forward) return out;
  out.channels = layer.has_experts() ? layer.moe.intermediate_size : layer.model.intermediate_size;
  if (layer.has_experts()) {
    out.experts = layer.moe.num_experts;
    out.top_k = layer.moe.router.top_k;
  }
  return out;
}

bool is_alike(const LayerLatency& latency, const model::LayerConfig& layer) {
  const LayerLatency own = latency_of_whole(layer);
  return latency.heads == own.heads && latency.channels == own.channels &&
         latency.experts == own.experts && latency.top_k == own.top_k;
}

std::string latency_model_text(const model::ModelConfig& model, const moe::MoeConfig& moe) {
  std::string text = format("hidden {}, {}, vocabulary {}, router {}, layers of", model.hidden_size,
                            model.hidden_act, model.vocab_size, moe.router.type);
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const LayerLatency own = latency_of_whole(model::layer_config(model, moe, i));
    text += format("{} {} heads of {} x {}, width {}", i == 0 ? "" : ";", own.heads,
                   model.heads_per_group(), model.head_size(), own.channels);
    if (own.experts > 0) text += format(", {} of {} experts", own.top_k, own.experts);
  }
  if (moe.shared_expert_intermediate_size > 0) {
    text += format(", shared expert of {}{}", moe.shared_expert_intermediate_size,
                   moe.shared_expert_gate ? ", gated" : "");
  }
  return text;
}

std::string to_json(const LatencyTable& table) {
  json layers = json::array();
  for (const LayerLatency& one : table.layers) {
    json layer{{"heads", one.heads},
               {"channels", one.channels},
               {"experts", one.experts},
               {"top_k", one.top_k}};
    if (!one.attention.axes.empty()) layer["attention"] = grid_json(one.attention);
    if (!one.feed_forward.axes.empty()) layer["feed_forward"] = grid_json(one.feed_forward);
    layers.push_back(std::move(layer));
  }
  return json{{"version", kVersion},
              {"machine", table.machine},
              {"dtype", table.dtype},
              {"model", table.model},
              {"num_threads", table.num_threads},
              {"batch_size", table.batch_size},
              {"context", table.context},
              {"constant_s", table.constant_s},
              {"layers", layers}}
             .dump(2) +
         "\n";
}

LatencyTable read_latency_table(const std::string& source, const std::string& text) {
  try {
    const json content = json::parse(text);
    if (content.at("version") != kVersion) {
      throw DataError("{}: is a table of version {}, this program reads {}", source,
                      content.at("version").dump(), kVersion);
    }
    LatencyTable table;
    table.machine = content.at("machine").get<std::string>();
    table.dtype = content.at("dtype").get<std::string>();
    table.model = content.at("model").get<std::string>();
    table.num_threads = content.at("num_threads").get<int64_t>();
    table.batch_size = content.at("batch_size").get<int64_t>();
    table.context = content.at("context").get<int64_t>();
    table.constant_s = content.at("constant_s").get<double>();
    for (const json& one : content.at("layers")) {
      LayerLatency layer{one.at("heads").get<int64_t>(),
                         one.at("channels").get<int64_t>(),
                         one.at("experts").get<int64_t>(),
                         one.at("top_k").get<int64_t>(),
                         {},
                         {}};
      if (layer.heads > 0) layer.attention = read_grid(one.at("attention"), 1, source);
      if (layer.channels > 0) {
        layer.feed_forward = read_grid(one.at("feed_forward"), layer.experts > 0 ? 3 : 1, source);
      }
      table.layers.push_back(std::move(layer));
    }
    return table;
  } catch (const json::exception& error) {
    throw DataError("{}: {}", source, error.what());
  }
}

void check_latency_table(const LatencyTable& table, const std::string& source,
                         const std::string& machine, const std::string& dtype, int64_t num_threads,
                         const model::ModelConfig& model, const moe::MoeConfig& moe) {
  const auto check = [&](std::string_view what, const std::string& of_table,
                         const std::string& here) {
    if (of_table == here) return;
    throw ConfigError(
        "--target {}: was measured for another {} ({}; here: {}); measure again with "
        "`locus measure-latency`",
        source, what, of_table, here);
  };
  check("machine", table.machine, machine);
  check("dtype", table.dtype, dtype);
  check("number of threads", std::to_string(table.num_threads), std::to_string(num_threads));
  check("model", table.model, latency_model_text(model, moe));
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    if (find_alike(table, model::layer_config(model, moe, i)) != nullptr) continue;
    throw DataError("{}: has no layer such as layer {} of its model", source, i);
  }
}

}  // namespace locus::search
