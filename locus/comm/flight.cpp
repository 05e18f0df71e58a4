#include "locus/comm/flight.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "locus/base/timeline.h"
#include "locus/comm/activity.h"

namespace locus::comm {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// Shared by take-off and landing, forwards and backwards.
struct Flight::State {
  std::shared_ptr<RowRoute> route;
  Way way = Way::kSpread;
  at::ScalarType type = at::kFloat, wire = at::kFloat;
  FlightLog log;
  std::unique_ptr<RowsInFlight> rows;
  double begin_s = 0;

  void set_off(const at::Tensor& x_ND, Way direction) {
    begin_s = Timeline::now_s();
    const at::Tensor sent = x_ND.detach().to(wire).contiguous();
    rows = direction == Way::kSpread ? route->spread(sent) : route->collect(sent);
  }

  at::Tensor take(bool is_gradient) {
    const double wait_begin_s = Timeline::now_s();
    const at::Tensor out = rows->wait().to(type);
    rows.reset();
    const double end_s = Timeline::now_s();
    if (log.observe) log.observe({is_gradient, begin_s, end_s - wait_begin_s, end_s - begin_s});
    return out;
  }

  Way way_back() const { return way == Way::kSpread ? Way::kCollect : Way::kSpread; }
};

namespace {

// Carries the state into the graph.
template <class State>
struct Holder : torch::CustomClassHolder {
  explicit Holder(std::shared_ptr<State> held) : state(std::move(held)) {}
  std::shared_ptr<State> state;
};

template <class State>
void save(AutogradContext* ctx, const std::shared_ptr<State>& state) {
  ctx->saved_data["state"] = c10::IValue::make_capsule(c10::make_intrusive<Holder<State>>(state));
}

template <class State>
State& saved(AutogradContext* ctx) {
  const auto holder =
      c10::static_intrusive_pointer_cast<Holder<State>>(ctx->saved_data["state"].toCapsule());
  return *holder->state;
}

template <class State>
class TakeOff : public torch::autograd::Function<TakeOff<State>> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_ND,
                            const std::shared_ptr<State>& state) {
    save(ctx, state);
    state->set_off(x_ND, state->way);
    return at::empty({0}, x_ND.options());
  }
  static tensor_list backward(AutogradContext* ctx, const tensor_list& /*ticket*/) {
    State& state = saved<State>(ctx);
    const Note note(state.log.activity, state.log.what, state.log.layer);
    return {state.take(/*is_gradient=*/true), {}};
  }
};

template <class State>
class Landing : public torch::autograd::Function<Landing<State>> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*ticket*/,
                            const std::shared_ptr<State>& state) {
    save(ctx, state);
    return state->take(/*is_gradient=*/false);
  }
  static tensor_list backward(AutogradContext* ctx, const tensor_list& grads) {
    State& state = saved<State>(ctx);
    const Note note(state.log.activity, state.log.what, state.log.layer);
    state.set_off(grads[0], state.way_back());
    return {at::empty({0}, grads[0].options()), {}};
  }
};

}  // namespace

Flight::Flight(std::shared_ptr<RowRoute> route, Way way, const at::Tensor& x_ND,
               std::optional<at::ScalarType> wire, FlightLog log)
    : state_(std::make_shared<State>()) {
  state_->route = std::move(route);
  state_->way = way;
  state_->type = x_ND.scalar_type();
  state_->wire = wire.value_or(state_->type);
  state_->log = std::move(log);
  ticket_ = TakeOff<State>::apply(x_ND, state_);
}

at::Tensor Flight::land() { return Landing<State>::apply(ticket_, state_); }

}  // namespace locus::comm
