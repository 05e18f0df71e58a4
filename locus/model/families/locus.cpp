// Every shape that no public family holds, under Llama-like names.

#include "locus/model/llama_names.h"

namespace locus::model {
namespace {

bool holds(const ModelConfig& /*model*/, const moe::MoeConfig& /*moe*/) { return true; }

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe) {
  return llama_tensors(model, moe, {});
}

}  // namespace

extern const FamilyEntry kLocusFamily;
const FamilyEntry kLocusFamily{"locus", "any other shape, Llama-like names", {}, holds, tensors};

}  // namespace locus::model
