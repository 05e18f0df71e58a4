// The gate of a router alone, forward and backward: pooled (LocMoE) or dense, with the gradients of
// tokens and weights.
//
// T tokens, D hidden size, E experts.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "benchmarks/workers/serve.h"
#include "locus/base/error.h"
#include "locus/moe/pooled_gate.h"
#include "locus/moe/router_math.h"

namespace locus::benchmarks {
namespace {

struct GateOptions {
  std::string gate = "pooled";
  int64_t tokens = 1024;
  int64_t hidden_size = 4096;
  int64_t num_experts = 64;

  template <class V>
  void visit_fields(V& v) {
    v("gate", gate, "pooled | dense");
    v("tokens", tokens, "tokens of a pass");
    v("hidden_size", hidden_size, "width of a token");
    v("num_experts", num_experts, "experts");
  }
};

}  // namespace

Worker make_gate(const std::vector<std::string>& settings) {
  const auto options = parse_settings<GateOptions>(settings);
  if (options.gate != "pooled" && options.gate != "dense") {
    throw ConfigError("gate = \"{}\": pooled or dense", options.gate);
  }
  const bool is_pooled = options.gate == "pooled";
  moe::RouterContext context;
  context.hidden_size = options.hidden_size;
  context.num_experts = options.num_experts;
  const moe::PooledGate pooled(options.hidden_size, options.num_experts,
                               moe::PoolScale::kUnitVariance);
  const at::Tensor weight_ED = moe::init_gate_weight(context).requires_grad_();
  const at::Tensor x_TD = at::randn({options.tokens, options.hidden_size}).requires_grad_();
  const at::Tensor gradient_TE = at::randn({options.tokens, options.num_experts});
  Worker worker;
  worker.run = [=] {
    const Stopwatch watch;
    const at::Tensor value_TE = is_pooled ? pooled.values(x_TD) : moe::gate_logits(x_TD, weight_ED);
    std::vector<at::Tensor> inputs{x_TD};
    if (!is_pooled) inputs.push_back(weight_ED);
    torch::autograd::grad({value_TE}, inputs, {gradient_TE});
    return Report{{"seconds", watch.seconds()}};
  };
  return worker;
}

}  // namespace locus::benchmarks
