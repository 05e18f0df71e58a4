#include "locus/report/chart_data.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "locus/base/format.h"
#include "locus/report/communication.h"
#include "locus/report/downsample.h"

namespace locus::report {
namespace {

using nlohmann::json;

// A point is about ten bytes of JSON, a cell of a heat map four: these budgets give at most 1.6 MB.
constexpr size_t kTrainPoints = 60'000;
constexpr size_t kLayerPoints = 50'000;
constexpr size_t kHeatCells = 120'000;
constexpr size_t kMaxPoints = 2'000;
constexpr size_t kMinPoints = 24;
constexpr size_t kMaxColumns = 200;
constexpr size_t kMinColumns = 12;
constexpr size_t kAxisPoints = 200;
constexpr size_t kMatrixCells = 30'000;
constexpr size_t kMaxMatrixSide = 128;
constexpr size_t kMinMatrixSide = 8;
constexpr size_t kTraceBars = 12'000;  // of all runs together
constexpr size_t kMaxTraceBars = 3'000;
constexpr size_t kMaxTraceRanks = 32;

struct Limits {
  size_t train_points, layer_points, columns, matrix_side, trace_bars;
};

template <class Point>
struct Curve {
  const char* name;
  double Point::*member;
  bool noisy;  // smoothed on the page
};

constexpr Curve<TrainPoint> kTrainCurves[] = {
    {"loss", &TrainPoint::loss, true},
    {"aux_loss", &TrainPoint::aux_loss, true},
    {"lr", &TrainPoint::lr, false},
    {"grad_norm", &TrainPoint::grad_norm, true},
    {"tokens_per_s", &TrainPoint::tokens_per_s, true},
    {"flops_share", &TrainPoint::flops_share, true},
    {"rss_bytes", &TrainPoint::rss_bytes, false},
};

constexpr Curve<ValidPoint> kValidCurves[] = {
    {"valid_loss", &ValidPoint::loss, false},
    {"valid_accuracy", &ValidPoint::accuracy, false},
};

constexpr Curve<TrainPoint> kTimeParts[] = {
    {"data", &TrainPoint::time_data_s, false},
    {"forward", &TrainPoint::time_forward_s, false},
    {"backward", &TrainPoint::time_backward_s, false},
    {"reduce", &TrainPoint::time_reduce_s, false},
    {"optimizer", &TrainPoint::time_optimizer_s, false},
    {"other", &TrainPoint::time_other_s, false},
};

constexpr Curve<MoePoint> kMoeCurves[] = {
    {"load_cv", &MoePoint::load_cv, false},
    {"dead_experts", &MoePoint::dead_experts, false},
    {"dropped_share", &MoePoint::dropped_share, false},
    {"unrouted_share", &MoePoint::unrouted_share, false},
    {"entropy", &MoePoint::entropy, false},
    {"top_weight", &MoePoint::top_weight, false},
    {"experts_per_token", &MoePoint::experts_per_token, false},
    {"balance_loss", &MoePoint::balance_loss, false},
    {"z_loss", &MoePoint::z_loss, false},
    {"locality_loss", &MoePoint::locality_loss, false},
    {"balance_gradient_norm", &MoePoint::balance_gradient_norm, false},
    {"z_gradient_norm", &MoePoint::z_gradient_norm, false},
    {"locality_gradient_norm", &MoePoint::locality_gradient_norm, false},
    {"cosine", &MoePoint::cosine, false},
    {"calinski_harabasz", &MoePoint::calinski_harabasz, false},
    {"capacity", &MoePoint::capacity, false},
    {"capacity_bound", &MoePoint::capacity_bound, false},
};

constexpr Curve<PlacementPoint> kPlacementCurves[] = {
    {"expected_on_node", &PlacementPoint::expected_on_node, false},
    {"unplaced_on_node", &PlacementPoint::unplaced_on_node, false},
};

constexpr Curve<ExchangeStep> kExchangeCurves[] = {
    {"inter_bytes", &ExchangeStep::inter_bytes, true},
    {"intra_bytes", &ExchangeStep::intra_bytes, true},
    {"least_inter_bytes", &ExchangeStep::least_inter_bytes, true},
    {"flat_inter_bytes", &ExchangeStep::flat_inter_bytes, true},
    {"exposed_of_step", &ExchangeStep::exposed_of_step, true},
    {"exposed_of_flight", &ExchangeStep::exposed_of_flight, true},
    {"on_node", &ExchangeStep::on_node, true},
};

constexpr Curve<ExchangePoint> kLayerExchangeCurves[] = {
    {"on_node", &ExchangePoint::on_node, false},
};

size_t num_experts(const MoeLayerData& layer) {
  size_t count = 0;  // the most there were: the number of experts may change during training
  for (const MoePoint& point : layer.points)
    count = std::max(count, point.tokens_per_expert.size());
  return count;
}

Limits choose_limits(const std::vector<RunData>& runs) {
  size_t rows = 1;
  size_t layers = 1;
  size_t exchanges = 0;
  for (const RunData& run : runs) {
    exchanges += run.exchange.empty() ? 0 : 1;
    for (const auto& [number, layer] : run.moe) rows += num_experts(layer);
    layers += run.moe.size();
  }
  const size_t train_curves =
      runs.size() * (std::size(kTrainCurves) + 3) + exchanges * std::size(kExchangeCurves);
  const auto side = std::sqrt(kMatrixCells / runs.size());
  const size_t layer_curves = (layers + runs.size()) * std::size(kMoeCurves);
  return {std::clamp(kTrainPoints / train_curves, kMinPoints, kMaxPoints),
          std::clamp(kLayerPoints / layer_curves, kMinPoints, kMaxPoints),
          std::clamp(kHeatCells / rows, kMinColumns, kMaxColumns),
          std::clamp(static_cast<size_t>(side), kMinMatrixSide, kMaxMatrixSide),
          std::min(kTraceBars / runs.size(), kMaxTraceBars)};
}

// Five significant digits: finer than any screen, and short. What is missing becomes null.
json short_number(double value) {
  if (!std::isfinite(value)) return nullptr;
  const double rounded = std::strtod(format("{:.5g}", value).c_str(), nullptr);
  if (rounded == std::floor(rounded) && std::abs(rounded) < 1e15)
    return static_cast<int64_t>(rounded);
  return rounded;
}

json step_differences(const std::vector<int64_t>& steps) {
  json list = json::array();
  int64_t before = 0;
  for (const int64_t step : steps) {
    list.push_back(step - before);
    before = step;
  }
  return list;
}

template <class Point>
json make_curve(const std::vector<Point>& points, const Curve<Point>& curve, size_t max_points) {
  std::vector<double> values;
  values.reserve(points.size());
  for (const Point& point : points) values.push_back(point.*curve.member);
  if (std::none_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); })) {
    return nullptr;
  }
  std::vector<size_t> indices = min_max_indices(values, max_points);
  const bool constant = std::all_of(values.begin(), values.end(),
                                    [&values](double value) { return value == values.front(); });
  if (constant && values.size() > 2) indices = {0, values.size() - 1};
  std::vector<int64_t> steps;
  json kept = json::array();
  for (const size_t i : indices) {
    steps.push_back(points[i].step);
    kept.push_back(short_number(values[i]));
  }
  json result{{"s", step_differences(steps)}, {"v", std::move(kept)}};
  if (!curve.noisy || indices.size() == values.size() || constant) return result;

  std::vector<int64_t> mean_steps;
  json means = json::array();
  for (const auto& [begin, end] : split_evenly(values.size(), max_points / 2)) {
    mean_steps.push_back(points[begin + (end - begin) / 2].step);
    means.push_back(short_number(finite_mean({values.data() + begin, end - begin})));
  }
  result["ms"] = step_differences(mean_steps);
  result["mv"] = std::move(means);
  return result;
}

