#include "locus/cluster/topology.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::cluster {
namespace {

using Hosts = std::vector<std::string>;
using Ranks = std::vector<int64_t>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

constexpr std::string_view kText = R"({
  "version": 1,
  "hosts": ["b", "a", "b"],
  "intra_node": {
    "latency_s": 1e-6,
    "bytes_per_s": 2e9,
    "samples": {"bytes": [0, 8, 8, 1024], "seconds": [1e-6, 2e-6, 1.5e-6, 3e-6]}
  },
  "inter_node": {"latency_s": 0, "bytes_per_s": 0, "samples": {"bytes": [], "seconds": []}}
})";

std::string replaced(std::string_view from, std::string_view to) {
  std::string text(kText);
  const size_t place = text.find(from);
  EXPECT_NE(place, std::string::npos) << from;
  return text.replace(place, from.size(), to);
}

Topology read_text(const std::string& text) {
  const test::TempFolder folder;
  write_file_atomic(folder / "topology.json", text);
  return read_topology(folder / "topology.json");
}

// What reading `text` fails with, less the path.
std::string read_error(const std::string& text) {
  const std::string message = test::error_of<DataError>([&] { read_text(text); });
  const std::string name = "topology.json: ";
  const size_t place = message.find(name);
  EXPECT_NE(place, std::string::npos) << message;
  return message.substr(place + name.size());
}

std::vector<LinkSample> samples_of(double latency_s, double bytes_per_s, const Ranks& sizes) {
  std::vector<LinkSample> samples;
  for (const int64_t bytes : sizes) {
    samples.push_back({bytes, latency_s + static_cast<double>(bytes) / bytes_per_s});
  }
  return samples;
}

TEST(Topology, IsOneNodeWhereNothingElseIsSaid) {
  EXPECT_EQ(Topology().world_size(), 1);
  const Topology topology(4);
  EXPECT_EQ(topology.world_size(), 4);
  EXPECT_EQ(topology.num_nodes(), 1);
  EXPECT_EQ(topology.ranks_of(0), (Ranks{0, 1, 2, 3}));
  EXPECT_EQ(topology.local_index(3), 3);
  EXPECT_TRUE(topology.is_even());
  EXPECT_FALSE(topology.intra_node.is_measured());
}

TEST(Topology, NumbersNodesByFirstAppearance) {
  const Topology topology(Hosts{"z", "a", "z", "m", "a", "z"});
  EXPECT_EQ(topology.num_nodes(), 3);
  EXPECT_EQ(topology.node_name(0), "z");
  EXPECT_EQ(topology.node_name(1), "a");
  EXPECT_EQ(topology.node_name(2), "m");
  EXPECT_EQ(topology.ranks_of(0), (Ranks{0, 2, 5}));
  EXPECT_EQ(topology.ranks_of(1), (Ranks{1, 4}));
  EXPECT_EQ(topology.ranks_of(2), (Ranks{3}));
  const Ranks nodes = {0, 1, 0, 2, 1, 0}, places = {0, 0, 1, 0, 1, 2};
  for (int64_t rank = 0; rank < 6; ++rank) {
    EXPECT_EQ(topology.node_of(rank), nodes[static_cast<size_t>(rank)]);
    EXPECT_EQ(topology.local_index(rank), places[static_cast<size_t>(rank)]);
  }
  EXPECT_FALSE(topology.is_even());
}

TEST(Topology, IsEvenWhereNodesHoldEquallyManyRanks) {
  EXPECT_TRUE(Topology(Hosts{"a", "b", "b", "a"}).is_even());
  EXPECT_TRUE(Topology(Hosts{"a", "b", "c"}).is_even());
  EXPECT_FALSE(Topology(Hosts{"a", "a", "b"}).is_even());
  EXPECT_FALSE(Topology(Hosts{"a", "b", "b"}).is_even());
}

