#include "locus/model/weight_plan.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <set>

#include "locus/base/error.h"
#include "locus/io/json_check.h"
#include "locus/model/layer_config.h"
#include "locus/moe/router.h"

namespace locus::model {
namespace {

using Sizes = std::vector<int64_t>;

// Constants that older files carry along: causal masks of GPT-2, rotary frequencies.
bool is_constant(const std::string& name) {
  return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
         name.ends_with(".rotary_emb.inv_freq");
}

bool is_floating(io::DType type) {
  return type == io::DType::kF64 || type == io::DType::kF32 || type == io::DType::kF16 ||
         type == io::DType::kBF16;
}

std::string place_of(const io::SafetensorsFolder& folder) {
  return folder.files().empty() ? "" : folder.files().front().path().parent_path().string();
}

Sizes cut_shape(Sizes shape, const TensorSlice& slice) {
  if (slice.expert >= 0) shape.erase(shape.begin());
  if (slice.rows >= 0) shape.front() = slice.rows;
  if (slice.transposed) std::reverse(shape.begin(), shape.end());
  return shape;
}

// Finds tensors by the family's names, or without the prefix of the model's body, as files of a
// bare body have them ("h.0.ln_1.weight").
class Finder {
 public:
  Finder(const ModelConfig& model, const moe::MoeConfig& moe, const io::SafetensorsFolder& folder)
      : model_(model), moe_(moe), folder_(folder), where_(place_of(folder)) {
    const auto& tensors = folder.tensors();
    fused_ = std::any_of(tensors.begin(), tensors.end(), [](const io::TensorView* view) {
      return view->name.ends_with(".experts.gate_up_proj");
    });
    bare_ =
        folder.find("transformer.wte.weight") == nullptr && folder.find("wte.weight") != nullptr;
  }

  std::vector<PlannedTensor> plan() {
    const FamilyEntry& family = closest_family(model_, moe_);
    std::map<std::string, const io::TensorView*> fused;  // by our parameter
    if (fused_) {
      for (const TensorSlice& slice : family.tensors(model_, moe_, ExpertLayout::kFused)) {
        if (slice.parameter.find(".experts.") != std::string::npos) {
          fused[slice.parameter] = find_checked(slice);
        } else if (folder_.find(slice.name) != nullptr) {
          renamed_[slice.parameter] = slice.name;  // Mixtral's gate has another name beside them
        }
      }
    }
    std::vector<PlannedTensor> out;
    for (const TensorSlice& slice : family.tensors(model_, moe_, ExpertLayout::kEach)) {
      const Sizes shape = cut_shape(shape_of(slice), slice);
      const auto found = fused.find(slice.parameter);
      if (found != fused.end()) {
        out.push_back({slice.name, shape, found->second, slice.expert, slice.row_begin});
      } else {
        out.push_back({slice.name, shape, find_checked(slice)});
      }
    }
    check_tied(family);
    add_buffers(out);
    return out;
  }

 private:
  Sizes shape_of(const TensorSlice& slice) const {
    const auto shape = parameter_shape(model_, moe_, slice.parameter);
    LOCUS_CHECK(shape.has_value(), "no shape of {}", slice.parameter);
    return *shape;
  }

  const io::TensorView* find_checked(const TensorSlice& slice) {
    std::string name = slice.name;
    const auto renamed = renamed_.find(slice.parameter);
    if (renamed != renamed_.end() && slice.rows < 0) name = renamed->second;
    if (bare_ && name.starts_with("transformer.")) name = name.substr(name.find('.') + 1);
    const io::TensorView* view = folder_.find(name);
    if (view == nullptr) throw DataError("{}: tensor {} is missing", where_, name);
    const Sizes shape = cut_shape(shape_of(slice), slice);
    if (view->shape != shape) {
      throw DataError("{}: tensor {} has shape {}, the model needs {}", where_, name,
                      shape_text(view->shape), shape_text(shape));
    }
    if (!is_floating(view->dtype)) {
      throw DataError("{}: tensor {} has type {}, the model needs F32, BF16, F16 or F64", where_,
                      name, io::dtype_name(view->dtype));
    }
    used_.insert(name);
    return view;
  }

  void check_tied(const FamilyEntry& family) {
    const io::TensorView* output = folder_.find("lm_head.weight");
    if (!model_.tie_word_embeddings || output == nullptr) return;
    used_.insert(output->name);
    TensorSlice embedding;
    for (const TensorSlice& slice : family.tensors(model_, moe_, ExpertLayout::kEach)) {
      if (slice.parameter == "embed_tokens") embedding = slice;
    }
    const io::TensorView* tokens = find_checked(embedding);
    const bool same = output->dtype == tokens->dtype && output->shape == tokens->shape &&
                      std::memcmp(output->data.data(), tokens->data.data(),
                                  std::min(output->data.size(), tokens->data.size())) == 0;
    if (!same) {
      throw DataError(
          "{}: {} and {} are one tensor to the model (tie_word_embeddings), but are stored twice "
          "with different values; set tie_word_embeddings to false, or drop one of them",
          where_, output->name, tokens->name);
    }
  }