template <class Point, size_t kSize>
void add_curves(const std::vector<Point>& points, const Curve<Point> (&curves)[kSize],
                size_t max_points, json& object) {
  for (const Curve<Point>& curve : curves) {
    json made = make_curve(points, curve, max_points);
    if (!made.is_null()) object[curve.name] = std::move(made);
  }
}

// Tokens and seconds of training at some steps, between which the page interpolates.
json make_axis(const RunData& run) {
  std::vector<double> seconds;
  double total_s = 0;
  int64_t before = 0;
  for (const TrainPoint& point : run.train) {
    if (std::isfinite(point.step_time_s)) {
      total_s += point.step_time_s * static_cast<double>(point.step - before);
    }
    before = point.step;
    seconds.push_back(total_s);
  }
  std::vector<int64_t> steps;
  json tokens = json::array();
  json time = json::array();
  for (const auto& [begin, end] : split_evenly(run.train.size(), kAxisPoints)) {
    steps.push_back(run.train[end - 1].step);
    tokens.push_back(short_number(run.train[end - 1].tokens));
    time.push_back(short_number(seconds[end - 1]));
  }
  json axis{{"s", step_differences(steps)}};
  if (!tokens.back().is_null()) axis["tokens"] = std::move(tokens);
  if (total_s > 0) axis["time"] = std::move(time);
  return axis;
}

