#include "locus/base/error.h"
#include "locus/data/dataset_info.h"
#include "locus/data/indexed_dataset.h"

namespace locus::data {
namespace {

std::string split_names(const DatasetInfo& info) {
  std::string names;
  for (const auto& [name, split] : info.splits) names += (names.empty() ? "" : ", ") + name;
  return names;
}

std::shared_ptr<const IndexedDataset> open_prepared(const fs::path& folder,
                                                    const std::string& split,
                                                    const DatasetInfo& info) {
  const auto found = info.splits.find(split);
  if (found == info.splits.end()) {
    throw DataError("{}: has no split {}; known: {}", (folder / "dataset.json").string(), split,
                    split_names(info));
  }
  auto dataset = std::make_shared<const IndexedDataset>((folder / split).string(), info.vocab_size,
                                                        info.eod_id, info.has_pairs);
  const TextCounts& counts = found->second.total;
  if (dataset->num_documents() != counts.documents || dataset->num_tokens() != counts.tokens) {
    throw DataError(
        "{}.idx: holds {} documents of {} tokens together, but dataset.json states {} "
        "and {}",
        dataset->prefix(), dataset->num_documents(), dataset->num_tokens(), counts.documents,
        counts.tokens);
  }
  if (dataset->has_domains() ? dataset->domain_names() != info.domains : !info.domains.empty()) {
    throw DataError("{}.domains: {}", dataset->prefix(),
                    dataset->has_domains() ? "its domain names are not those of dataset.json"
                                           : "is missing, but dataset.json lists domains");
  }
  return dataset;
}

}  // namespace

std::shared_ptr<const IndexedDataset> open_split(const std::string& path,
                                                 const std::string& split) {
  std::error_code ignored;  // what cannot be looked at fails below, by name
  if (fs::is_directory(path, ignored)) {
    if (!fs::exists(fs::path(path) / "dataset.json")) {
      throw DataError(
          "{}: is a folder without dataset.json; needed: a folder made by `locus "
          "prepare`, or the prefix of a .bin/.idx pair",
          path);
    }
    return open_prepared(path, split, read_dataset_info(path));
  }
  if (!fs::exists(path + ".idx")) {
    throw DataError(
        "{}: is neither a folder made by `locus prepare` nor the prefix of a .bin/.idx "
        "pair: {}.idx does not exist",
        path, path);
  }
  const fs::path folder = fs::path(path).parent_path();
  const std::string name = fs::path(path).filename().string();
  if (fs::exists(folder / "dataset.json")) {
    const DatasetInfo info = read_dataset_info(folder.string());
    if (info.splits.contains(name)) return open_prepared(folder, name, info);
  }
  return std::make_shared<const IndexedDataset>(path);
}

}  // namespace locus::data