TEST(Topology, OutlivesTheNamesItWasMadeOf) {
  Topology topology;
  {
    const Hosts hosts = {std::string(100, 'x'), std::string(100, 'y')};
    topology = Topology(hosts);
  }
  EXPECT_EQ(topology.node_name(1), std::string(100, 'y'));
}

TEST(Topology, ChecksRanksAndNodes) {
  const Topology topology(Hosts{"a", "b", "b"});
  EXPECT_THROW(topology.node_of(3), InternalError);
  EXPECT_THROW(topology.node_of(-1), InternalError);
  EXPECT_THROW(topology.local_index(3), InternalError);
  EXPECT_THROW(topology.ranks_of(2), InternalError);
  EXPECT_THROW(topology.node_name(-1), InternalError);
  EXPECT_THROW(Topology(0), InternalError);
  EXPECT_THROW(Topology(-1), InternalError);
  EXPECT_THROW(Topology(Hosts{}), InternalError);
}

TEST(Link, TellsTheTimeOfAMessage) {
  const Link link{1e-5, 1e9, {}};
  EXPECT_DOUBLE_EQ(link.seconds(0), 1e-5);
  EXPECT_DOUBLE_EQ(link.seconds(1'000'000), 1e-5 + 1e-3);
  EXPECT_DOUBLE_EQ(link.seconds(int64_t{1} << 40), 1e-5 + std::pow(2.0, 40) / 1e9);
  EXPECT_THROW(link.seconds(-1), InternalError);
}

TEST(Link, TellsNoTimeWithoutAMeasurement) {
  EXPECT_EQ(Link().seconds(1'000'000), 0.0);
  EXPECT_EQ((Link{1e-5, 0.0, {}}).seconds(1), 0.0);
}

TEST(FitLink, FindsTheLineThatSamplesLieOn) {
  for (const double latency_s : {0.0, 1e-6, 1e-3}) {
    for (const double bytes_per_s : {1e6, 1e9, 4.5e11}) {
      const Link link = fit_link(
          samples_of(latency_s, bytes_per_s, {1, 64, 4096, 1 << 20, 1 << 24, int64_t{1} << 32}));
      EXPECT_NEAR(link.latency_s, latency_s, 1e-6 * latency_s + 1e-12);
      EXPECT_NEAR(link.bytes_per_s, bytes_per_s, 1e-6 * bytes_per_s);
    }
  }
}

TEST(FitLink, CountsSmallMessagesAsMuchAsLargeOnes) {
  // Without the weights the error of 10 % at the largest size would drown a latency of 10 us.
  std::vector<LinkSample> samples = samples_of(1e-5, 1e9, {8, 64, 512, 4096, 32768, 1 << 28});
  samples.back().seconds *= 1.1;
  const Link link = fit_link(samples);
  EXPECT_NEAR(link.latency_s, 1e-5, 0.1e-5);
  EXPECT_NEAR(link.bytes_per_s, 1e9 / 1.1, 0.05e9);
}

TEST(FitLink, MinimisesTheSquaresOfRelativeErrors) {
  const std::vector<LinkSample> samples = {
      {100, 1.2e-5}, {1000, 1.0e-5}, {10'000, 2.3e-5}, {100'000, 1.05e-4}, {1'000'000, 1.1e-3}};
  const Link link = fit_link(samples);
  const auto error = [&](double latency_s, double bytes_per_s) {
    double sum = 0.0;
    for (const LinkSample& sample : samples) {
      sum += std::pow(Link{latency_s, bytes_per_s, {}}.seconds(sample.bytes) / sample.seconds - 1.0,
                      2);
    }
    return sum;
  };
  const double least = error(link.latency_s, link.bytes_per_s);
  for (const double factor : {0.99, 1.01}) {
    EXPECT_LT(least, error(link.latency_s * factor, link.bytes_per_s));
    EXPECT_LT(least, error(link.latency_s, link.bytes_per_s * factor));
    EXPECT_LT(least, error(link.latency_s * factor, link.bytes_per_s * factor));
  }
}

