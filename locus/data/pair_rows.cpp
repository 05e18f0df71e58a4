#include "locus/data/pair_rows.h"

#include <algorithm>
#include <span>

#include "locus/base/error.h"

namespace locus::data {
namespace {

// One side of a row of a batch while it is filled.
struct Side {
  std::span<int32_t> ids, positions, documents;
  size_t used = 0;

  Side(std::vector<int32_t>& all_ids, std::vector<int32_t>& all_positions,
       std::vector<int32_t>& all_documents, size_t begin, size_t length)
      : ids(std::span(all_ids).subspan(begin, length)),
        positions(std::span(all_positions).subspan(begin, length)),
        documents(std::span(all_documents).subspan(begin, length)) {}

  void append(std::span<const int32_t> tokens, int32_t document) {
    for (size_t i = 0; i < tokens.size(); ++i, ++used) {
      ids[used] = tokens[i];
      positions[used] = static_cast<int32_t>(i);
      documents[used] = document;
    }
  }
  void pad(int32_t filler, int32_t document) {
    append(std::vector<int32_t>(ids.size() - used, filler), document);
  }
};

std::vector<int32_t> read_document(const IndexedDataset& dataset, int64_t document) {
  const IndexedDataset::Range range = dataset.document(document);
  std::vector<int32_t> tokens(static_cast<size_t>(range.size()));
  dataset.read(range.begin, tokens);
  return tokens;
}

}  // namespace

bool PairRows::fits(const IndexedDataset& dataset, int64_t pair) const {
  return dataset.document(2 * pair).size() <= length_ &&
         dataset.document(2 * pair + 1).size() <= length_;
}

PairRows::PairRows(const IndexedDataset& dataset, int64_t length) : length_(length) {
  const int64_t num_pairs = dataset.num_documents() / 2;
  int64_t sources = length, targets = length;  // no room left: the first pair opens a row
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    if (!fits(dataset, pair)) {
      ++num_left_out_;
      continue;
    }
    const int64_t source = dataset.document(2 * pair).size();
    const int64_t target = dataset.document(2 * pair + 1).size();
    if (first_pair_.empty() || sources + source > length || targets + target > length) {
      first_pair_.push_back(pair);
      sources = targets = 0;
    }
    sources += source;
    targets += target;
  }
  first_pair_.push_back(num_pairs);
}

void PairRows::fill(const IndexedDataset& dataset, int64_t number, int64_t row,
                    Batch& batch) const {
  const auto length = static_cast<size_t>(length_);
  const size_t at = static_cast<size_t>(row) * length;
  Side source(batch.source_ids, batch.source_position_ids, batch.source_document_ids, at, length);
  Side target(batch.input_ids, batch.position_ids, batch.document_ids, at, length);
  int32_t document = 0;
  const auto place = static_cast<size_t>(number);
  for (int64_t pair = first_pair_[place]; pair < first_pair_[place + 1]; ++pair) {
    if (!fits(dataset, pair)) continue;
    source.append(read_document(dataset, 2 * pair), document);
    std::vector<int32_t> tokens = read_document(dataset, 2 * pair + 1);
    std::copy(tokens.begin(), tokens.end(),
              batch.labels.begin() + static_cast<ptrdiff_t>(at + target.used));
    std::rotate(tokens.begin(), tokens.end() - 1, tokens.end());  // its end stands at its beginning
    target.append(tokens, document++);
  }
  const int32_t filler = std::max(dataset.eod_id(), 0);
  source.pad(filler, document);
  target.pad(filler, document);
}

}  // namespace locus::data
