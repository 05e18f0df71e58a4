#include "locus/app/describe.h"

#include <array>
#include <cmath>

#include "locus/base/format.h"
#include "locus/model/family.h"
#include "locus/model/layer_config.h"
#include "locus/model/size.h"
#include "locus/moe/router.h"

namespace locus::app {
namespace {

std::string row(std::string_view name, const std::string& value) {
  return format("  {:<28}{}\n", name, value);
}

int64_t num_moe_layers(const RunConfig& config) {
  int64_t count = 0;
  for (int64_t i = 0; i < config.model.num_hidden_layers; ++i)
    count += model::layer_config(config.model, config.moe, i).has_experts() ? 1 : 0;
  return count;
}

std::string moe_layers_text(const RunConfig& config) {
  return format("{} of {}", num_moe_layers(config), config.model.num_hidden_layers);
}

std::string scaled(double value, double base, const std::array<const char*, 5>& units) {
  size_t unit = 0;
  while (std::abs(value) >= base && unit + 1 < units.size()) {
    value /= base;
    ++unit;
  }
  if (unit == 0) return format("{:.0f}{}", value, units[unit]);
  return value < 10 ? format("{:.2f}{}", value, units[unit])
                    : format("{:.1f}{}", value, units[unit]);
}

// From all of the model to what one rank has of it.
void share_over_ranks(model::TrainingMemory& memory, const model::ParameterCount& count,
                      const comm::ParallelConfig& parallel, int64_t num_ranks) {
  const auto all = static_cast<double>(count.total());
  const double own_experts =
      static_cast<double>(count.experts) / static_cast<double>(parallel.expert_model_parallel_size);
  const double own = (all - static_cast<double>(count.experts) + own_experts) / all;
  memory.weights *= own;
  memory.gradients *= own;
  memory.optimizer *=
      parallel.use_distributed_optimizer ? 1.0 / static_cast<double>(num_ranks) : own;
}

// What one rank sends in a step. Rows travel to the experts and back, forward and backward; sums of
// gradients go round a ring.
std::string describe_traffic(const RunConfig& config, const model::ParameterCount& count,
                             int64_t num_ranks) {
  const auto ranks = static_cast<double>(num_ranks);
  const auto ep = static_cast<double>(config.parallel.expert_model_parallel_size);
  const auto ring_bytes = [](int64_t parameters, double members) {
    return 2 * (members - 1) / members * 4 * static_cast<double>(parameters);
  };
  const double gradients =
      ring_bytes(count.total() - count.experts, ranks) + ring_bytes(count.experts, ranks / ep) / ep;
  std::string out = "sent by each rank in a step (estimate)\n";
  if (count.experts > 0 && ep > 1) {
    const std::string& wire = config.parallel.exchange.wire_dtype;
    const bool is_narrow =
        wire == "bfloat16" || (wire == "auto" && config.train.dtype == "bfloat16");
    const double row_bytes = static_cast<double>(config.model.hidden_size) * (is_narrow ? 2 : 4);
    const double rows =
        static_cast<double>(config.train.global_batch_size * config.data.sequence_length) / ranks *
        moe::find_router(config.moe.router.type).experts_per_token(config.moe) *
        static_cast<double>(num_moe_layers(config));
    out += row("token rows, tokens anywhere", short_bytes(4 * rows * row_bytes * (1 - 1 / ep)));
  }
  out += row("sums of gradients", short_bytes(gradients));
  return out;
}

// Where they were cut, each has a shape of its own.
std::string describe_layers(const RunConfig& config) {
  std::string out;
  for (int64_t i = 0; i < config.model.num_hidden_layers; ++i) {
    const model::LayerConfig layer = model::layer_config(config.model, config.moe, i);
    std::string text = layer.has_attention ? format("{} heads", layer.model.num_attention_heads)
                                           : "no self-attention";
    if (model::has_cross_attention(config.model, i)) {
      text += format(", {} cross-attention heads",
                     layer.cross_kv_heads * config.model.heads_per_group());
    }
    if (!layer.has_feed_forward) {
      text += ", no feed-forward";
    } else if (layer.has_experts()) {
      text += format(", {} experts of width {}, {} per token", layer.moe.num_experts,
                     layer.moe.intermediate_size,
                     moe::find_router(config.moe.router.type).experts_per_token(layer.moe));
    } else {
      text += format(", width {}", layer.model.intermediate_size);
    }
    out += row(format("of it, layer {}", i), text);
  }
  return out;
}

}  // namespace

std::string short_number(double value) { return scaled(value, 1000, {"", "K", "M", "G", "T"}); }

std::string short_bytes(double bytes) {
  return scaled(bytes, 1024, {" B", " KiB", " MiB", " GiB", " TiB"});
}

std::string describe_model(const RunConfig& config, int64_t num_ranks) {
  const auto number = [](auto value) { return short_number(static_cast<double>(value)); };
  const model::ModelConfig& m = config.model;
  const model::ParameterCount count = model::count_parameters(m, config.moe);
  const bool has_moe = count.experts > 0;
  std::string out = "model\n";
  out += row("family of the tensor names", std::string(model::closest_family(m, config.moe).name));
  out += row("layers, hidden, heads", format("{}, {}, {} ({} key/value)", m.num_hidden_layers,
                                             m.hidden_size, m.num_attention_heads, m.kv_heads()));
  if (!m.is_decoder()) {
    out += row("of them the encoder's", std::to_string(m.num_encoder_layers));
  }
  out += row("vocabulary, sequence", format("{}, {}", m.vocab_size, config.data.sequence_length));
  if (has_moe) {
    out += row("MoE layers", moe_layers_text(config));
    out += row("experts, width, per token",
               format("{}, {}, {}", config.moe.num_experts, config.moe.intermediate_size,
                      moe::find_router(config.moe.router.type).experts_per_token(config.moe)));
    out += row("router", config.moe.router.type);
  }
  if (!model::is_uniform(m, config.moe)) out += describe_layers(config);
  out += "parameters\n";
  out += row("total", number(count.total()));
  out += row("active per token", number(count.active()));
  out += row("embeddings, output",
             number(count.embedding) + ", " + (count.output > 0 ? number(count.output) : "tied"));
  out += row("attention", number(count.attention));
  if (count.dense_mlp > 0) out += row("dense feed-forward", number(count.dense_mlp));
  if (has_moe)
    out +=
        row("experts (active)", number(count.experts) + " (" + number(count.active_experts) + ")");
  if (count.shared_experts > 0) out += row("shared experts", number(count.shared_experts));
  out += row("routers, norms",
             number(count.routers + count.router_tables) + ", " + number(count.norms));
  const double forward = forward_flops_per_token(config);
  out += "FLOPs per token\n";
  out += row("forward, training", short_number(forward) + ", " + short_number(3 * forward));
  const int64_t compute_bytes = config.train.dtype == "bfloat16" ? 2 : 4;
  model::TrainingMemory memory =
      model::estimate_memory(m, config.moe, config.train.micro_batch_size,
                             config.data.sequence_length, compute_bytes, config.train.recompute);
  share_over_ranks(memory, count, config.parallel, num_ranks);
  out += num_ranks == 1 ? "memory for training (estimate)\n"
                        : format("memory for training of each of {} ranks (estimate)\n", num_ranks);
  out +=
      row("weights, gradients", short_bytes(memory.weights) + ", " + short_bytes(memory.gradients));
  out += row("optimiser state", short_bytes(memory.optimizer));
  out += row("activations, logits",
             short_bytes(memory.activations) + ", " + short_bytes(memory.logits));
  out += row("total", short_bytes(memory.total()));
  if (num_ranks > 1) out += describe_traffic(config, count, num_ranks);
  return out;
}

}  // namespace locus::app
