#include "locus/cluster/topology.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/base/file.h"

namespace locus::cluster {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kVersion = 1;

// One value of the file and its place in it, for messages ("intra_node.samples").
struct Node {
  const std::string& file;
  std::string path;
  const Json& json;

  [[noreturn]] void fail(std::string_view what) const {
    throw DataError("{}: {} {}", file, path.empty() ? "the document" : path, what);
  }
  Node child(const std::string& key) const {
    if (!json.is_object()) fail("must be an object");
    const auto found = json.find(key);
    const std::string name = path.empty() ? key : path + "." + key;
    if (found == json.end()) throw DataError("{}: {} is missing", file, name);
    return {file, name, *found};
  }
  std::vector<Node> entries() const {
    if (!json.is_array()) fail("must be an array");
    std::vector<Node> result;
    for (const Json& entry : json) {
      result.push_back({file, format("{}[{}]", path, result.size()), entry});
    }
    return result;
  }
  double number() const {  // 0 or more
    if (!json.is_number() || !(json.get<double>() >= 0.0)) fail("must be a number, 0 or more");
    return json.get<double>();
  }
  int64_t integer() const {  // 0 or more
    constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (!json.is_number_unsigned() || json.get<uint64_t>() > kMost) {
      fail("must be an integer, 0 or more");
    }
    return json.get<int64_t>();
  }
  std::string text() const {
    if (!json.is_string() || json.get_ref<const std::string&>().empty()) {
      fail("must be a string that is not empty");
    }
    return json.get<std::string>();
  }
};

void check_sample(const LinkSample& sample) {
  LOCUS_CHECK(sample.bytes >= 0, "got {} bytes", sample.bytes);
  LOCUS_CHECK(std::isfinite(sample.seconds) && sample.seconds > 0.0, "got {} seconds",
              sample.seconds);
}

std::vector<LinkSample> read_samples(const Node& node) {
  const std::vector<Node> bytes = node.child("bytes").entries();
  const std::vector<Node> seconds = node.child("seconds").entries();
  if (bytes.size() != seconds.size()) {
    node.fail(
        format("must have as many bytes as seconds, has {} and {}", bytes.size(), seconds.size()));
  }
  std::vector<LinkSample> samples;
  for (size_t i = 0; i < bytes.size(); ++i) {
    samples.push_back({bytes[i].integer(), seconds[i].number()});
    if (samples[i].seconds == 0.0) seconds[i].fail("must be more than 0");
    if (i > 0 && samples[i].bytes < samples[i - 1].bytes) {
      bytes[i].fail("must not be less than the one before it");
    }
  }
  return samples;
}

Link read_link(const Node& node) {
  return {node.child("latency_s").number(), node.child("bytes_per_s").number(),
          read_samples(node.child("samples"))};
}

Json link_to_json(const Link& link) {
  for (const double value : {link.latency_s, link.bytes_per_s}) {
    LOCUS_CHECK(std::isfinite(value) && value >= 0.0, "got {}", value);
  }
  Json bytes = Json::array(), seconds = Json::array();
  for (const LinkSample& sample : link.samples) {
    check_sample(sample);
    bytes.push_back(sample.bytes);
    seconds.push_back(sample.seconds);
  }
  return {{"latency_s", link.latency_s},
          {"bytes_per_s", link.bytes_per_s},
          {"samples", {{"bytes", std::move(bytes)}, {"seconds", std::move(seconds)}}}};
}

// Least squares with the weights 1 / seconds^2 of squared errors, about the weighted means.
struct Line {
  double mean_bytes = 0.0, mean_s = 0.0, s_per_byte = 0.0;

  double at_zero(double slope) const { return mean_s - slope * mean_bytes; }
};

Line fit_line(const std::vector<LinkSample>& samples) {
  Line line;
  double weight = 0.0;
  for (const LinkSample& sample : samples) {
    const double w = 1.0 / (sample.seconds * sample.seconds);
    weight += w;
    line.mean_bytes += w * static_cast<double>(sample.bytes);
    line.mean_s += w * sample.seconds;
  }
  line.mean_bytes /= weight;
  line.mean_s /= weight;
  double covariance = 0.0, variance = 0.0;
  for (const LinkSample& sample : samples) {
    const double w = 1.0 / (sample.seconds * sample.seconds);
    const double distance = static_cast<double>(sample.bytes) - line.mean_bytes;
    covariance += w * distance * (sample.seconds - line.mean_s);
    variance += w * distance * distance;
  }
  if (variance > 0.0) line.s_per_byte = covariance / variance;
  return line;
}

// Of a line through the origin: the least sum of squares of (s_per_byte * bytes / seconds - 1).
double slope_through_origin(const std::vector<LinkSample>& samples) {
  double rates = 0.0, squares = 0.0;
  for (const LinkSample& sample : samples) {
    const double rate = static_cast<double>(sample.bytes) / sample.seconds;
    rates += rate;
    squares += rate * rate;
  }
  return rates / squares;
}

// Of the largest rate that was seen: no link carries less.
double least_slope(const std::vector<LinkSample>& samples) {
  double slope = std::numeric_limits<double>::infinity();
  for (const LinkSample& sample : samples) {
    if (sample.bytes > 0)
      slope = std::min(slope, sample.seconds / static_cast<double>(sample.bytes));
  }
  return slope;
}

}  // namespace

