// One MoE layer, forward and backward, against the bare matrix products of its experts: the same
// rows for each expert, contiguous, into results that exist already.
//
// T tokens, D hidden size, E experts, F width of one expert, N rows of all experts.
#include "locus/moe/moe_layer.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <memory>

#include "benchmarks/workers/serve.h"
#include "locus/app/session.h"
#include "locus/base/error.h"
#include "locus/ops/rows.h"

namespace locus::benchmarks {
namespace {

struct LayerOptions {
  int64_t tokens = 4096;
  int64_t hidden_size = 512;
  int64_t num_experts = 8;
  int64_t top_k = 2;
  int64_t intermediate_size = 1376;
  std::string router = "top_k";
  std::string dtype = "float32";
  std::string weights_dtype;

  template <class V>
  void visit_fields(V& v) {
    v("tokens", tokens, "tokens of a pass, in sequences of 256");
    v("hidden_size", hidden_size, "width of a token");
    v("num_experts", num_experts, "experts");
    v("top_k", top_k, "experts per token");
    v("intermediate_size", intermediate_size, "width of one expert");
    v("router", router, "router");
    v("dtype", dtype, "type that computes");
    v("weights_dtype", weights_dtype,
      "type of the experts' weights and their gradients; empty: the one that computes");
  }
};

constexpr int64_t kSequenceLength = 256;

// A layer with the tensors that go in; peers/moe_block.py draws the same ones in the same order.
struct Bench {
  std::shared_ptr<moe::MoeLayer> layer;
  at::Tensor x_TD, y_gradient_TD;
  moe::TokenContext tokens;
};

Bench make_bench(const LayerOptions& options) {
  moe::MoeConfig config;
  config.num_experts = options.num_experts;
  config.intermediate_size = options.intermediate_size;
  config.router.type = options.router;
  config.router.top_k = options.top_k;
  config.router.aux_loss_coeff = 0;
  moe::RouterContext context;
  context.hidden_size = options.hidden_size;
  context.num_experts = options.num_experts;
  const OptionSet router = moe::find_router(options.router).options();
  if (options.router == "top_k") {
    read_toml("router", "norm_topk_prob = false", {}, router.fields());  // as OLMoE
  }

  auto generator = at::detail::createCPUGenerator(/*seed=*/1);
  const auto draw = [&generator](at::IntArrayRef shape) { return at::randn(shape, generator); };
  const at::ScalarType type = app::parse_dtype(options.dtype);
  const at::ScalarType weights_type =
      options.weights_dtype.empty() ? type : app::parse_dtype(options.weights_dtype);
  Bench bench;
  bench.layer = std::make_shared<moe::MoeLayer>(config, context, router, ops::Activation::kSwiglu,
                                                /*with_bias=*/false);
  bench.x_TD = draw({options.tokens, options.hidden_size}).to(type);
  bench.y_gradient_TD = draw({options.tokens, options.hidden_size}).to(type);
  for (const std::string name : {"router.weight", "experts.up_proj", "experts.down_proj"}) {
    at::Tensor& parameter = bench.layer->named_parameters()[name];
    const at::Tensor value = draw(parameter.sizes()) * 0.02;
    parameter.set_data(name == "router.weight" ? value : value.to(weights_type));
  }
  const auto long_options = at::TensorOptions(at::kLong);
  bench.tokens.id_T = at::zeros({options.tokens}, long_options);
  bench.tokens.domain_T = at::full({options.tokens}, -1, long_options);
  bench.tokens.global_index_T = at::arange(options.tokens, long_options);
  bench.tokens.num_sequences = std::max<int64_t>(options.tokens / kSequenceLength, 1);
  bench.layer->train();
  return bench;
}

std::vector<int64_t> expert_counts(const Bench& bench, int64_t num_experts) {
  const at::NoGradGuard no_grad;
  const moe::MoeOutput out = bench.layer->forward(bench.x_TD, bench.tokens);
  return ops::sort_by_expert(out.assignment.expert_N, num_experts).counts_E;
}

// The six products of one expert: up (gate and up as one) and down, and both gradients of each.
struct ExpertProducts {
  at::Tensor x_ND, y_gradient_ND, hidden_NF, up_gradient_NU, up_UD, down_DF;
  at::Tensor up_NU, y_ND, hidden_gradient_NF, down_gradient_DF, x_gradient_ND, up_gradient_UD;

