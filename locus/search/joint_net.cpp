#include "locus/search/joint_net.h"

#include <ATen/ATen.h>

#include "locus/search/extract.h"

namespace locus::search {
namespace {

// Left of the units whose outputs have a gate of their own in the full width: heads, channels and
// branches stay, experts and slots go.
Mask without_experts_and_slots(const ArchSpace& space, const Mask& mask) {
  Mask out = mask;
  for (size_t unit = 0; unit < out.size(); ++unit) {
    const UnitKind kind = space.units()[unit].kind;
    if (kind != UnitKind::kExpert && kind != UnitKind::kSlot) out[unit] = 1;
  }
  return out;
}

}  // namespace

JointNet::JointNet(const model::Transformer& whole, const ArchSpace& space, size_t budget,
                   const Mask& mask, bool is_gated)
    : budget_(budget),
      mask_(mask),
      computed_(is_gated ? without_experts_and_slots(space, mask) : mask),
      cut_(space.to_cut(computed_)),
      transformer_(make_part(whole, cut_)),
      map_(whole, *transformer_, cut_) {
  if (!is_gated) {  // a mask would set the whole one's to 0
    share_weights(whole, *transformer_, map_);
    return;
  }
  for (size_t unit = 0; unit < mask.size(); ++unit) {
    if (mask[unit] == 0) turn_off(space, space.units()[unit]);
  }
}

void JointNet::Off::zero(const at::Tensor& tensor) const {
  const at::NoGradGuard no_grad;
  if (tensor.defined()) (end < 0 ? tensor : tensor.slice(-1, begin, end)).zero_();
}

void JointNet::turn_off(const std::string& name, int64_t begin, int64_t end) {
  const auto parameters = transformer_->named_parameters();
  if (const at::Tensor* found = parameters.find(name)) off_.push_back({*found, begin, end});
}

void JointNet::turn_off(const ArchSpace& space, const Unit& unit) {
  const std::string prefix = layer_prefix(unit.layer);
  const auto& layer = space.layers()[static_cast<size_t>(unit.layer)];
  const int64_t group = layer.model.head_dim * space.model().heads_per_group();
  switch (unit.kind) {
    case UnitKind::kHead:
    case UnitKind::kCrossHead:
      turn_off(output_weight(space, unit.kind, unit.layer), unit.index * group,
               (unit.index + 1) * group);
      break;
    case UnitKind::kBlock: {
      const auto [begin, end] = space.channels_of(unit);
      turn_off(output_weight(space, unit.kind, unit.layer), begin, end);
      break;
    }
    case UnitKind::kAttention:
      turn_off(prefix + "self_attn.o_proj.weight");
      turn_off(prefix + "self_attn.o_proj.bias");
      break;
    case UnitKind::kCrossAttention:
      turn_off(prefix + "cross_attn.o_proj.weight");
      turn_off(prefix + "cross_attn.o_proj.bias");
      break;
    case UnitKind::kFeedForward:
      for (const char* network : {"moe.experts.", "mlp.", "moe.shared_expert."}) {
        turn_off(prefix + network + "down_proj");
        turn_off(prefix + network + "down_proj_bias");
      }
      break;
    case UnitKind::kExpert:
    case UnitKind::kSlot: break;
  }
}

void JointNet::copy_weights(const model::Transformer& whole) {
  search::copy_weights(whole, *transformer_, map_);
  for (const Off& off : off_) off.zero(off.parameter);
}

void JointNet::add_gradients(const model::Transformer& whole) {
  // Gates have learned from what is off; the weights have no gradient there.
  for (const Off& off : off_) off.zero(off.parameter.grad());
  search::add_gradients(whole, *transformer_, map_);
}

}  // namespace locus::search
