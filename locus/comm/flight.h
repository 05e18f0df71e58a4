// Rows on their way along a route, as a function with a gradient: the gradient takes the way back,
// and sets off and lands apart as the rows did. What is computed between take-off and landing
// hides the way; in the backward pass, what belongs to the same place in between does.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>

#include "locus/comm/row_route.h"

namespace locus::comm {

class Activity;

enum class Way { kSpread, kCollect };

// One way of rows as it was: told when it has ended.
struct FlightTimes {
  bool is_gradient = false;
  double begin_s = 0;   // by the steady clock
  double waited_s = 0;  // of the rank that stood still for it
  double flight_s = 0;  // from setting off until it was taken
};

// Who hears of a flight; any of it may be missing.
struct FlightLog {
  std::function<void(const FlightTimes&)> observe;  // on the thread that waits
  // Where the rank is when gradients travel; forwards the caller says so.
  std::shared_ptr<Activity> activity;
  const char* what = "";
  int64_t layer = -1;
};

class Flight {
 public:
  // Sets off. The rows travel as `wire` and arrive in their own type; undefined: as they are.
  Flight(std::shared_ptr<RowRoute> route, Way way, const at::Tensor& x_ND,
         std::optional<at::ScalarType> wire, FlightLog log);

  // Waits. Once.
  at::Tensor land();

 private:
  struct State;
  std::shared_ptr<State> state_;
  at::Tensor ticket_;  // ties landing to take-off in the graph
};

}  // namespace locus::comm