double Link::seconds(int64_t bytes) const {
  LOCUS_CHECK(bytes >= 0, "got {} bytes", bytes);
  return is_measured() ? latency_s + static_cast<double>(bytes) / bytes_per_s : 0.0;
}

Topology::Topology(int64_t world_size)
    : Topology(std::vector<std::string>(static_cast<size_t>(std::max<int64_t>(world_size, 0)),
                                        "node0")) {}

Topology::Topology(std::span<const std::string> host_of_rank) {
  LOCUS_CHECK(!host_of_rank.empty(), "a topology has one rank or more");
  std::map<std::string_view, int64_t> node_of_host;
  for (const std::string& host : host_of_rank) {
    const int64_t node = node_of_host.try_emplace(host, num_nodes()).first->second;
    if (node == num_nodes()) {
      node_names_.push_back(host);
      ranks_of_node_.emplace_back();
    }
    std::vector<int64_t>& ranks = ranks_of_node_[static_cast<size_t>(node)];
    local_index_.push_back(static_cast<int64_t>(ranks.size()));
    ranks.push_back(world_size());
    node_of_rank_.push_back(node);
  }
}

int64_t Topology::node_of(int64_t rank) const {
  LOCUS_CHECK(rank >= 0 && rank < world_size(), "rank {} of {}", rank, world_size());
  return node_of_rank_[static_cast<size_t>(rank)];
}

const std::vector<int64_t>& Topology::ranks_of(int64_t node) const {
  LOCUS_CHECK(node >= 0 && node < num_nodes(), "node {} of {}", node, num_nodes());
  return ranks_of_node_[static_cast<size_t>(node)];
}

int64_t Topology::local_index(int64_t rank) const {
  LOCUS_CHECK(rank >= 0 && rank < world_size(), "rank {} of {}", rank, world_size());
  return local_index_[static_cast<size_t>(rank)];
}

const std::string& Topology::node_name(int64_t node) const {
  LOCUS_CHECK(node >= 0 && node < num_nodes(), "node {} of {}", node, num_nodes());
  return node_names_[static_cast<size_t>(node)];
}

bool Topology::is_even() const {
  const size_t num_ranks = ranks_of_node_.front().size();
  return std::all_of(ranks_of_node_.begin(), ranks_of_node_.end(),
                     [&](const auto& ranks) { return ranks.size() == num_ranks; });
}

Topology read_topology(const std::filesystem::path& path) {
  const std::string file = path.string();
  Json document;
  try {
    document = Json::parse(read_file(path));
  } catch (const Json::exception& error) {  // also for a number that is out of range
    throw DataError("{}: is no valid JSON: {}", file, error.what());
  }
  const Node root{file, "", document};
  const Node version = root.child("version");
  if (version.json != kVersion) version.fail(format("must be {}", kVersion));
  const Node hosts = root.child("hosts");
  std::vector<std::string> host_of_rank;
  for (const Node& host : hosts.entries()) host_of_rank.push_back(host.text());
  if (host_of_rank.empty()) hosts.fail("must name the host of one rank or more");
  Topology topology(host_of_rank);
  topology.intra_node = read_link(root.child("intra_node"));
  topology.inter_node = read_link(root.child("inter_node"));
  return topology;
}

void write_topology(const Topology& topology, const std::filesystem::path& path) {
  Json hosts = Json::array();
  for (int64_t rank = 0; rank < topology.world_size(); ++rank) {
    hosts.push_back(topology.node_name(topology.node_of(rank)));
  }
  const Json document = {{"version", kVersion},
                         {"hosts", std::move(hosts)},
                         {"intra_node", link_to_json(topology.intra_node)},
                         {"inter_node", link_to_json(topology.inter_node)}};
  write_file_atomic(path, document.dump(2, ' ', true, Json::error_handler_t::replace) + "\n");
}

Link fit_link(std::vector<LinkSample> samples) {
  std::for_each(samples.begin(), samples.end(), check_sample);
  std::stable_sort(samples.begin(), samples.end(),
                   [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  Link link;
  link.samples = std::move(samples);
  if (link.samples.empty() || link.samples.back().bytes == 0) return link;
  const LinkSample& largest = link.samples.back();
  const Line line = fit_line(link.samples);
  double slope = line.s_per_byte;
  if (link.samples.front().bytes == largest.bytes || line.at_zero(slope) < 0.0) {
    // One size tells no latency, and no latency is negative.
    link.bytes_per_s = 1.0 / slope_through_origin(link.samples);
    return link;
  }
  constexpr double kRounding = 1e-9;
  if (slope * static_cast<double>(largest.bytes) <= kRounding * line.mean_s) {
    slope = least_slope(link.samples);  // noise hides the slope
  }
  link.bytes_per_s = 1.0 / slope;
  link.latency_s = std::max(0.0, line.at_zero(slope));
  return link;
}

}  // namespace locus::cluster
