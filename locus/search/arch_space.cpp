#include "locus/search/arch_space.h"

#include <algorithm>
#include <cmath>

#include "locus/base/error.h"
#include "locus/base/format.h"

namespace locus::search {

UnitKind branch_of(UnitKind kind) {
  switch (kind) {
    case UnitKind::kHead:
    case UnitKind::kAttention: return UnitKind::kAttention;
    case UnitKind::kCrossHead:
    case UnitKind::kCrossAttention: return UnitKind::kCrossAttention;
    default: return UnitKind::kFeedForward;
  }
}

bool has_columns(UnitKind kind) {
  return kind == UnitKind::kHead || kind == UnitKind::kCrossHead || kind == UnitKind::kBlock;
}

std::string layer_prefix(int64_t layer) { return "layers." + std::to_string(layer) + "."; }

std::string output_weight(const ArchSpace& space, UnitKind kind, int64_t layer) {
  const std::string prefix = layer_prefix(layer);
  switch (kind) {
    case UnitKind::kHead: return prefix + "self_attn.o_proj.weight";
    case UnitKind::kCrossHead: return prefix + "cross_attn.o_proj.weight";
    case UnitKind::kBlock:
      return prefix + (space.layers()[static_cast<size_t>(layer)].has_experts()
                           ? "moe.experts.down_proj"
                           : "mlp.down_proj");
    default: LOCUS_CHECK(false, "unit kind {} has no columns", static_cast<int>(kind));
  }
}

std::string why_slots_stay(const moe::MoeConfig& moe, const OptionSet& options) {
  const std::string& router = moe.router.type;
  const auto is = [&](std::string_view name, std::string_view value) {
    const std::string* found = options.find<std::string>(name);
    return found != nullptr && *found == value;
  };
  if (router == "top_k") {
    const bool* normalised = options.find<bool>("norm_topk_prob");
    const bool* before = options.find<bool>("score_before_topk");
    if (normalised != nullptr && *normalised) {
      return "moe.top_k.norm_topk_prob = true: the weights of a token sum to 1 whatever its top_k";
    }
    if (before != nullptr && !*before) {
      return "moe.top_k.score_before_topk = false: the weights of a token sum to 1 whatever its "
             "top_k";
    }
    return "";
  }
  if (router == "xmoe") return "";
  if (router == "hash")
    return "moe.router.type = \"hash\": each of top_k experts has the weight 1 / top_k";
  if (router == "locmoe" || router == "locmoe_plus") {
    const double* temperature = options.find<double>("temperature");
    if ((temperature != nullptr && *temperature == 0) || !is("output_weight", "probability")) {
      return format(
          "moe.{0}.temperature and moe.{0}.output_weight are not set to a number and "
          "\"probability\": with one expert they are others than with several",
          router);
    }
    if (router == "locmoe_plus" && moe.router.capacity_factor > 0) {
      return "moe.router.capacity_factor limits what experts take, whatever the tokens ask for";
    }
    return "";
  }
  return format("moe.router.type = \"{}\" has no top_k to cut", router);
}

std::string why_experts_stay(const OptionSet& options) {
  const int64_t* groups = options.find<int64_t>("num_groups");
  if (groups == nullptr || *groups <= 1) return "";
  return format("num_groups = {}: the router chooses among equal groups of experts", *groups);
}

ArchSpace::ArchSpace(const model::ModelConfig& model, const moe::MoeConfig& moe,
                     const OptionSet& router_options, const ArchOptions& options)
    : model_(model), moe_(moe), options_(options) {
  LOCUS_CHECK(options.block_size > 0, "blocks of {} channels", options.block_size);
  const bool slots_stay = !why_slots_stay(moe, router_options).empty();
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const model::LayerConfig& layer = layers_.emplace_back(model::layer_config(model, moe, i));
    domain_groups_.push_back(moe::parse_domain_groups(layer.moe.domain_groups));
    if (layer.has_attention) {
      if (options.depth) add_group(UnitKind::kAttention, i, 1, 0);
      // A norm over all heads would be another one with fewer.
      if (model.qk_norm != "full") {
        add_group(UnitKind::kHead, i, layer.model.num_key_value_heads, 1);
      }
    }
    if (layer.has_cross_attention) {
      if (options.depth) add_group(UnitKind::kCrossAttention, i, 1, 0);
      if (model.qk_norm != "full") add_group(UnitKind::kCrossHead, i, layer.cross_kv_heads, 1);
    }
    if (!layer.has_feed_forward) continue;
    if (options.depth) add_group(UnitKind::kFeedForward, i, 1, 0);
    const int64_t width =
        layer.has_experts() ? layer.moe.intermediate_size : layer.model.intermediate_size;
    const int64_t blocks = (width + options.block_size - 1) / options.block_size;
    const auto least =
        static_cast<int64_t>(std::ceil(options.least_channels * static_cast<double>(blocks)));
    add_group(UnitKind::kBlock, i, blocks, std::max<int64_t>(1, least));
    if (!layer.has_experts()) continue;
    if (layer.moe.num_experts % options.ep_size != 0) {
      throw ConfigError("layer {} has {} experts, not a multiple of the {} ranks", i,
                        layer.moe.num_experts, options.ep_size);
    }
    // An expert that may take more than all tokens is none.
    const auto most_factor = static_cast<int64_t>(std::ceil(layer.moe.router.capacity_factor));
    const int64_t least_experts = moe.router.type == "expert_choice" ? most_factor : 1;
    if (why_experts_stay(router_options).empty()) {
      add_group(UnitKind::kExpert, i, layer.moe.num_experts / options.ep_size,
                std::max<int64_t>(1, (least_experts + options.ep_size - 1) / options.ep_size));
    }
    if (!slots_stay) add_group(UnitKind::kSlot, i, layer.moe.router.top_k - 1, 0);
  }
  groups_of_layer_.resize(layers_.size());
}

