#include "locus/search/extract.h"

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <tuple>

#include "locus/base/error.h"

namespace locus::search {
namespace {

// Module::to() would turn whole numbers into this type, too.
void match_type(model::Transformer& transformer, const at::Tensor& like) {
  for (auto tensors : {transformer.parameters(), transformer.buffers()}) {
    for (at::Tensor& tensor : tensors) {
      const bool is_value = at::isFloatingType(tensor.scalar_type());
      tensor.set_data(
          tensor.to(like.device(), is_value ? like.scalar_type() : tensor.scalar_type()));
    }
  }
}

}  // namespace

std::shared_ptr<model::Transformer> extract(const model::Transformer& whole, const ModelCut& cut) {
  model::TransformerConfig config = whole.config();
  std::tie(config.model, config.moe) = cut_config(config.model, config.moe, cut);
  auto part = std::make_shared<model::Transformer>(config);
  match_type(*part, whole.output_weight());
  copy_weights(whole, *part, CutMap(whole, *part, cut));
  part->set_domain_names(whole.domain_names());
  part->train(whole.is_training());
  return part;
}

void extract_state(train::Optimizer& whole, train::Optimizer& part, const CutMap& map) {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> before;
  for (const auto& [name, state] : whole.state()) {
    LOCUS_CHECK(whole.part_of(name).is_whole(), "{} is a part of a distributed state", name);
    before.emplace(name, state);
  }
  for (auto& [name, state] : part.state()) {
    const auto found = before.find(name);
    LOCUS_CHECK(found != before.end(), "the optimiser before has no {}", name);
    if (state.dim() == 0) {
      state.copy_(found->second);
    } else {
      state.copy_(CutMap::take(found->second, map.of(name.substr(name.find('.') + 1))));
    }
  }
}

}  // namespace locus::search
