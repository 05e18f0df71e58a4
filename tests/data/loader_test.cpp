#include "locus/data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "locus/base/error.h"
#include "locus/data/indexed_dataset.h"
#include "tests/data/dataset_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::data {
namespace {

using test::Documents;
using test::error_of;
using Ids = std::vector<int32_t>;
using Datasets = std::vector<std::shared_ptr<const IndexedDataset>>;

constexpr int32_t kEod = 1;

DataConfig config_of(int64_t sequence_length) {
  DataConfig config;
  config.sequence_length = sequence_length;
  return config;
}

// One document with the ids first, first + 1, ...: a token tells its place.
Documents counting(int32_t first, int32_t count) {
  Ids ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  return {ids};
}

class SampleSourceTest : public testing::Test {
 protected:
  std::shared_ptr<const IndexedDataset> dataset(const Documents& documents,
                                                const std::vector<std::string>& names = {},
                                                const std::vector<uint16_t>& domains = {}) {
    const std::string prefix = folder_ / ("set" + std::to_string(next_++));
    test::write_dataset(prefix, documents, names, domains);
    return std::make_shared<const IndexedDataset>(prefix, 60000, kEod);
  }

  SampleSource source_of(const Documents& documents, const DataConfig& config) {
    return {{dataset(documents)}, {}, config, 17};
  }