// Mean seconds of each part; all parts at the same steps, so that they can be stacked.
json make_stack(const RunData& run) {
  json stack = json::object();
  std::vector<int64_t> steps;
  const std::vector<Range> ranges = split_evenly(run.train.size(), kMaxColumns);
  for (const auto& [begin, end] : ranges) steps.push_back(run.train[end - 1].step);
  for (const Curve<TrainPoint>& part : kTimeParts) {
    json means = json::array();
    bool any = false;
    for (const auto& [begin, end] : ranges) {
      std::vector<double> values;
      for (size_t i = begin; i < end; ++i) values.push_back(run.train[i].*part.member);
      means.push_back(short_number(finite_mean(values)));
      any = any || !means.back().is_null();
    }
    if (any) stack[part.name] = std::move(means);
  }
  if (!stack.empty()) stack["s"] = step_differences(steps);
  return stack;
}

// By step: what turns a number of tokens into percent of an even share of that step's tokens.
std::vector<double> load_scales(const MoeLayerData& layer) {
  std::vector<double> scales;
  for (const MoePoint& point : layer.points) {
    const double mean = finite_mean(point.tokens_per_expert);
    scales.push_back(mean > 0 ? 100 / mean : kMissing);
  }
  return scales;
}

json make_load(const MoeLayerData& layer, const std::vector<Range>& ranges) {
  const std::vector<double> scales = load_scales(layer);
  json rows = json::array();
  for (size_t expert = 0; expert < num_experts(layer); ++expert) {
    json row = json::array();
    for (const auto& [begin, end] : ranges) {
      std::vector<double> loads;
      for (size_t i = begin; i < end; ++i) {
        const std::vector<double>& tokens = layer.points[i].tokens_per_expert;
        if (expert < tokens.size()) loads.push_back(tokens[expert] * scales[i]);
      }
      const double mean = finite_mean(loads);
      row.push_back(std::isfinite(mean) ? json(std::lround(mean)) : json());
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

json make_layer(int64_t number, const MoeLayerData& layer, const Limits& limits) {
  const std::vector<Range> ranges = split_evenly(layer.points.size(), limits.columns);
  std::vector<int64_t> steps;
  for (const auto& [begin, end] : ranges) steps.push_back(layer.points[end - 1].step);
  json object{{"layer", number},
              {"s", step_differences(steps)},
              {"load", make_load(layer, ranges)},
              {"curves", json::object()}};
  add_curves(layer.points, kMoeCurves, limits.layer_points, object["curves"]);
  if (!layer.domain_expert.empty()) {
    json rows = json::array();
    for (const std::vector<double>& counts : layer.domain_expert) {
      json row = json::array();
      for (const double count : counts) row.push_back(short_number(count));
      rows.push_back(std::move(row));
    }
    object["domain"] = {{"step", layer.domain_expert_step}, {"rows", std::move(rows)}};
  }
  return object;
}

// One point a step: the mean over the layers that were sampled in it.
std::vector<MoePoint> mean_over_layers(const RunData& run) {
  std::map<int64_t, std::vector<const MoePoint*>> by_step;
  for (const auto& [number, layer] : run.moe) {
    for (const MoePoint& point : layer.points) by_step[point.step].push_back(&point);
  }
  std::vector<MoePoint> means;
  for (const auto& [step, points] : by_step) {
    MoePoint& mean = means.emplace_back(MoePoint{.step = step});
    for (const Curve<MoePoint>& curve : kMoeCurves) {
      std::vector<double> values;
      for (const MoePoint* point : points) values.push_back(point->*curve.member);
      mean.*curve.member = finite_mean(values);
    }
  }
  return means;
}

// Where there are more ranks than lines to draw, neighbours share one.
json make_matrix(const RankMatrix& matrix, size_t max_side) {
  const size_t num_ranks = matrix.bytes.size();
  const size_t merged = (num_ranks + max_side - 1) / max_side;
  const size_t side = (num_ranks + merged - 1) / merged;
  std::vector<std::vector<double>> sums(side, std::vector<double>(side));
  for (size_t from = 0; from < num_ranks; ++from) {
    for (size_t to = 0; to < num_ranks; ++to) {
      sums[from / merged][to / merged] += matrix.bytes[from][to];
    }
  }
  json rows = json::array();
  for (const std::vector<double>& line : sums) {
    json row = json::array();
    for (const double bytes : line) row.push_back(short_number(bytes));
    rows.push_back(std::move(row));
  }
  return {{"step", matrix.step},
          {"ranks", num_ranks},
          {"merged", merged},
          {"bytes", std::move(rows)},
          {"node", matrix.node_of}};
}

json make_exchange(const RunData& run, const Limits& limits) {
  json object{{"curves", json::object()}};
  add_curves(sum_over_layers(run), kExchangeCurves, limits.train_points, object["curves"]);
  add_curves(run.placement, kPlacementCurves, limits.train_points, object["curves"]);
  const RankMatrix matrix = sum_rank_bytes(run);
  if (!matrix.bytes.empty()) object["matrix"] = make_matrix(matrix, limits.matrix_side);
  return object;
}

// Of one rank, earliest first; of those that begin together the longest, which holds the others.
// `name_places`: of the trace's names, the place of each that is in use.
json make_bars(std::vector<const TraceBar*> bars, std::map<size_t, size_t>& name_places) {
  std::stable_sort(bars.begin(), bars.end(), [](const TraceBar* a, const TraceBar* b) {
    return a->begin_us != b->begin_us ? a->begin_us < b->begin_us : a->length_us > b->length_us;
  });
  json object{
      {"n", json::array()}, {"t", json::array()}, {"b", json::array()}, {"d", json::array()}};
  int64_t before = 0;
  for (const TraceBar* bar : bars) {
    const int64_t begin = std::llround(bar->begin_us);
    object["n"].push_back(name_places.try_emplace(bar->name, name_places.size()).first->second);
    object["t"].push_back(bar->track);
    object["b"].push_back(begin - before);
    object["d"].push_back(std::llround(bar->begin_us + bar->length_us) - begin);
    before = begin;
  }
  return object;
}

// The step that the settings ask for; null where they do not say.
json trace_step(const RunData& run) {
  const auto found = std::find_if(run.config.begin(), run.config.end(), [](const ConfigLine& line) {
    return line.key == "log.timeline_step";
  });
  if (found == run.config.end()) return nullptr;
  const int64_t step = std::strtoll(found->value.c_str(), nullptr, 10);
  return step > 0 ? json(step) : json();
}

json make_trace(const RunData& run, size_t max_bars) {
  const Trace& trace = *run.trace;
  const size_t num_ranks = std::min(trace.ranks.size(), kMaxTraceRanks);
  std::vector<double> lengths;
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    for (const TraceBar& bar : trace.ranks[rank].bars) lengths.push_back(bar.length_us);
  }
  std::sort(lengths.begin(), lengths.end(), std::greater<>());
  const bool dropping = lengths.size() > max_bars;
  const double least_us = dropping ? lengths[max_bars - 1] : 0;
  // Of the bars of just that length only so many.
  size_t num_least = max_bars - static_cast<size_t>(std::lower_bound(lengths.begin(), lengths.end(),
                                                                     least_us, std::greater<>()) -
                                                    lengths.begin());
  std::map<size_t, size_t> name_places;
  json ranks = json::array();
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    std::vector<const TraceBar*> kept;
    for (const TraceBar& bar : trace.ranks[rank].bars) {
      const bool last = dropping && bar.length_us == least_us;
      if (bar.length_us < least_us || (last && num_least == 0)) continue;
      if (last) --num_least;
      kept.push_back(&bar);
    }
    ranks.push_back(
        {{"name", trace.ranks[rank].name}, {"bars", make_bars(std::move(kept), name_places)}});
  }
  json names = json::array();
  for (size_t i = 0; i < name_places.size(); ++i) names.push_back("");
  for (const auto& [name, place] : name_places) names[place] = trace.names[name];
  return {{"step", trace_step(run)},
          {"names", std::move(names)},
          {"tracks", trace.tracks},
          {"num_dropped", dropping ? lengths.size() - max_bars : 0},
          {"dropped_us", dropping ? short_number(lengths[max_bars]) : json(0)},
          {"num_ranks", trace.ranks.size()},
          {"ranks", std::move(ranks)}};
}

json make_run(const RunData& run, const Limits& limits) {
  json object{{"name", run.name},          {"domains", run.info.domains}, {"axis", make_axis(run)},
              {"curves", json::object()},  {"stack", make_stack(run)},    {"moe", json::array()},
              {"moe_mean", json::object()}};
  add_curves(run.train, kTrainCurves, limits.train_points, object["curves"]);
  add_curves(run.valid, kValidCurves, limits.train_points, object["curves"]);
  for (const auto& [number, layer] : run.moe) {
    object["moe"].push_back(make_layer(number, layer, limits));
    if (const auto found = run.exchange.find(number); found != run.exchange.end()) {
      add_curves(found->second.points, kLayerExchangeCurves, limits.layer_points,
                 object["moe"].back()["curves"]);
    }
  }
  add_curves(mean_over_layers(run), kMoeCurves, limits.layer_points, object["moe_mean"]);
  const std::vector<ExchangeStep> exchange = sum_over_layers(run);
  add_curves(std::vector<ExchangePoint>(exchange.begin(), exchange.end()), kLayerExchangeCurves,
             limits.layer_points, object["moe_mean"]);
  if (!run.exchange.empty()) object["exchange"] = make_exchange(run, limits);
  if (run.trace) object["trace"] = make_trace(run, limits.trace_bars);
  return object;
}

}  // namespace

std::string make_chart_json(const std::vector<RunData>& runs) {
  const Limits limits = choose_limits(runs);
  json object{{"runs", json::array()}};
  for (const RunData& run : runs) object["runs"].push_back(make_run(run, limits));
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace locus::report
