#include "locus/base/timeline.h"

#include <gtest/gtest.h>

#include <thread>

namespace locus {
namespace {

TEST(Timeline, RecordsSpansOfItsThreadWhileItsScopeLives) {
  Timeline timeline;
  { const Span unseen("before", "compute"); }
  {
    const TimelineScope scope(timeline);
    const Span outer("layer", "compute");
    std::thread([] { const Span unseen("elsewhere", "compute"); }).join();
    { const Span inner("wait", "wait"); }
  }
  { const Span unseen("after", "compute"); }
  ASSERT_EQ(timeline.spans().size(), 2u);
  EXPECT_EQ(timeline.spans()[0].name, "wait");
  EXPECT_EQ(timeline.spans()[1].name, "layer");
  EXPECT_LE(timeline.spans()[1].begin_s, timeline.spans()[0].begin_s);
  EXPECT_GE(timeline.spans()[1].end_s, timeline.spans()[0].end_s);
  EXPECT_EQ(Timeline::current(), nullptr);
}

TEST(Timeline, BecomesATraceInMicrosecondsFromEachRanksFirstSpan) {
  const std::string trace =
      to_chrome_trace({{{"forward", "compute", 5.0, 5.25}, {"rows", "rows under way", 5.1, 5.2}},
                       {{"forward", "compute", 80.0, 80.5}}});
  EXPECT_EQ(trace, R"({"displayTimeUnit":"ms","traceEvents":[
{"ph":"M","name":"process_name","pid":0,"args":{"name":"rank 0"}},
{"ph":"M","name":"thread_name","pid":0,"tid":0,"args":{"name":"compute"}},
{"ph":"X","name":"forward","pid":0,"tid":0,"ts":0.0,"dur":250000.0},
{"ph":"M","name":"thread_name","pid":0,"tid":1,"args":{"name":"rows under way"}},
{"ph":"X","name":"rows","pid":0,"tid":1,"ts":100000.0,"dur":100000.0},
{"ph":"M","name":"process_name","pid":1,"args":{"name":"rank 1"}},
{"ph":"M","name":"thread_name","pid":1,"tid":0,"args":{"name":"compute"}},
{"ph":"X","name":"forward","pid":1,"tid":0,"ts":0.0,"dur":500000.0}
]}
)");
}

}  // namespace
}  // namespace locus
