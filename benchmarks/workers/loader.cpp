// The data loader alone: batches of training samples out of a corpus of a given size.
#include "locus/data/loader.h"

#include <memory>

#include "benchmarks/workers/serve.h"
#include "locus/base/random.h"
#include "locus/data/indexed_dataset.h"

namespace locus::benchmarks {
namespace {

struct LoaderOptions {
  std::string prefix;
  int64_t tokens = 1'000'000;
  int64_t sequences = 8;
  int64_t sequence_length = 256;
  int64_t batches = 200;

  template <class V>
  void visit_fields(V& v) {
    v("prefix", prefix, "of the .bin and .idx; written when they are not there");
    v("tokens", tokens, "size of the corpus");
    v("sequences", sequences, "of a batch");
    v("sequence_length", sequence_length, "tokens of a sequence");
    v("batches", batches, "of one repetition");
  }
};

constexpr int64_t kVocabulary = 8192;

void write_corpus(const LoaderOptions& options) {
  constexpr int64_t kDocument = 600;
  data::IndexedDatasetWriter writer(options.prefix, kVocabulary);
  std::vector<int32_t> document(kDocument);
  for (int64_t begin = 0; begin < options.tokens; begin += kDocument) {
    for (int64_t i = 0; i < kDocument; ++i) {
      const uint64_t bits = random_bits(/*key=*/1, static_cast<uint64_t>(begin + i));
      document[static_cast<size_t>(i)] = static_cast<int32_t>(bits % kVocabulary);
    }
    writer.add_document(document, static_cast<int32_t>(begin / kDocument % 2));
  }
  writer.finish({"even", "odd"});
}

}  // namespace

Worker make_loader(const std::vector<std::string>& settings) {
  const auto options = parse_settings<LoaderOptions>(settings);
  if (!fs::exists(options.prefix + ".idx")) write_corpus(options);
  data::DataConfig config;
  config.sequence_length = options.sequence_length;
  std::vector<std::shared_ptr<const data::IndexedDataset>> datasets{
      std::make_shared<data::IndexedDataset>(options.prefix, kVocabulary)};
  const auto source =
      std::make_shared<data::SampleSource>(std::move(datasets), std::vector<double>{}, config, 1);
  const auto run = [source, options, first = int64_t{0}]() mutable {
    const Stopwatch watch;
    for (int64_t batch = 0; batch < options.batches; ++batch, first += options.sequences) {
      source->training_batch(first, options.sequences);
    }
    const double seconds = watch.seconds();
    return Report{{"seconds", seconds},
                  {"batch_seconds", seconds / static_cast<double>(options.batches)}};
  };
  return {{}, run};
}

}  // namespace locus::benchmarks
