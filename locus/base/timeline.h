// What a rank did when: spans of time by name, for the picture of one step and for trace viewers.
// Recording is on for a thread while a TimelineScope lives; otherwise a span costs nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace locus {

struct TimelineSpan {
  std::string name;               // "forward", "dispatch 3"
  std::string track;              // "compute", "wait", "rows under way"
  double begin_s = 0, end_s = 0;  // by the steady clock
};

class Timeline {
 public:
  // Of this thread; null: nothing is recorded.
  static Timeline* current();
  static double now_s();

  void add(std::string name, std::string_view track, double begin_s, double end_s);
  const std::vector<TimelineSpan>& spans() const { return spans_; }

 private:
  std::vector<TimelineSpan> spans_;
};

class TimelineScope {
 public:
  explicit TimelineScope(Timeline& timeline);
  ~TimelineScope();
  TimelineScope(const TimelineScope&) = delete;
  TimelineScope& operator=(const TimelineScope&) = delete;
};

// From its construction to its end.
class Span {
 public:
  Span(std::string_view name, std::string_view track)
      : timeline_(Timeline::current()), name_(name), track_(track) {
    if (timeline_ != nullptr) begin_s_ = Timeline::now_s();
  }
  ~Span() {
    if (timeline_ != nullptr) end();
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  void end();

  Timeline* timeline_;
  std::string_view name_, track_;
  double begin_s_ = 0;
};

// Chrome's trace event format, which Perfetto and chrome://tracing show: a process for each rank,
// a thread for each track. The clocks of ranks may differ, so each rank's times begin at its own
// first span.
std::string to_chrome_trace(const std::vector<std::vector<TimelineSpan>>& spans_of_rank);

}  // namespace locus
