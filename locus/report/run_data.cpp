#include "locus/report/run_data.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "locus/base/error.h"

namespace locus::report {
namespace {

using nlohmann::json;

// One JSON object and where it stands, for messages.
struct Line {
  std::string where;  // "runs/a/metrics.jsonl:12"
  json object;
};

template <class Point>
struct Number {
  const char* key;
  double Point::*member;
};

constexpr Number<RunInfo> kRunNumbers[] = {
    {"parameters", &RunInfo::parameters},
    {"active_parameters", &RunInfo::active_parameters},
    {"flops_per_token", &RunInfo::flops_per_token},
    {"tokens_per_step", &RunInfo::tokens_per_step},
    {"peak_flops", &RunInfo::peak_flops},
    {"num_layers", &RunInfo::num_layers},
    {"num_encoder_layers", &RunInfo::num_encoder_layers},
    {"num_experts", &RunInfo::num_experts},
    {"threads", &RunInfo::threads},
    {"ranks", &RunInfo::ranks},
};

constexpr Number<TrainPoint> kTrainNumbers[] = {
    {"loss", &TrainPoint::loss},
    {"perplexity", &TrainPoint::perplexity},
    {"aux_loss", &TrainPoint::aux_loss},
    {"lr", &TrainPoint::lr},
    {"grad_norm", &TrainPoint::grad_norm},
    {"tokens", &TrainPoint::tokens},
    {"tokens_per_s", &TrainPoint::tokens_per_s},
    {"flops", &TrainPoint::flops},
    {"flops_share", &TrainPoint::flops_share},
    {"step_time_s", &TrainPoint::step_time_s},
    {"time_data_s", &TrainPoint::time_data_s},
    {"time_forward_s", &TrainPoint::time_forward_s},
    {"time_backward_s", &TrainPoint::time_backward_s},
    {"time_reduce_s", &TrainPoint::time_reduce_s},
    {"time_optimizer_s", &TrainPoint::time_optimizer_s},
    {"time_other_s", &TrainPoint::time_other_s},
    {"skipped_steps", &TrainPoint::skipped_steps},
    {"rss_bytes", &TrainPoint::rss_bytes},
};

constexpr Number<MoePoint> kMoeNumbers[] = {
    {"load_cv", &MoePoint::load_cv},
    {"load_max_over_mean", &MoePoint::load_max_over_mean},
    {"dead_experts", &MoePoint::dead_experts},
    {"dropped_share", &MoePoint::dropped_share},
    {"unrouted_share", &MoePoint::unrouted_share},
    {"entropy", &MoePoint::entropy},
    {"top_weight", &MoePoint::top_weight},
    {"experts_per_token", &MoePoint::experts_per_token},
    {"balance_loss", &MoePoint::balance_loss},
    {"z_loss", &MoePoint::z_loss},
    {"locality_loss", &MoePoint::locality_loss},
    {"balance_gradient_norm", &MoePoint::balance_gradient_norm},
    {"z_gradient_norm", &MoePoint::z_gradient_norm},
    {"locality_gradient_norm", &MoePoint::locality_gradient_norm},
    {"cosine", &MoePoint::cosine},
    {"calinski_harabasz", &MoePoint::calinski_harabasz},
    {"capacity", &MoePoint::capacity},
    {"capacity_bound", &MoePoint::capacity_bound},
};

constexpr Number<PlacementPoint> kPlacementNumbers[] = {
    {"expected_on_node", &PlacementPoint::expected_on_node},
    {"unplaced_on_node", &PlacementPoint::unplaced_on_node},
};

constexpr Number<MigrationPoint> kMigrationNumbers[] = {
    {"moved", &MigrationPoint::moved},
    {"declined", &MigrationPoint::declined},
    {"saves_bytes", &MigrationPoint::saves_bytes},
    {"costs_bytes", &MigrationPoint::costs_bytes},
};

constexpr Number<ExchangePoint> kExchangeNumbers[] = {
    {"intra_bytes", &ExchangePoint::intra_bytes},
    {"inter_bytes", &ExchangePoint::inter_bytes},
    {"least_inter_bytes", &ExchangePoint::least_inter_bytes},
    {"flat_inter_bytes", &ExchangePoint::flat_inter_bytes},
    {"assigned_bytes", &ExchangePoint::assigned_bytes},
    {"inter_messages", &ExchangePoint::inter_messages},
    {"flight_s", &ExchangePoint::flight_s},
    {"exposed_s", &ExchangePoint::exposed_s},
    {"plan_s", &ExchangePoint::plan_s},
};

constexpr Number<ExchangeWay> kWayNumbers[] = {
    {"intra_bytes", &ExchangeWay::intra_bytes},
    {"inter_bytes", &ExchangeWay::inter_bytes},
    {"flight_s", &ExchangeWay::flight_s},
    {"exposed_s", &ExchangeWay::exposed_s},
};

constexpr Number<ValidPoint> kValidNumbers[] = {
    {"loss", &ValidPoint::loss},
    {"perplexity", &ValidPoint::perplexity},
    {"bits_per_byte", &ValidPoint::bits_per_byte},
    {"accuracy", &ValidPoint::accuracy},
};

constexpr Number<DomainScore> kDomainNumbers[] = {
    {"loss", &DomainScore::loss},
    {"perplexity", &DomainScore::perplexity},
    {"tokens", &DomainScore::tokens},
};

constexpr Number<CheckpointPoint> kCheckpointNumbers[] = {{"stall_s", &CheckpointPoint::stall_s}};

constexpr Number<EndInfo> kEndNumbers[] = {
    {"loss", &EndInfo::loss},
    {"wall_s", &EndInfo::wall_s},
    {"tokens", &EndInfo::tokens},
    {"peak_rss_bytes", &EndInfo::peak_rss_bytes},
};

// Null and absent are both missing: training writes null for what is not finite.
const json* find(const Line& line, const json& object, const char* key, json::value_t type) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return nullptr;
  const bool right =
      type == json::value_t::number_float ? found->is_number() : found->type() == type;
  if (!right) {
    throw DataError("{}: \"{}\" must be {}, not {}", line.where, key,
                    json(type).is_number() ? "a number" : json(type).type_name(),
                    found->type_name());
  }
  return &*found;
}

double number(const Line& line, const json& object, const char* key) {
  const json* value = find(line, object, key, json::value_t::number_float);
  return value != nullptr ? value->get<double>() : kMissing;
}

std::string text(const Line& line, const char* key) {
  const json* value = find(line, line.object, key, json::value_t::string);
  return value != nullptr ? value->get<std::string>() : std::string();
}

template <class Point, size_t kSize>
void read_numbers(const Line& line, const json& object, const Number<Point> (&numbers)[kSize],
                  Point& point) {
  for (const auto& [key, member] : numbers) point.*member = number(line, object, key);
}

std::vector<double> number_list(const Line& line, const json& list, const char* key) {
  std::vector<double> values;
  const auto good = [](const json& value) { return value.is_number() || value.is_null(); };
  if (!list.is_array() || !std::all_of(list.begin(), list.end(), good)) {
    throw DataError("{}: \"{}\" must hold numbers only", line.where, key);
  }
  for (const json& value : list) values.push_back(value.is_null() ? kMissing : value.get<double>());
  return values;
}

std::optional<int64_t> whole_number(const Line& line, const char* key) {
  const auto found = line.object.find(key);
  if (found == line.object.end() || found->is_null()) return std::nullopt;
  if (!found->is_number_integer()) {
    throw DataError("{}: \"{}\" must be a whole number, not {}", line.where, key,
                    found->type_name());
  }
  return found->get<int64_t>();
}

int64_t read_step(const Line& line) {
  const auto step = whole_number(line, "step");
  if (!step || *step < 0) throw DataError("{}: no step number under \"step\"", line.where);
  return *step;
}

int64_t read_layer(const Line& line) {
  const auto layer = whole_number(line, "layer");
  if (!layer || *layer < 0) throw DataError("{}: no layer number under \"layer\"", line.where);
  return *layer;
}

// Keeps points in order of their steps; a step that comes again takes the old one's place.
template <class Point>
void put(std::vector<Point>& points, Point point) {
  const auto place = std::lower_bound(points.begin(), points.end(), point.step,
                                      [](const Point& p, int64_t step) { return p.step < step; });
  if (place != points.end() && place->step == point.step) {
    *place = std::move(point);
  } else {
    points.insert(place, std::move(point));
  }
}

template <class Point>
void drop_after(std::vector<Point>& points, int64_t step) {
  std::erase_if(points, [step](const Point& point) { return point.step > step; });
}

void add_run(const Line& line, RunData& run) {
  const auto resumed_from = whole_number(line, "resumed_from");
  const int64_t last_kept = resumed_from.value_or(-1);
  if (resumed_from && !line.object.value("has_grown", false)) ++run.num_resumes;
  drop_after(run.train, last_kept);
  drop_after(run.valid, last_kept);
  drop_after(run.checkpoints, last_kept);
  drop_after(run.placement, last_kept);
  for (auto& [layer, points] : run.migration) drop_after(points, last_kept);
  for (auto& [layer, data] : run.moe) {
    drop_after(data.points, last_kept);
    if (data.domain_expert_step > last_kept) data.domain_expert.clear();
  }
  std::erase_if(run.moe, [](const auto& entry) { return entry.second.points.empty(); });
  for (auto& [layer, data] : run.exchange) {
    const size_t before = data.points.size();
    drop_after(data.points, last_kept);
    if (data.points.size() < before) data.last.reset();
  }
  std::erase_if(run.exchange, [](const auto& entry) { return entry.second.points.empty(); });
  run.end.reset();

  run.info = RunInfo();
  read_numbers(line, line.object, kRunNumbers, run.info);
  run.info.time = text(line, "time");
  run.info.version = text(line, "version");
  run.info.router = text(line, "router");
  if (const json* domains = find(line, line.object, "domains", json::value_t::array)) {
    for (const json& name : *domains) {
      if (!name.is_string()) throw DataError("{}: \"domains\" must hold names only", line.where);
      run.info.domains.push_back(name.get<std::string>());
    }
  }
  if (const json* nodes = find(line, line.object, "node_of_ep_rank", json::value_t::array)) {
    for (const json& node : *nodes) {
      if (!node.is_number_integer()) {
        throw DataError("{}: \"node_of_ep_rank\" must hold whole numbers only", line.where);
      }
      run.info.node_of_ep_rank.push_back(node.get<int64_t>());
    }
  }
}

void add_moe(const Line& line, int64_t step, RunData& run) {
  MoeLayerData& data = run.moe[read_layer(line)];
  MoePoint point{.step = step};
  read_numbers(line, line.object, kMoeNumbers, point);
  if (const json* list = find(line, line.object, "tokens_per_expert", json::value_t::array)) {
    point.tokens_per_expert = number_list(line, *list, "tokens_per_expert");
  }
  put(data.points, std::move(point));
  const json* matrix = find(line, line.object, "domain_expert", json::value_t::array);
  if (matrix == nullptr) return;
  data.domain_expert.clear();
  data.domain_expert_step = step;
  for (const json& row : *matrix) {
    data.domain_expert.push_back(number_list(line, row, "domain_expert"));
  }
}

ExchangeDetail read_exchange_detail(const Line& line, const RunInfo& info) {
  ExchangeDetail detail{.type = text(line, "type"), .chunks = number(line, line.object, "chunks")};
  for (size_t way = 0; way < kExchangeWays.size(); ++way) {
    for (const auto& [key, member] : kWayNumbers) {
      const std::string whole = format("{}_{}", kExchangeWays[way], key);
      detail.ways[way].*member = number(line, line.object, whole.c_str());
    }
  }
  const json* matrix = find(line, line.object, "rank_bytes", json::value_t::array);
  if (matrix == nullptr) return detail;
  for (const json& row : *matrix) {
    detail.rank_bytes.push_back(number_list(line, row, "rank_bytes"));
    if (detail.rank_bytes.back().size() != matrix->size()) {
      throw DataError("{}: \"rank_bytes\" must be a square matrix, but line {} of {} holds {}",
                      line.where, detail.rank_bytes.size(), matrix->size(),
                      detail.rank_bytes.back().size());
    }
  }
  if (info.node_of_ep_rank.size() == matrix->size()) detail.node_of = info.node_of_ep_rank;
  return detail;
}

void add_exchange(const Line& line, int64_t step, RunData& run) {
  ExchangeLayerData& data = run.exchange[read_layer(line)];
  ExchangePoint point{.step = step};
  read_numbers(line, line.object, kExchangeNumbers, point);
  if (point.assigned_bytes > 0) point.on_node = 1 - point.flat_inter_bytes / point.assigned_bytes;
  put(data.points, std::move(point));
  if (data.points.back().step == step) data.last = read_exchange_detail(line, run.info);
}

ValidPoint read_valid(const Line& line, int64_t step) {
  ValidPoint point{.step = step};
  read_numbers(line, line.object, kValidNumbers, point);
  if (const json* domains = find(line, line.object, "by_domain", json::value_t::object)) {
    for (const auto& [name, scores] : domains->items()) {
      if (!scores.is_object()) {
        throw DataError("{}: \"by_domain\" must hold an object for {}", line.where, name);
      }
      DomainScore score{.name = name};
      read_numbers(line, scores, kDomainNumbers, score);
      point.by_domain.push_back(std::move(score));
    }
  }
  return point;
}

void add_line(const Line& line, RunData& run) {
  const std::string kind = text(line, "kind");
  if (kind.empty()) throw DataError("{}: no text under \"kind\"", line.where);
  const int64_t step = read_step(line);
  if (kind == "run") {
    add_run(line, run);
  } else if (kind == "train") {
    TrainPoint point{.step = step};
    read_numbers(line, line.object, kTrainNumbers, point);
    put(run.train, std::move(point));
  } else if (kind == "moe") {
    add_moe(line, step, run);
  } else if (kind == "exchange") {
    add_exchange(line, step, run);
  } else if (kind == "placement") {
    PlacementPoint point{.step = step};
    read_numbers(line, line.object, kPlacementNumbers, point);
    put(run.placement, std::move(point));
  } else if (kind == "migration") {
    MigrationPoint point{.step = step};
    read_numbers(line, line.object, kMigrationNumbers, point);
    put(run.migration[read_layer(line)], std::move(point));
  } else if (kind == "valid") {
    put(run.valid, read_valid(line, step));
  } else if (kind == "checkpoint") {
    CheckpointPoint point{.step = step};
    read_numbers(line, line.object, kCheckpointNumbers, point);
    put(run.checkpoints, std::move(point));
  } else if (kind == "end") {
    EndInfo end{.step = step, .reason = text(line, "reason")};
    read_numbers(line, line.object, kEndNumbers, end);
    run.end = std::move(end);
  }
}

// Message of what is wrong with `content`, empty when `object` holds it.
std::string parse_object(std::string_view content, json& object) {
  try {
    object = json::parse(content);
  } catch (const json::parse_error& error) {
    return format("not valid JSON at byte {}", error.byte);
  } catch (const json::out_of_range& error) {  // 1e999
    return format("not valid JSON: {}", error.what());
  }
  return object.is_object() ? "" : "not a JSON object";
}

void read_metrics(const fs::path& path, RunData& run) {
  const MappedFile file(path);
  std::string_view rest(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  std::string torn;  // message about the last line, if that was broken
  for (int64_t line_number = 1; !rest.empty(); ++line_number) {
    const size_t length = std::min(rest.find('\n'), rest.size());
    const std::string_view content = rest.substr(0, length);
    rest.remove_prefix(std::min(length + 1, rest.size()));
    if (content.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Line line{format("{}:{}", path.string(), line_number), {}};
    const std::string problem = parse_object(content, line.object);
    const bool starts_run = problem.empty() && line.object.value("kind", json()) == "run";
    if (!torn.empty() && !starts_run) throw DataError("{}", torn);
    torn.clear();
    if (problem.empty()) {
      add_line(line, run);
    } else {
      torn = line.where + ": " + problem;
      ++run.num_torn_lines;
    }
  }
}

EvalInfo read_eval(const fs::path& path) {
  Line line{path.string(), {}};
  const std::string problem = parse_object(read_file(path), line.object);
  if (!problem.empty()) throw DataError("{}: {}", line.where, problem);
  return {.checkpoint = text(line, "checkpoint"),
          .data = text(line, "data"),
          .rule = text(line, "rule"),
          .score = read_valid(line, read_step(line))};
}

void add_trace(const fs::path& path, RunData& run) {
  try {
    run.trace = read_trace(path);
  } catch (const DataError& error) {
    run.trace_problem = error.what();
  }
}

}  // namespace

RunData load_run(const fs::path& folder) {
  if (!fs::is_directory(folder)) {
    throw DataError("{}: not a run folder of locus train: no such folder", folder.string());
  }
  RunData run;
  run.folder = folder;
  fs::path named = fs::absolute(folder).lexically_normal();
  if (!named.has_filename()) named = named.parent_path();
  run.name = named.filename().string();
  const fs::path metrics = folder / "metrics.jsonl";
  read_metrics(metrics, run);
  if (run.train.empty()) {
    throw DataError("{}: no training line: the run has not come to its first one",
                    metrics.string());
  }
  const fs::path config = folder / "config.toml";
  run.config = read_config_lines(config.string(), read_file(config));
  if (fs::exists(folder / "eval.json")) run.eval = read_eval(folder / "eval.json");
  if (fs::exists(folder / "samples.txt")) run.samples = read_file(folder / "samples.txt");
  if (fs::exists(folder / "trace.json")) add_trace(folder / "trace.json", run);
  return run;
}

}  // namespace locus::report
