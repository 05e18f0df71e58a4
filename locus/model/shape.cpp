#include "locus/model/shape.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "locus/base/toml.h"
#include "locus/model/layer_config.h"
#include "locus/model/llama_names.h"
#include "locus/moe/router.h"

namespace locus::model {
namespace {

constexpr auto kOfTraining = std::to_array<std::string_view>({
    "model.preset",
    "model.hidden_dropout",
    "model.embedding_dropout",
    "model.initializer_range",
    "model.residual_init_scaling",
    "moe.experts",
    "moe.router.aux_loss_coeff",
    "moe.router.aux_loss_scope",
    "moe.router.z_loss_coeff",
    "moe.router.capacity_factor",
    "moe.router.drop_policy",
    "moe.dense_to_sparse.max_temperature",
    "moe.dense_to_sparse.min_temperature",
    "moe.dense_to_sparse.anneal_schedule",
    "moe.dense_to_sparse.anneal_steps",
    "moe.dense_to_sparse.sparse_steps",
    "moe.dense_to_sparse.noise",
    "moe.dense_to_sparse.balance",
    "moe.locmoe.noise_std",
    "moe.locmoe_plus.rho_end",
    "moe.locmoe_plus.shift_begin",
    "moe.locmoe_plus.shift_end",
    "moe.locmoe_plus.min_capacity_factor",
    "moe.locmoe_plus.decay",
    "moe.locmoe_plus.selection",
    "moe.stablemoe.first_stage",
    "moe.stablemoe.balance_loss_coeff",
    "moe.stablemoe.distill_loss_coeff",
    "moe.xmoe.temperature",
});

void assign(const FieldPointer& to, const FieldPointer& from) {
  std::visit(
      [&from](auto* target) {
        if (const auto* source = std::get_if<decltype(target)>(&from)) *target = **source;
      },
      to);
}

OptionSet deep_copy(const std::string& router, const OptionSet& options) {
  OptionSet copy = moe::find_router(router).options();
  for (size_t i = 0; i < std::min(copy.fields().size(), options.fields().size()); ++i) {
    assign(copy.fields()[i].value, options.fields()[i].value);
  }
  return copy;
}

void settle_positions(ModelConfig& model) {
  const ModelConfig defaults;
  if (model.position_embedding_type != "rope") {
    model.rope_theta = defaults.rope_theta;
    model.rope_scaling = defaults.rope_scaling;
  } else if (model.rope_scaling == "ntk") {  // another base of the frequencies, no more
    const auto dim = static_cast<double>(model.head_dim);
    model.rope_theta *= std::pow(model.rope_scaling_factor, dim / (dim - 2.0));
    model.rope_scaling = "none";
  }
  if (model.rope_scaling == "none") model.rope_scaling_factor = defaults.rope_scaling_factor;
  if (model.rope_scaling != "llama3") {
    model.rope_low_freq_factor = defaults.rope_low_freq_factor;
    model.rope_high_freq_factor = defaults.rope_high_freq_factor;
    model.rope_original_max_position_embeddings = defaults.rope_original_max_position_embeddings;
  }
}

// Which layers have experts, as short as it can be said.
void settle_layers(const ModelConfig& model, moe::MoeConfig& moe) {
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    if (is_moe_layer(moe, i)) layers.push_back(i);
  }
  moe.layer_freq = 1;
  moe.layers = std::cmp_equal(layers.size(), model.num_hidden_layers) ? std::vector<int64_t>()
                                                                      : std::move(layers);
}

// Where nothing but the scores takes part in the choice, the softmax over the chosen is the softmax
// over all, normalised: groups and the bias of the balance compare other sums of logits than of
// probabilities. One expert has nothing to normalise.
void settle_weights(Shape& shape) {
  bool* before = shape.router_options.find<bool>("score_before_topk");
  bool* normalised = shape.router_options.find<bool>("norm_topk_prob");
  if (before == nullptr || normalised == nullptr) return;
  const bool by_score_alone = *shape.router_options.find<int64_t>("num_groups") <= 1 &&
                              *shape.router_options.find<double>("bias_update_rate") == 0;
  if (!*before && by_score_alone && shape.moe.router.top_k > 1) *before = *normalised = true;
  if (shape.moe.router.top_k == 1 || !*before) *normalised = false;
}

}  // namespace

Fields Shape::fields() {
  Fields all = collect_fields(model, "model.");
  for (Field& field : collect_fields(moe, "moe.")) all.push_back(std::move(field));
  for (Field field : router_options.fields()) {
    field.path = "moe." + moe.router.type + "." + field.path;
    all.push_back(std::move(field));
  }
  return all;
}

Shape default_shape() {
  Shape shape;
  shape.moe.num_experts = 0;
  set_router(shape, shape.moe.router.type);
  return shape;
}

void set_router(Shape& shape, const std::string& type) {
  shape.router_options = moe::find_router(type).options();
  shape.moe.router.type = type;
}

Shape canonical(const Shape& shape) {
  Shape out = shape;
  out.router_options = deep_copy(shape.moe.router.type, shape.router_options);
  out.model.num_key_value_heads = shape.model.kv_heads();
  out.model.head_dim = shape.model.head_size();
  settle_positions(out.model);
  settle_layers(out.model, out.moe);
  settle_lists(out.model, out.moe);
  const bool dense = !has_moe_layer(shape.model, shape.moe);
  if (dense) {
    out.moe = moe::MoeConfig();
    out.moe.num_experts = 0;
    set_router(out, out.moe.router.type);
  } else if (!has_dense_layer(shape.model, shape.moe)) {
    out.model.intermediate_size = ModelConfig().intermediate_size;
  }
  if (!out.moe.domain_groups.empty()) out.moe.num_domain_groups = 0;  // they have been dealt
  if (!dense) settle_weights(out);
  return out;
}

bool is_of_training(std::string_view setting) {
  return std::find(kOfTraining.begin(), kOfTraining.end(), setting) != kOfTraining.end();
}

std::vector<ShapeDifference> differences(const Shape& shape, const Shape& other) {
  Shape left = canonical(shape);
  Shape right = canonical(other);
  const Fields others = right.fields();
  std::vector<ShapeDifference> out;
  for (const Field& field : left.fields()) {
    if (field.path == "model.preset") continue;
    const auto same = [&field](const Field& one) { return one.path == field.path; };
    const auto found = std::find_if(others.begin(), others.end(), same);
    const std::string value = to_toml(field.value);
    const std::string is = found == others.end() ? "" : to_toml(found->value);
    if (value != is) out.push_back({field.path, value, is});
  }
  return out;
}

}  // namespace locus::model
