#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <span>

#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/random.h"
#include "locus/data/dataset_format.h"
#include "locus/data/indexed_dataset.h"
#include "locus/data/loader.h"
#include "locus/data/mixture.h"
#include "locus/data/pair_rows.h"

namespace locus::data {
namespace {

// The windows that one epoch visits, and how far the first may be shifted into the stream: each
// window with its label token lies inside for every shift in [0, num_shifts).
struct EpochPlan {
  int64_t num_windows = 0;
  int64_t num_shifts = 0;
};

EpochPlan plan_epoch(int64_t num_tokens, int64_t length) {
  if (num_tokens < length + 1) return {};
  const int64_t windows = std::max<int64_t>(1, num_tokens / length - 1);
  return {windows, std::min(length, num_tokens - windows * length)};
}

int64_t count_evaluation_windows(int64_t num_tokens, int64_t length) {
  return num_tokens < 2 ? 0 : (num_tokens - 2) / length + 1;
}

Batch make_batch(int64_t count, int64_t length, bool has_pairs) {
  const auto size = static_cast<size_t>(count * length);
  Batch batch{.num_sequences = count,
              .sequence_length = length,
              .input_ids = std::vector<int32_t>(size),
              .labels = std::vector<int32_t>(size, -1),
              .position_ids = std::vector<int32_t>(size),
              .document_ids = std::vector<int32_t>(size),
              .domain_ids = std::vector<int16_t>(size, -1),
              .global_sequence_index = std::vector<int64_t>(static_cast<size_t>(count))};
  if (has_pairs) {
    for (auto* side : {&batch.source_ids, &batch.source_position_ids, &batch.source_document_ids}) {
      side->resize(size);
    }
  }
  return batch;
}

void check_weights(const std::vector<double>& weights, size_t num_datasets) {
  if (weights.size() != num_datasets) {
    throw ConfigError("data.train_weights has {} values for {} datasets", weights.size(),
                      num_datasets);
  }
  double sum = 0;
  for (const double weight : weights) {
    if (!std::isfinite(weight) || weight < 0) {
      throw ConfigError("data.train_weights holds {}; weights are finite and not negative", weight);
    }
    sum += weight;
  }
  if (!std::isfinite(sum) || sum <= 0) {
    throw ConfigError("data.train_weights sum to {}; the sum must be positive and finite", sum);
  }
}

}  // namespace

struct SampleSource::State {
  struct Source {
    std::shared_ptr<const IndexedDataset> dataset;
    std::optional<PairRows> pairs;  // none: windows of a stream of tokens
    std::vector<int16_t> domains;   // from the dataset's domain ids to ours
    EpochPlan epoch;
    int64_t first_evaluation = 0;  // windows of the datasets before
  };

  std::vector<Source> sources;
  std::vector<std::string> domain_names;
  std::optional<Mixture> mixture;  // none where there is no token to weigh by
  DataConfig config;
  uint64_t seed = 0;
  std::optional<Masking> masking;
  int64_t num_evaluation = 0;