void ArchSpace::add_group(UnitKind kind, int64_t layer, int64_t count, int64_t floor) {
  if (count <= 0) return;
  groups_of_layer_.resize(layers_.size());
  groups_of_layer_.back().push_back(groups_.size());
  groups_.push_back({kind, layer, units_.size(), units_.size() + static_cast<size_t>(count),
                     std::min(floor, count)});
  for (int64_t i = 0; i < count; ++i) {
    units_.push_back({kind, layer, i});
    group_of_.push_back(groups_.size() - 1);
  }
}

const UnitGroup* ArchSpace::find_group(UnitKind kind, int64_t layer) const {
  for (const size_t g : groups_of_layer_[static_cast<size_t>(layer)]) {
    if (groups_[g].kind == kind) return &groups_[g];
  }
  return nullptr;
}

int64_t ArchSpace::count_left(const Mask& mask, const UnitGroup& group) const {
  int64_t left = 0;
  for (size_t unit = group.begin; unit < group.end; ++unit) left += mask[unit];
  return left;
}

int64_t ArchSpace::top_k_left(const Mask& mask, int64_t layer) const {
  const model::LayerConfig& own = layers_[static_cast<size_t>(layer)];
  if (!own.has_experts()) return 0;
  const UnitGroup* slots = find_group(UnitKind::kSlot, layer);
  return slots == nullptr ? own.moe.router.top_k : 1 + count_left(mask, *slots);
}

std::vector<int64_t> ArchSpace::experts_of(const Unit& unit) const {
  const int64_t per_rank =
      layers_[static_cast<size_t>(unit.layer)].moe.num_experts / options_.ep_size;
  std::vector<int64_t> experts;
  for (int64_t rank = 0; rank < options_.ep_size; ++rank) {
    experts.push_back(rank * per_rank + unit.index);
  }
  return experts;
}

std::pair<int64_t, int64_t> ArchSpace::channels_of(const Unit& unit) const {
  const model::LayerConfig& own = layers_[static_cast<size_t>(unit.layer)];
  const int64_t width = own.has_experts() ? own.moe.intermediate_size : own.model.intermediate_size;
  const int64_t begin = unit.index * options_.block_size;
  return {begin, std::min(begin + options_.block_size, width)};
}

