// The machine that a job runs on: which rank sits on which node, and what the links carry.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace locus::cluster {

// One way of `bytes` over a link, with all ranks of the measurement busy.
struct LinkSample {
  int64_t bytes = 0;
  double seconds = 0.0;
};

// Latency in seconds, bandwidth in bytes per second of one rank; 0: not measured.
struct Link {
  double latency_s = 0.0;
  double bytes_per_s = 0.0;
  std::vector<LinkSample> samples;  // what the two were fitted to, by rising size

  bool is_measured() const { return bytes_per_s > 0.0; }
  double seconds(int64_t bytes) const;  // of one message; 0 where not measured
};

class Topology {
 public:
  // One node.
  explicit Topology(int64_t world_size = 1);
  // The hosts of ranks 0, 1, ...: nodes are numbered by first appearance.
  explicit Topology(std::span<const std::string> host_of_rank);

  int64_t world_size() const { return static_cast<int64_t>(node_of_rank_.size()); }
  int64_t num_nodes() const { return static_cast<int64_t>(node_names_.size()); }
  int64_t node_of(int64_t rank) const;
  // Ranks of a node, rising.
  const std::vector<int64_t>& ranks_of(int64_t node) const;
  // Place of a rank among those of its node.
  int64_t local_index(int64_t rank) const;
  const std::string& node_name(int64_t node) const;
  // All nodes hold equally many ranks.
  bool is_even() const;

  Link intra_node, inter_node;

 private:
  std::vector<int64_t> node_of_rank_;
  std::vector<std::string> node_names_;
  std::vector<std::vector<int64_t>> ranks_of_node_;
  std::vector<int64_t> local_index_;
};

// JSON, one object (docs/formats/topology.md). DataError that names the file and the key.
Topology read_topology(const std::filesystem::path& path);
void write_topology(const Topology& topology, const std::filesystem::path& path);

// Least squares of seconds = latency + bytes / bandwidth, weighted by 1 / seconds, so that small
// messages count as much as large ones.
Link fit_link(std::vector<LinkSample> samples);

}  // namespace locus::cluster
