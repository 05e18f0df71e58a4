// What a joint stage goes on with after a resume, a file of each checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "locus/search/gates.h"
#include "locus/search/paper_gates.h"

namespace locus::search {

struct JointState {
  int64_t calibrated_steps = 0;
  std::vector<double> importance;  // of units: sums of squares, until they rank the units
  GateState gates;                 // no logits: the joint stage has not begun
  PaperState paper;                // with dance.mode = "paper"

  // How many units it is of; 0: of none yet.
  size_t num_units() const;
};

std::string to_json(const JointState& state);
// DataError that names `source`, also where parts of it are of different numbers of units.
JointState read_joint_state(const std::string& source, const std::string& json);

}  // namespace locus::search
