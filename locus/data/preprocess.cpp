#include "locus/data/preprocess.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/hash.h"
#include "locus/base/log.h"
#include "locus/base/signals.h"
#include "locus/data/dataset_builder.h"
#include "locus/data/document_clusters.h"
#include "locus/data/indexed_dataset.h"
#include "locus/data/pair_reader.h"
#include "locus/data/pending_folder.h"
#include "locus/data/text_sample.h"
#include "locus/data/tokenizer.h"
#include "locus/data/tokenizers/tokenizer_files.h"
#include "locus/data/train_tokenizer.h"

namespace locus::data {
namespace {

constexpr double kBytesPerMb = 1e6;

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

void throw_if_interrupted() {
  if (const int signal = received_signal(); signal != 0) throw Interrupted(signal);
}

void check_numbers(const PrepareConfig& config, std::vector<std::string>* problems) {
  const auto at_least = [problems](const char* key, int64_t value, int64_t least) {
    if (value < least)
      problems->push_back(format("{} = {}: must be at least {}", key, value, least));
  };
  const auto at_most = [problems](const char* key, int64_t value, int64_t most) {
    if (value > most) problems->push_back(format("{} = {}: must be at most {}", key, value, most));
  };
  const auto share = [problems](const char* key, double value) {
    if (!(value >= 0 && value < 1)) {
      problems->push_back(format("{} = {}: must be at least 0 and below 1", key, value));
    }
  };
  at_least("vocab_size", config.vocab_size, 1);
  at_most("vocab_size", config.vocab_size, 1 << 20);
  at_least("tokenizer_sample_bytes", config.tokenizer_sample_bytes, 1 << 10);
  at_least("max_document_bytes", config.max_document_bytes, 1 << 10);
  at_least("max_bytes_per_domain", config.max_bytes_per_domain, 0);
  at_least("num_clusters", config.num_clusters, 0);
  at_most("num_clusters", config.num_clusters, 256);
  at_least("num_threads", config.num_threads, 0);
  at_most("num_threads", config.num_threads, 4096);
  share("valid_share", config.valid_share);
  share("test_share", config.test_share);
  if (config.valid_share + config.test_share >= 1) {
    problems->push_back(format("valid_share + test_share = {}: nothing is left to train on",
                               config.valid_share + config.test_share));
  }
}

void check_pairs(const PrepareConfig& config, std::vector<std::string>* problems) {
  for (const auto& [key, files] :
       {std::pair{"inputs", &config.inputs}, std::pair{"valid_pairs", &config.valid_pairs},
        std::pair{"test_pairs", &config.test_pairs}}) {
    const bool is_used = key != std::string_view("inputs") && !files->empty();
    if (is_used && !config.pairs) {
      problems->push_back(format("{}: only with --pairs (pairs = true)", key));
    } else if (config.pairs && files->size() % 2 != 0) {
      problems->push_back(format("{}: {} files; with --pairs each is followed by its translation",
                                 key, files->size()));
    }
  }
  if (config.pairs && config.num_clusters > 0) {
    problems->push_back(format("num_clusters = {}: pairs have no domains", config.num_clusters));
  }
  const PrepareConfig defaults;
  if (config.pairs && !config.extensions.empty()) {
    problems->emplace_back("extensions: with --pairs the inputs are files");
  }
  if (config.pairs && config.max_document_bytes != defaults.max_document_bytes) {
    problems->push_back(format("max_document_bytes = {}: with --pairs a text is a line",
                               config.max_document_bytes));
  }
  if (config.pairs && config.max_bytes_per_domain > 0) {
    problems->push_back(
        format("max_bytes_per_domain = {}: pairs have no domains", config.max_bytes_per_domain));
  }
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  const fs::path below =
      fs::weakly_canonical(path).lexically_relative(fs::weakly_canonical(folder / ""));
  return !below.empty() && *below.begin() != "..";
}

// A dataset made by us may be replaced, an empty folder filled.
std::string output_problem(const PrepareConfig& config) {
  if (config.output.empty()) return "output: name a folder";
  // An unreadable place is told apart later, by the attempt to make a folder there.
  std::error_code code;
  if (!fs::exists(config.output, code)) return "";
  if (!fs::is_directory(config.output, code)) {
    return format("output = \"{}\": is there and no folder", config.output);
  }
  if (fs::is_empty(config.output, code) && !code) return "";
  const bool dataset = fs::exists(fs::path(config.output) / "dataset.json", code);
  if (!dataset) {
    return format(
        "output = \"{}\": the folder holds something else than a dataset of `locus prepare`; "
        "name another one",
        config.output);
  }
  if (config.overwrite) return "";
  return format(
      "output = \"{}\": there is a dataset already; give --overwrite (overwrite = true) to replace "
      "it",
      config.output);
}

void check(const PrepareConfig& config) {
  std::vector<std::string> problems;
  if (config.inputs.empty()) {
    problems.emplace_back("inputs: name a text file, a folder or a JSONL file");
  }
  if (std::string problem = output_problem(config); !problem.empty()) {
    problems.push_back(std::move(problem));
  }
  if (config.model_type != "bpe" && config.model_type != "unigram") {
    problems.push_back(format("model_type = \"{}\": must be bpe or unigram", config.model_type));
  }
  check_numbers(config, &problems);
  check_pairs(config, &problems);
  if (problems.empty()) return;
  std::string message = problems.front();
  for (size_t i = 1; i < problems.size(); ++i) message += "\n" + problems[i];
  throw ConfigError("{}", message);
}

std::vector<InputSpec> parse_inputs(const PrepareConfig& config) {
  std::vector<InputSpec> specs;
  for (const std::string& input : config.inputs) {
    specs.push_back(parse_input_spec(input));
    if (fs::is_directory(specs.back().path) && is_inside(config.output, specs.back().path)) {
      throw ConfigError(
          "output = \"{}\": lies inside the input \"{}\", so that a second run would read "
          "it; name a folder outside",
          config.output, input);
    }
    if (is_inside(specs.back().path, config.output)) {
      throw ConfigError(
          "output = \"{}\": the input \"{}\" lies inside it and would be removed when it is "
          "replaced; name a folder beside",
          config.output, input);
    }
  }
  return specs;
}

// Nothing that came from elsewhere is removed with a dataset.
void check_replaced(const fs::path& output) {
  std::error_code code;
  if (!fs::exists(output, code)) return;
  std::set<std::string> known{".lock", "dataset.json"};
  for (const char* split : kSplits) {
    for (const char* suffix : {".bin", ".idx", ".domains"})
      known.insert(format("{}{}", split, suffix));
  }
  for (fs::directory_iterator it(output, code), end; !code && it != end; it.increment(code)) {
    const std::string name = it->path().filename().string();
    std::error_code absent;
    if ((known.contains(name) || is_tokenizer_file(name)) && !it->is_directory(absent)) continue;
    throw ConfigError(
        "output = \"{}\": holds \"{}\", which is no part of the dataset that is to be replaced; "
        "move it away or name another folder",
        output.string(), name);
  }
  if (code) throw DataError("{}: cannot be read: {}", output.string(), code.message());
}

[[noreturn]] void fail_without_documents(const ReaderCounts& counts) {
  throw DataError("no documents in the inputs ({} blank, {} binary, {} not UTF-8, {} not readable)",
                  counts.blank, counts.binary, counts.invalid_utf8, counts.unreadable);
}

ReaderOptions reader_options(const PrepareConfig& config) {
  return {.max_document_bytes = config.max_document_bytes,
          .max_bytes_per_domain = config.max_bytes_per_domain,
          .extensions = config.extensions};
}

// The files of pairs, each with the split that it is for; none: the one that the text says.
struct PairFiles {
  std::string source, target;
  std::optional<int> split;
};

std::vector<PairFiles> pair_files(const PrepareConfig& config) {
  std::vector<PairFiles> files;
  const auto add = [&files](const std::vector<std::string>& paths, std::optional<int> split) {
    for (size_t i = 0; i + 1 < paths.size(); i += 2) {
      files.push_back({paths[i], paths[i + 1], split});
    }
  };
  // First what is held out: of a pair that comes in both, training loses its copy.
  add(config.valid_pairs, 1);
  add(config.test_pairs, 2);
  add(config.inputs, std::nullopt);
  return files;
}

// Reads all pairs into `use`, with a progress bar.
template <class Use>
ReaderCounts read_pairs(const std::vector<PairFiles>& files, const char* what,
                        ProgressBar::Style style, Use use) {
  int64_t total = 0, done = 0;
  for (const PairFiles& one : files) {
    for (const std::string& path : {one.source, one.target}) {
      std::error_code ignored;  // opening it says more
      total += static_cast<int64_t>(fs::is_regular_file(path, ignored) ? fs::file_size(path) : 0);
    }
  }
  ProgressBar bar(what, total, style);
  ReaderCounts counts;
  for (const PairFiles& one : files) {
    PairReader reader(one.source, one.target);
    for (TextPair pair; reader.next(&pair);) {
      throw_if_interrupted();
      counts.documents += 2;
      counts.bytes += std::ssize(pair.source) + std::ssize(pair.target);
      use(std::move(pair), one.split);
      bar.update(done + reader.file_bytes(), format("{} pairs", counts.documents / 2));
    }
    done += reader.file_bytes();
    counts.blank += 2 * reader.num_blank();
  }
  if (counts.documents == 0) fail_without_documents(counts);
  return counts;
}

// Reads all documents into `use`, with a progress bar.
template <class Use>
ReaderCounts read_documents(const PrepareConfig& config, const std::vector<InputSpec>& specs,
                            const char* what, ProgressBar::Style style, Use use) {
  DocumentReader reader(specs, reader_options(config));
  ProgressBar bar(what, reader.file_bytes_total(), style);
  const Stopwatch watch;
  Document document;
  const auto show = [&] {
    const ReaderCounts& counts = reader.counts();
    const double mb = static_cast<double>(counts.bytes) / kBytesPerMb;
    bar.update(reader.file_bytes_done(),
               format("{} documents, {:.1f} MB, {:.1f} MB/s", counts.documents, mb,
                      mb / std::max(watch.seconds(), 1e-9)));
  };
  while (reader.next(&document)) {
    use(std::move(document));
    show();
  }
  if (reader.counts().documents == 0) fail_without_documents(reader.counts());
  show();
  return reader.counts();
}

std::string train_on_sample(const PrepareConfig& config, const std::vector<InputSpec>& specs,
                            ProgressBar::Style style) {
  TextSample sample(config.tokenizer_sample_bytes);
  if (config.pairs) {
    const auto add = [&sample](const TextPair& pair, std::optional<int> split) {
      if (split.value_or(0) != 0) return;
      sample.add("source", pair.source);
      sample.add("target", pair.target);
    };
    read_pairs(pair_files(config), "sampling", style, add);
  } else {
    read_documents(config, specs, "sampling", style, [&sample](const Document& document) {
      sample.add(document.domain, document.text);
    });
  }
  log::info("training a {} tokenizer with {} pieces on {:.1f} MB of {} domains", config.model_type,
            config.vocab_size, static_cast<double>(sample.num_bytes()) / kBytesPerMb,
            sample.bytes_by_domain().size());
  const Stopwatch watch;
  std::string model = train_tokenizer(sample.pieces(), {config.model_type, config.vocab_size});
  log::info("trained the tokenizer in {}", format_duration(watch.seconds()));
  throw_if_interrupted();
  return model;
}

// The first tokens of a document; all but its end-of-document token.
std::vector<int32_t> first_tokens(const IndexedDataset& dataset, int64_t document) {
  const IndexedDataset::Range range = dataset.document(document);
  std::vector<int32_t> tokens(
      static_cast<size_t>(std::clamp<int64_t>(range.size() - 1, 0, DocumentClusters::kMostTokens)));
  dataset.read(range.begin, tokens);
  return tokens;
}

// Fitted to documents of the training split, evenly spread.
DocumentClusters fit_clusters(const PrepareConfig& config, const IndexedDataset& train) {
  constexpr int64_t kMostDocuments = 8192;
  std::vector<std::vector<int32_t>> sample;
  const int64_t count = std::min(kMostDocuments, train.num_documents());
  for (int64_t i = 0; i < count; ++i) {
    sample.push_back(first_tokens(train, i * train.num_documents() / count));
  }
  return {sample, config.num_clusters, static_cast<uint64_t>(config.split_seed)};
}

// Clusters in place of the domains that the documents came with.
void cluster_documents(const PrepareConfig& config, const fs::path& folder,
                       const Tokenizer& tokenizer, DatasetInfo& info) {
  const auto open = [&](const char* split) {
    return IndexedDataset((folder / split).string(), info.vocab_size, info.eod_id);
  };
  const DocumentClusters clusters = fit_clusters(config, open("train"));
  info.domains.clear();
  for (int64_t k = 0; k < clusters.num_clusters(); ++k) {
    info.domains.push_back(format("cluster-{}", k));
  }
  for (const char* split : kSplits) {
    const IndexedDataset dataset = open(split);
    auto& by_domain = info.splits[split].by_domain;
    by_domain.clear();
    const auto cluster_of = [&](int64_t document) {
      throw_if_interrupted();
      const int64_t cluster = clusters.cluster_of(first_tokens(dataset, document));
      const IndexedDataset::Range range = dataset.document(document);
      std::vector<int32_t> tokens(static_cast<size_t>(range.size()));
      dataset.read(range.begin, tokens);
      TextCounts counts{.documents = 1, .tokens = range.size()};
      for (const int32_t id : tokens) {
        if (id != info.eod_id) counts.bytes += std::ssize(tokenizer.piece(id));
      }
      by_domain[info.domains[static_cast<size_t>(cluster)]] += counts;
      return static_cast<int32_t>(cluster);
    };
    const std::string prefix = (folder / split).string();
    write_domain_file(prefix, info.domains, dataset.num_documents(), cluster_of);
  }
}

void check_splits(const PrepareConfig& config, const DatasetInfo& info) {
  if (info.splits.at("train").total.documents == 0) {
    throw DataError(
        "all documents fell in the validation and test splits: change split_seed or lower "
        "valid_share and test_share{}",
        config.pairs ? ", and train on other pairs than those of valid_pairs and test_pairs" : "");
  }
  for (const auto& [split, key, files] : {std::tuple{"valid", "valid_pairs", &config.valid_pairs},
                                          std::tuple{"test", "test_pairs", &config.test_pairs}}) {
    if (files->empty() || info.splits.at(split).total.documents > 0) continue;
    throw DataError("{}: {} and {} hold no pair that has not come before", key, files->front(),
                    files->back());
  }
  for (const auto& [split, share] :
       {std::pair{"valid", config.valid_share}, std::pair{"test", config.test_share}}) {
    if (share == 0 || info.splits.at(split).total.documents > 0) continue;
    log::warning(
        "the {} split is empty: there are too few documents for {}_share = {}; raise it, or "
        "cut long files with a smaller max_document_bytes",
        split, split, share);
  }
}

void note_skipped(const PrepareResult& result) {
  const ReaderCounts& read = result.read;
  if (read.binary + read.invalid_utf8 + read.unreadable + read.blank > 0) {
    log::info("skipped {} binary files, {} not in UTF-8, {} not readable, {} blank documents",
              read.binary, read.invalid_utf8, read.unreadable, read.blank);
  }
}

}  // namespace

TextCounts PrepareResult::total() const {
  TextCounts sum;
  for (const auto& [name, split] : info.splits) sum += split.total;
  return sum;
}

PrepareResult prepare(const PrepareConfig& asked, ProgressBar::Style progress) {
  check(asked);
  PrepareConfig config = asked;  // a split that has files of its own takes nothing from the inputs
  if (!config.valid_pairs.empty()) config.valid_share = 0;
  if (!config.test_pairs.empty()) config.test_share = 0;
  const std::vector<InputSpec> specs =
      config.pairs ? std::vector<InputSpec>() : parse_inputs(config);
  check_replaced(config.output);
  std::unique_ptr<Tokenizer> tokenizer;
  if (!config.tokenizer.empty()) tokenizer = load_tokenizer(config.tokenizer);
  PendingFolder folder(config.output);  // before the long work: is the place writable?

  PrepareResult result;
  if (tokenizer == nullptr) {
    const Stopwatch watch;
    tokenizer = parse_tokenizer(train_on_sample(config, specs, progress), "the trained tokenizer");
    result.training_s = watch.seconds();
  }
  result.info.vocab_size = tokenizer->vocab_size();
  result.info.eod_id = tokenizer->eod_id();
  result.info.has_pairs = config.pairs;
  result.info.tokenizer = tokenizer->file_name();
  result.info.tokenizer_hash = to_hex(hash128(tokenizer->serialized()));

  const Stopwatch watch;
  {
    DatasetBuilder builder(config, folder.path(), *tokenizer, &result);
    if (config.pairs) {
      const auto add = [&builder](TextPair pair, std::optional<int> split) {
        builder.add(std::move(pair), split);
      };
      result.read = read_pairs(pair_files(config), "tokenising", progress, add);
    } else {
      result.read =
          read_documents(config, specs, "tokenising", progress,
                         [&builder](Document document) { builder.add(std::move(document)); });
    }
    builder.finish();
  }
  check_splits(config, result.info);
  if (config.num_clusters > 0) cluster_documents(config, folder.path(), *tokenizer, result.info);
  for (const TokenizerFile& file : tokenizer->source_files()) {
    write_file_atomic(folder.path() / file.name, file.content);
  }
  write_file_atomic(folder.path() / "dataset.json", to_json(result.info));
  throw_if_interrupted();
  folder.commit();
  result.encoding_s = watch.seconds();
  note_skipped(result);
  return result;
}

}  // namespace locus::data
