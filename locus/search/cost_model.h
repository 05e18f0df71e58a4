// What a model costs, and what a smaller one would: FLOPs, parameters, memory, bytes of the
// exchange, latency. Every cost but the last is a sum over layers of products of how much of the
// layer is left, so that putting probabilities in place of a mask gives the exact expectation;
// latency is interpolated between what was measured.
//
// The coefficients are those of model/size.h: it is asked for the costs of a few cuts of each
// layer.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "locus/search/arch_space.h"
#include "locus/search/latency.h"

namespace locus::search {

enum class Resource {
  kFlops,       // forward, of one token
  kParameters,  // values
  kMemory,      // bytes of inference: float32 weights, keys and values of one sequence
  kExchange,    // bytes of a token's rows in training: there and back, forward and backward
  kLatency,     // seconds of a token in generation, by a table that was measured
};
inline constexpr size_t kNumResources = 5;
// "flops", "parameters", "memory", "exchange", "latency"; in this order.
std::string_view resource_name(Resource resource);
// ConfigError that lists the known names.
Resource parse_resource(std::string_view name);

struct CostSettings {
  int64_t sequence_length = 0;
  double labelled_share = 1.0;  // of an encoder's tokens (model/size.h)
  double row_bytes = 4;         // of a value on the wire
  double away_share = 1.0;      // of a token's experts, those on other ranks
  std::shared_ptr<const LatencyTable> latency = nullptr;  // null: latencies are not known, NaN
};

// Of one resource: the cost of a layer with these sizes, and how it changes with each of them.
struct LayerCost {
  double cost = 0;
  LayerSizes slope;
};

class CostModel {
 public:
  CostModel(const ArchSpace& space, const CostSettings& settings);

  // Of all layers and what no cut touches.
  double cost(Resource resource, const std::vector<LayerSizes>& sizes) const;
  double cost(Resource resource, const Mask& mask) const;
  double whole(Resource resource) const { return whole_[static_cast<size_t>(resource)]; }
  LayerCost of_layer(Resource resource, size_t layer, const LayerSizes& sizes) const;
  // d cost / d p of each unit, where p are their probabilities to be there.
  std::vector<double> slopes(Resource resource, const std::vector<double>& p) const;

  // Of a model that has been cut, from its settings alone; not latency.
  static double of_config(Resource resource, const model::ModelConfig& model,
                          const moe::MoeConfig& moe, const CostSettings& settings);

  const ArchSpace& space() const { return space_; }
  const CostSettings& settings() const { return settings_; }

 private:
  // attention * (a[0] + a[1] heads), likewise cross-attention, and feed_forward times a polynomial
  // of channels, top_k and experts, each to the power 0 or 1.
  struct Terms {
    std::array<double, 2> attention{}, cross_attention{};
    std::array<std::array<std::array<double, 2>, 2>, 2> feed_forward{};
  };
  Terms terms_of(Resource resource, size_t layer) const;
  LayerCost latency_of_layer(size_t layer, const LayerSizes& sizes) const;

  const ArchSpace& space_;
  CostSettings settings_;
  std::array<std::vector<Terms>, kNumResources> terms_;
  std::array<double, kNumResources> constant_{}, whole_{};
};

// A limit on a cost: "flops=0.5" (of the whole model's), "parameters=20M", "memory=2GB",
// "latency=12ms".
struct Limit {
  Resource resource = Resource::kFlops;
  double most = 0;   // in the resource's unit
  std::string text;  // as it was asked for
};
// ConfigError that says what is right.
Limit parse_limit(const std::string& text, const CostModel& costs);

}  // namespace locus::search
