#include "locus/search/cost_model.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>

#include "locus/base/error.h"
#include "locus/model/size.h"
#include "locus/moe/expert_numbers.h"
#include "locus/moe/router.h"

namespace locus::search {
namespace {

constexpr std::array<std::string_view, kNumResources> kNames{"flops", "parameters", "memory",
                                                             "exchange", "latency"};
constexpr double kBytesOfValue = 4;

// Two settings of a size, where a cost that is linear in it is asked for.
struct Pair {
  int64_t low, high;
};

// The cost at low and high as c[0] + c[1] * size.
std::array<double, 2> line(Pair at, double low, double high) {
  if (at.low == at.high) return {low, 0};
  const double slope = (high - low) / static_cast<double>(at.high - at.low);
  return {low - slope * static_cast<double>(at.low), slope};
}

}  // namespace

std::string_view resource_name(Resource resource) { return kNames[static_cast<size_t>(resource)]; }

Resource parse_resource(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) {
    throw ConfigError("\"{}\" is not a cost; known: flops, parameters, memory, exchange, latency",
                      name);
  }
  return static_cast<Resource>(found - kNames.begin());
}

double CostModel::of_config(Resource resource, const model::ModelConfig& model,
                            const moe::MoeConfig& moe, const CostSettings& settings) {
  if (resource == Resource::kFlops) {
    return model::forward_flops_per_token(model, moe, settings.sequence_length,
                                          settings.labelled_share);
  }
  const auto parameters = static_cast<double>(model::count_parameters(model, moe).total());
  if (resource == Resource::kParameters) return parameters;
  double cached = 0, rows = 0;  // values of a sequence, of a token
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const model::LayerConfig layer = model::layer_config(model, moe, i);
    const bool is_decoder = i >= model.num_encoder_layers;
    const int64_t heads = (is_decoder ? layer.model.num_key_value_heads : 0) + layer.cross_kv_heads;
    cached += static_cast<double>(2 * heads * layer.model.head_dim * settings.sequence_length);
    if (!layer.has_experts()) continue;
    rows += moe::find_router(moe.router.type).experts_per_token(layer.moe) *
            static_cast<double>(model.hidden_size);
  }
  if (resource == Resource::kMemory) return kBytesOfValue * (parameters + cached);
  constexpr double kWays = 4;  // there and back, of rows and of their gradients
  return kWays * rows * settings.row_bytes * settings.away_share;
}

CostModel::CostModel(const ArchSpace& space, const CostSettings& settings)
    : space_(space), settings_(settings) {
  const std::vector<LayerSizes> all = space.sizes(space.all());
  for (size_t r = 0; r < kNumResources; ++r) {
    const auto resource = static_cast<Resource>(r);
    if (resource == Resource::kLatency) {
      constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
      constant_[r] = settings_.latency ? settings_.latency->constant_s : kUnknown;
      whole_[r] = settings_.latency ? cost(resource, all) : kUnknown;
      continue;
    }
    for (size_t layer = 0; layer < space.layers().size(); ++layer) {
      terms_[r].push_back(terms_of(resource, layer));
    }
    whole_[r] = of_config(resource, space.model(), space.moe(), settings);
    constant_[r] = whole_[r] - cost(resource, all);  // constant_[r] is 0 in this call
  }
}