  void add_source(std::shared_ptr<const IndexedDataset> dataset);
  void pack_pairs(Source& source) const;
  void mask(Batch& batch, bool is_evaluation) const;
  void set_mixture(std::vector<double> weights);
  int64_t window_start(int32_t source, int64_t sample) const;
  int64_t place_of_window(const Source& source, int64_t window) const;
  // Where each sequence of the training stream begins: visit(source, token).
  template <class Visit>
  void for_each_window(const std::vector<int64_t>& numbers, const Visit& visit) const;
  void fill_row(const Source& source, int64_t start, int64_t row, Batch& batch) const;
  void fill_document(const Source& source, int64_t start, int64_t document, int64_t begin,
                     int64_t end, int64_t at, Batch& batch) const;
  void pad_row(const Source& source, int64_t used, int64_t at, Batch& batch) const;
};

void SampleSource::State::add_source(std::shared_ptr<const IndexedDataset> dataset) {
  if (config.eod_mask_loss && dataset->eod_id() < 0) {
    throw ConfigError(
        "data.eod_mask_loss = true needs the id of the end-of-document token, but {} "
        "has no dataset.json that states it",
        dataset->prefix());
  }
  Source source{.dataset = dataset,
                .pairs = {},
                .domains = {},
                .epoch = plan_epoch(dataset->num_tokens(), config.sequence_length),
                .first_evaluation = num_evaluation};
  if (dataset->has_pairs()) pack_pairs(source);
  for (const std::string& name : dataset->domain_names()) {
    const auto found = std::find(domain_names.begin(), domain_names.end(), name);
    source.domains.push_back(static_cast<int16_t>(found - domain_names.begin()));
    if (found == domain_names.end()) domain_names.push_back(name);
  }
  if (domain_names.size() > kMaxDomains) {
    throw ConfigError("data.train: the datasets have {} domains together; at most {} are possible",
                      domain_names.size(), kMaxDomains);
  }
  num_evaluation += source.pairs
                        ? source.pairs->num_rows()
                        : count_evaluation_windows(dataset->num_tokens(), config.sequence_length);
  sources.push_back(std::move(source));
}

// A row takes the place of a window.
void SampleSource::State::pack_pairs(Source& source) const {
  source.pairs.emplace(*source.dataset, config.sequence_length);
  source.epoch = {.num_windows = source.pairs->num_rows(), .num_shifts = 1};
  if (source.pairs->num_left_out() == 0) return;
  log::warning(
      "{}: {} of {} pairs are left out: one of their texts has more tokens than "
      "data.sequence_length = {}",
      source.dataset->prefix(), source.pairs->num_left_out(), source.dataset->num_documents() / 2,
      config.sequence_length);
}

void SampleSource::State::set_mixture(std::vector<double> weights) {
  if (weights.empty()) {
    for (const Source& source : sources) {
      weights.push_back(static_cast<double>(source.dataset->num_tokens()));
    }
    if (std::all_of(weights.begin(), weights.end(), [](double w) { return w == 0; })) return;
  }
  check_weights(weights, sources.size());
  mixture.emplace(weights, seed);
}

// The place of a dataset's n-th training sample in its stream; of pairs, its row.
int64_t SampleSource::State::window_start(int32_t source, int64_t sample) const {
  const Source& own = sources[static_cast<size_t>(source)];
  const EpochPlan& plan = own.epoch;
  const auto number = static_cast<uint64_t>(source);
  const auto epoch = static_cast<uint64_t>(sample / plan.num_windows);
  const uint64_t shift = random_bits(random_key({seed, name_key("shift"), number, epoch}), 0) %
                         static_cast<uint64_t>(plan.num_shifts);
  const uint64_t window = permute_index(random_key({seed, name_key("window"), number, epoch}),
                                        static_cast<uint64_t>(sample % plan.num_windows),
                                        static_cast<uint64_t>(plan.num_windows));
  return static_cast<int64_t>(shift) + place_of_window(own, static_cast<int64_t>(window));
}

int64_t SampleSource::State::place_of_window(const Source& source, int64_t window) const {
  return source.pairs ? window : window * config.sequence_length;
}

template <class Visit>
void SampleSource::State::for_each_window(const std::vector<int64_t>& numbers,
                                          const Visit& visit) const {
  std::optional<Mixture::Block> block;
  int64_t block_number = -1;
  for (const int64_t number : numbers) {
    LOCUS_CHECK(number >= 0, "sample {}", number);
    if (number / kMixtureBlock != block_number) {
      block_number = number / kMixtureBlock;
      block = mixture.value().block(block_number);
    }
    const Mixture::Sample& sample = (*block)[static_cast<size_t>(number % kMixtureBlock)];
    visit(sources[static_cast<size_t>(sample.dataset)], window_start(sample.dataset, sample.index));
  }
}

void SampleSource::State::fill_row(const Source& source, int64_t start, int64_t row,
                                   Batch& batch) const {
  const IndexedDataset& dataset = *source.dataset;
  if (source.pairs) return source.pairs->fill(dataset, start, row, batch);
  const int64_t length = config.sequence_length;
  const int64_t at = row * length;
  const int64_t available = std::min(length + 1, dataset.num_tokens() - start);
  const int64_t used = std::min(length, available);
  std::vector<int32_t> tokens(static_cast<size_t>(available));
  dataset.read(start, tokens);
  std::copy_n(tokens.begin(), used, batch.input_ids.begin() + at);
  std::copy_n(tokens.begin() + 1, available - 1, batch.labels.begin() + at);
  if (config.eod_mask_loss) {
    std::replace(batch.labels.begin() + at, batch.labels.begin() + at + length, dataset.eod_id(),
                 -1);
  }
  int32_t number = 0;
  int64_t document = dataset.document_at(start);
  for (int64_t begin = 0; begin < used; ++document) {
    const int64_t end = std::min(used, dataset.document(document).end - start);
    if (end == begin) continue;  // a document without tokens
    if (config.reset_attention_mask) {
      std::fill(batch.document_ids.begin() + at + begin, batch.document_ids.begin() + at + end,
                number++);
    }
    fill_document(source, start, document, begin, end, at, batch);
    begin = end;
  }
  pad_row(source, used, at, batch);
}

// Positions [begin, end) of a row that begins at `at` belong to this document.
void SampleSource::State::fill_document(const Source& source, int64_t start, int64_t document,
                                        int64_t begin, int64_t end, int64_t at,
                                        Batch& batch) const {
  const int64_t first_position = config.reset_position_ids ? begin : 0;
  for (int64_t i = begin; i < end; ++i) {
    batch.position_ids[static_cast<size_t>(at + i)] = static_cast<int32_t>(i - first_position);
  }
  const int32_t domain = source.dataset->domain(document);
  if (domain >= 0) {
    std::fill(batch.domain_ids.begin() + at + begin, batch.domain_ids.begin() + at + end,
              source.domains[static_cast<size_t>(domain)]);
  }
  // What follows the last token is another document, which this one does not see.
  const bool ends_here = start + end == source.dataset->document(document).end;
  if (config.reset_attention_mask && ends_here)
    batch.labels[static_cast<size_t>(at + end - 1)] = -1;
}

// Behind the end of a dataset: one more document of end tokens, without loss.
void SampleSource::State::pad_row(const Source& source, int64_t used, int64_t at,
                                  Batch& batch) const {
  const int32_t filler = masking ? masking->eod_id : std::max(source.dataset->eod_id(), 0);
  const int32_t last_document = batch.document_ids[static_cast<size_t>(at + used - 1)];
  for (int64_t i = used; i < config.sequence_length; ++i) {
    const auto place = static_cast<size_t>(at + i);
    batch.input_ids[place] = filler;
    batch.position_ids[place] = static_cast<int32_t>(config.reset_position_ids ? i - used : i);
    batch.document_ids[place] = config.reset_attention_mask ? last_document + 1 : 0;
  }
}

// By the places of the rows in their stream; in evaluation the same whatever the seed.
void SampleSource::State::mask(Batch& batch, bool is_evaluation) const {
  if (!masking) return;
  std::vector<uint64_t> keys;
  for (const int64_t number : batch.global_sequence_index) {
    keys.push_back(is_evaluation
                       ? random_key({name_key("evaluation mask"), static_cast<uint64_t>(number)})
                       : random_key({seed, name_key("mask"), static_cast<uint64_t>(number)}));
  }
  mask_tokens(batch, *masking, keys, /*at_least_one=*/is_evaluation);
}

SampleSource::SampleSource(std::vector<std::shared_ptr<const IndexedDataset>> datasets,
                           std::vector<double> weights, const DataConfig& config, uint64_t seed,
                           std::optional<Masking> masking)
    : state_(std::make_unique<State>()) {
  for (const auto& dataset : datasets) {
    if (dataset->has_pairs() == datasets.front()->has_pairs()) continue;
    throw ConfigError("data.train: one of {} and {} holds pairs, the other does not",
                      datasets.front()->prefix(), dataset->prefix());
  }
  state_->masking = std::move(masking);
  LOCUS_CHECK(!datasets.empty(), "no dataset");
  LOCUS_CHECK(config.sequence_length > 0, "sequence_length {}", config.sequence_length);
  state_->config = config;
  state_->seed = seed;
  for (auto& dataset : datasets) state_->add_source(std::move(dataset));
  state_->set_mixture(std::move(weights));
}

SampleSource::~SampleSource() = default;

void SampleSource::check_trainable() const {
  const int64_t needed = state_->config.sequence_length + 1;
  for (size_t i = 0; i < state_->sources.size(); ++i) {
    const IndexedDataset& dataset = *state_->sources[i].dataset;
    if (dataset.has_pairs() && state_->sources[i].pairs->num_rows() == 0) {
      throw ConfigError("data.train: {} holds no pair that fits in data.sequence_length = {}",
                        dataset.prefix(), needed - 1);
    }
    if (!dataset.has_pairs() && dataset.num_tokens() < needed) {
      throw ConfigError(
          "data.train: {} holds {} tokens, fewer than one sample of "
          "data.sequence_length = {} and the token after it",
          dataset.prefix(), dataset.num_tokens(), needed - 1);
    }
    if (state_->mixture->slots()[i] == 0) {
      throw ConfigError(
          "data.train: {} gets less than one of {} samples by its weight; give it a "
          "larger one in data.train_weights, or leave it out",
          dataset.prefix(), kMixtureBlock);
    }
  }
}

Batch SampleSource::training_batch(int64_t first, int64_t count) const {
  LOCUS_CHECK(first >= 0 && count >= 0, "samples {} + {}", first, count);
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), first);
  return training_batch(numbers);
}

