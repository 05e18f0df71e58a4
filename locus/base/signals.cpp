#include "locus/base/signals.h"

#include <csignal>

namespace locus {
namespace {

volatile std::sig_atomic_t received = 0;

extern "C" void remember_signal(int signal) {
  received = signal;
  std::signal(signal, SIG_DFL);
}

}  // namespace

void watch_signals() {
  std::signal(SIGINT, remember_signal);
  std::signal(SIGTERM, remember_signal);
  // A closed terminal; whoever was started with nohup wants to go on.
  if (std::signal(SIGHUP, remember_signal) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);
}

int received_signal() { return received; }

void set_received_signal(int signal) { received = signal; }

}  // namespace locus