CostModel::Terms CostModel::terms_of(Resource resource, size_t layer) const {
  // Costs do not look at limits, so that any size can be asked for.
  const model::LayerConfig& own = space_.layers()[layer];
  const ModelCut whole = whole_cut(space_.model(), space_.moe());
  const auto cost_of = [&](auto change) {
    ModelCut cut = whole;
    change(cut[layer]);
    const auto [model, moe] = cut_config(space_.model(), space_.moe(), cut);
    return of_config(resource, model, moe, settings_);
  };
  Terms terms;
  constexpr Pair kHeads{1, 2};
  if (own.has_attention) {
    const double none = cost_of([](LayerCut& cut) { cut.heads.clear(); });
    const auto with = [&](int64_t heads) {
      return cost_of([=](LayerCut& cut) { cut.heads = first_numbers(heads); }) - none;
    };
    terms.attention = line(kHeads, with(kHeads.low), with(kHeads.high));
  }
  if (own.has_cross_attention) {
    const double none = cost_of([](LayerCut& cut) { cut.cross_heads.clear(); });
    const auto with = [&](int64_t heads) {
      return cost_of([=](LayerCut& cut) { cut.cross_heads = first_numbers(heads); }) - none;
    };
    terms.cross_attention = line(kHeads, with(kHeads.low), with(kHeads.high));
  }
  if (!own.has_feed_forward) return terms;
  const double none = cost_of([](LayerCut& cut) {
    cut.channels.clear();
    cut.experts.clear();
  });
  const bool has_experts = own.has_experts();
  constexpr Pair kChannels{1, 2};
  // Between the least and the most that a token can have: routers may limit it in other ways.
  const Pair top_ks{
      std::max<int64_t>(
          1, static_cast<int64_t>(space_.layer_sizes(Mask(space_.units().size()), layer).top_k)),
      std::max<int64_t>(1, own.moe.router.top_k)};
  // One expert is a case of its own to some routers.
  const int64_t most = own.moe.num_experts;
  const Pair experts{std::max<int64_t>(1, std::min<int64_t>(2, most - 1)),
                     std::clamp<int64_t>(most, 1, 3)};
  const auto with = [&](int64_t channels, int64_t top_k, int64_t num_experts) {
    return cost_of([=](LayerCut& cut) {
             cut.channels = first_numbers(channels);
             if (!has_experts) return;
             cut.top_k = top_k;
             cut.experts = first_numbers(num_experts);
           }) -
           none;
  };
  std::array<std::array<std::array<double, 2>, 2>, 2> value{};  // [channels][top_k][experts]
  for (size_t c = 0; c < 2; ++c) {
    for (size_t k = 0; k < 2; ++k) {
      const int64_t channels = c == 0 ? kChannels.low : kChannels.high;
      const int64_t top_k = k == 0 ? top_ks.low : top_ks.high;
      value[c][k] =
          line(experts, with(channels, top_k, experts.low), with(channels, top_k, experts.high));
    }
  }
  for (size_t c = 0; c < 2; ++c) {
    for (size_t e = 0; e < 2; ++e) {
      const auto of_k = line(top_ks, value[c][0][e], value[c][1][e]);
      value[c][0][e] = of_k[0];
      value[c][1][e] = of_k[1];
    }
  }
  for (size_t k = 0; k < 2; ++k) {
    for (size_t e = 0; e < 2; ++e) {
      const auto of_c = line(kChannels, value[0][k][e], value[1][k][e]);
      terms.feed_forward[0][k][e] = of_c[0];
      terms.feed_forward[1][k][e] = of_c[1];
    }
  }
  return terms;
}

// Its slopes are those of the piece of the grid below, which a unit less lies in.
LayerCost CostModel::latency_of_layer(size_t layer, const LayerSizes& sizes) const {
  constexpr double kStep = 1e-3;
  const auto seconds = [&](const LayerSizes& at) {
    return settings_.latency->layer_s(space_.layers()[layer], at);
  };
  LayerCost out{seconds(sizes), {}};
  for (double LayerSizes::*size :
       {&LayerSizes::attention, &LayerSizes::heads, &LayerSizes::cross_attention,
        &LayerSizes::cross_heads, &LayerSizes::feed_forward, &LayerSizes::channels,
        &LayerSizes::top_k, &LayerSizes::experts}) {
    LayerSizes less = sizes;
    less.*size -= kStep;
    out.slope.*size = (out.cost - seconds(less)) / kStep;
  }
  return out;
}

LayerCost CostModel::of_layer(Resource resource, size_t layer, const LayerSizes& sizes) const {
  if (resource == Resource::kLatency) {
    return settings_.latency ? latency_of_layer(layer, sizes) : LayerCost{};
  }
  const Terms& terms = terms_[static_cast<size_t>(resource)][layer];
  LayerCost out;
  const auto attention = [&](const std::array<double, 2>& a, double branch, double heads,
                             double& branch_slope, double& heads_slope) {
    const double inside = a[0] + a[1] * heads;
    out.cost += branch * inside;
    branch_slope = inside;
    heads_slope = branch * a[1];
  };
  attention(terms.attention, sizes.attention, sizes.heads, out.slope.attention, out.slope.heads);
  attention(terms.cross_attention, sizes.cross_attention, sizes.cross_heads,
            out.slope.cross_attention, out.slope.cross_heads);
  double inside = 0;
  for (size_t c = 0; c < 2; ++c) {
    for (size_t k = 0; k < 2; ++k) {
      for (size_t e = 0; e < 2; ++e) {
        const double factor = terms.feed_forward[c][k][e];
        const double of_c = c == 1 ? sizes.channels : 1;
        const double of_k = k == 1 ? sizes.top_k : 1;
        const double of_e = e == 1 ? sizes.experts : 1;
        inside += factor * of_c * of_k * of_e;
        if (c == 1) out.slope.channels += sizes.feed_forward * factor * of_k * of_e;
        if (k == 1) out.slope.top_k += sizes.feed_forward * factor * of_c * of_e;
        if (e == 1) out.slope.experts += sizes.feed_forward * factor * of_c * of_k;
      }
    }
  }
  out.cost += sizes.feed_forward * inside;
  out.slope.feed_forward = inside;
  return out;
}

