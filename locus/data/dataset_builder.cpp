#include "locus/data/dataset_builder.h"

#include <utility>

#include "locus/base/random.h"

namespace locus::data {
namespace {

constexpr int32_t kNoDomain = -1;

}  // namespace

DatasetBuilder::DatasetBuilder(const PrepareConfig& config, const std::filesystem::path& folder,
                               const Tokenizer& tokenizer, PrepareResult* result)
    : config_(config),
      eod_id_(tokenizer.eod_id()),
      result_(result),
      counts_by_domain_(kSplits.size()),
      pipeline_(tokenizer, config.num_threads,
                [this](const TokenPipeline::Result& tokens) { write(tokens); }) {
  for (const char* split : kSplits) {
    writers_.push_back(
        std::make_unique<IndexedDatasetWriter>((folder / split).string(), tokenizer.vocab_size()));
  }
}

void DatasetBuilder::add(Document document) {
  const Hash128 hash = hash128(document.text);
  if (!is_new(hash, 1, document.text.size())) return;
  pipeline_.add({.text = std::move(document.text),
                 .domain = domain_index(document.domain),
                 .split = split_of(hash)});
}

void DatasetBuilder::add(TextPair pair, std::optional<int> split) {
  const Hash128 hash = hash128(pair.source + "\n" + pair.target);
  if (!is_new(hash, 2, pair.source.size() + pair.target.size())) return;
  const int place = split.value_or(split_of(hash));
  pipeline_.add({.text = std::move(pair.source), .domain = kNoDomain, .split = place});
  pipeline_.add({.text = std::move(pair.target), .domain = kNoDomain, .split = place});
}

void DatasetBuilder::finish() {
  pipeline_.finish();
  DatasetInfo& info = result_->info;
  for (size_t split = 0; split < kSplits.size(); ++split) {
    writers_[split]->finish(info.domains);
    SplitInfo& own = info.splits[kSplits[split]];
    for (const auto& [domain, counts] : counts_by_domain_[split]) {
      own.total += counts;
      if (domain != kNoDomain) own.by_domain[info.domains[static_cast<size_t>(domain)]] = counts;
    }
  }
}

bool DatasetBuilder::is_new(const Hash128& hash, int64_t num_documents, size_t num_bytes) {
  if (!config_.deduplicate || seen_.insert(hash)) return true;
  result_->duplicates += num_documents;
  result_->duplicate_bytes += static_cast<int64_t>(num_bytes);
  return false;
}

int DatasetBuilder::split_of(const Hash128& hash) const {
  const uint64_t key =
      random_key({static_cast<uint64_t>(config_.split_seed), name_key("split"), hash[0], hash[1]});
  const double place = random_uniform(key, 0);
  if (place < config_.test_share) return 2;
  return place < config_.test_share + config_.valid_share ? 1 : 0;
}

int32_t DatasetBuilder::domain_index(const std::string& name) {
  std::vector<std::string>& domains = result_->info.domains;
  const auto [found, is_new] = domain_indices_.try_emplace(name, domains.size());
  if (is_new) domains.push_back(name);
  return static_cast<int32_t>(found->second);
}

void DatasetBuilder::write(const TokenPipeline::Result& tokens) {
  IndexedDatasetWriter& writer = *writers_[static_cast<size_t>(tokens.split)];
  TextCounts& counts = counts_by_domain_[static_cast<size_t>(tokens.split)][tokens.domain];
  for (const auto& part : tokens.parts) {
    writer.append_tokens(part);
    counts.tokens += static_cast<int64_t>(part.size());
  }
  writer.append_tokens({&eod_id_, 1});
  writer.end_document(tokens.domain);
  counts += {.documents = 1, .tokens = 1, .bytes = tokens.num_bytes};
}

}  // namespace locus::data
