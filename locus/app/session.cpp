#include "locus/app/session.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/hash.h"
#include "locus/base/thread_pool.h"
#include "locus/data/dataset_info.h"
#include "locus/data/domain_counts.h"
#include "locus/data/indexed_dataset.h"
#include "locus/moe/domain_groups.h"
#include "locus/moe/router.h"

namespace locus::app {
namespace {

constexpr int64_t kFrequencySample = int64_t{4} << 20;
constexpr int64_t kFrequencyChunk = int64_t{64} << 10;

bool is_dataset_folder(const std::string& path) {
  return fs::exists(fs::path(path) / "dataset.json");
}

void check_tokenizer(const std::string& path, const std::string& hash) {
  if (!is_dataset_folder(path)) return;
  const std::string made_with = data::read_dataset_info(path).tokenizer_hash;
  if (made_with != hash) {
    throw DataError(
        "{}: was prepared with another tokenizer (its dataset.json says {}, this one is {}); "
        "prepare it "
        "again with --tokenizer, or use its own tokenizer.model",
        path, made_with, hash);
  }
}

// What a dataset holds must be what the model is trained on.
void check_pairs(const data::IndexedDataset& dataset, const model::ModelConfig& model) {
  if (dataset.has_pairs() && !model.is_encoder_decoder()) {
    throw DataError(
        "{}: holds pairs to translate, which an encoder-decoder reads: model.num_encoder_layers = "
        "{} must be over 0 and under model.num_hidden_layers = {}",
        dataset.prefix(), model.num_encoder_layers, model.num_hidden_layers);
  }
  if (!dataset.has_pairs() && model.is_encoder_decoder()) {
    throw DataError(
        "{}: holds no pairs to translate, but the model is an encoder-decoder "
        "(model.num_encoder_layers = {}); make pairs with `locus prepare --pairs`",
        dataset.prefix(), model.num_encoder_layers);
  }
}

// None for models that are not trained on masked tokens.
std::optional<data::Masking> masking_of(const RunConfig& config, const data::Tokenizer& tokenizer) {
  if (!config.model.is_encoder()) return std::nullopt;
  return data::make_masking(tokenizer, config.data.mask_share, config.data.mask_whole_words);
}

}  // namespace

void set_threads(int64_t num_threads, int64_t sharing) {
  if (num_threads == 0) num_threads = std::max<int64_t>(1, ThreadPool::num_cores() / sharing);
  at::set_num_threads(static_cast<int>(num_threads));
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // we read only what we wrote
}

std::string tokenizer_path(const data::DataConfig& config) {
  if (!config.tokenizer.empty()) return config.tokenizer;
  for (const std::string& path : config.train) {
    if (!is_dataset_folder(path)) continue;
    return (fs::path(path) / data::read_dataset_info(path).tokenizer).string();
  }
  if (config.train.empty()) {
    throw ConfigError(
        "data.train names no dataset; make one with `locus prepare` and set data.train = "
        "[\"folder\"]");
  }
  const std::string& first = config.train.front();
  const bool is_there = fs::exists(first) || fs::exists(first + ".idx");
  if (!is_there) throw DataError("data.train: {} is not there", first);
  throw ConfigError("data.tokenizer is not set, and {} is not a folder made by `locus prepare`",
                    first);
}

void settle_vocabulary(RunConfig& config, const data::Tokenizer& tokenizer,
                       const std::string& name) {
  if (config.model.vocab_size == 0) config.model.vocab_size = tokenizer.vocab_size();
  if (config.model.vocab_size < tokenizer.vocab_size()) {
    throw ConfigError("model.vocab_size = {} is under the {} pieces of the tokenizer {}; {}",
                      config.model.vocab_size, tokenizer.vocab_size(), name,
                      config.checkpoint.initial_load_path.empty()
                          ? "set it to 0 or more than that"
                          : "prepare the data with the model's: `locus prepare --tokenizer " +
                                config.checkpoint.initial_load_path + "`");
  }
}

void check_initial_tokenizer(const RunConfig& config, const data::Tokenizer& tokenizer,
                             const std::string& name) {
  const std::string& model = config.checkpoint.initial_load_path;
  if (model.empty()) return;
  const fs::path folder = resolve_model_folder(model).path;
  const auto theirs = folder_tokenizer(folder, 0);
  if (!theirs || theirs->serialized() == tokenizer.serialized()) return;
  if (has_tokenizer(folder, tokenizer)) return;
  const std::string data =
      config.data.tokenizer.empty() ? fs::path(name).parent_path().string() : name;
  throw DataError(
      "{}: was prepared with another tokenizer than that of {}, whose weights the run starts from "
      "(checkpoint.initial_load_path); prepare the data with the model's: `locus prepare "
      "--tokenizer {}`",
      data, model, folder.string());
}

std::shared_ptr<const data::SampleSource> open_data(const std::vector<std::string>& paths,
                                                    const std::string& split,
                                                    const std::vector<double>& weights,
                                                    const RunConfig& config,
                                                    const data::Tokenizer& tokenizer) {
  const std::string hash = to_hex(hash128(tokenizer.serialized()));
  std::vector<std::shared_ptr<const data::IndexedDataset>> datasets;
  for (const std::string& path : paths) {
    check_tokenizer(path, hash);
    datasets.push_back(data::open_split(path, split));
  }
  check_pairs(*datasets.front(), config.model);
  auto source = std::make_shared<const data::SampleSource>(
      std::move(datasets), weights, config.data, static_cast<uint64_t>(config.train.seed),
      masking_of(config, tokenizer));
  if (source->vocab_size() > config.model.vocab_size) {
    throw DataError("{}: holds ids of a vocabulary of {}, model.vocab_size is {}", paths.front(),
                    source->vocab_size(), config.model.vocab_size);
  }
  return source;
}

std::vector<std::string> split_paths(const data::DataConfig& config, const std::string& split) {
  if (split == "valid" && !config.valid.empty()) return config.valid;
  std::vector<std::string> paths;
  for (const std::string& path : config.train) {
    if (fs::exists(fs::path(path) / (split + ".idx"))) paths.push_back(path);
  }
  return paths;
}

std::vector<int64_t> token_frequency(const std::vector<std::string>& paths, int64_t vocab_size) {
  std::vector<int64_t> count(static_cast<size_t>(vocab_size));
  std::vector<int32_t> chunk;
  for (const std::string& path : paths) {
    const auto dataset = data::open_split(path, "train");
    const int64_t tokens = dataset->num_tokens();
    const int64_t stride =
        std::max<int64_t>(kFrequencyChunk, tokens / (kFrequencySample / kFrequencyChunk));
    for (int64_t begin = 0; begin < tokens; begin += stride) {
      chunk.resize(static_cast<size_t>(std::min(kFrequencyChunk, tokens - begin)));
      dataset->read(begin, chunk);
      for (const int32_t id : chunk) {
        if (id < vocab_size) ++count[static_cast<size_t>(id)];
      }
    }
  }
  return count;
}

at::ScalarType parse_dtype(const std::string& name) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  throw ConfigError("dtype \"{}\" is not known; float32 or bfloat16", name);
}