TEST(FitLink, KeepsTheSamplesByRisingSize) {
  const Link link = fit_link({{64, 3e-6}, {8, 1e-6}, {64, 2e-6}});
  ASSERT_EQ(link.samples.size(), 3U);
  EXPECT_EQ(link.samples[0].bytes, 8);
  EXPECT_EQ(link.samples[1].seconds, 3e-6) << "equal sizes keep their order";
  EXPECT_EQ(link.samples[2].seconds, 2e-6);
}

TEST(FitLink, MeasuresNothingWithoutBytes) {
  EXPECT_FALSE(fit_link({}).is_measured());
  const Link link = fit_link({{0, 1e-6}, {0, 2e-6}});
  EXPECT_FALSE(link.is_measured());
  EXPECT_EQ(link.samples.size(), 2U);
}

TEST(FitLink, TellsNoLatencyFromOneSize) {
  const Link one = fit_link({{1000, 1e-6}});
  EXPECT_EQ(one.latency_s, 0.0);
  EXPECT_NEAR(one.bytes_per_s, 1e9, 1.0);
  const Link three = fit_link({{1000, 1e-6}, {1000, 1.1e-6}, {1000, 0.9e-6}});
  EXPECT_EQ(three.latency_s, 0.0);
  EXPECT_NEAR(three.bytes_per_s, 1e9, 0.02e9);
}

TEST(FitLink, HasNoNegativeLatency) {
  const Link link = fit_link({{1000, 1e-6}, {10'000, 2e-5}, {100'000, 4e-4}});
  EXPECT_EQ(link.latency_s, 0.0);
  // The best line through the origin, of rates r: sum r^2 / sum r.
  EXPECT_NEAR(link.bytes_per_s, (1.0 + 0.25 + 0.0625) / (1.0 + 0.5 + 0.25) * 1e9, 1.0);
}

TEST(FitLink, StaysFiniteWhereNoiseHidesTheSlope) {
  for (const double last_s : {1e-5, 0.8e-5}) {  // flat; falling
    const Link link = fit_link({{8, 1e-5}, {64, 1e-5}, {1024, last_s}});
    EXPECT_NEAR(link.bytes_per_s, 1024 / last_s, 1.0) << "the largest rate that was seen";
    EXPECT_GE(link.latency_s, 0.0);
    EXPECT_LE(link.latency_s, 1e-5);
    EXPECT_NEAR(link.seconds(8), 1e-5, 0.5e-5);
  }
}

TEST(FitLink, RefusesTimesThatAreNone) {
  for (const double seconds : {0.0, -1e-6, kNan, kInfinity}) {
    EXPECT_THROW(fit_link({{8, 1e-6}, {64, seconds}}), InternalError);
  }
  EXPECT_THROW(fit_link({{-1, 1e-6}}), InternalError);
}

TEST(TopologyFile, ComesBackAsItWasWritten) {
  Topology topology(Hosts{"node1", "node2", "node1", "n\"ode\\3", "node2"});
  topology.intra_node = fit_link(samples_of(1.3e-6, 7.7e9, {8, 1024, 1 << 20}));
  topology.inter_node = {
      1.0 / 3.0, 1e-300, {{0, 5e-324}, {std::numeric_limits<int64_t>::max(), 1}}};
  const test::TempFolder folder;
  const fs::path path = folder / "topology.json";
  write_topology(topology, path);
  const Topology read = read_topology(path);
  ASSERT_EQ(read.world_size(), 5);
  ASSERT_EQ(read.num_nodes(), 3);
  for (int64_t rank = 0; rank < 5; ++rank) {
    EXPECT_EQ(read.node_of(rank), topology.node_of(rank));
    EXPECT_EQ(read.local_index(rank), topology.local_index(rank));
  }
  for (int64_t node = 0; node < 3; ++node) {
    EXPECT_EQ(read.node_name(node), topology.node_name(node));
    EXPECT_EQ(read.ranks_of(node), topology.ranks_of(node));
  }
  for (const auto link : {&Topology::intra_node, &Topology::inter_node}) {
    EXPECT_EQ((read.*link).latency_s, (topology.*link).latency_s);
    EXPECT_EQ((read.*link).bytes_per_s, (topology.*link).bytes_per_s);
    ASSERT_EQ((read.*link).samples.size(), (topology.*link).samples.size());
    for (size_t i = 0; i < (read.*link).samples.size(); ++i) {
      EXPECT_EQ((read.*link).samples[i].bytes, (topology.*link).samples[i].bytes);
      EXPECT_EQ((read.*link).samples[i].seconds, (topology.*link).samples[i].seconds);
    }
  }
  const std::string text = read_file(path);
  write_topology(read, path);
  EXPECT_EQ(read_file(path), text);
}

