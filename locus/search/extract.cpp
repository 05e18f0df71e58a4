#include "locus/search/extract.h"

#include <ATen/ATen.h>

#include <tuple>

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

std::shared_ptr<model::Transformer> make_part(const model::Transformer& whole,
                                              const ModelCut& cut) {
  model::TransformerConfig config = whole.config();
  std::tie(config.model, config.moe) = cut_config(config.model, config.moe, cut);
  config.is_drawn = false;
  auto part = std::make_shared<model::Transformer>(config);
  match_type(*part, whole.output_weight());
  part->set_domain_names(whole.domain_names());
  part->train(whole.is_training());
  return part;
}

std::shared_ptr<model::Transformer> extract(const model::Transformer& whole, const ModelCut& cut) {
  auto part = make_part(whole, cut);
  copy_weights(whole, *part, CutMap(whole, *part, cut));
  return part;
}

}  // namespace locus::search
