// SIGINT, SIGTERM and SIGHUP as a flag that loops look at: work ends at a clean boundary.
#pragma once

namespace locus {

// Installs handlers; a second signal of the same kind ends the process at once.
void watch_signals();

// The signal that arrived, or 0.
int received_signal();

// For tests: as if the signal had come; 0 forgets it.
void set_received_signal(int signal);

}  // namespace locus
