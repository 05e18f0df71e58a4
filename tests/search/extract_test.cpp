#include "locus/search/extract.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "locus/train/optimizer.h"
#include "tests/search/search_helpers.h"

namespace locus::search {
namespace {

struct RouterCase {
  std::string router, options;
};

const std::vector<RouterCase>& router_cases() {
  static const std::vector<RouterCase> cases{
      {"top_k", "norm_topk_prob = false"},
      {"switch", ""},
      {"hash", ""},
      {"base_layer", ""},
      {"stablemoe", ""},
      {"locmoe", "temperature = 1.0\noutput_weight = \"probability\""},
      {"locmoe_plus", "temperature = 1.0\noutput_weight = \"probability\""},
      {"dense_to_sparse", "noise = \"none\""},
      {"gshard", ""},
      {"expert_choice", ""},
      {"xmoe", ""},
      {"soft", ""}};
  return cases;
}

std::map<std::string, at::Tensor> parameters_of(const model::Transformer& transformer) {
  std::map<std::string, at::Tensor> out;
  for (const auto& [name, value] : train::named_parameters(transformer)) out[name] = value;
  return out;
}

std::vector<int64_t> others(const std::vector<int64_t>& kept, int64_t count) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) {
    if (std::find(kept.begin(), kept.end(), i) == kept.end()) out.push_back(i);
  }
  return out;
}

// The whole model gated by the cut, in its full width: what heads, channels and branches that are
// gone would write is multiplied by 0.
std::shared_ptr<model::Transformer> gated(const model::Transformer& whole, const ModelCut& cut,
                                          bool in_double) {
  model::TransformerConfig config = whole.config();
  // Of fewer slots it has no gate: a router is told.
  for (const LayerCut& layer : cut) {
    config.moe.router.top_k_per_layer.push_back(layer.top_k > 0 ? layer.top_k : 1);
  }
  auto out = std::make_shared<model::Transformer>(config);
  if (in_double) to_double(*out);
  const at::NoGradGuard no_grad;
  auto all = parameters_of(*out);
  for (auto& [name, value] : parameters_of(whole)) all[name].copy_(value);
  for (const auto& [layer, moe] : out->moe_layers()) {
    moe->router().cut_from(whole.moe_layer(layer).router());
  }
  for (size_t i = 0; i < cut.size(); ++i) {
    const std::string prefix = "layers." + std::to_string(i) + ".";
    const model::LayerConfig layer =
        model::layer_config(config.model, config.moe, static_cast<int64_t>(i));
    const int64_t group = layer.model.head_dim * config.model.heads_per_group();
    const auto gate_heads = [&](const std::string& block, const std::vector<int64_t>& heads,
                                int64_t count) {
      for (const int64_t head : others(heads, count)) {
        all[prefix + block + ".o_proj.weight"].narrow(1, head * group, group).zero_();
      }
      if (heads.empty()) all[prefix + block + ".o_proj.bias"].zero_();
    };
    gate_heads("self_attn", cut[i].heads, layer.model.num_key_value_heads);
    if (layer.has_cross_attention) {
      gate_heads("cross_attn", cut[i].cross_heads, layer.cross_kv_heads);
    }
    const bool has_experts = layer.has_experts();
    const std::string block = prefix + (has_experts ? "moe.experts." : "mlp.");
    at::Tensor down = all[block + "down_proj"];
    for (const int64_t channel : others(cut[i].channels, down.size(-1))) {
      down.select(-1, channel).zero_();
    }
    if (cut[i].channels.empty()) {
      all[block + "down_proj_bias"].zero_();
      for (const char* one : {"down_proj", "down_proj_bias"}) {
        const auto shared = all.find(prefix + "moe.shared_expert." + one);
        if (shared != all.end()) shared->second.zero_();
      }
    }
  }
  out->eval();
  return out;
}

at::Tensor logits_of(model::Transformer& transformer, const model::TransformerInput& input) {
  return transformer.logits(transformer.forward(input).hidden_TD);
}

