#include "locus/base/timeline.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>

#include "locus/base/error.h"
#include "locus/base/format.h"

namespace locus {
namespace {

thread_local Timeline* current_timeline = nullptr;

}  // namespace

Timeline* Timeline::current() { return current_timeline; }

double Timeline::now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Timeline::add(std::string name, std::string_view track, double begin_s, double end_s) {
  spans_.push_back({std::move(name), std::string(track), begin_s, end_s});
}

TimelineScope::TimelineScope(Timeline& timeline) {
  LOCUS_CHECK(current_timeline == nullptr, "a timeline in a timeline");
  current_timeline = &timeline;
}

TimelineScope::~TimelineScope() { current_timeline = nullptr; }

void Span::end() { timeline_->add(std::string(name_), track_, begin_s_, Timeline::now_s()); }

std::string to_chrome_trace(const std::vector<std::vector<TimelineSpan>>& spans_of_rank) {
  std::string events;
  const auto add = [&](const std::string& event) {
    events += (events.empty() ? "\n" : ",\n") + event;
  };
  for (size_t rank = 0; rank < spans_of_rank.size(); ++rank) {
    add(format(R"({{"ph":"M","name":"process_name","pid":{0},"args":{{"name":"rank {0}"}}}})",
               rank));
    double first_s = std::numeric_limits<double>::infinity();
    for (const TimelineSpan& span : spans_of_rank[rank]) first_s = std::min(first_s, span.begin_s);
    std::map<std::string, size_t> tracks;
    for (const TimelineSpan& span : spans_of_rank[rank]) {
      const auto [track, is_new] = tracks.emplace(span.track, tracks.size());
      if (is_new) {
        add(format(R"({{"ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":"{}"}}}})",
                   rank, track->second, span.track));
      }
      add(format(R"({{"ph":"X","name":"{}","pid":{},"tid":{},"ts":{:.1f},"dur":{:.1f}}})",
                 span.name, rank, track->second, (span.begin_s - first_s) * 1e6,
                 (span.end_s - span.begin_s) * 1e6));
    }
  }
  return "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[" + events + "\n]}\n";
}

}  // namespace locus