TEST(TopologyFile, IsReadAsTheDocumentDescribesIt) {
  const Topology topology = read_text(std::string(kText));
  EXPECT_EQ(topology.node_name(0), "b");
  EXPECT_EQ(topology.ranks_of(0), (Ranks{0, 2}));
  EXPECT_EQ(topology.intra_node.latency_s, 1e-6);
  EXPECT_EQ(topology.intra_node.bytes_per_s, 2e9);
  ASSERT_EQ(topology.intra_node.samples.size(), 4U);
  EXPECT_EQ(topology.intra_node.samples[3].bytes, 1024);
  EXPECT_EQ(topology.intra_node.samples[3].seconds, 3e-6);
  EXPECT_FALSE(topology.inter_node.is_measured());
}

TEST(TopologyFile, NamesTheKeyThatIsMissing) {
  EXPECT_EQ(read_error("{}"), "version is missing");
  for (const std::string key : {"version", "hosts", "intra_node", "inter_node"}) {
    EXPECT_EQ(read_error(replaced("\"" + key + "\"", "\"_\"")), key + " is missing");
  }
  EXPECT_EQ(read_error(replaced("latency_s", "_")), "intra_node.latency_s is missing");
  EXPECT_EQ(read_error(replaced("bytes_per_s", "_")), "intra_node.bytes_per_s is missing");
  EXPECT_EQ(read_error(replaced("samples", "_")), "intra_node.samples is missing");
  EXPECT_EQ(read_error(replaced("\"bytes\"", "\"_\"")), "intra_node.samples.bytes is missing");
  EXPECT_EQ(read_error(replaced("\"seconds\"", "\"_\"")), "intra_node.samples.seconds is missing");
}

TEST(TopologyFile, NamesTheKeyOfAWrongType) {
  EXPECT_EQ(read_error("[]"), "the document must be an object");
  EXPECT_EQ(read_error("null"), "the document must be an object");
  EXPECT_EQ(read_error(replaced("\"version\": 1", "\"version\": 2")), "version must be 1");
  EXPECT_EQ(read_error(replaced("\"version\": 1", "\"version\": \"1\"")), "version must be 1");
  EXPECT_EQ(read_error(replaced("[\"b\", \"a\", \"b\"]", "\"b\"")), "hosts must be an array");
  EXPECT_EQ(read_error(replaced("[\"b\", \"a\", \"b\"]", "{\"b\": 1}")), "hosts must be an array");
  EXPECT_EQ(read_error(replaced("[\"b\", \"a\", \"b\"]", "[]")),
            "hosts must name the host of one rank or more");
  EXPECT_EQ(read_error(replaced("\"a\"", "7")), "hosts[1] must be a string that is not empty");
  EXPECT_EQ(read_error(replaced("\"a\"", "\"\"")), "hosts[1] must be a string that is not empty");
  EXPECT_EQ(read_error(replaced("{\"bytes\": [], \"seconds\": []}", "[]")),
            "inter_node.samples must be an object");
  EXPECT_EQ(read_error(replaced("\"bytes\": []", "\"bytes\": 8")),
            "inter_node.samples.bytes must be an array");
}

