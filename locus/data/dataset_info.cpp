#include "locus/data/dataset_info.h"

#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/base/file.h"

namespace locus::data {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kVersion = 1;

Json counts_to_json(const TextCounts& counts) {
  return {{"documents", counts.documents}, {"tokens", counts.tokens}, {"bytes", counts.bytes}};
}

// One object of the file, its place in it for messages ("splits.train").
class Node {
 public:
  Node(std::string_view source, std::string path, const Json& json)
      : source_(source), path_(std::move(path)), json_(json) {
    if (!json_.is_object()) fail(path_.empty() ? "the document" : path_, "must be an object");
  }

  int64_t integer(const char* key, int64_t least, int64_t most) const {
    const Json& value = child(key);
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(most)) ||
        value.get<int64_t>() < least || value.get<int64_t>() > most) {
      fail(name_of(key), format("must be an integer in [{}, {}]", least, most));
    }
    return value.get<int64_t>();
  }

  // False where it is missing.
  bool flag(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) return false;
    if (!found->is_boolean()) fail(name_of(key), "must be true or false");
    return found->get<bool>();
  }

  std::string text(const char* key) const {
    const Json& value = child(key);
    if (!value.is_string()) fail(name_of(key), "must be a string");
    return value.get<std::string>();
  }

  std::vector<std::string> texts(const char* key) const {
    const Json& value = child(key);
    std::vector<std::string> result;
    if (!value.is_array()) fail(name_of(key), "must be an array of strings");
    for (const Json& entry : value) {
      if (!entry.is_string()) fail(name_of(key), "must be an array of strings");
      result.push_back(entry.get<std::string>());
    }
    return result;
  }

  Node object(const std::string& key) const { return {source_, name_of(key), child(key)}; }

  std::vector<std::string> keys() const {
    std::vector<std::string> result;
    for (const auto& [key, value] : json_.items()) result.push_back(key);
    return result;
  }

 private:
  [[noreturn]] void fail(const std::string& name, const std::string& what) const {
    throw DataError("{}: {} {}", source_, name, what);
  }
  std::string name_of(const std::string& key) const {
    return path_.empty() ? key : path_ + "." + key;
  }
  const Json& child(const std::string& key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) fail(name_of(key), "is missing");
    return *found;
  }

  std::string source_;
  std::string path_;
  const Json& json_;
};

TextCounts counts_of(const Node& node) {
  constexpr int64_t kMost = int64_t{1} << 60;
  return {node.integer("documents", 0, kMost), node.integer("tokens", 0, kMost),
          node.integer("bytes", 0, kMost)};
}

}  // namespace

std::string to_json(const DatasetInfo& info) {
  Json splits = Json::object();
  for (const auto& [name, split] : info.splits) {
    Json by_domain = Json::object();
    for (const auto& [domain, counts] : split.by_domain) by_domain[domain] = counts_to_json(counts);
    splits[name] = counts_to_json(split.total);
    splits[name]["by_domain"] = std::move(by_domain);
  }
  Json document = {{"version", kVersion},
                   {"vocab_size", info.vocab_size},
                   {"eod_id", info.eod_id},
                   {"tokenizer", info.tokenizer},
                   {"tokenizer_hash", info.tokenizer_hash},
                   {"domains", info.domains},
                   {"splits", std::move(splits)}};
  if (info.has_pairs) document["pairs"] = true;
  return document.dump(2) + "\n";
}

DatasetInfo parse_dataset_info(std::string_view source, std::string_view text) {
  Json document;
  try {
    document = Json::parse(text);
  } catch (const Json::exception& error) {  // also for a number that is out of range
    throw DataError("{}: is no valid JSON: {}", source, error.what());
  }
  const Node root(source, "", document);
  root.integer("version", kVersion, kVersion);
  DatasetInfo info;
  info.vocab_size = root.integer("vocab_size", 1, int64_t{1} << 31);
  info.eod_id = static_cast<int32_t>(root.integer("eod_id", 0, info.vocab_size - 1));
  info.has_pairs = root.flag("pairs");
  info.tokenizer = root.text("tokenizer");
  info.tokenizer_hash = root.text("tokenizer_hash");
  info.domains = root.texts("domains");
  const Node splits = root.object("splits");
  for (const std::string& name : splits.keys()) {
    const Node split = splits.object(name);
    SplitInfo& entry = info.splits[name];
    entry.total = counts_of(split);
    const Node by_domain = split.object("by_domain");
    for (const std::string& domain : by_domain.keys()) {
      entry.by_domain[domain] = counts_of(by_domain.object(domain));
    }
  }
  return info;
}

DatasetInfo read_dataset_info(const std::string& folder) {
  const fs::path path = fs::path(folder) / "dataset.json";
  return parse_dataset_info(path.string(), read_file(path));
}

}  // namespace locus::data
