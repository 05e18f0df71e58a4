// From documents to the files of their splits: drops duplicates, splits by a hash of the text,
// tokenises on all cores, counts.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "locus/base/hash.h"
#include "locus/data/document_reader.h"
#include "locus/data/hash_set.h"
#include "locus/data/indexed_dataset.h"
#include "locus/data/pair_reader.h"
#include "locus/data/preprocess.h"
#include "locus/data/token_pipeline.h"
#include "locus/data/tokenizer.h"

namespace locus::data {

inline constexpr std::array<const char*, 3> kSplits{"train", "valid", "test"};

class DatasetBuilder {
 public:
  // All of these must live as long as the builder; what is counted goes into `result`.
  DatasetBuilder(const PrepareConfig& config, const std::filesystem::path& folder,
                 const Tokenizer& tokenizer, PrepareResult* result);

  void add(Document document);
  // Two documents, which share a split: `split` of kSplits, or the one that their texts say.
  void add(TextPair pair, std::optional<int> split = std::nullopt);
  void finish();

 private:
  bool is_new(const Hash128& hash, int64_t num_documents, size_t num_bytes);
  int split_of(const Hash128& hash) const;
  int32_t domain_index(const std::string& name);
  void write(const TokenPipeline::Result& tokens);

  const PrepareConfig& config_;
  const int32_t eod_id_;
  PrepareResult* result_;
  HashSet seen_;
  std::unordered_map<std::string, size_t> domain_indices_;
  std::vector<std::unique_ptr<IndexedDatasetWriter>> writers_;
  std::vector<std::map<int32_t, TextCounts>> counts_by_domain_;  // by split; -1: none
  TokenPipeline pipeline_;
};

}  // namespace locus::data
