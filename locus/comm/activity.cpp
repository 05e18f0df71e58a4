#include "locus/comm/activity.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <set>
#include <sstream>

#include "locus/base/error.h"

namespace locus::comm {
namespace {

double steady_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double system_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

const char* operation_name(Operation operation) {
  switch (operation) {
    case Operation::kMakeGroup: return "make_group";
    case Operation::kAllReduce: return "all_reduce";
    case Operation::kAllGather: return "all_gather";
    case Operation::kReduceScatter: return "reduce_scatter";
    case Operation::kBroadcast: return "broadcast";
    case Operation::kAllToAll: return "all_to_all";
    case Operation::kBarrier: return "barrier";
  }
  return "?";
}

const char* reduce_name(int64_t detail) {
  switch (static_cast<Reduce>(detail)) {
    case Reduce::kSum: return "sum";
    case Reduce::kMax: return "max";
    case Reduce::kMin: return "min";
  }
  return "?";
}

std::string type_name(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return "float32";
    case at::kDouble: return "float64";
    case at::kBFloat16: return "bfloat16";
    case at::kHalf: return "float16";
    case at::kByte: return "uint8";
    case at::kInt: return "int32";
    case at::kLong: return "int64";
    default: return at::toString(type);
  }
}

// Literals of another process: few, and kept for ever.
const char* intern(const std::string& text) {
  static std::mutex mutex;
  static std::set<std::string> texts;
  const std::lock_guard lock(mutex);
  return texts.insert(text).first->c_str();
}

uint64_t mixed(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 29);
}

uint64_t hash_of(const Signature& signature) {
  uint64_t hash = mixed(1, static_cast<uint64_t>(signature.operation));
  hash = mixed(hash, static_cast<uint64_t>(signature.type));
  hash = mixed(hash, static_cast<uint64_t>(signature.count));
  return mixed(hash, static_cast<uint64_t>(signature.detail));
}

std::string line_of(const Place& place) {
  return format("{}\t{}\t{}\t{}", place.step, place.phase, place.what, place.layer);
}

std::string line_of(const Call& call) {
  const Signature& s = call.signature;
  return format("call\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n", call.number,
                static_cast<int>(s.operation), static_cast<int>(s.type), s.count, s.detail,
                static_cast<int>(call.state), call.since_s, line_of(call.place));
}

// The fields of a line, one after the other.
class FieldReader {
 public:
  explicit FieldReader(const std::string& line) : stream_(line) {}
  std::string text() {
    std::string field;
    LOCUS_CHECK(static_cast<bool>(std::getline(stream_, field, '\t')), "a line of a report ends");
    return field;
  }
  int64_t integer() { return std::stoll(text()); }
  uint64_t natural() { return std::stoull(text()); }
  double number() { return std::stod(text()); }
  Place place() {
    Place out;
    out.step = integer();
    out.phase = intern(text());
    out.what = intern(text());
    out.layer = integer();
    return out;
  }
  Call call() {
    Call out;
    out.number = integer();
    out.signature.operation = static_cast<Operation>(integer());
    out.signature.type = static_cast<at::ScalarType>(integer());
    out.signature.count = integer();
    out.signature.detail = integer();
    out.state = static_cast<CallState>(integer());
    out.since_s = number();
    out.place = place();
    return out;
  }

 private:
  std::istringstream stream_;
};

}  // namespace

std::string to_text(const Signature& s) {
  const std::string name = operation_name(s.operation);
  const std::string elements = format("{} {}", s.count, type_name(s.type));
  switch (s.operation) {
    case Operation::kMakeGroup:
    case Operation::kBarrier: return name;
    case Operation::kAllReduce:
      return format("{} of {} ({})", name, elements, reduce_name(s.detail));
    case Operation::kBroadcast: return format("{} of {} from {}", name, elements, s.detail);
    case Operation::kAllToAll: return format("{} of rows of {}", name, elements);
    default: return format("{} of {}", name, elements);
  }
}

std::optional<std::pair<const GroupReport*, const Call*>> RankReport::waits_in() const {
  std::optional<std::pair<const GroupReport*, const Call*>> longest;
  for (const GroupReport& group : groups) {
    for (const Call& call : group.kept) {
      if (call.number == 0 || call.state != CallState::kWaiting) continue;
      if (!longest || call.since_s > longest->second->since_s) longest = {&group, &call};
    }
  }
  return longest;
}

