// Putting a run together: tokenizer, data, model. What train, eval and generate share.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "locus/app/model_folder.h"
#include "locus/app/run_config.h"
#include "locus/data/loader.h"
#include "locus/data/tokenizer.h"
#include "locus/model/transformer.h"
#include "locus/train/checkpoint.h"

namespace locus::app {

// Threads of tensor operations; 0: one a core, of cores that `sharing` ranks have in common.
// Deterministic algorithms, given seed and threads.
void set_threads(int64_t num_threads, int64_t sharing = 1);

// The tokenizer of a configuration: data.tokenizer, or that of the first training folder.
// ConfigError if neither is set.
std::string tokenizer_path(const data::DataConfig& config);

// ConfigError unless the tokenizer fits model.vocab_size, which 0 sets to the tokenizer's.
void settle_vocabulary(RunConfig& config, const data::Tokenizer& tokenizer,
                       const std::string& name);

// DataError unless the tokenizer is that of the folder whose weights training starts from.
void check_initial_tokenizer(const RunConfig& config, const data::Tokenizer& tokenizer,
                             const std::string& name);

// One split of several datasets. DataError if one of them was made with another tokenizer or holds
// ids beyond the vocabulary.
std::shared_ptr<const data::SampleSource> open_data(const std::vector<std::string>& paths,
                                                    const std::string& split,
                                                    const std::vector<double>& weights,
                                                    const RunConfig& config,
                                                    const data::Tokenizer& tokenizer);

// Where a split of the run's data lies: data.valid for "valid" if it is set, else the folders of
// data.train that have this split. Bare Megatron prefixes have none.
std::vector<std::string> split_paths(const data::DataConfig& config, const std::string& split);

// How often each token id occurs in the training data (a sample of at most 4M tokens, evenly
// spread).
std::vector<int64_t> token_frequency(const std::vector<std::string>& paths, int64_t vocab_size);

model::TransformerConfig transformer_config(const RunConfig& config);
at::ScalarType parse_dtype(const std::string& name);

// Of train.device; of several ranks, each takes the GPU of its place on its machine. ConfigError
// where it is not there.
at::Device find_device(const std::string& name, const comm::ParallelContext& parallel);

// Deals the domains of the training data out, where moe.num_domain_groups asks for it:
// moe.domain_groups then says the outcome. ConfigError where a domain of the data has no group, or
// the data tell no domains. Nothing without groups.
void settle_domain_groups(RunConfig& config, const data::SampleSource& source);

// Adds what the transformer of a training has to know of its data.
void add_data_counts(const RunConfig& config, const data::SampleSource& source,
                     model::TransformerConfig& shape);

// A model out of a run, checkpoint or model folder, ready to evaluate.
struct LoadedModel {
  RunConfig config;
  ModelFolder folder;
  std::unique_ptr<data::Tokenizer> tokenizer;
  std::shared_ptr<model::Transformer> transformer;
};
// Without the tokenizer; the configuration's vocabulary is settled.
std::shared_ptr<model::Transformer> load_transformer(const ModelFolder& folder,
                                                     const RunConfig& config);
// dtype empty: as trained.
LoadedModel load_model(const std::string& path, const std::string& dtype, int64_t num_threads);

}  // namespace locus::app