  void compute() {
    at::mm_out(up_NU, x_ND, up_UD.t());
    at::mm_out(y_ND, hidden_NF, down_DF.t());
    at::mm_out(hidden_gradient_NF, y_gradient_ND, down_DF);
    at::mm_out(down_gradient_DF, y_gradient_ND.t(), hidden_NF);
    at::mm_out(x_gradient_ND, up_gradient_NU, up_UD);
    at::mm_out(up_gradient_UD, up_gradient_NU.t(), x_ND);
  }
};

ExpertProducts make_products(int64_t rows, const LayerOptions& options) {
  const at::TensorOptions type = app::parse_dtype(options.dtype);
  const int64_t d = options.hidden_size, f = options.intermediate_size;
  const auto random = [&type](int64_t n, int64_t m) { return (at::randn({n, m}) * 0.1).to(type); };
  const auto result = [&type](int64_t n, int64_t m) { return at::zeros({n, m}, type); };
  return {random(rows, d),  random(rows, d), random(rows, f),     random(rows, 2 * f),
          random(2 * f, d), random(d, f),    result(rows, 2 * f), result(rows, d),
          result(rows, f),  result(d, f),    result(rows, d),     result(2 * f, d)};
}

}  // namespace

Worker make_moe_layer(const std::vector<std::string>& settings) {
  const auto options = parse_settings<LayerOptions>(settings);
  const auto bench = std::make_shared<Bench>(make_bench(options));
  const auto run = [bench] {
    const at::Tensor x_TD = bench->x_TD.detach().requires_grad_();
    const Stopwatch watch;
    const at::Tensor y_TD = bench->layer->forward(x_TD, bench->tokens).y_TD;
    const double forward_s = watch.seconds();
    y_TD.backward(bench->y_gradient_TD);
    Report report{{"seconds", watch.seconds()}, {"forward_s", forward_s}};
    for (const auto& item : bench->layer->named_parameters()) {
      LOCUS_CHECK(item.value().grad().defined(), "{} got no gradient", item.key());
    }
    LOCUS_CHECK(x_TD.grad().defined(), "the tokens got no gradient");
    bench->layer->zero_grad();
    return report;
  };
  return {{}, run};
}

Worker make_expert_gemms(const std::vector<std::string>& settings) {
  const auto options = parse_settings<LayerOptions>(settings);
  const std::vector<int64_t> counts_E = expert_counts(make_bench(options), options.num_experts);
  auto products = std::make_shared<std::vector<ExpertProducts>>();
  int64_t num_rows = 0;
  for (const int64_t rows : counts_E) {
    if (rows > 0) products->push_back(make_products(rows, options));
    num_rows += rows;
  }
  const double flops = 18.0 * static_cast<double>(num_rows) *
                       static_cast<double>(options.hidden_size * options.intermediate_size);
  const auto run = [products, flops] {
    const at::NoGradGuard no_grad;
    const Stopwatch watch;
    for (ExpertProducts& expert : *products) expert.compute();
    const double seconds = watch.seconds();
    return Report{{"seconds", seconds}, {"gflops", flops / seconds / 1e9}};
  };
  const auto most = static_cast<double>(*std::max_element(counts_E.begin(), counts_E.end()));
  return {{{"flops", flops},
           {"load_max_over_mean",
            most * static_cast<double>(options.num_experts) / static_cast<double>(num_rows)}},
          run};
}

// What the machine gives at best: one large product.
Worker make_square_product(const std::vector<std::string>& settings) {
  constexpr int64_t kSize = 2048;
  const at::TensorOptions type = app::parse_dtype(parse_settings<LayerOptions>(settings).dtype);
  const at::Tensor a = at::randn({kSize, kSize}).to(type), b = at::randn({kSize, kSize}).to(type);
  at::Tensor c = at::empty({kSize, kSize}, type);
  const auto run = [a, b, c]() mutable {
    const Stopwatch watch;
    at::mm_out(c, a, b);
    const double seconds = watch.seconds();
    return Report{{"seconds", seconds}, {"gflops", 2.0 * kSize * kSize * kSize / seconds / 1e9}};
  };
  return {{}, run};
}

}  // namespace locus::benchmarks
