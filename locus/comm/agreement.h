// What ranks must have in common before they begin: settings, program, data, weights.
#pragma once

#include <string>
#include <vector>

#include "locus/comm/process_group.h"

namespace locus::comm {

// One thing that is the same on all ranks. `text` has lines "key = value", by which a difference is
// named; only its hash travels as long as there is none.
struct Agreement {
  enum class Kind { kSettings, kFiles };  // where it differs: a ConfigError, a DataError
  Kind kind = Kind::kSettings;
  std::string what;  // "settings", "training data"
  std::string text;
};

// All ranks of the group (null: this one alone) call it with the same list of things. Where one
// differs from that of the first rank, the first rank throws an error that names the others, their
// hosts and what is different, and they throw PeerError. `host`: of this rank.
void check_agreement(ProcessGroup* group, const std::string& host,
                     const std::vector<Agreement>& things);

}  // namespace locus::comm