 private:
  test::TempFolder folder_;
  int next_ = 0;
};

// First tokens of the rows.
Ids starts(const Batch& batch) {
  Ids result;
  for (int64_t row = 0; row < batch.num_sequences; ++row) {
    result.push_back(batch.input_ids[static_cast<size_t>(row * batch.sequence_length)]);
  }
  return result;
}

template <class T>
std::vector<T> joined(std::vector<T> a, const std::vector<T>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Batch joined(const Batch& a, const Batch& b) {
  return {a.num_sequences + b.num_sequences,
          a.sequence_length,
          joined(a.input_ids, b.input_ids),
          joined(a.labels, b.labels),
          joined(a.position_ids, b.position_ids),
          joined(a.document_ids, b.document_ids),
          joined(a.domain_ids, b.domain_ids),
          joined(a.global_sequence_index, b.global_sequence_index)};
}

void expect_equal(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.num_sequences, b.num_sequences);
  EXPECT_EQ(a.sequence_length, b.sequence_length);
  EXPECT_EQ(a.input_ids, b.input_ids);
  EXPECT_EQ(a.labels, b.labels);
  EXPECT_EQ(a.position_ids, b.position_ids);
  EXPECT_EQ(a.document_ids, b.document_ids);
  EXPECT_EQ(a.domain_ids, b.domain_ids);
  EXPECT_EQ(a.global_sequence_index, b.global_sequence_index);
}

TEST_F(SampleSourceTest, IsAPureFunctionOfTheSampleNumber) {
  const Datasets sets = {dataset(counting(0, 500), {"a"}, {0}), dataset(counting(1000, 900))};
  const SampleSource source(sets, {}, config_of(16), 3);
  const SampleSource again(sets, {}, config_of(16), 3);
  expect_equal(source.training_batch(40, 8), again.training_batch(40, 8));
  expect_equal(source.training_batch(0, 8),
               joined(source.training_batch(0, 4), source.training_batch(4, 4)));
  expect_equal(source.training_batch(1020, 8),  // over the edge of a block
               joined(source.training_batch(1020, 3), source.training_batch(1023, 5)));
  const SampleSource other_seed(sets, {}, config_of(16), 4);
  EXPECT_NE(starts(source.training_batch(0, 8)), starts(other_seed.training_batch(0, 8)));
}

TEST_F(SampleSourceTest, VisitsEachWindowOnceInEachEpoch) {
  for (const int32_t num_tokens : {1000, 1009, 1010, 1011, 1015}) {
    const SampleSource source = source_of(counting(0, num_tokens), config_of(10));
    const int64_t windows = num_tokens / 10 - 1;
    std::set<int32_t> shifts;
    std::set<Ids> orders;
    for (int64_t epoch = 0; epoch < 20; ++epoch) {
      const Ids order = starts(source.training_batch(epoch * windows, windows));
      Ids sorted = order;
      std::sort(sorted.begin(), sorted.end());
      for (size_t i = 1; i < sorted.size(); ++i) EXPECT_EQ(sorted[i] - sorted[i - 1], 10);
      EXPECT_GE(sorted.front(), 0);
      EXPECT_LT(sorted.front(), 10);
      shifts.insert(sorted.front());
      orders.insert(order);
    }
    EXPECT_EQ(orders.size(), 20u) << "epochs repeat an order";
    EXPECT_GT(shifts.size(), 5u) << "epochs repeat a shift";
  }
}

TEST_F(SampleSourceTest, UsesTheLastTokenAsALabel) {
  // 11 tokens make one window of 10 and its label; 12 tokens allow two shifts of it.
  const SampleSource exact = source_of(counting(0, 11), config_of(10));
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(starts(exact.training_batch(i, 1)), Ids{0});
  EXPECT_EQ(exact.training_batch(0, 1).labels, (Ids{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  const SampleSource two = source_of(counting(0, 12), config_of(10));
  std::set<int32_t> seen;
  for (int64_t i = 0; i < 40; ++i) seen.insert(starts(two.training_batch(i, 1))[0]);
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1}));
}

TEST_F(SampleSourceTest, LabelsAreTheNextTokens) {
  const SampleSource source = source_of(counting(100, 1000), config_of(32));
  const Batch batch = source.training_batch(0, 25);
  for (size_t i = 0; i < batch.input_ids.size(); ++i) {
    EXPECT_EQ(batch.labels[i], batch.input_ids[i] + 1);
    EXPECT_EQ(batch.position_ids[i], static_cast<int32_t>(i % 32));
    EXPECT_EQ(batch.document_ids[i], 0);
    EXPECT_EQ(batch.domain_ids[i], -1);
  }
}

// Three documents, with an empty one between, over two evaluation windows of 6 tokens.
const Documents kShortDocuments = {{10, 11, kEod}, {20, kEod}, {}, {30, 31, 32, 33, kEod}};

TEST_F(SampleSourceTest, SeparatesDocuments) {
  const SampleSource source({dataset(kShortDocuments, {"a", "b"}, {1, 0, 0, 0xffff})}, {},
                            config_of(6), 17);
  ASSERT_EQ(source.num_evaluation_sequences(), 2);
  const Batch batch = source.evaluation_batch(0, 2);
  EXPECT_EQ(batch.input_ids, (Ids{10, 11, 1, 20, 1, 30, 31, 32, 33, 1, 1, 1}));
  EXPECT_EQ(batch.labels, (Ids{11, 1, -1, 1, -1, 31, 32, 33, 1, -1, -1, -1}));
  EXPECT_EQ(batch.position_ids, (Ids{0, 1, 2, 0, 1, 0, 0, 1, 2, 3, 0, 1}));
  EXPECT_EQ(batch.document_ids, (Ids{0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(batch.domain_ids, (std::vector<int16_t>{1, 1, 1, 0, 0, -1, -1, -1, -1, -1, -1, -1}));
  EXPECT_EQ(batch.global_sequence_index, (std::vector<int64_t>{0, 1}));
}

TEST_F(SampleSourceTest, LetsDocumentsSeeEachOtherWithoutTheMask) {
  DataConfig config = config_of(6);
  config.reset_attention_mask = false;
  const Batch batch = source_of(kShortDocuments, config).evaluation_batch(0, 2);
  EXPECT_EQ(batch.labels, (Ids{11, 1, 20, 1, 30, 31, 32, 33, 1, -1, -1, -1}));
  EXPECT_EQ(batch.document_ids, Ids(12, 0));
  EXPECT_EQ(batch.position_ids, (Ids{0, 1, 2, 0, 1, 0, 0, 1, 2, 3, 0, 1}));
}

TEST_F(SampleSourceTest, CountsPositionsThroughWithoutTheirReset) {
  DataConfig config = config_of(6);
  config.reset_position_ids = false;
  const Batch batch = source_of(kShortDocuments, config).evaluation_batch(0, 2);
  EXPECT_EQ(batch.position_ids, (Ids{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(batch.document_ids, (Ids{0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1, 1}));
}

TEST_F(SampleSourceTest, MasksTheLossOfTheEndTokenIfAsked) {
  DataConfig config = config_of(6);
  config.eod_mask_loss = true;
  const Batch batch = source_of(kShortDocuments, config).evaluation_batch(0, 2);
  EXPECT_EQ(batch.labels, (Ids{11, -1, -1, -1, -1, 31, 32, 33, -1, -1, -1, -1}));
}

TEST_F(SampleSourceTest, TrainsOnTheSameBoundariesAsItEvaluates) {
  // In any window: a new document number, position 0 and no label before it, after each eod.
  Documents documents;
  for (int32_t i = 0; i < 60; ++i) {
    Ids ids(static_cast<size_t>(i % 9), 100 + i);
    ids.push_back(kEod);
    documents.push_back(ids);
  }
  const Batch batch = source_of(documents, config_of(20)).training_batch(0, 30);
  for (size_t i = 0; i < batch.input_ids.size(); ++i) {
    const bool row_begins = i % 20 == 0;
    const bool begins = row_begins || batch.input_ids[i - 1] == kEod;
    EXPECT_EQ(batch.labels[i] == -1, batch.input_ids[i] == kEod);
    EXPECT_EQ(batch.position_ids[i], begins ? 0 : batch.position_ids[i - 1] + 1);
    EXPECT_EQ(batch.document_ids[i], row_begins ? 0 : batch.document_ids[i - 1] + begins);
  }
}

TEST_F(SampleSourceTest, EvaluatesEachLabelOnceOverAllDatasets) {
  for (const int32_t size : {2, 10, 11, 12, 20, 21, 22, 37}) {
    const SampleSource source({dataset(counting(100, size)), dataset({}), dataset(counting(500, 1)),
                               dataset(counting(1000, size)), dataset({})},
                              {}, config_of(10), 1);
    EXPECT_EQ(source.num_evaluation_sequences(), 2 * ((size + 8) / 10)) << size;
    const Batch batch = source.evaluation_batch(0, source.num_evaluation_sequences());
    Ids labels;
    std::copy_if(batch.labels.begin(), batch.labels.end(), std::back_inserter(labels),
                 [](int32_t label) { return label != -1; });
    EXPECT_EQ(labels, joined(counting(101, size - 1)[0], counting(1001, size - 1)[0])) << size;
  }
}

TEST_F(SampleSourceTest, PadsTheLastEvaluationWindow) {
  const Batch batch = source_of(counting(100, 13), config_of(10)).evaluation_batch(1, 1);
  EXPECT_EQ(batch.input_ids, (Ids{110, 111, 112, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(batch.labels, (Ids{111, 112, -1, -1, -1, -1, -1, -1, -1, -1}));
  EXPECT_EQ(batch.document_ids, (Ids{0, 0, 0, 1, 1, 1, 1, 1, 1, 1}));
}

TEST_F(SampleSourceTest, MixesByExactSharesInEachBlock) {
  const Datasets sets = {dataset(counting(0, 400)), dataset(counting(1000, 100)),
                         dataset(counting(2000, 300))};
  const auto shares = [](const SampleSource& source, int64_t block) {
    std::map<int32_t, int> counts;
    for (const int32_t id : starts(source.training_batch(block * 1024, 1024))) ++counts[id / 1000];
    return counts;
  };
  const SampleSource by_weight(sets, {0.5, 0.4, 0.1}, config_of(8), 9);
  const SampleSource by_tokens(sets, {}, config_of(8), 9);
  for (const int64_t block : {0, 1, 50}) {
    EXPECT_EQ(shares(by_weight, block), (std::map<int32_t, int>{{0, 512}, {1, 410}, {2, 102}}));
    EXPECT_EQ(shares(by_tokens, block), (std::map<int32_t, int>{{0, 512}, {1, 128}, {2, 384}}));
  }
}

TEST_F(SampleSourceTest, KeepsEachDatasetsOwnOrderInAMixture) {
  const auto first = dataset(counting(0, 400));
  const SampleSource alone({first}, {}, config_of(8), 9);
  const SampleSource mixed({first, dataset(counting(1000, 400))}, {}, config_of(8), 9);
  Ids of_first = starts(mixed.training_batch(0, 1024));
  std::erase_if(of_first, [](int32_t id) { return id >= 1000; });
  EXPECT_EQ(of_first, starts(alone.training_batch(0, 512)));
}

TEST_F(SampleSourceTest, UnitesDomainsByName) {
  const SampleSource source({dataset({{10, 11}, {12, 13}}, {"code", "text"}, {0, 1}),
                             dataset({{20, 21}, {22, 23}}, {"mail", "code"}, {0, 1})},
                            {}, config_of(4), 9);
  EXPECT_EQ(source.domain_names(), (std::vector<std::string>{"code", "text", "mail"}));
  EXPECT_EQ(source.evaluation_batch(0, 2).domain_ids,
            (std::vector<int16_t>{0, 0, 1, 1, 2, 2, 0, 0}));
  EXPECT_EQ(source.num_tokens(), 8);
  EXPECT_EQ(source.vocab_size(), 60000);
}

TEST_F(SampleSourceTest, SaysWhatIsWrongWithWeightsAndSizes) {
  const auto big = dataset(counting(0, 400));
  const auto message = [&](const Datasets& sets, const std::vector<double>& weights) {
    return error_of<ConfigError>(
        [&] { SampleSource(sets, weights, config_of(10), 1).check_trainable(); });
  };
  EXPECT_EQ(message({big, big}, {1}), "data.train_weights has 1 values for 2 datasets");
  EXPECT_EQ(message({big, big}, {1, -0.5}),
            "data.train_weights holds -0.5; weights are finite and not negative");
  EXPECT_EQ(message({big}, {std::nan("")}),
            "data.train_weights holds nan; weights are finite and not negative");
  EXPECT_EQ(message({big, big}, {0, 0}),
            "data.train_weights sum to 0; the sum must be positive and finite");
  EXPECT_NE(message({big, big}, {1, 0.0001}).find("gets less than one of 1024 samples"),
            std::string::npos);
  const auto small = dataset(counting(0, 10));
  EXPECT_EQ(message({big, small}, {}), "data.train: " + small->prefix() +
                                           " holds 10 tokens, fewer than one sample of "
                                           "data.sequence_length = 10 and the token after it");
  EXPECT_NE(message({dataset({})}, {}).find("holds 0 tokens"), std::string::npos);
}

TEST_F(SampleSourceTest, AsksForTheEndTokenToMaskItsLoss) {
  DataConfig config = config_of(4);
  config.eod_mask_loss = true;
  const auto plain = std::make_shared<const IndexedDataset>(dataset(counting(0, 9))->prefix());
  EXPECT_EQ(error_of<ConfigError>([&] { SampleSource({plain}, {}, config, 1); }),
            "data.eod_mask_loss = true needs the id of the end-of-document token, but " +
                plain->prefix() + " has no dataset.json that states it");
}

class PrefetchingLoaderTest : public SampleSourceTest {};

TEST_F(PrefetchingLoaderTest, GivesTheBatchesOfTheStream) {
  const auto source = std::make_shared<const SampleSource>(Datasets{dataset(counting(0, 3000))},
                                                           std::vector<double>{}, config_of(10), 5);
  for (const int64_t prefetch : {0, 1, 4}) {
    PrefetchingLoader loader(source, 6, 2, 7, prefetch);
    for (int64_t step = 7; step < 20; ++step) {
      const std::vector<Batch> batches = loader.next();
      ASSERT_EQ(batches.size(), 3u);
      Batch expected = source->training_batch(step * 6, 6);
      expected.global_sequence_index = {0, 1, 2, 3, 4, 5};
      expect_equal(joined(joined(batches[0], batches[1]), batches[2]), expected);
    }
  }
}

TEST_F(PrefetchingLoaderTest, ThrowsTheErrorOfItsThreadAfterTheGoodSteps) {
  // One token is not in the vocabulary: the step that holds it fails, the steps before do not.
  Documents documents = counting(0, 1000);
  documents[0][500] = 60001;
  const auto source = std::make_shared<const SampleSource>(Datasets{dataset(documents)},
                                                           std::vector<double>{}, config_of(10), 5);
  int64_t good = 0;
  try {
    while (true) {
      source->training_batch(good, 1);
      ++good;
    }
  } catch (const DataError&) {
    ASSERT_LT(good, 99);
  }
  for (const int64_t prefetch : {0, 3}) {
    PrefetchingLoader loader(source, 1, 1, 0, prefetch);
    for (int64_t step = 0; step < good; ++step) EXPECT_EQ(loader.next().size(), 1u);
    for (int again = 0; again < 2; ++again) {
      EXPECT_NE(error_of<DataError>([&] { loader.next(); }).find("60001"), std::string::npos);
    }
  }
}

TEST_F(PrefetchingLoaderTest, RefusesASourceThatCannotTrain) {
  const auto source = std::make_shared<const SampleSource>(Datasets{dataset(counting(0, 10))},
                                                           std::vector<double>{}, config_of(10), 5);
  EXPECT_THROW(PrefetchingLoader(source, 1, 1, 0, 4), ConfigError);
}

TEST_F(PrefetchingLoaderTest, EndsWhileItsThreadWaits) {
  const auto source = std::make_shared<const SampleSource>(Datasets{dataset(counting(0, 1000))},
                                                           std::vector<double>{}, config_of(10), 5);
  PrefetchingLoader loader(source, 4, 2, 0, 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

}  // namespace
}  // namespace locus::data