double CostModel::cost(Resource resource, const std::vector<LayerSizes>& sizes) const {
  double sum = constant_[static_cast<size_t>(resource)];
  for (size_t layer = 0; layer < sizes.size(); ++layer) {
    sum += of_layer(resource, layer, sizes[layer]).cost;
  }
  return sum;
}

double CostModel::cost(Resource resource, const Mask& mask) const {
  return cost(resource, space_.sizes(space_.active(mask)));
}

std::vector<double> CostModel::slopes(Resource resource, const std::vector<double>& p) const {
  const std::vector<LayerSizes> sizes = space_.expected_sizes(p);
  std::vector<LayerSizes> by_layer;
  for (size_t layer = 0; layer < sizes.size(); ++layer) {
    by_layer.push_back(of_layer(resource, layer, sizes[layer]).slope);
  }
  std::vector<double> out(p.size());
  for (const UnitGroup& group : space_.groups()) {
    const LayerSizes& slope = by_layer[static_cast<size_t>(group.layer)];
    for (size_t unit = group.begin; unit < group.end; ++unit) {
      switch (group.kind) {
        case UnitKind::kHead: out[unit] = slope.heads; break;
        case UnitKind::kCrossHead: out[unit] = slope.cross_heads; break;
        case UnitKind::kBlock: {
          const auto [begin, end] = space_.channels_of(space_.units()[unit]);
          out[unit] = slope.channels * static_cast<double>(end - begin);
          break;
        }
        case UnitKind::kExpert:
          out[unit] = slope.experts * static_cast<double>(space_.options().ep_size);
          break;
        case UnitKind::kSlot: {
          // It counts, and all later ones with it, where those before it are on.
          double sum = 0;
          for (size_t last = unit; last < group.end; ++last) {
            double product = 1;
            for (size_t one = group.begin; one <= last; ++one) {
              if (one != unit) product *= p[one];
            }
            sum += product;
          }
          out[unit] = slope.top_k * sum;
          break;
        }
        case UnitKind::kAttention: out[unit] = slope.attention; break;
        case UnitKind::kCrossAttention: out[unit] = slope.cross_attention; break;
        case UnitKind::kFeedForward: out[unit] = slope.feed_forward; break;
      }
    }
  }
  return out;
}

Limit parse_limit(const std::string& text, const CostModel& costs) {
  const size_t sign = text.find('=');
  const auto refuse = [&] {
    throw ConfigError(
        "budget \"{}\": write a cost and its limit: a share of the whole model's (flops=0.5, "
        "flops=50%), or a number (parameters=20M, memory=2GB, memory=2GiB, latency=12ms) with K, "
        "M, G "
        "or T, for bytes KB to TB or KiB to TiB, for latency s, ms or us",
        text);
  };
  if (sign == std::string::npos) refuse();
  Limit limit{parse_resource(text.substr(0, sign)), 0, text};
  double value = 0;
  const char* begin = text.data() + sign + 1;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(begin, end, value);
  if (error != std::errc() || !(value > 0) || !std::isfinite(value)) refuse();
  static const std::map<std::string_view, double> kUnits{{"", 1},
                                                         {"%", 0.01},
                                                         {"K", 1e3},
                                                         {"M", 1e6},
                                                         {"G", 1e9},
                                                         {"T", 1e12},
                                                         {"TB", 1e12},
                                                         {"TiB", 1024.0 * 1024 * 1024 * 1024},
                                                         {"B", 1},
                                                         {"KB", 1e3},
                                                         {"MB", 1e6},
                                                         {"GB", 1e9},
                                                         {"KiB", 1024},
                                                         {"MiB", 1024.0 * 1024},
                                                         {"GiB", 1024.0 * 1024 * 1024},
                                                         {"s", 1},
                                                         {"ms", 1e-3},
                                                         {"us", 1e-6}};
  const std::string_view unit(rest, static_cast<size_t>(end - rest));
  const auto found = kUnits.find(unit);
  if (found == kUnits.end()) refuse();
  const bool is_time = unit.ends_with("s");
  const bool is_number = unit.empty() || unit == "%";
  if (is_time != (limit.resource == Resource::kLatency) && !is_number) refuse();
  if (limit.resource == Resource::kLatency && !costs.settings().latency) {
    throw ConfigError(
        "budget {}: needs a table of this machine's latencies; make one with `locus "
        "measure-latency`, and name it by --target",
        text);
  }
  const bool is_share = unit == "%" || (unit.empty() && value <= 1);
  if (is_share && costs.whole(limit.resource) == 0) {
    throw ConfigError("budget {}: this model has no cost of that kind, so no share of it", text);
  }
  limit.most = value * found->second * (is_share ? costs.whole(limit.resource) : 1);
  return limit;
}

}  // namespace locus::search
