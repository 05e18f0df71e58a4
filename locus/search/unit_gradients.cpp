#include "locus/search/unit_gradients.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "locus/base/error.h"

namespace locus::search {
namespace {

class Collector {
 public:
  // by_weight: W * W in place of W * dLoss/dW.
  Collector(const ArchSpace& space, const model::Transformer& weights,
            const model::Transformer& gradients, const ModelCut& cut, bool by_weight = false)
      : space_(space),
        by_weight_(by_weight),
        map_(weights, gradients, cut),
        cut_(cut),
        gradients_model_(gradients),
        weights_(weights.named_parameters()),
        gradients_(gradients.named_parameters()) {
    out_.dense.resize(space.units().size());
    out_.experts.resize(space.units().size());
  }

  UnitGradients collect() {
    for (const UnitGroup& group : space_.groups()) {
      const std::string prefix = layer_prefix(group.layer);
      const bool has_experts = space_.layers()[static_cast<size_t>(group.layer)].has_experts();
      switch (group.kind) {
        case UnitKind::kHead:
        case UnitKind::kCrossHead: add_heads(group); break;
        case UnitKind::kBlock: add_blocks(group, has_experts ? out_.experts : out_.dense); break;
        case UnitKind::kExpert: add_experts(group, prefix + "moe.experts."); break;
        case UnitKind::kAttention:
          out_.dense[group.begin] = sum_of(prefix + "self_attn.o_proj.", {"weight", "bias"});
          break;
        case UnitKind::kCrossAttention:
          out_.dense[group.begin] = sum_of(prefix + "cross_attn.o_proj.", {"weight", "bias"});
          break;
        case UnitKind::kFeedForward: {
          const std::string block = prefix + (has_experts ? "moe.experts." : "mlp.");
          (has_experts ? out_.experts : out_.dense)[group.begin] =
              sum_of(block, {"down_proj", "down_proj_bias"});
          if (has_experts) {  // every rank has the shared expert
            out_.dense[group.begin] =
                sum_of(prefix + "moe.shared_expert.", {"down_proj", "down_proj_bias"});
          }
          break;
        }
        case UnitKind::kSlot: break;
      }
    }
    return std::move(out_);
  }

 private:
  // W * dLoss/dW in double; undefined where there is no gradient, or no such parameter.
  at::Tensor products(const std::string& name) const {
    if (!gradients_.contains(name)) return {};
    const at::Tensor gradient = by_weight_ ? gradients_[name] : gradients_[name].grad();
    if (!gradient.defined()) return {};
    return (CutMap::take(weights_[name], map_.of(name)).to(at::kDouble) * gradient).cpu();
  }

  double sum_of(const std::string& prefix, std::initializer_list<const char*> names) const {
    double sum = 0;
    for (const char* name : names) {
      const at::Tensor product = products(prefix + name);
      if (product.defined()) sum += product.sum().item<double>();
    }
    return sum;
  }

  void add_heads(const UnitGroup& group) {
    const at::Tensor product = products(output_weight(space_, group.kind, group.layer));
    if (!product.defined()) return;
    const at::Tensor sum_H = product.sum(0).view({static_cast<int64_t>(group.size()), -1}).sum(1);
    for (size_t i = 0; i < group.size(); ++i) {
      out_.dense[group.begin + i] = sum_H[static_cast<int64_t>(i)].item<double>();
    }
  }

  void add_blocks(const UnitGroup& group, std::vector<double>& out) {
    const at::Tensor product = products(output_weight(space_, group.kind, group.layer));
    if (!product.defined()) return;
    const at::Tensor sum_F = product.flatten(0, -2).sum(0);
    for (size_t unit = group.begin; unit < group.end; ++unit) {
      const auto [begin, end] = space_.channels_of(space_.units()[unit]);
      out[unit] = sum_F.slice(0, begin, end).sum().item<double>();
    }
  }

  void add_experts(const UnitGroup& group, const std::string& prefix) {
    at::Tensor sum_E;
    for (const char* name : {"down_proj", "down_proj_bias"}) {
      const at::Tensor product = products(prefix + name);
      if (!product.defined()) continue;
      const at::Tensor own_E = product.flatten(1).sum(1);
      sum_E = sum_E.defined() ? sum_E + own_E : own_E;
    }
    if (!sum_E.defined()) return;
    // From this rank's places to numbers of the whole layer.
    const std::vector<int64_t> held = gradients_model_.held_experts(prefix);
    const LayerCut& cut = cut_[static_cast<size_t>(group.layer)];
    for (size_t place = 0; place < held.size(); ++place) {
      const int64_t expert = cut.experts[static_cast<size_t>(held[place])];
      for (size_t unit = group.begin; unit < group.end; ++unit) {
        const std::vector<int64_t> of_unit = space_.experts_of(space_.units()[unit]);
        if (std::find(of_unit.begin(), of_unit.end(), expert) == of_unit.end()) continue;
        out_.experts[unit] += sum_E[static_cast<int64_t>(place)].item<double>();
      }
    }
  }

  const ArchSpace& space_;
  const bool by_weight_;
  const CutMap map_;
  const ModelCut& cut_;
  const model::Transformer& gradients_model_;
  const torch::OrderedDict<std::string, at::Tensor> weights_, gradients_;
  UnitGradients out_;
};

}  // namespace

UnitGradients unit_gradients(const ArchSpace& space, const model::Transformer& weights,
                             const model::Transformer& gradients, const ModelCut& cut) {
  const at::NoGradGuard no_grad;
  return Collector(space, weights, gradients, cut).collect();
}

std::vector<double> unit_magnitudes(const ArchSpace& space, const model::Transformer& transformer) {
  const at::NoGradGuard no_grad;
  const ModelCut all = whole_cut(space.model(), space.moe());
  const UnitGradients squares =
      Collector(space, transformer, transformer, all, /*by_weight=*/true).collect();
  std::vector<double> out;
  for (size_t unit = 0; unit < squares.dense.size(); ++unit) {
    out.push_back(std::sqrt(squares.dense[unit] + squares.experts[unit]));
  }
  return out;
}

}  // namespace locus::search
