// What a run folder holds, as the report needs it. The formats are described in
// docs/formats/run.md.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "locus/base/file.h"
#include "locus/report/config_lines.h"
#include "locus/report/trace.h"

namespace locus::report {

// A number that the file does not give, or gives as null because it was not finite.
inline constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

// The last "run" line.
struct RunInfo {
  std::string time, version, router;
  double parameters = kMissing, active_parameters = kMissing, flops_per_token = kMissing;
  double tokens_per_step = kMissing, peak_flops = kMissing, num_layers = kMissing;
  double num_encoder_layers = kMissing;  // in old runs, of decoders
  double num_experts = kMissing, threads = kMissing, ranks = kMissing;
  std::vector<std::string> domains;
  std::vector<int64_t> node_of_ep_rank;
};

struct TrainPoint {
  int64_t step = 0;
  double loss = kMissing, perplexity = kMissing, aux_loss = kMissing, lr = kMissing;
  double grad_norm = kMissing, tokens = kMissing, tokens_per_s = kMissing, flops_share = kMissing;
  double flops = kMissing;
  double step_time_s = kMissing, time_data_s = kMissing, time_forward_s = kMissing;
  double time_backward_s = kMissing, time_reduce_s = kMissing, time_optimizer_s = kMissing;
  double time_other_s = kMissing;
  double skipped_steps = kMissing, rss_bytes = kMissing;
};

struct MoePoint {
  int64_t step = 0;
  std::vector<double> tokens_per_expert{};
  double load_cv = kMissing, load_max_over_mean = kMissing, dead_experts = kMissing;
  double dropped_share = kMissing, unrouted_share = kMissing, entropy = kMissing;
  double experts_per_token = kMissing, top_weight = kMissing, balance_loss = kMissing,
         z_loss = kMissing;
  double balance_gradient_norm = kMissing, z_gradient_norm = kMissing;
  double locality_gradient_norm = kMissing;
  double locality_loss = kMissing, cosine = kMissing, calinski_harabasz = kMissing;
  double capacity = kMissing, capacity_bound = kMissing;  // tokens of an expert
};

struct MoeLayerData {
  std::vector<MoePoint> points;
  // Of the last sampled step alone: all of them would not fit into memory for long runs.
  std::vector<std::vector<double>> domain_expert;
  int64_t domain_expert_step = -1;
};

// What one layer's exchanges of token rows cost in one step: sums over ranks, seconds are means.
struct ExchangePoint {
  int64_t step = 0;
  double intra_bytes = kMissing, inter_bytes = kMissing;  // within and between nodes
  double least_inter_bytes = kMissing, flat_inter_bytes = kMissing, inter_messages = kMissing;
  double flight_s = kMissing, exposed_s = kMissing, plan_s = kMissing;
  double assigned_bytes = kMissing;  // a row for each assignment, wherever its expert is
  double on_node = kMissing;         // of the tokens' ways to experts: those that stay there
};

struct ExchangeWay {
  double intra_bytes = kMissing, inter_bytes = kMissing, flight_s = kMissing, exposed_s = kMissing;
};
inline constexpr std::array<const char*, 4> kExchangeWays = {
    "dispatch", "combine", "combine_gradient", "dispatch_gradient"};

// What only a layer's last line is asked for.
struct ExchangeDetail {
  std::string type;
  double chunks = kMissing;
  std::array<ExchangeWay, kExchangeWays.size()> ways{};
  std::vector<std::vector<double>> rank_bytes{};  // [from][to], square
  std::vector<int64_t> node_of{};                 // by rank of the matrix; empty: not known
};

struct ExchangeLayerData {
  std::vector<ExchangePoint> points;
  std::optional<ExchangeDetail> last;  // of points.back(); absent after a resume before it
};

// Of the tokens' ways to experts, the shares that were expected to stay on the node: with the
// sequences where they were placed, and as they come.
struct PlacementPoint {
  int64_t step = 0;
  double expected_on_node = kMissing, unplaced_on_node = kMissing;
};

// Of one layer, when experts might have moved.
struct MigrationPoint {
  int64_t step = 0;
  double moved = kMissing, declined = kMissing, saves_bytes = kMissing, costs_bytes = kMissing;
};

struct DomainScore {
  std::string name;
  double loss = kMissing, perplexity = kMissing, tokens = kMissing;
};

struct ValidPoint {
  int64_t step = 0;
  double loss = kMissing, perplexity = kMissing, bits_per_byte = kMissing, accuracy = kMissing;
  std::vector<DomainScore> by_domain{};
};

struct CheckpointPoint {
  int64_t step = 0;
  double stall_s = kMissing;
};

struct EndInfo {
  int64_t step = 0;
  std::string reason;
  double loss = kMissing, wall_s = kMissing, tokens = kMissing, peak_rss_bytes = kMissing;
};

// eval.json: `rule` is empty but for expert-choice models.
struct EvalInfo {
  std::string checkpoint, data, rule;
  ValidPoint score;
};

struct RunData {
  fs::path folder;
  std::string name;  // last part of the folder
  RunInfo info;
  std::vector<TrainPoint> train;  // here and below: ascending steps, each once
  std::vector<ValidPoint> valid;
  std::vector<CheckpointPoint> checkpoints;
  std::map<int64_t, MoeLayerData> moe;                       // by number of the layer
  std::map<int64_t, ExchangeLayerData> exchange;             // the same; empty on one rank
  std::vector<PlacementPoint> placement;                     // of sequences; empty: they stay
  std::map<int64_t, std::vector<MigrationPoint>> migration;  // of experts, by layer
  std::optional<Trace> trace;                                // trace.json
  std::string trace_problem;   // why a trace.json that is there is left out
  std::optional<EndInfo> end;  // absent: still running, or killed
  std::optional<EvalInfo> eval;
  std::vector<ConfigLine> config;
  std::string samples;
  int64_t num_resumes = 0;
  int64_t num_torn_lines = 0;  // cut off by a kill, left out
};

// Reads a run folder. A line that was cut off is left out where that can happen: at the end of
// metrics.jsonl and before the "run" line of a resume. A "run" line ends what came before it: lines
// of later steps than `resumed_from` belong to a history that was given up. Where a step comes
// twice, the later line counts. Lines of unknown kinds are of newer versions and left out.
// DataError, naming file and line: missing or broken metrics.jsonl, config.toml or eval.json, and a
// run without any training line. A broken trace.json is only left out: see trace_problem.
RunData load_run(const fs::path& folder);

}  // namespace locus::report
