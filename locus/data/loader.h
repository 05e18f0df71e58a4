// From token files to batches. A batch is a pure function of (datasets, seed, step): nothing has to
// be stored to resume, and it does not matter how a batch is split among ranks later.
//
// Goals: memory that does not grow with the corpus, no index to build before the first step.
// Method: the token stream of a dataset is cut into windows of sequence_length (+ 1 for the
// labels), shifted by a random offset in each epoch, visited in the order of a keyed permutation
// (base/random.h, permute_index). Documents are packed as they lie in the file; the sidecar and the
// .idx tell where one ends. A mixture assigns the samples of each block of 1,024 to datasets by
// largest remainder of the weights and shuffles the block by the same keyed permutation; within its
// samples each dataset keeps the order it would have alone. Details: docs/formats/dataset.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "locus/data/batch.h"
#include "locus/data/config.h"
#include "locus/data/masking.h"

namespace locus::data {

// One opened .bin/.idx pair with its sidecar (if there): see indexed_dataset.h.
class IndexedDataset;

// Random access to packed samples of a mixture of datasets. Immutable: any number of threads may
// call.
class SampleSource {
 public:
  // Weights: empty = by number of tokens. ConfigError if their number or a value is impossible, or
  // if config.eod_mask_loss meets a dataset whose end-of-document id is unknown.
  // With `masking`, the labels are tokens that are masked (an encoder's task). Datasets of pairs
  // (an encoder-decoder's) cannot be mixed with others; a row of packed pairs (pair_rows.h) is a
  // sample then.
  SampleSource(std::vector<std::shared_ptr<const IndexedDataset>> datasets,
               std::vector<double> weights, const DataConfig& config, uint64_t seed,
               std::optional<Masking> masking = std::nullopt);
  ~SampleSource();

  // ConfigError if a dataset holds fewer tokens than one training window, or gets no sample at all.
  // Evaluation needs neither; training_batch() counts on it.
  void check_trainable() const;

  // The sequences with global numbers `first` .. `first + count` of the endless training stream;
  // these numbers are their global_sequence_index.
  Batch training_batch(int64_t first, int64_t count) const;
  // The same of sequences anywhere in the stream, in this order.
  Batch training_batch(const std::vector<int64_t>& numbers) const;

  // Tokens of each domain in the sequences `first` .. `first + count` of the stream, [count]
  // [domains]; tokens of no domain are not counted. Reads no token.
  std::vector<std::vector<int64_t>> tokens_by_domain(int64_t first, int64_t count) const;

  // Windows of one pass in stored order, unshuffled, without overlap, for evaluation.
  // The last window of each dataset is padded: labels -1 behind its end.
  int64_t num_evaluation_sequences() const;
  Batch evaluation_batch(int64_t first, int64_t count) const;

  bool has_pairs() const;
  int64_t num_tokens() const;
  // Union over the datasets, in order of first appearance; domain_ids of batches index it.
  const std::vector<std::string>& domain_names() const;
  std::vector<std::shared_ptr<const IndexedDataset>> datasets() const;
  int64_t vocab_size() const;  // largest of the datasets' recorded sizes; 0 unknown

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Which of the ranks that share a global batch. The i-th micro-batches of all ranks, in order of
// ranks, are neighbours in it, unless they are placed.
struct BatchShare {
  int64_t rank = 0;
  int64_t num_ranks = 1;
};

// Decides which ranks compute which of the sequences that they compute at one moment: their places
// in it, in order of ranks, from the tokens of each domain in each of them. For the step after
// `step` finished ones; called by the loader's thread, and must say the same on all ranks.
using PlaceSequences = std::function<std::vector<int64_t>(
    int64_t step, const std::vector<std::vector<int64_t>>& tokens_by_domain)>;

// Prepares the micro-batches of the coming steps in a thread. next() gives step `first_step`, then
// the following ones, each as a list of micro-batches that together are this rank's share of the
// global batch of that step; global_sequence_index is the place in the global batch. Exceptions of
// the thread are thrown by next(), after the steps that were ready.
class PrefetchingLoader {
 public:
  // Throws what source->check_trainable() throws. global_batch_size must be a multiple of
  // micro_batch_size times the ranks.
  PrefetchingLoader(std::shared_ptr<const SampleSource> source, int64_t global_batch_size,
                    int64_t micro_batch_size, int64_t first_step, int64_t prefetch,
                    const BatchShare& share = {}, PlaceSequences place = nullptr);
  ~PrefetchingLoader();
  std::vector<Batch> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace locus::data
