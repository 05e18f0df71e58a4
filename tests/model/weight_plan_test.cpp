#include "locus/model/weight_plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>

#include "locus/base/error.h"
#include "locus/model/weights.h"
#include "locus/moe/router.h"
#include "tests/model/model_helpers.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::model {
namespace {

using Tensors = std::map<std::string, at::Tensor>;

Tensors tensors_of(Transformer& transformer) {
  Tensors out;
  for (const StoredTensor& stored : stored_tensors(transformer)) {
    out[stored.name] = stored.value.detach().clone(at::MemoryFormat::Contiguous);
  }
  return out;
}

io::SafetensorsFolder stored(const test::TempFolder& folder, const Tensors& tensors) {
  std::vector<io::TensorSpec> specs;
  for (const auto& [name, value] : tensors) {
    specs.push_back({name, to_dtype(value.scalar_type()), value.sizes().vec()});
  }
  io::SafetensorsWriter writer(folder.path() / "model.safetensors", specs, {});
  for (const auto& [name, value] : tensors) writer.write(name, tensor_bytes(value.contiguous()));
  writer.close();
  return io::open_safetensors_folder(folder.path());
}

void expect_loads_as(const Settings& settings, const Tensors& tensors, Transformer& original) {
  const test::TempFolder folder;
  Settings other = settings;
  TransformerConfig config = other.transformer();
  config.seed = 77;
  Transformer transformer(config);
  load_weights(transformer, stored(folder, tensors));
  const Tensors left = tensors_of(original), right = tensors_of(transformer);
  for (const auto& [name, value] : left) EXPECT_TRUE(at::equal(value, right.at(name))) << name;
}

std::string refusal(const Settings& settings, const std::function<void(Tensors&)>& change) {
  const test::TempFolder folder;
  const auto transformer = make(settings);
  Tensors tensors = tensors_of(*transformer);
  change(tensors);
  const auto files = stored(folder, tensors);
  return test::error_of<DataError>([&] { load_weights(*transformer, files); });
}

TEST(WeightPlan, KnowsTheShapeOfEveryParameter) {
  std::vector<Settings> all;
  for (const Preset& preset : all_presets()) all.push_back(shrunk(preset));
  for (const std::string& router : moe::router_names()) {
    all.push_back(tiny(router));
    all.push_back(tiny(router, R"(
[model]
norm_type = "layernorm"
position_embedding_type = "learned"
hidden_act = "gelu"
mlp_bias = true
attention_bias = true
attention_output_bias = true
qk_norm = "full"
[moe]
shared_expert_intermediate_size = 3
shared_expert_gate = true
)"));
  }
  for (const Settings& settings : all) {
    for (const auto& item : make(settings)->named_parameters()) {
      const auto shape = parameter_shape(settings.model, settings.moe, item.key());
      ASSERT_TRUE(shape.has_value()) << item.key();
      EXPECT_EQ(at::IntArrayRef(*shape), item.value().sizes()) << item.key();
    }
  }
}

TEST(WeightPlan, TakesExpertsThatAreStoredTogether) {
  for (const char* preset : {"mixtral-8x7b", "olmoe-1b-7b", "qwen3-30b-a3b"}) {
    const Settings settings = shrunk(find_preset(preset));
    const auto transformer = make(settings);
    std::map<std::string, at::Tensor> parameters;
    for (const auto& item : transformer->named_parameters()) parameters[item.key()] = item.value();
    Tensors fused;
    const FamilyEntry& family = closest_family(settings.model, settings.moe);
    for (const TensorSlice& slice :
         family.tensors(settings.model, settings.moe, ExpertLayout::kFused)) {
      at::Tensor value = parameters.at(slice.parameter).detach();
      if (slice.rows >= 0) value = value.narrow(0, slice.row_begin, slice.rows);
      fused[slice.name] = value.contiguous();
    }
    ASSERT_TRUE(fused.contains("model.layers.1.mlp.experts.gate_up_proj"));
    expect_loads_as(settings, fused, *transformer);
  }
}

TEST(WeightPlan, TakesOlderFilesOfGpt2) {
  const Settings settings = shrunk(find_preset("gpt2"));
  const auto transformer = make(settings);
  Tensors bare;
  for (const auto& [name, value] : tensors_of(*transformer)) {
    bare[name.substr(std::string("transformer.").size())] = value;
  }
  bare["h.0.attn.bias"] = at::ones({1, 1, 32, 32}, at::kByte);  // the causal mask
  expect_loads_as(settings, bare, *transformer);
}

TEST(WeightPlan, TakesTiedWeightsTwiceIfTheyAreEqual) {
  const Settings settings = shrunk(find_preset("llama-3.2-1b"));
  const auto transformer = make(settings);
  Tensors twice = tensors_of(*transformer);
  twice["lm_head.weight"] = twice["model.embed_tokens.weight"].clone();
  expect_loads_as(settings, twice, *transformer);
  const std::string text = refusal(settings, [](Tensors& tensors) {
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1;
  });
  EXPECT_NE(text.find("stored twice with different values"), std::string::npos) << text;
}

TEST(WeightPlan, RefusesWhatDoesNotFit) {
  const Settings settings = shrunk(find_preset("olmoe-1b-7b"));
  const std::string name = "model.layers.1.mlp.experts.2.up_proj.weight";
  const auto expect = [&](const std::function<void(Tensors&)>& change, const std::string& part) {
    const std::string text = refusal(settings, change);
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  expect([&](Tensors& t) { t.erase(name); }, name + " is missing");
  expect(
      [&](Tensors& t) {
        t[name] = at::zeros({5, 5});
      },
      name + " has shape [5, 5], the model needs [5, 24]");
  expect([&](Tensors& t) { t[name] = at::zeros({5, 24}, at::kChar); }, name + " has type I8");
  expect([&](Tensors& t) { t["model.extra"] = at::zeros({1}); }, "model.extra");
  expect([&](Tensors& t) { t[name].fill_(std::nan("")); }, name + " holds a NaN");
}

TEST(WeightPlan, AllocatesNothingForShapesThatTheFilesDoNotHave) {
  Settings settings = shrunk(find_preset("olmoe-1b-7b"));
  const test::TempFolder folder;
  const auto files = stored(folder, tensors_of(*make(settings)));
  settings.model.vocab_size = int64_t{1} << 40;
  const std::string text =
      test::error_of<DataError>([&] { plan_weights(settings.model, settings.moe, files); });
  EXPECT_NE(text.find("needs [1099511627776, 24]"), std::string::npos) << text;
}

}  // namespace
}  // namespace locus::model
