// P4 and P15: what the cost model says, against the products of matrices that
// a model makes while it runs.
#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <cstring>

#include "locus/search/choice.h"
#include "locus/search/extract.h"
#include "tests/search/search_helpers.h"

namespace locus::search {
namespace {

double counted_flops = 0;  // callbacks of libtorch hold nothing of their own

// In float64 every product goes through libtorch, which tells of each.
std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& call) {
  const auto sizes = [&](size_t input) { return call.inputs()[input].toTensor().sizes(); };
  const char* name = call.name();
  if (std::strcmp(name, "aten::mm") == 0) {
    counted_flops += 2.0 * static_cast<double>(sizes(0)[0] * sizes(0)[1] * sizes(1)[1]);
  } else if (std::strcmp(name, "aten::addmm") == 0) {
    counted_flops += 2.0 * static_cast<double>(sizes(1)[0] * sizes(1)[1] * sizes(2)[1]);
  } else if (std::strcmp(name, "aten::scaled_dot_product_attention") == 0) {
    const auto q = sizes(0), k = sizes(1);  // [B, H, S, C], [B, G, L, C]
    const bool is_causal = call.inputs()[5].toBool();
    const double seen = static_cast<double>(is_causal ? k[2] + 1 : 2 * k[2]) / 2;
    counted_flops += 4.0 * static_cast<double>(q[0] * q[1] * q[2] * q[3]) * seen;
  }
  return nullptr;
}

double flops_of(model::Transformer& transformer, const model::TransformerInput& input) {
  const at::NoGradGuard no_grad;
  counted_flops = 0;
  const auto handle =
      at::addGlobalCallback(at::RecordFunctionCallback(count).needsInputs(true).scopes(
          {at::RecordScope::FUNCTION, at::RecordScope::USER_SCOPE}));
  transformer.logits(transformer.forward(input).hidden_TD);
  at::removeCallback(handle);
  return counted_flops;
}

TEST(CountedFlops, AreThoseOfTheCostModel) {
  auto config = tiny_config("top_k", Kind::kDecoder, "norm_topk_prob = false");
  const auto whole = make_model(config, /*in_double=*/true);
  whole->eval();
  const auto input = random_input(config);
  const auto num_tokens = static_cast<double>(input.input_ids_BS.numel());
  const ArchSpace space(config.model, config.moe, config.router_options, {4, 0.1, true, 1});
  const CostModel costs(space, {.sequence_length = input.input_ids_BS.size(1)});
  const double of_whole = flops_of(*whole, input) / num_tokens;
  EXPECT_NEAR(of_whole / costs.whole(Resource::kFlops), 1, 0.005);

  const std::vector<double> even(space.units().size());
  for (const double budget : {0.75, 0.5, 0.35}) {
    const Mask mask = choose_units(
        costs, even, {parse_limit("flops=" + std::to_string(budget), costs)}, space.all());
    const auto part = extract(*whole, space.to_cut(mask));
    part->eval();
    const double found = flops_of(*part, input) / num_tokens;
    EXPECT_NEAR(found / costs.cost(Resource::kFlops, mask), 1, 0.005) << budget;
    EXPECT_LE(found, budget * 1.005 * of_whole);
  }
}

}  // namespace
}  // namespace locus::search
