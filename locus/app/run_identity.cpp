#include "locus/app/run_identity.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>

#include "locus/app/session.h"
#include "locus/base/file.h"
#include "locus/base/format.h"
#include "locus/base/hash.h"
#include "locus/base/toml.h"
#include "locus/base/version.h"
#include "locus/data/indexed_dataset.h"
#include "locus/model/weights.h"

namespace locus::app {
namespace {

constexpr std::array kPaths = {"train.output_dir",
                               "data.train",
                               "data.valid",
                               "data.tokenizer",
                               "checkpoint.initial_load_path",
                               "distillation.teacher_path",
                               "comm.topology"};

constexpr int64_t kSamples = 16, kSampleTokens = 4096;

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Of tokens from all over the dataset.
std::string sample_hash(const data::IndexedDataset& dataset) {
  const int64_t size = std::min(kSampleTokens, dataset.num_tokens());
  std::vector<int32_t> tokens(static_cast<size_t>(kSamples * size));
  for (int64_t i = 0; i < kSamples; ++i) {
    dataset.read(
        (dataset.num_tokens() - size) / (kSamples - 1) * i,
        std::span(tokens).subspan(static_cast<size_t>(i * size), static_cast<size_t>(size)));
  }
  return to_hex(hash128(as_text(std::as_bytes(std::span(tokens)))));
}

}  // namespace

comm::Agreement program_identity() {
  return {comm::Agreement::Kind::kSettings, "programs",
          format("version = {}\nbuild = {}\n", kVersion, to_hex(hash_file("/proc/self/exe")))};
}

comm::Agreement settings_identity(RunConfig& config) {
  std::string text;
  for (const Field& field : config.fields(/*chosen_only=*/true)) {
    if (std::find(kPaths.begin(), kPaths.end(), field.path) != kPaths.end()) continue;
    text += format("{} = {}\n", field.path, locus::to_toml(field.value));
  }
  return {comm::Agreement::Kind::kSettings, "settings", text};
}

comm::Agreement data_identity(const RunConfig& config, const std::string& split,
                              const data::Tokenizer& tokenizer) {
  std::string text = format("tokenizer = {}\n", to_hex(hash128(tokenizer.serialized())));
  const std::vector<std::string> paths =
      split == "train" ? config.data.train : split_paths(config.data, split);
  for (size_t i = 0; i < paths.size(); ++i) {
    const auto dataset = data::open_split(paths[i], split);
    const std::string name = format("dataset {}", i + 1);
    text += format("{}: tokens = {}\n{}: documents = {}\n", name, dataset->num_tokens(), name,
                   dataset->num_documents());
    text += format("{}: index = {}\n", name, to_hex(hash_file(dataset->prefix() + ".idx")));
    if (dataset->has_domains()) {
      text += format("{}: domains = {}\n", name, to_hex(hash_file(dataset->prefix() + ".domains")));
    }
    text += format("{}: sample of tokens = {}\n", name, sample_hash(*dataset));
  }
  return {comm::Agreement::Kind::kFiles, split == "train" ? "training data" : "validation data",
          text};
}

comm::Agreement weights_identity(model::Transformer& transformer, bool of_experts) {
  const at::NoGradGuard no_grad;
  std::string text;
  for (const model::StoredTensor& tensor : model::stored_tensors(transformer)) {
    if (tensor.is_expert != of_experts) continue;
    const at::Tensor value = tensor.value.detach().cpu().contiguous();
    text += format("{} = {}\n", tensor.name, to_hex(hash128(as_text(model::tensor_bytes(value)))));
  }
  return {comm::Agreement::Kind::kFiles, "initial weights", text};
}

}  // namespace locus::app