Batch SampleSource::training_batch(const std::vector<int64_t>& numbers) const {
  Batch batch = make_batch(std::ssize(numbers), state_->config.sequence_length, has_pairs());
  int64_t row = 0;
  state_->for_each_window(numbers, [&](const State::Source& source, int64_t start) {
    state_->fill_row(source, start, row, batch);
    ++row;
  });
  batch.global_sequence_index = numbers;
  state_->mask(batch, /*is_evaluation=*/false);
  return batch;
}

std::vector<std::vector<int64_t>> SampleSource::tokens_by_domain(int64_t first,
                                                                 int64_t count) const {
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), first);
  std::vector<std::vector<int64_t>> tokens;
  state_->for_each_window(numbers, [&](const State::Source& source, int64_t start) {
    tokens.emplace_back(state_->domain_names.size());
    if (source.pairs) return;  // pairs have no domains
    const int64_t end = start + state_->config.sequence_length;
    int64_t at = start;
    for (int64_t document = source.dataset->document_at(start); at < end; ++document) {
      const int64_t stop = std::min(end, source.dataset->document(document).end);
      const int32_t domain = source.dataset->domain(document);
      if (domain >= 0) {
        const auto own = static_cast<size_t>(source.domains[static_cast<size_t>(domain)]);
        tokens.back()[own] += stop - at;
      }
      at = stop;
    }
  });
  return tokens;
}

