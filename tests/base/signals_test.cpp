#include "locus/base/signals.h"

#include <gtest/gtest.h>

#include <csignal>

namespace locus {
namespace {

TEST(Signals, AreRememberedUntilForgotten) {
  EXPECT_EQ(received_signal(), 0);
  watch_signals();
  std::raise(SIGTERM);
  EXPECT_EQ(received_signal(), SIGTERM);
  set_received_signal(0);
  EXPECT_EQ(received_signal(), 0);
  std::signal(SIGINT, SIG_DFL);
}

TEST(SignalsDeathTest, ASecondSignalOfTheSameKindEndsTheProcess) {
  EXPECT_EXIT(
      {
        watch_signals();
        std::raise(SIGINT);
        std::raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace locus
