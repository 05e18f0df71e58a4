#include "locus/data/preprocess.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "locus/base/error.h"
#include "locus/base/fields.h"
#include "locus/base/file.h"
#include "locus/base/hash.h"
#include "locus/base/random.h"
#include "locus/base/signals.h"
#include "locus/data/hash_set.h"
#include "locus/data/indexed_dataset.h"
#include "locus/data/tokenizer.h"
#include "locus/data/train_tokenizer.h"
#include "tests/data/text_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::data {
namespace {

using test::error_of;
using test::TempFolder;
using test::write_text;

std::string document_text(int number) {
  std::string text = "Document " + std::to_string(number) + ":\n\tthe   quick brown fox\r\n";
  for (uint64_t i = 0; i < 20 + random_bits(7, static_cast<uint64_t>(number)) % 50; ++i) {
    text += "word" + std::to_string(random_bits(static_cast<uint64_t>(number), i) % 300) + " ";
  }
  return text;
}

std::string json_line(int number, const std::string& domain) {
  std::string text = document_text(number);
  std::string escaped;
  for (const char c : text) {
    escaped += c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : std::string(1, c);
  }
  return "{\"text\": \"" + escaped + "\", \"domain\": \"" + domain + "\"}\n";
}

std::string json_lines(int first, int last) {
  std::string lines;
  for (int i = first; i < last; ++i) lines += json_line(i, i % 3 == 0 ? "a" : "b");
  return lines;
}

PrepareResult run(const PrepareConfig& config) {
  return prepare(config, ProgressBar::Style::kSilent);
}

// Some hundred documents of two domains.
struct Corpus {
  TempFolder folder;
  PrepareConfig config;

  Corpus() {
    config.inputs = {write_text(folder / "in/x.jsonl", json_lines(0, 400))};
    config.output = (folder / "out").string();
    config.vocab_size = 330;
    config.valid_share = 0.1;
    config.test_share = 0.1;
    config.num_threads = 2;
  }

  void expect_nothing_left() const {
    for (const auto& entry : fs::directory_iterator(folder.path())) {
      EXPECT_EQ(entry.path().filename(), "in") << "left behind";
    }
  }
};

// Texts of a split, with the domain in front.
std::multiset<std::string> texts_of(const std::string& folder, const std::string& split) {
  const auto tokenizer = load_tokenizer(folder + "/tokenizer.model");
  const auto dataset = open_split(folder, split);
  std::multiset<std::string> texts;
  for (int64_t i = 0; i < dataset->num_documents(); ++i) {
    const auto range = dataset->document(i);
    std::vector<int32_t> ids(static_cast<size_t>(range.size()));
    dataset->read(range.begin, ids);
    EXPECT_EQ(ids.back(), tokenizer->eod_id());
    ids.pop_back();
    EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer->eod_id()), 0);
    texts.insert(dataset->domain_names()[static_cast<size_t>(dataset->domain(i))] + "|" +
                 tokenizer->decode(ids));
  }
  return texts;
}

std::map<std::string, std::string> hashes_of(const std::string& folder) {
  std::map<std::string, std::string> hashes;
  for (const auto& entry : fs::directory_iterator(folder)) {
    hashes[entry.path().filename().string()] = to_hex(hash_file(entry.path()));
  }
  return hashes;
}