std::string to_text(const RankReport& report, int64_t max_calls) {
  std::string text = format("{}\t{}\t{}\t{}\n", report.host, static_cast<int>(report.state),
                            report.time_s, line_of(report.place));
  for (const GroupReport& group : report.groups) {
    text += format("group\t{}\t{}\t{}\t{}\t{}", group.index, group.name, group.num_calls,
                   group.hash, group.ranks.size());
    for (const int64_t rank : group.ranks) text += format("\t{}", rank);
    text += '\n';
    for (const Call& call : group.kept) {
      const bool is_new = call.number > group.num_calls - max_calls;
      if (call.number > 0 && (is_new || call.state != CallState::kDone)) text += line_of(call);
    }
  }
  return text;
}

RankReport parse_rank_report(const std::string& text) {
  RankReport report;
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  FieldReader head(line);
  report.host = head.text();
  report.state = static_cast<RankState>(head.integer());
  report.time_s = head.number();
  report.place = head.place();
  while (std::getline(lines, line)) {
    FieldReader fields(line);
    if (fields.text() == "group") {
      GroupReport& group = report.groups.emplace_back();
      group.index = fields.integer();
      group.name = fields.text();
      group.num_calls = fields.integer();
      group.hash = fields.natural();
      for (int64_t left = fields.integer(); left > 0; --left) {
        group.ranks.push_back(fields.integer());
      }
    } else {
      const Call call = fields.call();
      report.groups.back().kept[static_cast<size_t>(call.number % GroupReport::kKeptCalls)] = call;
    }
  }
  return report;
}

Activity::Activity(int64_t world_size, std::string host) {
  report_.host = std::move(host);
  std::vector<int64_t> all(static_cast<size_t>(world_size));
  for (int64_t rank = 0; rank < world_size; ++rank) all[static_cast<size_t>(rank)] = rank;
  add_group("groups", all, 0);
}

void Activity::set_step(int64_t step) {
  const std::lock_guard lock(mutex_);
  report_.place.step = step;
}

void Activity::set_phase(const char* phase) {
  const std::lock_guard lock(mutex_);
  report_.place.phase = phase;
}

void Activity::set_what(const char* what, int64_t layer) {
  const std::lock_guard lock(mutex_);
  report_.place.what = what;
  report_.place.layer = layer;
}

void Activity::set_state(RankState state) {
  const std::lock_guard lock(mutex_);
  report_.state = state;
}

Place Activity::place() const {
  const std::lock_guard lock(mutex_);
  return report_.place;
}

size_t Activity::add_group(const std::string& name, const std::vector<int64_t>& ranks,
                           int64_t index) {
  const std::lock_guard lock(mutex_);
  GroupReport& group = report_.groups.emplace_back();
  group.index = index;
  group.name = name;
  group.ranks = ranks;
  return report_.groups.size() - 1;
}

int64_t Activity::enter(size_t group, const Signature& signature) {
  const std::lock_guard lock(mutex_);
  GroupReport& entered = report_.groups[group];
  const int64_t number = ++entered.num_calls;
  entered.hash = mixed(entered.hash, hash_of(signature));
  entered.kept[static_cast<size_t>(number % GroupReport::kKeptCalls)] = {
      number, signature, report_.place, CallState::kStarted};
  return number;
}

void Activity::set_call(size_t group, int64_t number, CallState state) {
  const double now = state == CallState::kWaiting ? steady_s() : 0.0;
  const std::lock_guard lock(mutex_);
  Call& call = report_.groups[group].kept[static_cast<size_t>(number % GroupReport::kKeptCalls)];
  if (call.number != number) return;  // many calls ago
  call.state = state;
  call.since_s = now;
}

uint64_t Activity::hash(size_t group) const {
  const std::lock_guard lock(mutex_);
  return report_.groups[group].hash;
}

RankReport Activity::report() const {
  RankReport report;
  {
    const std::lock_guard lock(mutex_);
    report = report_;
  }
  report.time_s = system_s();
  const double now = steady_s();
  for (GroupReport& group : report.groups) {
    for (Call& call : group.kept) {
      if (call.state == CallState::kWaiting) call.since_s = now - call.since_s;
    }
  }
  return report;
}

}  // namespace locus::comm
