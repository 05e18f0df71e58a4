// The architectures inside a model: its units, each of which can be left out, and what is left
// where some are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "locus/moe/domain_groups.h"
#include "locus/search/model_cut.h"

namespace locus::search {

enum class UnitKind {
  kHead,            // a key/value head with its query heads
  kCrossHead,       // the same of attention to the encoder's text
  kBlock,           // channels of the feed-forward network, or the same ones of all experts
  kExpert,          // an expert; with expert parallelism one of each rank
  kSlot,            // of top_k: the second expert of a token, the third, ...
  kAttention,       // a whole branch
  kCrossAttention,  // likewise
  kFeedForward,     // likewise
};
struct Unit {
  UnitKind kind;
  int64_t layer = 0;
  int64_t index = 0;  // among those of its kind in the layer
};

// The units of one kind in one layer stand together: units[begin .. end).
struct UnitGroup {
  UnitKind kind;
  int64_t layer = 0;
  size_t begin = 0, end = 0;
  int64_t floor = 0;  // of them, at least so many are left, unless their branch is gone

  size_t size() const { return end - begin; }
};

using Mask = std::vector<uint8_t>;  // of each unit: is it left

struct ArchOptions {
  int64_t block_size = 16;      // channels of a block
  double least_channels = 0.1;  // share of a width that is left at least
  bool depth = false;           // whole branches can go
  int64_t ep_size = 1;          // ranks that the experts are spread over
};

// How much of a layer is left; with probabilities in place of a mask, how much is to be expected.
struct LayerSizes {
  double attention = 0, heads = 0;
  double cross_attention = 0, cross_heads = 0;
  double feed_forward = 0, channels = 0, top_k = 0, experts = 0;
};

class ArchSpace {
 public:
  // ConfigError where a setting does not fit the model.
  ArchSpace(const model::ModelConfig& model, const moe::MoeConfig& moe,
            const OptionSet& router_options, const ArchOptions& options);

  const std::vector<Unit>& units() const { return units_; }
  const std::vector<UnitGroup>& groups() const { return groups_; }
  const UnitGroup& group_of(size_t unit) const { return groups_[group_of_[unit]]; }
  Mask all() const { return Mask(units_.size(), 1); }

  // Whether `unit` can go, so that floors hold: of its group enough is left, no later slot is on,
  // and an expert of every domain is left.
  bool can_drop(const Mask& mask, size_t unit) const;
  // Whether it can come back: its branch is there, and the slots before it.
  bool can_add(const Mask& mask, size_t unit) const;
  // Without the units of branches that are gone.
  Mask active(const Mask& mask) const;
  // Without this branch and its units.
  void drop_branch(Mask& mask, size_t unit) const;

  ModelCut to_cut(const Mask& mask) const;
  // The experts of an expert unit.
  std::vector<int64_t> experts_of(const Unit& unit) const;
  // The channels of a block.
  std::pair<int64_t, int64_t> channels_of(const Unit& unit) const;  // [begin, end)

  // Of a mask, or of probabilities p of each unit to be there, independent of each other.
  std::vector<LayerSizes> sizes(const Mask& mask) const;
  LayerSizes layer_sizes(const Mask& mask, size_t layer) const;
  std::vector<LayerSizes> expected_sizes(const std::vector<double>& p) const;

  const model::ModelConfig& model() const { return model_; }
  const moe::MoeConfig& moe() const { return moe_; }
  const ArchOptions& options() const { return options_; }
  const std::vector<model::LayerConfig>& layers() const { return layers_; }

 private:
  void add_group(UnitKind kind, int64_t layer, int64_t count, int64_t floor);
  const UnitGroup* find_group(UnitKind kind, int64_t layer) const;
  int64_t count_left(const Mask& mask, const UnitGroup& group) const;
  bool leaves_domains(const Mask& mask, const UnitGroup& experts, size_t without) const;
  int64_t top_k_left(const Mask& mask, int64_t layer) const;
  template <class Values>
  LayerSizes sizes_of(const Values& values, size_t index) const;

  model::ModelConfig model_;
  moe::MoeConfig moe_;
  ArchOptions options_;
  std::vector<model::LayerConfig> layers_;
  std::vector<std::vector<moe::DomainGroup>> domain_groups_;  // of each layer
  std::vector<Unit> units_;
  std::vector<UnitGroup> groups_;
  std::vector<std::vector<size_t>> groups_of_layer_;
  std::vector<size_t> group_of_;
};

// The branch that units of this kind are in; itself for a branch.
UnitKind branch_of(UnitKind kind);

// Whether units of this kind, heads or channels, have columns of an output projection.
bool has_columns(UnitKind kind);
// What the names of a layer's parameters begin with.
std::string layer_prefix(int64_t layer);
// That projection's weight, with a column for each of the units' channels; of all experts.
std::string output_weight(const ArchSpace& space, UnitKind kind, int64_t layer);

// Why the top_k of this model cannot be cut; empty: it can. A router whose weights of a token sum
// to 1, or that does otherwise with one expert than with several, computes something else with
// fewer.
std::string why_slots_stay(const moe::MoeConfig& moe, const OptionSet& router_options);

// The same of its experts.
std::string why_experts_stay(const OptionSet& router_options);

}  // namespace locus::search
