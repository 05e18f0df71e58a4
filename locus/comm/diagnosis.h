// Who is to blame for a call that does not come to its end: from what all ranks have said about
// themselves (comm/activity.h) to a message for the user.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "locus/comm/activity.h"

namespace locus::comm {

// One rank as the others have heard of it.
struct Heard {
  std::optional<RankReport> report;  // none: nothing was ever heard
  bool is_silent = false;            // it has not answered: it is stopped, dead or cut off
  double ago_s = 0.0;                // how old the report of a silent one is
};

struct Failure {
  int64_t rank = 0;    // who asks
  int64_t group = -1;  // index of the group of the call that failed; -1: none has, but the ranks'
                       // calls are found to differ
  int64_t number = 0;  // of the call
  std::string reason;  // what the transport or the watchdog says
};

// By rank. Empty where a rank has ended by an error of its own, which it tells itself.
std::string diagnose(const std::vector<Heard>& ranks, const Failure& failure);

// "3, 5-7"
std::string list_ranks(const std::vector<int64_t>& rising);

}  // namespace locus::comm