bool ArchSpace::leaves_domains(const Mask& mask, const UnitGroup& experts, size_t without) const {
  const model::LayerConfig& own = layers_[static_cast<size_t>(experts.layer)];
  const auto& groups = domain_groups_[static_cast<size_t>(experts.layer)];
  if (groups.empty()) return true;
  std::vector<uint8_t> is_left(static_cast<size_t>(own.moe.num_experts));
  for (size_t unit = experts.begin; unit < experts.end; ++unit) {
    if (mask[unit] == 0 || unit == without) continue;
    for (const int64_t expert : experts_of(units_[unit])) is_left[static_cast<size_t>(expert)] = 1;
  }
  const int64_t needed = top_k_left(mask, experts.layer);
  for (const moe::DomainGroup& group : groups) {
    const auto left = std::count_if(group.experts.begin(), group.experts.end(), [&](int64_t e) {
      return is_left[static_cast<size_t>(e)] != 0;
    });
    if (left < needed) return false;
  }
  return true;
}

bool ArchSpace::can_drop(const Mask& mask, size_t unit) const {
  if (mask[unit] == 0) return false;
  const UnitGroup& group = group_of(unit);
  const int64_t left = count_left(mask, group);
  switch (group.kind) {
    case UnitKind::kSlot:  // the last one that is on
      return unit + 1 == group.end || mask[unit + 1] == 0;
    case UnitKind::kExpert: {
      const int64_t least = std::max<int64_t>(1, top_k_left(mask, group.layer));
      return (left - 1) * options_.ep_size >= least && left > group.floor &&
             leaves_domains(mask, group, unit);
    }
    case UnitKind::kAttention:
    case UnitKind::kCrossAttention:
    case UnitKind::kFeedForward: {
      // Of an encoder, or a decoder, one branch has to stay.
      const int64_t first = group.layer < model_.num_encoder_layers ? 0 : model_.num_encoder_layers;
      const int64_t last = group.layer < model_.num_encoder_layers ? model_.num_encoder_layers
                                                                   : model_.num_hidden_layers;
      int64_t branches = 0;
      for (const UnitGroup& one : groups_) {
        const bool is_branch = branch_of(one.kind) == one.kind;
        if (is_branch && one.layer >= first && one.layer < last) branches += mask[one.begin];
      }
      return branches > 1;
    }
    default: return left > group.floor;
  }
}

bool ArchSpace::can_add(const Mask& mask, size_t unit) const {
  if (mask[unit] != 0) return false;
  const UnitGroup& group = group_of(unit);
  const UnitGroup* branch = find_group(branch_of(group.kind), group.layer);
  if (branch != nullptr && branch != &group && mask[branch->begin] == 0) return false;
  if (group.kind != UnitKind::kSlot) return true;
  if (unit > group.begin && mask[unit - 1] == 0) return false;
  // As many experts as a token asks for, of every domain.
  Mask with = mask;
  with[unit] = 1;
  const UnitGroup* experts = find_group(UnitKind::kExpert, group.layer);
  return experts == nullptr ||
         (count_left(with, *experts) * options_.ep_size >= top_k_left(with, group.layer) &&
          leaves_domains(with, *experts, units_.size()));
}

Mask ArchSpace::active(const Mask& mask) const {
  Mask out = mask;
  for (const UnitGroup& branch : groups_) {
    if (branch_of(branch.kind) == branch.kind && mask[branch.begin] == 0) {
      drop_branch(out, branch.begin);
    }
  }
  return out;
}

void ArchSpace::drop_branch(Mask& mask, size_t unit) const {
  const UnitGroup& branch = group_of(unit);
  for (const size_t g : groups_of_layer_[static_cast<size_t>(branch.layer)]) {
    const UnitGroup& group = groups_[g];
    if (branch_of(group.kind) != branch.kind) continue;
    std::fill(mask.begin() + static_cast<std::ptrdiff_t>(group.begin),
              mask.begin() + static_cast<std::ptrdiff_t>(group.end), uint8_t{0});
  }
}