// A mask that leaves all experts: what a router does without some has a test of its own.
Mask mask_without_expert_cuts(const ArchSpace& space, uint64_t seed, double share) {
  Mask mask = random_mask(space, seed, share);
  for (size_t unit = 0; unit < mask.size(); ++unit) {
    if (space.units()[unit].kind == UnitKind::kExpert) mask[unit] = 1;
  }
  return space.active(mask);
}

// P2.
TEST(Extraction, ComputesWhatTheGatedModelComputes) {
  for (const RouterCase& one : router_cases()) {
    for (const Kind kind : {Kind::kDecoder, Kind::kEncoder, Kind::kEncoderDecoder}) {
      for (const bool in_double : {false, true}) {
        model::TransformerConfig config = tiny_config(one.router, kind, one.options);
        config.moe.shared_expert_intermediate_size = 8;
        const auto whole = make_model(config, in_double);
        whole->eval();
        const ArchSpace space(config.model, config.moe, config.router_options,
                              {.block_size = 5, .depth = true});
        double largest = 0;  // difference, over the largest logit
        for (uint64_t seed = 0; seed < 10; ++seed) {
          const ModelCut cut = space.to_cut(mask_without_expert_cuts(space, seed, 0.7));
          const auto part = extract(*whole, cut);
          const auto input = random_input(config, seed);
          const at::Tensor logits = logits_of(*gated(*whole, cut, in_double), input);
          const at::Tensor difference = logits_of(*part, input) - logits;
          largest = std::max(largest, (difference.abs().max() / logits.abs().max()).item<double>());
        }
        EXPECT_LE(largest, in_double ? 1e-12 : 1e-5)
            << one.router << " " << kind_name(kind) << (in_double ? " float64" : " float32");
      }
    }
  }
}

TEST(Extraction, OfEverythingIsTheSameModel) {
  for (const RouterCase& one : router_cases()) {
    const model::TransformerConfig config = tiny_config(one.router, Kind::kDecoder, one.options);
    const auto whole = make_model(config);
    whole->eval();
    const auto part = extract(*whole, whole_cut(config.model, config.moe));
    const auto input = random_input(config);
    EXPECT_TRUE(at::equal(logits_of(*whole, input), logits_of(*part, input))) << one.router;
  }
}

// By the numbers that experts and heads had at first, whatever was cut before.
TEST(Extraction, OfAnExtractedModelIsThatOfTheWholeOne) {
  for (const RouterCase& one : router_cases()) {
    const model::TransformerConfig config = tiny_config(one.router, Kind::kDecoder, one.options);
    const auto whole = make_model(config);
    whole->eval();
    ModelCut first = whole_cut(config.model, config.moe), second, both = first;
    first[0].experts = {0, 2, 3, 5};
    first[0].heads = {1, 2};
    first[2].channels = {1, 4, 5, 7};
    const auto part = extract(*whole, first);
    second = whole_cut(part->config().model, part->config().moe);
    second[0].experts = {0, 2, 3};  // of 0, 2, 3, 5
    second[0].heads = {1};
    second[2].channels = {0, 3};
    both[0].experts = {0, 3, 5};
    both[0].heads = {2};
    both[2].channels = {1, 7};
    const auto input = random_input(config);
    EXPECT_TRUE(at::equal(logits_of(*extract(*part, second), input),
                          logits_of(*extract(*whole, both), input)))
        << one.router;
  }
}

