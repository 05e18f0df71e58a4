// What Locus computes for given ids with the model of a folder, for comparison with transformers.
//
//   transformers_probe FOLDER IDS OUT [NEW_TOKENS]
//
// IDS: rows of numbers, all of one length. OUT, a safetensors file: "logits", "loss" (mean over all
// tokens but the first of each row, without the losses of routers), "grad.<name>" under the names
// of the model's family, and "generated": NEW_TOKENS greedy ids behind each row, with the cache.
#include <ATen/ATen.h>

#include <fstream>
#include <iostream>
#include <sstream>

#include "locus/app/session.h"
#include "locus/base/error.h"
#include "locus/io/safetensors.h"
#include "locus/model/weights.h"

namespace {

using locus::model::Transformer;

at::Tensor read_ids(const char* path) {
  std::ifstream file(path);
  std::vector<int64_t> ids;
  int64_t rows = 0;
  for (std::string line; std::getline(file, line); ++rows) {
    std::istringstream numbers(line);
    for (int64_t id; numbers >> id;) ids.push_back(id);
  }
  return at::tensor(ids).view({rows, -1});
}

at::Tensor logits_of(Transformer& transformer, const at::Tensor& ids_BS) {
  locus::model::TransformerInput input;
  input.input_ids_BS = ids_BS;
  input.position_ids_BS = at::arange(ids_BS.size(1)).expand_as(ids_BS).contiguous();
  const at::Tensor hidden_TD = transformer.forward(input).hidden_TD;
  return hidden_TD.matmul(transformer.output_weight().t())
      .view({ids_BS.size(0), ids_BS.size(1), -1});
}

at::Tensor generate(Transformer& transformer, const at::Tensor& ids_BS, int64_t num_new) {
  const at::NoGradGuard no_grad;
  auto cache = transformer.make_cache(ids_BS.size(0), ids_BS.size(1) + num_new);
  std::vector<at::Tensor> out;
  at::Tensor next_BS = ids_BS;
  for (int64_t i = 0; i < num_new; ++i) {
    const std::vector<int64_t> lengths(static_cast<size_t>(ids_BS.size(0)), next_BS.size(1));
    const at::Tensor hidden_TD = transformer.forward_cached(next_BS, cache, lengths);
    const at::Tensor last_BD =
        hidden_TD.view({ids_BS.size(0), next_BS.size(1), -1}).select(1, next_BS.size(1) - 1);
    next_BS = last_BD.matmul(transformer.output_weight().t()).argmax(-1, /*keepdim=*/true);
    out.push_back(next_BS);
  }
  return out.empty() ? at::zeros({ids_BS.size(0), 0}, at::kLong) : at::cat(out, 1);
}

void write(const std::string& path, const std::vector<locus::model::StoredTensor>& tensors) {
  std::vector<locus::io::TensorSpec> specs;
  for (const auto& one : tensors) {
    specs.push_back(
        {one.name, locus::model::to_dtype(one.value.scalar_type()), one.value.sizes().vec()});
  }
  locus::io::SafetensorsWriter writer(path, specs, {});
  for (const auto& one : tensors) {
    writer.write(one.name, locus::model::tensor_bytes(one.value.detach().contiguous()));
  }
  writer.close();
}

void run(const char* path, const char* ids_path, const char* out, int64_t num_new) {
  locus::app::set_threads(2);
  const auto folder = locus::app::resolve_model_folder(path);
  const auto transformer = locus::app::load_transformer(folder, locus::app::folder_config(folder));
  const at::Tensor ids_BS = read_ids(ids_path);
  const at::Tensor logits_BSV = logits_of(*transformer, ids_BS);
  const at::Tensor loss = at::cross_entropy_loss(logits_BSV.slice(1, 0, -1).flatten(0, 1),
                                                 ids_BS.slice(1, 1).flatten());
  loss.backward();
  std::vector<locus::model::StoredTensor> tensors = {
      {"logits", logits_BSV, false},
      {"loss", loss, false},
      {"generated", generate(*transformer, ids_BS, num_new), false}};
  // With gradients in place of the weights, the family names them.
  for (at::Tensor& parameter : transformer->parameters()) {
    const at::NoGradGuard no_grad;
    parameter.copy_(parameter.grad().defined() ? parameter.grad() : at::zeros_like(parameter));
  }
  for (const auto& stored : locus::model::stored_tensors(*transformer)) {
    tensors.push_back({"grad." + stored.name, stored.value, stored.is_expert});
  }
  write(out, tensors);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "transformers_probe FOLDER IDS OUT [NEW_TOKENS]\n";
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], argc > 4 ? std::stoll(argv[4]) : 0);
    return 0;
  } catch (const locus::Error& error) {
    std::cerr << "locus: " << error.what() << "\n";
    return error.exit_code();
  }
}
