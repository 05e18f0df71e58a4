// How long a token takes on one machine, as a sum over layers: measured there for layers of some
// shapes (app/measure_latency.cpp), between which it is interpolated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "locus/search/arch_space.h"

namespace locus::search {

// Seconds on a grid; linear in each direction between its points, and the nearest beyond them.
struct LatencyGrid {
  std::vector<std::vector<double>> axes;  // rising points of each direction
  std::vector<double> seconds;            // the last direction fastest

  double at(const std::vector<double>& place) const;
  // What was measured, such that more of a layer never takes less time: the middle between the
  // largest of what is smaller and the least of what is larger, in each direction.
  void make_rising();
};

// Layers that are alike before they are cut.
struct LayerLatency {
  int64_t heads = 0, channels = 0, experts = 0, top_k = 0;  // experts 0: a dense layer
  LatencyGrid attention;                                    // by key/value heads
  LatencyGrid feed_forward;  // by channels, and with experts by top_k and experts, too
};

struct LatencyTable {
  // What it holds for: another machine, type or model is another table.
  std::string machine, dtype, model;
  int64_t num_threads = 0, batch_size = 0, context = 0;
  double constant_s = 0;  // beside the layers; below 0 where branches save each other time
  std::vector<LayerLatency> layers;

  // Of a layer of the whole model that has this much left.
  double layer_s(const model::LayerConfig& layer, const LayerSizes& sizes) const;
};

// Without measurements.
LayerLatency latency_of_whole(const model::LayerConfig& layer);
bool is_alike(const LayerLatency& latency, const model::LayerConfig& layer);

// The shape that a table of latencies is of.
std::string latency_model_text(const model::ModelConfig& model, const moe::MoeConfig& moe);

std::string to_json(const LatencyTable& table);
// DataError that names `source`.
LatencyTable read_latency_table(const std::string& source, const std::string& json);

// ConfigError where the table is of another machine, type or model; DataError where it lacks one of
// its layers.
void check_latency_table(const LatencyTable& table, const std::string& source,
                         const std::string& machine, const std::string& dtype, int64_t num_threads,
                         const model::ModelConfig& model, const moe::MoeConfig& moe);

}  // namespace locus::search