at::Device find_device(const std::string& name, const comm::ParallelContext& parallel) {
  const at::Device device(
      name == "cuda" && !parallel.is_alone() ? format("cuda:{}", parallel.local_rank) : name);
  if (!device.is_cuda()) return device;
  if (!at::hasCUDA()) {
    throw ConfigError("train.device = \"{}\": this libtorch or machine has no CUDA device", name);
  }
  const auto num_gpus = static_cast<int64_t>(at::getNumGPUs());
  if (device.index() >= num_gpus) {
    throw ConfigError("train.device = \"{}\": rank {} would take GPU {}, but this machine has {}",
                      name, parallel.rank, static_cast<int64_t>(device.index()), num_gpus);
  }
  return device;
}

model::TransformerConfig transformer_config(const RunConfig& config) {
  model::TransformerConfig out;
  out.model = config.model;
  out.moe = config.moe;
  out.router_options = config.chosen_router_options();
  out.seed = static_cast<uint64_t>(config.train.seed);
  out.compute_type = parse_dtype(config.train.dtype);
  out.recompute = config.train.recompute;
  return out;
}

void settle_domain_groups(RunConfig& config, const data::SampleSource& source) {
  moe::MoeConfig& moe = config.moe;
  if (moe.num_experts == 0) return;
  if (moe.num_domain_groups == 0 && moe.domain_groups.empty()) return;
  if (source.domain_names().empty()) {
    throw ConfigError(
        "moe.{} asks for experts by domain, but the training data tell no domains; `locus prepare` "
        "writes them, from inputs given as domain=path",
        moe.domain_groups.empty() ? "num_domain_groups" : "domain_groups");
  }
  if (moe.domain_groups.empty() &&
      std::cmp_greater(moe.num_domain_groups, source.domain_names().size())) {
    throw ConfigError(
        "moe.num_domain_groups = {}, but the training data have {} domains: experts of a group "
        "without one would never get a token",
        moe.num_domain_groups, source.domain_names().size());
  }
  if (moe.domain_groups.empty()) {
    moe.domain_groups =
        moe::deal_domains(data::domain_sizes(source), moe.num_domain_groups, moe.num_experts);
  }
  std::set<std::string> named;
  for (const moe::DomainGroup& group : moe::parse_domain_groups(moe.domain_groups)) {
    named.insert(group.domain);
  }
  for (const std::string& domain : source.domain_names()) {
    if (named.contains(domain)) continue;
    throw ConfigError("moe.domain_groups gives no experts to \"{}\", a domain of the training data",
                      domain);
  }
}

