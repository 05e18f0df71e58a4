// A cut: which heads, channels, experts, top-k slots and branches of a model are left. It says the
// settings of the smaller model, and which rows and columns of the whole one's tensors it keeps.
//
// H key/value heads, each with its query heads; F width; E experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "locus/model/transformer.h"

namespace locus::search {

// Of one layer, numbers as the layer has them before the cut, rising. Branches without a head or
// channel are gone.
struct LayerCut {
  std::vector<int64_t> heads;
  std::vector<int64_t> cross_heads;
  std::vector<int64_t> channels;  // of the feed-forward network, or of every expert
  std::vector<int64_t> experts;   // none in a dense layer
  int64_t top_k = 0;              // 0 in a dense layer

  bool operator==(const LayerCut&) const = default;
};

using ModelCut = std::vector<LayerCut>;  // by layer

// 0, 1, ... count - 1.
std::vector<int64_t> first_numbers(int64_t count);

// All of it.
ModelCut whole_cut(const model::ModelConfig& model, const moe::MoeConfig& moe);

// The settings of what is left.
std::pair<model::ModelConfig, moe::MoeConfig> cut_config(const model::ModelConfig& model,
                                                         const moe::MoeConfig& moe,
                                                         const ModelCut& cut);

// Some indices of one dimension of a tensor.
struct KeptIndices {
  int64_t dim = 0;
  at::Tensor index;  // int64, rising
};

// What a parameter of the smaller model keeps of the one of that name in the whole one: a choice
// for some dimensions, all of the others.
using TensorCut = std::vector<KeptIndices>;

class CutMap {
 public:
  // Between a model and a smaller one, both on this rank's layout, where each rank keeps experts of
  // its own alone.
  CutMap(const model::Transformer& whole, const model::Transformer& part, const ModelCut& cut);

  // By the name that both have for it.
  const TensorCut& of(const std::string& name) const;

  // part = whole at the kept indices.
  static at::Tensor take(const at::Tensor& whole, const TensorCut& cut);
  // whole += part at the kept indices.
  static void add_back(const at::Tensor& whole, const TensorCut& cut, const at::Tensor& part);

  // Of all parameters of the smaller model, in its order.
  const std::vector<std::pair<std::string, TensorCut>>& parameters() const { return cuts_; }

 private:
  std::vector<std::pair<std::string, TensorCut>> cuts_;
};

// Parameters and buffers of the smaller model become those of the whole one, as far as they are
// left.
void copy_weights(const model::Transformer& whole, model::Transformer& part, const CutMap& map);

// Parameters that no cut touches, embeddings above all, are from now on the whole model's own:
// copy_weights() has less to do. Gradients stay apart.
void share_weights(const model::Transformer& whole, model::Transformer& part, const CutMap& map);

// The gradients of the smaller model's parameters are added to those of the whole one, and reset.
void add_gradients(const model::Transformer& whole, model::Transformer& part, const CutMap& map);

}  // namespace locus::search