ModelCut ArchSpace::to_cut(const Mask& mask) const {
  const Mask left = active(mask);
  ModelCut cut = whole_cut(model_, moe_);
  for (const UnitGroup& group : groups_) {
    LayerCut& own = cut[static_cast<size_t>(group.layer)];
    std::vector<int64_t> numbers;
    for (size_t unit = group.begin; unit < group.end; ++unit) {
      if (left[unit] == 0) continue;
      if (group.kind == UnitKind::kBlock) {
        const auto [begin, end] = channels_of(units_[unit]);
        for (int64_t c = begin; c < end; ++c) numbers.push_back(c);
      } else if (group.kind == UnitKind::kExpert) {
        for (const int64_t expert : experts_of(units_[unit])) numbers.push_back(expert);
      } else {
        numbers.push_back(units_[unit].index);
      }
    }
    std::sort(numbers.begin(), numbers.end());
    switch (group.kind) {
      case UnitKind::kHead: own.heads = numbers; break;
      case UnitKind::kCrossHead: own.cross_heads = numbers; break;
      case UnitKind::kBlock: own.channels = numbers; break;
      case UnitKind::kExpert: own.experts = numbers; break;
      case UnitKind::kSlot: own.top_k = 1 + std::ssize(numbers); break;
      case UnitKind::kAttention:
        if (numbers.empty()) own.heads.clear();
        break;
      case UnitKind::kCrossAttention:
        if (numbers.empty()) own.cross_heads.clear();
        break;
      case UnitKind::kFeedForward:
        if (numbers.empty()) own.channels.clear();
        break;
    }
  }
  for (size_t i = 0; i < cut.size(); ++i) {
    if (cut[i].channels.empty()) cut[i].experts.clear();  // without a channel they are none
    LOCUS_CHECK(cut[i].channels.empty() || !layers_[i].has_experts() || !cut[i].experts.empty(),
                "channels of no expert are left of layer {}", i);
  }
  return cut;
}

template <class Values>
LayerSizes ArchSpace::sizes_of(const Values& values, size_t index) const {
  const model::LayerConfig& layer = layers_[index];
  LayerSizes own;
  own.attention = layer.has_attention;
  own.heads = static_cast<double>(layer.model.num_key_value_heads);
  own.cross_attention = layer.has_cross_attention;
  own.cross_heads = static_cast<double>(layer.cross_kv_heads);
  own.feed_forward = layer.has_feed_forward;
  if (layer.has_experts()) {
    own.top_k = static_cast<double>(layer.moe.router.top_k);
    own.experts = static_cast<double>(layer.moe.num_experts);
  }
  for (const size_t g : groups_of_layer_[index]) {
    const UnitGroup& group = groups_[g];
    double sum = 0, prefix = 1;
    for (size_t unit = group.begin; unit < group.end; ++unit) {
      const auto value = static_cast<double>(values[unit]);
      if (group.kind == UnitKind::kBlock) {
        const auto [begin, end] = channels_of(units_[unit]);
        sum += value * static_cast<double>(end - begin);
      } else if (group.kind == UnitKind::kSlot) {
        prefix *= value;  // on where all before it are on
        sum += prefix;
      } else {
        sum += value;
      }
    }
    switch (group.kind) {
      case UnitKind::kHead: own.heads = sum; break;
      case UnitKind::kCrossHead: own.cross_heads = sum; break;
      case UnitKind::kBlock: own.channels = sum; break;
      case UnitKind::kExpert: own.experts = sum * static_cast<double>(options_.ep_size); break;
      case UnitKind::kSlot: own.top_k = 1 + sum; break;
      case UnitKind::kAttention: own.attention = sum; break;
      case UnitKind::kCrossAttention: own.cross_attention = sum; break;
      case UnitKind::kFeedForward: own.feed_forward = sum; break;
    }
  }
  return own;
}

LayerSizes ArchSpace::layer_sizes(const Mask& mask, size_t layer) const {
  return sizes_of(mask, layer);
}

std::vector<LayerSizes> ArchSpace::sizes(const Mask& mask) const {
  std::vector<LayerSizes> out;
  for (size_t layer = 0; layer < layers_.size(); ++layer) out.push_back(sizes_of(mask, layer));
  return out;
}

std::vector<LayerSizes> ArchSpace::expected_sizes(const std::vector<double>& p) const {
  std::vector<LayerSizes> out;
  for (size_t layer = 0; layer < layers_.size(); ++layer) out.push_back(sizes_of(p, layer));
  return out;
}

}  // namespace locus::search