// Section 3.3: a router without some experts is the one of all, restricted to the others.
TEST(CutRouters, ChooseWhatTheWholeOneWouldAmongTheExpertsThatAreLeft) {
  const std::vector<int64_t> kept{1, 2, 5};
  for (const RouterCase& one : router_cases()) {
    const model::TransformerConfig config = tiny_config(one.router, Kind::kDecoder, one.options);
    const auto whole = make_model(config);
    whole->eval();
    ModelCut cut = whole_cut(config.model, config.moe);
    cut[0].experts = kept;
    const auto part = extract(*whole, cut);
    moe::Router& all = whole->moe_layer(0).router();
    moe::Router& few = part->moe_layer(0).router();
    auto generator = at::detail::createCPUGenerator(9);
    const at::Tensor x_TD = at::randn({40, config.model.hidden_size}, generator);
    moe::TokenContext tokens;
    tokens.id_T = at::randint(config.model.vocab_size, {40}, generator, at::kLong);
    tokens.global_index_T = at::arange(40, at::kLong);
    const moe::Routing before = all.route(x_TD, tokens);
    const moe::Routing after = few.route(x_TD, tokens);
    const at::Tensor index = at::tensor(kept, at::kLong);
    if (before.probability_TE.defined() && one.router != "expert_choice") {
      // Softmax over some of the logits is the softmax over all, divided by their sum.
      const at::Tensor some = before.probability_TE.index_select(1, index);
      EXPECT_TRUE(at::allclose(after.probability_TE, some / some.sum(1, true), 1e-4, 1e-6))
          << one.router;
    }
    // Whoever asked for an expert that is left, and was given it, still is.
    if (one.router == "expert_choice") continue;
    const at::Tensor was = at::zeros({40, config.moe.num_experts}, at::kBool)
                               .index_put({before.assignment.token_N, before.assignment.expert_N},
                                          at::ones({}, at::kBool));
    const at::Tensor is = at::zeros({40, std::ssize(kept)}, at::kBool)
                              .index_put({after.assignment.token_N, after.assignment.expert_N},
                                         at::ones({}, at::kBool));
    const at::Tensor lost = was.index_select(1, index).logical_and(is.logical_not());
    EXPECT_FALSE(lost.any().item<bool>()) << one.router;
    EXPECT_GT(is.sum().item<int64_t>(), 0) << one.router;
  }
}

TEST(CutRouters, HashGivesTheOthersTheSameExpertWhateverElseIsCut) {
  const model::TransformerConfig config = tiny_config("hash");
  const auto whole = make_model(config);
  const auto table_of = [&](const std::vector<int64_t>& kept) {
    ModelCut cut = whole_cut(config.model, config.moe);
    cut[0].experts = kept;
    const auto part = extract(*whole, cut);
    const at::Tensor table = part->moe_layer(0).router().named_buffers()["table"];
    return at::tensor(kept, at::kLong).index_select(0, table.flatten()).view_as(table);
  };
  const at::Tensor five = table_of({0, 1, 2, 4, 5});
  const at::Tensor four = table_of({0, 1, 2, 5});
  EXPECT_TRUE(five[0].ne(five[1]).all().item<bool>());
  EXPECT_TRUE(four[0].ne(four[1]).all().item<bool>());
  // The first table of a token whose expert is there in both: not moved.
  const at::Tensor whole_table = whole->moe_layer(0).router().named_buffers()["table"];
  const at::Tensor is_left = whole_table.ne(3).logical_and(whole_table.ne(4));
  EXPECT_TRUE(four.eq(whole_table).logical_or(is_left.logical_not()).all().item<bool>());
}

// Without the routers' losses: a gated model has them for branches that are gone, too.
at::Tensor loss_of(model::Transformer& transformer, const model::TransformerInput& input) {
  return transformer.logits(transformer.forward(input).hidden_TD).square().mean();
}