void add_data_counts(const RunConfig& config, const data::SampleSource& source,
                     model::TransformerConfig& shape) {
  if (config.moe.num_experts == 0) return;
  if (moe::find_router(config.moe.router.type).needs_token_frequency) {
    shape.token_frequency =
        config.data.train.empty()  // random tokens
            ? std::vector<int64_t>(static_cast<size_t>(config.model.vocab_size), 1)
            : token_frequency(config.data.train, config.model.vocab_size);
  }
  std::vector<std::string> domains;
  for (const moe::DomainGroup& group : moe::parse_domain_groups(config.moe.domain_groups)) {
    domains.push_back(group.domain);
  }
  if (!domains.empty()) {
    shape.domain_token_counts = data::token_counts(source, domains, config.model.vocab_size);
  }
}

std::shared_ptr<model::Transformer> load_transformer(const ModelFolder& folder,
                                                     const RunConfig& config) {
  check_weights(folder.path, shape_of(config));
  model::TransformerConfig shape = transformer_config(config);
  // The hash tables come with the weights; what they would be built from does not matter here.
  shape.token_frequency.assign(static_cast<size_t>(shape.model.vocab_size), 1);
  auto transformer = std::make_shared<model::Transformer>(shape);
  model::load_weights(*transformer, io::open_safetensors_folder(folder.path));
  transformer->eval();
  return transformer;
}

LoadedModel load_model(const std::string& path, const std::string& dtype, int64_t num_threads) {
  const ModelFolder folder = resolve_model_folder(path);
  LoadedModel loaded{folder_config(folder), folder, nullptr, nullptr};
  if (!dtype.empty()) loaded.config.train.dtype = dtype;
  set_threads(num_threads);
  loaded.tokenizer = folder_tokenizer(folder.path, loaded.config.model.vocab_size);
  if (!loaded.tokenizer) {
    throw DataError("{}: holds no tokenizer (tokenizer.json or tokenizer.model)",
                    folder.path.string());
  }
  settle_vocabulary(loaded.config, *loaded.tokenizer, folder.path.string());
  loaded.transformer = load_transformer(folder, loaded.config);
  return loaded;
}

}  // namespace locus::app
