#include "locus/data/domain_counts.h"

#include <algorithm>

#include "locus/data/indexed_dataset.h"

namespace locus::data {
namespace {

constexpr int64_t kSample = int64_t{4} << 20;
constexpr int64_t kChunk = int64_t{16} << 10;

// From the dataset's domain ids to places in `names`; -1: not among them.
std::vector<int64_t> places(const IndexedDataset& dataset, const std::vector<std::string>& names) {
  std::vector<int64_t> out;
  for (const std::string& name : dataset.domain_names()) {
    const auto found = std::find(names.begin(), names.end(), name);
    out.push_back(found == names.end() ? -1 : found - names.begin());
  }
  return out;
}

}  // namespace

std::vector<std::pair<std::string, int64_t>> domain_sizes(const SampleSource& source) {
  std::vector<std::pair<std::string, int64_t>> sizes;
  for (const std::string& name : source.domain_names()) sizes.emplace_back(name, 0);
  for (const auto& dataset : source.datasets()) {
    const std::vector<int64_t> place = places(*dataset, source.domain_names());
    for (int64_t i = 0; i < dataset->num_documents(); ++i) {
      const int32_t domain = dataset->domain(i);
      if (domain < 0) continue;
      const int64_t own = place[static_cast<size_t>(domain)];
      sizes[static_cast<size_t>(own)].second += dataset->document(i).size();
    }
  }
  return sizes;
}

std::vector<std::vector<int64_t>> token_counts(const SampleSource& source,
                                               const std::vector<std::string>& domains,
                                               int64_t vocab_size) {
  std::vector<std::vector<int64_t>> counts(domains.size(),
                                           std::vector<int64_t>(static_cast<size_t>(vocab_size)));
  std::vector<int32_t> chunk;
  for (const auto& dataset : source.datasets()) {
    const std::vector<int64_t> place = places(*dataset, domains);
    const int64_t stride = std::max(kChunk, source.num_tokens() / (kSample / kChunk));
    for (int64_t begin = 0; begin < dataset->num_tokens(); begin += stride) {
      const int64_t end = std::min(begin + kChunk, dataset->num_tokens());
      chunk.resize(static_cast<size_t>(end - begin));
      dataset->read(begin, chunk);
      int64_t at = begin;
      for (int64_t document = dataset->document_at(begin); at < end; ++document) {
        const int64_t stop = std::min(end, dataset->document(document).end);
        const int32_t domain = dataset->domain(document);
        const int64_t row = domain < 0 ? -1 : place[static_cast<size_t>(domain)];
        for (; at < stop; ++at) {
          const int32_t id = chunk[static_cast<size_t>(at - begin)];
          if (row >= 0 && id < vocab_size)
            ++counts[static_cast<size_t>(row)][static_cast<size_t>(id)];
        }
      }
    }
  }
  // One that the sample has missed is taken for the mean of the others: nothing speaks for it.
  std::vector<int64_t> all(static_cast<size_t>(vocab_size));
  for (const auto& count_V : counts) {
    for (size_t id = 0; id < all.size(); ++id) all[id] += count_V[id];
  }
  for (auto& count_V : counts) {
    if (std::all_of(count_V.begin(), count_V.end(), [](int64_t n) { return n == 0; }))
      count_V = all;
  }
  return counts;
}

}  // namespace locus::data