TEST(TopologyFile, NamesTheNumberThatIsOutOfRange) {
  for (const std::string value : {"-1e-6", "-1", "\"1\"", "null", "true", "[1]", "{}"}) {
    EXPECT_EQ(read_error(replaced("1e-6", value)),
              "intra_node.latency_s must be a number, 0 or more");
    EXPECT_EQ(read_error(replaced("2e9", value)),
              "intra_node.bytes_per_s must be a number, 0 or more");
    EXPECT_EQ(read_error(replaced("1.5e-6", value)),
              "intra_node.samples.seconds[2] must be a number, 0 or more");
  }
  EXPECT_EQ(read_error(replaced("1.5e-6", "0")),
            "intra_node.samples.seconds[2] must be more than 0");
  for (const std::string value : {"-8", "8.0", "9223372036854775808", "\"8\"", "null"}) {
    EXPECT_EQ(read_error(replaced("8, 8", "8, " + value)),
              "intra_node.samples.bytes[2] must be an integer, 0 or more");
  }
}

TEST(TopologyFile, RefusesListsThatDoNotFitTogether) {
  EXPECT_EQ(read_error(replaced("[0, 8, 8, 1024]", "[0, 8, 8]")),
            "intra_node.samples must have as many bytes as seconds, has 3 and 4");
  EXPECT_EQ(read_error(replaced("\"seconds\": []", "\"seconds\": [1]")),
            "inter_node.samples must have as many bytes as seconds, has 0 and 1");
  EXPECT_EQ(read_error(replaced("[0, 8, 8, 1024]", "[0, 8, 7, 1024]")),
            "intra_node.samples.bytes[2] must not be less than the one before it");
}

TEST(TopologyFile, RefusesWhatIsNoJson) {
  const std::string text(kText);
  for (const std::string& broken :
       {std::string(), text.substr(0, text.size() / 2), text + "}", replaced("2e9", "1e999"),
        replaced("2e9", "NaN"), replaced("2e9", "Infinity"), std::string("\xff\xfe", 2),
        replaced("\"a\"", "\"\xff\"")}) {
    EXPECT_EQ(read_error(broken).substr(0, 17), "is no valid JSON:") << broken;
  }
  EXPECT_EQ(read_error(std::string(100'000, '[')).substr(0, 17), "is no valid JSON:");
  EXPECT_EQ(read_error(std::string(100'000, '[') + std::string(100'000, ']')),
            "the document must be an object");
}

TEST(TopologyFile, NamesTheFileThatIsNotThere) {
  const test::TempFolder folder;
  const std::string message =
      test::error_of<DataError>([&] { read_topology(folder / "none.json"); });
  EXPECT_NE(message.find("none.json"), std::string::npos) << message;
  EXPECT_NE(test::error_of<DataError>([&] {
              write_topology(Topology(1), folder / "no/file.json");
            }).find("no/file.json"),
            std::string::npos);
}

TEST(TopologyFile, HoldsNoNumberThatJsonCannot) {
  const test::TempFolder folder;
  for (const double value : {kNan, kInfinity, -1.0}) {
    Topology topology(1);
    topology.inter_node.latency_s = value;
    EXPECT_THROW(write_topology(topology, folder / "topology.json"), InternalError);
    topology.inter_node = {0.0, value, {}};
    EXPECT_THROW(write_topology(topology, folder / "topology.json"), InternalError);
    topology.inter_node = {0.0, 1.0, {{1, value}}};
    EXPECT_THROW(write_topology(topology, folder / "topology.json"), InternalError);
  }
  EXPECT_FALSE(fs::exists(folder / "topology.json"));
}

}  // namespace
}  // namespace locus::cluster