TEST(Prepare, WritesADatasetThatHoldsEveryDocumentOnceWithItsDomain) {
  const Corpus corpus;
  const PrepareResult result = run(corpus.config);
  std::multiset<std::string> expected, found;
  for (int i = 0; i < 400; ++i) expected.insert((i % 3 == 0 ? "a|" : "b|") + document_text(i));
  for (const char* split : {"train", "valid", "test"}) {
    const auto texts = texts_of(corpus.config.output, split);
    EXPECT_EQ(static_cast<int64_t>(texts.size()), result.info.splits.at(split).total.documents);
    found.insert(texts.begin(), texts.end());
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(result.info.domains, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(result.total().documents, 400);
  EXPECT_EQ(result.read.bytes, result.total().bytes);
  const DatasetInfo stored = read_dataset_info(corpus.config.output);
  EXPECT_EQ(stored.splits.at("train").total, result.info.splits.at("train").total);
  EXPECT_EQ(stored.splits.at("test").by_domain, result.info.splits.at("test").by_domain);
  EXPECT_EQ(stored.tokenizer_hash, to_hex(hash_file(corpus.config.output + "/tokenizer.model")));
  EXPECT_EQ(stored.vocab_size, 330);
}

// The texts of two vocabularies, without a word of where they come from.
TEST(Prepare, MakesDomainsOfClusters) {
  Corpus corpus;
  const auto text_of = [](int number) {
    std::string text;
    for (uint64_t i = 0; i < 60; ++i) {
      text += (number % 2 == 0 ? "alpha" : "omega") +
              std::to_string(random_bits(static_cast<uint64_t>(number), i) % 30) + " ";
    }
    return text;
  };
  std::string lines;
  for (int i = 0; i < 300; ++i) lines += "{\"text\": \"" + text_of(i) + "\"}\n";
  corpus.config.inputs = {write_text(corpus.folder / "in/plain.jsonl", lines)};
  corpus.config.num_clusters = 2;
  const PrepareResult result = run(corpus.config);
  EXPECT_EQ(result.info.domains, (std::vector<std::string>{"cluster-0", "cluster-1"}));
  std::map<std::string, std::set<char>> first_letters;
  int64_t found = 0;
  for (const char* split : {"train", "valid", "test"}) {
    for (const std::string& text : texts_of(corpus.config.output, split)) {
      first_letters[text.substr(0, text.find('|'))].insert(text[text.find('|') + 1]);
      ++found;
    }
    TextCounts sum;
    for (const auto& [domain, counts] : result.info.splits.at(split).by_domain) sum += counts;
    EXPECT_EQ(sum, result.info.splits.at(split).total) << split;
  }
  EXPECT_EQ(found, 300);
  ASSERT_EQ(first_letters.size(), 2U);
  for (const auto& [cluster, letters] : first_letters) EXPECT_EQ(letters.size(), 1U) << cluster;
}

TEST(Prepare, SplitsByShareAndSeed) {
  Corpus corpus;
  const auto first = run(corpus.config);
  EXPECT_NEAR(static_cast<double>(first.info.splits.at("valid").total.documents), 40, 25);
  EXPECT_NEAR(static_cast<double>(first.info.splits.at("test").total.documents), 40, 25);
  const auto before = texts_of(corpus.config.output, "valid");
  corpus.config.split_seed = 1;
  corpus.config.overwrite = true;
  run(corpus.config);
  EXPECT_NE(texts_of(corpus.config.output, "valid"), before);
}

TEST(Prepare, KeepsTheSplitInAnyOrderAndAmongOtherDocuments) {
  Corpus corpus;
  run(corpus.config);
  std::string shuffled = json_lines(300, 500) + json_lines(0, 300);
  Corpus other;
  other.config.inputs = {write_text(other.folder / "in/x.jsonl", shuffled)};
  run(other.config);
  for (const char* split : {"train", "valid", "test"}) {
    const auto some = texts_of(corpus.config.output, split);
    const auto more = texts_of(other.config.output, split);
    EXPECT_TRUE(std::includes(more.begin(), more.end(), some.begin(), some.end())) << split;
  }
}

TEST(Prepare, GivesTheSameBytesWithAnyNumberOfThreads) {
  Corpus corpus;
  // Long documents too, which are encoded in parts.
  std::string long_text;
  for (int i = 0; i < 2000; ++i) long_text += document_text(i);
  ASSERT_GT(long_text.size(), size_t{300} << 10);
  corpus.config.inputs.push_back(write_text(corpus.folder / "in/long.txt", long_text));
  std::map<std::string, std::string> first;
  for (const int64_t num_threads : {1, 2, 4}) {
    corpus.config.num_threads = num_threads;
    corpus.config.overwrite = true;
    run(corpus.config);
    const auto hashes = hashes_of(corpus.config.output);
    EXPECT_EQ(hashes.size(), 11u);
    if (first.empty()) first = hashes;
    EXPECT_EQ(hashes, first) << num_threads << " threads";
  }
  size_t found = 0;
  for (const char* split : {"train", "valid", "test"}) {
    found += texts_of(corpus.config.output, split).count("long|" + long_text);
  }
  EXPECT_EQ(found, 1u);
}

TEST(Prepare, DropsExactDuplicatesAndKeepsTheFirst) {
  Corpus corpus;
  corpus.config.inputs = {"one=" + corpus.config.inputs[0], "two=" + corpus.config.inputs[0]};
  auto result = run(corpus.config);
  EXPECT_EQ(result.duplicates, 400);
  EXPECT_EQ(result.duplicate_bytes, result.total().bytes);
  EXPECT_EQ(result.info.domains, (std::vector<std::string>{"one"}));
  corpus.config.deduplicate = false;
  corpus.config.overwrite = true;
  result = run(corpus.config);
  EXPECT_EQ(result.duplicates, 0);
  EXPECT_EQ(result.total().documents, 800);
}

TEST(Prepare, TakesATokenizerThatIsGiven) {
  Corpus corpus;
  run(corpus.config);
  const std::string model = corpus.config.output + "/tokenizer.model";
  const std::string first = read_file(model);
  corpus.config.tokenizer = model;
  corpus.config.output = (corpus.folder / "second").string();
  corpus.config.inputs = {write_text(corpus.folder / "in/y.jsonl", json_lines(1000, 1200))};
  const PrepareResult result = run(corpus.config);
  EXPECT_EQ(read_file(corpus.config.output + "/tokenizer.model"), first);
  EXPECT_EQ(result.info.vocab_size, 330);
  EXPECT_EQ(result.training_s, 0);
  corpus.config.tokenizer = "/no/such.model";
  corpus.config.output = (corpus.folder / "third").string();
  EXPECT_THROW(run(corpus.config), DataError);
}

TEST(Prepare, ReplacesADatasetOnlyWhenToldTo) {
  Corpus corpus;
  run(corpus.config);
  const auto before = hashes_of(corpus.config.output);
  EXPECT_NE(error_of<ConfigError>([&] { run(corpus.config); }).find("overwrite = true"),
            std::string::npos);
  EXPECT_EQ(hashes_of(corpus.config.output), before);
  corpus.config.overwrite = true;
  corpus.config.vocab_size = 320;
  run(corpus.config);
  EXPECT_EQ(read_dataset_info(corpus.config.output).vocab_size, 320);
  fs::remove_all(corpus.config.output);
  corpus.expect_nothing_left();
}

TEST(Prepare, NeverReplacesWhatIsNoDataset) {
  Corpus corpus;
  corpus.config.overwrite = true;
  write_text(fs::path(corpus.config.output) / "thesis.txt", "ten years of work");
  EXPECT_NE(
      error_of<ConfigError>([&] { run(corpus.config); }).find("something else than a dataset"),
      std::string::npos);
  EXPECT_TRUE(fs::exists(fs::path(corpus.config.output) / "thesis.txt"));
  corpus.config.output = write_text(corpus.folder / "file", "x");
  EXPECT_THROW(run(corpus.config), ConfigError);
  corpus.config.output = (corpus.folder / "empty").string();
  fs::create_directory(corpus.config.output);
  EXPECT_NO_THROW(run(corpus.config)) << "an empty folder may be filled";
}

TEST(Prepare, RefusesAnInputInsideTheDatasetThatItReplaces) {
  Corpus corpus;
  run(corpus.config);
  corpus.config.overwrite = true;
  const fs::path output = corpus.config.output;
  const std::string book = write_text(output / "books/one.txt", document_text(1));
  for (const std::string& input :
       {book, (output / "books").string(), (output / "train.idx").string()}) {
    corpus.config.inputs = {"mine=" + input};
    const std::string message = error_of<ConfigError>([&] { run(corpus.config); });
    for (const std::string& part :
         {"output = \"" + output.string() + "\"", "the input \"mine=" + input + "\""}) {
      EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
    }
  }
  EXPECT_EQ(read_file(book), document_text(1));
}

TEST(Prepare, RefusesToReplaceADatasetWithOtherThingsInIt) {
  Corpus corpus;
  run(corpus.config);
  corpus.config.overwrite = true;
  const fs::path output = corpus.config.output;
  for (const char* name : {"thesis.txt", "books/one.txt", "train.bin.bak"}) {
    const fs::path path = output / name;
    write_text(path, "ten years of work");
    const std::string first = path.lexically_relative(output).begin()->string();
    EXPECT_NE(error_of<ConfigError>([&] { run(corpus.config); }).find("holds \"" + first + "\""),
              std::string::npos);
    EXPECT_EQ(read_file(path), "ten years of work");
    fs::remove_all(output / first);
  }
  write_text(output / ".lock", "");  // a kill can leave it
  EXPECT_NO_THROW(run(corpus.config));
  EXPECT_FALSE(fs::exists(output / ".lock"));
}

TEST(Prepare, RefusesAnOutputInsideAnInput) {
  Corpus corpus;
  corpus.config.inputs = {(corpus.folder / "in").string()};
  for (const char* output : {"in/out", "in/a/../b/out", "in"}) {
    corpus.config.output = (corpus.folder / output).string();
    EXPECT_THROW(run(corpus.config), ConfigError) << output;
  }
  corpus.config.output = (corpus.folder / "in2").string();
  EXPECT_NO_THROW(run(corpus.config));
}

TEST(Prepare, LeavesTheOldDatasetWhenTheNewOneFails) {
  Corpus corpus;
  run(corpus.config);
  const auto before = hashes_of(corpus.config.output);
  write_text(corpus.folder / "in/x.jsonl", json_lines(0, 300) + "{broken\n");
  corpus.config.overwrite = true;
  EXPECT_NE(error_of<DataError>([&] { run(corpus.config); }).find("x.jsonl:301: "),
            std::string::npos);
  corpus.config.tokenizer = corpus.config.output + "/tokenizer.model";  // fails while tokenising
  EXPECT_THROW(run(corpus.config), DataError);
  EXPECT_EQ(hashes_of(corpus.config.output), before);
  fs::remove_all(corpus.config.output);
  corpus.expect_nothing_left();
}

TEST(Prepare, LeavesNothingWhenInterrupted) {
  const Corpus corpus;
  for (const int signal : {SIGINT, SIGTERM}) {
    set_received_signal(signal);
    try {
      run(corpus.config);
      ADD_FAILURE() << "not interrupted";
    } catch (const Interrupted& error) {
      EXPECT_EQ(error.exit_code(), 128 + signal);
    }
    set_received_signal(0);
    corpus.expect_nothing_left();
  }
}

TEST(Prepare, LeavesNothingWhenTheDiskIsFull) {
  const Corpus corpus;
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = 4096;  // no file may grow beyond: write() fails as on a full disk
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = error_of<DataError>([&] { run(corpus.config); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(message.find("out.tmp-"), std::string::npos) << message;
  corpus.expect_nothing_left();
}

TEST(Prepare, SaysThatThereAreNoDocuments) {
  Corpus corpus;
  write_text(corpus.folder / "in/c/blank.txt", "\n\n");
  write_text(corpus.folder / "in/c/binary", std::string("\0\1", 2));
  corpus.config.inputs = {(corpus.folder / "in/c").string()};
  EXPECT_EQ(error_of<DataError>([&] { run(corpus.config); }),
            "no documents in the inputs (1 blank, 1 binary, 0 not UTF-8, 0 not readable)");
  corpus.config.inputs = {write_text(corpus.folder / "in/empty.txt", "")};
  EXPECT_THROW(run(corpus.config), DataError);
  corpus.expect_nothing_left();
}

TEST(Prepare, NeedsADocumentToTrainOn) {
  Corpus corpus;
  corpus.config.inputs = {write_text(corpus.folder / "in/x.txt", document_text(1))};
  corpus.config.valid_share = 0.999;
  corpus.config.test_share = 0;
  EXPECT_NE(error_of<DataError>([&] { run(corpus.config); }).find("lower valid_share"),
            std::string::npos);
  corpus.expect_nothing_left();
}

TEST(Prepare, ReportsAllWrongSettingsAtOnce) {
  PrepareConfig config;
  config.model_type = "words";
  config.vocab_size = 0;
  config.valid_share = 0.7;
  config.test_share = 0.4;
  config.num_threads = -1;
  config.max_document_bytes = 10;
  const std::string message = error_of<ConfigError>([&] { run(config); });
  for (const char* part :
       {"inputs", "output", "model_type = \"words\"", "vocab_size = 0",
        "valid_share + test_share = 1.1", "num_threads = -1", "max_document_bytes = 10"}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
  }
  config = {};
  config.inputs = {"x"};
  config.output = "y";
  config.valid_share = -0.1;
  EXPECT_THROW(run(config), ConfigError);
  config.valid_share = 0.1;
  config.num_threads = 4097;
  EXPECT_EQ(error_of<ConfigError>([&] { run(config); }),
            "num_threads = 4097: must be at most 4096");
}

TEST(Prepare, ListsItsFields) {
  PrepareConfig config;
  EXPECT_EQ(collect_fields(config).size(), 19u);
}

TEST(HashSet, FindsWhatWasInserted) {
  HashSet set;
  std::set<Hash128> expected;
  for (uint64_t i = 0; i < 20000; ++i) {
    const uint64_t key = random_bits(1, i) % 7000;
    // Equal low halves, so that they collide.
    const Hash128 hash{key, key % 1000};
    ASSERT_EQ(set.insert(hash), expected.insert(hash).second);
  }
  EXPECT_TRUE(set.insert({0, 0}) == expected.insert({0, 0}).second);
  EXPECT_FALSE(set.insert({0, 0}));
  EXPECT_EQ(set.size(), static_cast<int64_t>(expected.size()));
}

}  // namespace
}  // namespace locus::data
