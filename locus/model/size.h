// Parameters, FLOPs and memory of a transformer from its settings alone: nothing is allocated.
#pragma once

#include <cstdint>

#include "locus/model/config.h"
#include "locus/moe/config.h"

namespace locus::model {

struct ParameterCount {
  int64_t embedding = 0;       // token and position embeddings
  int64_t attention = 0;       // projections and q/k norms
  int64_t dense_mlp = 0;       // feed-forward networks of dense layers
  int64_t experts = 0;         // all routed experts
  int64_t active_experts = 0;  // of one token
  int64_t shared_experts = 0;
  int64_t routers = 0;        // matrices
  int64_t router_tables = 0;  // that are looked up by token
  int64_t norms = 0;
  int64_t output = 0;  // 0 when tied

  int64_t total() const {
    return embedding + attention + dense_mlp + experts + shared_experts + routers + router_tables +
           norms + output;
  }
  // Of a table a token has one row: next to nothing.
  int64_t active() const { return total() - experts + active_experts - router_tables; }
};

ParameterCount count_parameters(const ModelConfig& model, const moe::MoeConfig& moe);

// Of products of matrices, whose multiply-adds count as two. Forward only; training is three times
// that. Attention is counted for
// sequences of one text of the given length: half of the square where it is causal. In an
// encoder-decoder, a token is one of the decoder's with one of the encoder's beside it.
// `labelled_share`: of the tokens, those that go through the output projection.
double forward_flops_per_token(const ModelConfig& model, const moe::MoeConfig& moe,
                               int64_t sequence_length, double labelled_share = 1.0);

// The part of it that one expert of a layer has for a token, and that of as many experts as the
// routers of all layers ask for.
double expert_forward_flops(const ModelConfig& model, const moe::MoeConfig& moe, int64_t layer);
double planned_experts_flops(const ModelConfig& model, const moe::MoeConfig& moe);

struct TrainingMemory {
  double weights = 0, gradients = 0, optimizer = 0, activations = 0, logits = 0;  // bytes
  double total() const { return weights + gradients + optimizer + activations + logits; }
};

// Estimate for one rank: float32 weights, gradients and two moments; activations of one micro-batch
// in `compute_bytes` a value, only layer inputs when they are recomputed.
TrainingMemory estimate_memory(const ModelConfig& model, const moe::MoeConfig& moe,
                               int64_t micro_batch_size, int64_t sequence_length,
                               int64_t compute_bytes, bool recompute);

}  // namespace locus::model
