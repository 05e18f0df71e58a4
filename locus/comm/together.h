// Steps that may fail on some ranks: a wrong file, a taken folder. All ranks then end alike, and
// one of them says why.
#pragma once

#include <functional>

#include "locus/base/error.h"
#include "locus/comm/process_group.h"

namespace locus::comm {

// Another rank has the error and tells it; this one ends with the same exit code, silently.
class PeerError : public Error {
 public:
  PeerError(int64_t rank, int exit_code)
      : Error("rank {} has failed", rank), exit_code_(exit_code) {}
  int exit_code() const noexcept override { return exit_code_; }
  bool is_told_elsewhere() const noexcept override { return true; }

 private:
  int exit_code_;
};

// Runs `action` on every rank of `world` (null: this one alone). Where it throws, the first such
// rank throws it on, all others throw PeerError. The action calls no collective of `world`: a rank
// that fails comes to the next one of `world` too early, and would be taken for an answer.
void together(ProcessGroup* world, const std::function<void()>& action);

}  // namespace locus::comm
