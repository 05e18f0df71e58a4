#include "locus/report/trace.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "locus/base/error.h"

namespace locus::report {
namespace {

using nlohmann::json;

struct Event {
  std::string where;  // "runs/a/trace.json: event 12"
  const json& object;
};

std::string text(const Event& event, const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) {
    throw DataError("{}: no text under \"{}\"", event.where, key);
  }
  return found->get<std::string>();
}

int64_t whole_number(const Event& event, const char* key) {
  const auto found = event.object.find(key);
  if (found == event.object.end() || !found->is_number_integer()) {
    throw DataError("{}: no whole number under \"{}\"", event.where, key);
  }
  return found->get<int64_t>();
}

double time_us(const Event& event, const char* key) {
  const auto found = event.object.find(key);
  const bool good = found != event.object.end() && found->is_number() && found->get<double>() >= 0;
  if (!good) throw DataError("{}: no time of 0 or more under \"{}\"", event.where, key);
  return found->get<double>();
}

// The place of `name` in `list`, which grows by it if it is new.
size_t place_of(std::vector<std::string>& list, std::map<std::string, size_t>& places,
                const std::string& name) {
  const auto [entry, is_new] = places.emplace(name, list.size());
  if (is_new) list.push_back(name);
  return entry->second;
}

struct Span {
  std::string name;
  int64_t thread;
  double begin_us, length_us;
};

struct Process {
  std::string name;
  std::map<int64_t, std::string> threads;
  std::vector<Span> spans;
};

// Names may come after the spans that they name.
void add_event(const Event& event, std::map<int64_t, Process>& processes) {
  if (!event.object.is_object()) throw DataError("{}: not a JSON object", event.where);
  const std::string phase = text(event, event.object, "ph");
  if (phase == "X") {
    processes[whole_number(event, "pid")].spans.push_back(
        {text(event, event.object, "name"), whole_number(event, "tid"), time_us(event, "ts"),
         time_us(event, "dur")});
  } else if (phase == "M") {
    const std::string what = text(event, event.object, "name");
    if (what != "process_name" && what != "thread_name") return;
    const std::string name = text(event, event.object.value("args", json::object()), "name");
    Process& process = processes[whole_number(event, "pid")];
    if (what == "process_name") {
      process.name = name;
    } else {
      process.threads[whole_number(event, "tid")] = name;
    }
  }
}

Trace to_trace(const std::map<int64_t, Process>& processes) {
  Trace trace;
  std::map<std::string, size_t> names, tracks;
  for (const auto& [number, process] : processes) {
    if (process.spans.empty()) continue;
    TraceRank rank{process.name.empty() ? format("process {}", number) : process.name, {}};
    for (const Span& span : process.spans) {
      const auto thread = process.threads.find(span.thread);
      const std::string track =
          thread != process.threads.end() ? thread->second : format("thread {}", span.thread);
      rank.bars.push_back({place_of(trace.names, names, span.name),
                           place_of(trace.tracks, tracks, track), span.begin_us, span.length_us});
    }
    trace.ranks.push_back(std::move(rank));
  }
  return trace;
}

}  // namespace

Trace read_trace(const fs::path& path) {
  json file;
  try {
    file = json::parse(read_file(path));
  } catch (const json::parse_error& error) {
    throw DataError("{}: not valid JSON at byte {}", path.string(), error.byte);
  } catch (const json::out_of_range& error) {  // 1e999
    throw DataError("{}: not valid JSON: {}", path.string(), error.what());
  }
  const auto events = file.is_object() ? file.find("traceEvents") : file.end();
  if (events == file.end() || !events->is_array()) {
    throw DataError("{}: no list under \"traceEvents\"", path.string());
  }
  std::map<int64_t, Process> processes;
  for (size_t i = 0; i < events->size(); ++i) {
    add_event({format("{}: event {}", path.string(), i), (*events)[i]}, processes);
  }
  Trace trace = to_trace(processes);
  if (trace.ranks.empty()) throw DataError("{}: no span in it", path.string());
  return trace;
}

}  // namespace locus::report