  // What routers keep beside their gate, and the table of domains, go under our own names.
  void add_buffers(std::vector<PlannedTensor>& out) {
    for (const io::TensorView* view : folder_.tensors()) {
      if (used_.contains(view->name) || is_constant(view->name)) continue;
      const bool ours = view->name.starts_with("domain_model.") ||
                        (view->name.starts_with("layers.") &&
                         view->name.find(".moe.router.") != std::string::npos);
      if (!ours) {
        throw DataError("{}: tensor {} is not part of this model's shape", where_,
                        io::shown(view->name));
      }
      out.push_back({view->name, view->shape, view, -1, 0, /*is_weight=*/false});
    }
  }

  const ModelConfig& model_;
  const moe::MoeConfig& moe_;
  const io::SafetensorsFolder& folder_;
  const std::string where_;
  bool fused_ = false, bare_ = false;
  std::map<std::string, std::string> renamed_;
  std::set<std::string> used_;
};

// Of a block's projections: "up_proj" and "down_proj", with biases, of `width`; `experts` in front.
std::optional<Sizes> feed_forward_shape(const ModelConfig& model, int64_t width,
                                        const std::string& name) {
  const int64_t rows = model.hidden_act == "swiglu" ? 2 * width : width;
  if (name == "up_proj") return Sizes{rows, model.hidden_size};
  if (name == "down_proj") return Sizes{model.hidden_size, width};
  if (name == "up_proj_bias") return Sizes{rows};
  if (name == "down_proj_bias") return Sizes{model.hidden_size};
  return std::nullopt;
}

// With so many key/value heads, each with its query heads.
std::optional<Sizes> attention_shape(const ModelConfig& model, int64_t kv_heads,
                                     const std::string& name) {
  const int64_t kv = kv_heads * model.head_size();
  const int64_t q = kv * model.heads_per_group();
  const bool full = model.qk_norm == "full";
  if (name == "qkv_proj.weight") return Sizes{q + 2 * kv, model.hidden_size};
  if (name == "qkv_proj.bias") return Sizes{q + 2 * kv};
  if (name == "q_proj.weight") return Sizes{q, model.hidden_size};  // of cross-attention
  if (name == "q_proj.bias") return Sizes{q};
  if (name == "kv_proj.weight") return Sizes{2 * kv, model.hidden_size};
  if (name == "kv_proj.bias") return Sizes{2 * kv};
  if (name == "o_proj.weight") return Sizes{model.hidden_size, q};
  if (name == "o_proj.bias") return Sizes{model.hidden_size};
  if (name.starts_with("q_norm.")) return Sizes{full ? q : model.head_size()};
  if (name.starts_with("k_norm.")) return Sizes{full ? kv : model.head_size()};
  return std::nullopt;
}

std::optional<Sizes> moe_shape(const ModelConfig& model, const moe::MoeConfig& moe,
                               const std::string& name) {
  const auto below = [&name](std::string_view block) { return name.substr(block.size()); };
  if (name.starts_with("router.")) {
    for (const moe::RouterParameter& one :
         moe::find_router(moe.router.type)
             .parameters({moe.num_experts, model.hidden_size, model.vocab_size})) {
      if (one.name == below("router.")) return one.shape;
    }
    return std::nullopt;
  }
  if (name == "shared_expert_gate.weight") return Sizes{1, model.hidden_size};
  if (name.starts_with("shared_expert.")) {
    return feed_forward_shape(model, moe.shared_expert_intermediate_size, below("shared_expert."));
  }
  if (!name.starts_with("experts.")) return std::nullopt;
  auto shape = feed_forward_shape(model, moe.intermediate_size, below("experts."));
  if (shape) shape->insert(shape->begin(), moe.num_experts);
  return shape;
}

}  // namespace

std::vector<PlannedTensor> plan_weights(const ModelConfig& model, const moe::MoeConfig& moe,
                                        const io::SafetensorsFolder& folder) {
  return Finder(model, moe, folder).plan();
}

std::optional<Sizes> parameter_shape(const ModelConfig& model, const moe::MoeConfig& moe,
                                     const std::string& name) {
  if (name == "embed_tokens" || name == "lm_head") {
    return Sizes{model.vocab_size, model.hidden_size};
  }
  if (name == "embed_positions") return Sizes{model.max_position_embeddings, model.hidden_size};
  if (name.starts_with("norm.") || name.starts_with("encoder_norm.")) {
    return Sizes{model.hidden_size};
  }
  const size_t layer = name.find('.') + 1;
  const size_t block = name.find('.', layer) + 1;
  const size_t part = name.find('.', block) + 1;
  if (!name.starts_with("layers.") || block == 0 || part == 0) return std::nullopt;
  int64_t number = -1;
  std::from_chars(name.data() + layer, name.data() + block - 1, number);
  if (number < 0 || number >= model.num_hidden_layers) return std::nullopt;
  const LayerConfig own = layer_config(model, moe, number);
  const std::string kind = name.substr(block, part - 1 - block);
  const std::string rest = name.substr(part);
  if (kind.ends_with("layernorm")) return Sizes{model.hidden_size};
  if (kind == "self_attn") return attention_shape(model, own.model.num_key_value_heads, rest);
  if (kind == "cross_attn") return attention_shape(model, own.cross_kv_heads, rest);
  if (kind == "mlp") return feed_forward_shape(model, own.model.intermediate_size, rest);
  if (kind == "moe") return moe_shape(model, own.moe, rest);
  return std::nullopt;
}

std::string shape_text(const Sizes& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

}  // namespace locus::model