// P3: gradients.
TEST(Extraction, GradientsAreThoseOfTheGatedModel) {
  const model::TransformerConfig config =
      tiny_config("top_k", Kind::kDecoder, "norm_topk_prob = false");
  const auto whole = make_model(config, /*in_double=*/true);
  const ArchSpace space(config.model, config.moe, config.router_options,
                        {.block_size = 4, .depth = true});
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const ModelCut cut = space.to_cut(mask_without_expert_cuts(space, seed, 0.7));
    const auto part = extract(*whole, cut);
    const CutMap map(*whole, *part, cut);
    const auto input = random_input(config, seed);
    loss_of(*part, input).backward();
    add_gradients(*whole, *part, map);
    const auto reference = gated(*whole, cut, true);
    reference->train();
    loss_of(*reference, input).backward();
    const auto all = parameters_of(*whole);
    const auto expected = parameters_of(*reference);
    for (const auto& [name, indices] : map.parameters()) {
      const at::Tensor own = all.at(name).grad();
      if (!own.defined()) continue;  // of experts without a token
      const at::Tensor mine = CutMap::take(own, indices);
      EXPECT_TRUE(at::allclose(mine, CutMap::take(expected.at(name).grad(), indices), 1e-9, 1e-11))
          << name;
      // Of what is gone, nothing.
      EXPECT_NEAR(own.abs().sum().item<double>(), mine.abs().sum().item<double>(), 1e-9) << name;
    }
    for (const auto& [name, value] : all) value.mutable_grad().reset();
  }
}

// P3: training goes on alike inside the whole model and out of it.
TEST(Extraction, TrainsOnAsItWouldInside) {
  const model::TransformerConfig config =
      tiny_config("top_k", Kind::kDecoder, "norm_topk_prob = false");
  const auto whole = make_model(config);
  const auto optimizer = train::make_optimizer({}, train::named_parameters(*whole));
  const ArchSpace space(config.model, config.moe, config.router_options,
                        {.block_size = 4, .depth = true});
  const ModelCut cut = space.to_cut(random_mask(space, 4, 0.6));
  const auto alone = extract(*whole, cut);
  const auto inside = extract(*whole, cut);
  const CutMap map(*whole, *alone, cut);
  const auto own = train::make_optimizer({}, train::named_parameters(*alone));
  for (uint64_t step = 0; step < 5; ++step) {
    const auto input = random_input(config, step);
    loss_of(*alone, input).backward();
    own->step(1e-2, 1);
    for (const auto& [name, value] : parameters_of(*alone)) value.mutable_grad().reset();
    copy_weights(*whole, *inside, map);
    loss_of(*inside, input).backward();
    add_gradients(*whole, *inside, map);
    for (const auto& [name, value] : parameters_of(*whole)) {
      if (!value.grad().defined()) value.mutable_grad() = at::zeros_like(value);
    }
    optimizer->step(1e-2, 1);
    for (const auto& [name, value] : parameters_of(*whole)) value.mutable_grad().reset();
  }
  const auto all = parameters_of(*whole);
  for (const auto& [name, value] : parameters_of(*alone)) {
    if (name.find(".experts.") != std::string::npos) continue;  // without a token: no update
    EXPECT_TRUE(at::allclose(value, CutMap::take(all.at(name), map.of(name)), 1e-4, 1e-6)) << name;
  }
}

// With a cache for each layer's own heads.
TEST(Extraction, GeneratesWithACache) {
  const model::TransformerConfig config =
      tiny_config("top_k", Kind::kDecoder, "norm_topk_prob = false");
  const auto whole = make_model(config);
  whole->eval();
  const ArchSpace space(config.model, config.moe, config.router_options,
                        {.block_size = 4, .depth = true});
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const auto part = extract(*whole, space.to_cut(random_mask(space, seed, 0.6)));
    auto input = random_input(config, seed);
    const at::Tensor all = part->forward(input).hidden_TD.view({3, 10, -1});
    model::TransformerCache cache = part->make_cache(3, 10);
    part->forward_cached(input.input_ids_BS.narrow(1, 0, 6), cache, {6, 6, 6});
    const at::Tensor rest =
        part->forward_cached(input.input_ids_BS.narrow(1, 6, 4), cache, {4, 4, 4});
    EXPECT_TRUE(at::allclose(rest.view({3, 4, -1}), all.narrow(1, 6, 4), 1e-4, 1e-5)) << seed;
  }
}

}  // namespace
}  // namespace locus::search