int64_t SampleSource::num_evaluation_sequences() const { return state_->num_evaluation; }

Batch SampleSource::evaluation_batch(int64_t first, int64_t count) const {
  LOCUS_CHECK(first >= 0 && count >= 0 && first + count <= state_->num_evaluation,
              "windows {} + {} of {}", first, count, state_->num_evaluation);
  Batch batch = make_batch(count, state_->config.sequence_length, has_pairs());
  for (int64_t row = 0; row < count; ++row) {
    const int64_t number = first + row;
    // The last dataset that begins at or before this window: those without windows come before it.
    const auto after = std::partition_point(
        state_->sources.begin(), state_->sources.end(),
        [&](const State::Source& source) { return source.first_evaluation <= number; });
    const State::Source& source = *std::prev(after);
    const int64_t window = number - source.first_evaluation;
    state_->fill_row(source, state_->place_of_window(source, window), row, batch);
    batch.global_sequence_index[static_cast<size_t>(row)] = number;
  }
  state_->mask(batch, /*is_evaluation=*/true);
  return batch;
}

bool SampleSource::has_pairs() const { return state_->sources.front().pairs.has_value(); }

int64_t SampleSource::num_tokens() const {
  int64_t sum = 0;
  for (const State::Source& source : state_->sources) sum += source.dataset->num_tokens();
  return sum;
}

const std::vector<std::string>& SampleSource::domain_names() const { return state_->domain_names; }

std::vector<std::shared_ptr<const IndexedDataset>> SampleSource::datasets() const {
  std::vector<std::shared_ptr<const IndexedDataset>> datasets;
  for (const State::Source& source : state_->sources) datasets.push_back(source.dataset);
  return datasets;
}

int64_t SampleSource::vocab_size() const {
  int64_t largest = 0;
  for (const State::Source& source : state_->sources) {
    largest = std::max(largest, source.dataset->vocab_size());
  }
  return largest;
}

}  // namespace locus::data
