#include "locus/data/pair_rows.h"

#include <algorithm>
#include <deque>
#include <iterator>
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

constexpr size_t kOpenRows = 32;

struct OpenRow {
  std::vector<int64_t> pairs;
  int64_t source = 0, target = 0;  // tokens
};

std::vector<int32_t> read_document(const IndexedDataset& dataset, int64_t document) {
  const IndexedDataset::Range range = dataset.document(document);
  std::vector<int32_t> tokens(static_cast<size_t>(range.size()));
  dataset.read(range.begin, tokens);
  return tokens;
}

}  // namespace

PairRows::PairRows(const IndexedDataset& dataset, int64_t length) : length_(length) {
  std::deque<OpenRow> open;
  for (int64_t pair = 0; pair < dataset.num_documents() / 2; ++pair) {
    const int64_t source = dataset.document(2 * pair).size();
    const int64_t target = dataset.document(2 * pair + 1).size();
    if (source == 0 || target == 0) {
      throw DataError("{}.idx: pair {} has a text without tokens", dataset.prefix(), pair);
    }
    if (source > length || target > length) {
      ++num_left_out_;
      continue;
    }
    const auto has_room = [&](const OpenRow& row) {
      return row.source + source <= length && row.target + target <= length;
    };
    auto row = std::find_if(open.begin(), open.end(), has_room);
    if (row == open.end()) {
      if (open.size() == kOpenRows) {
        close(open.front().pairs);
        open.pop_front();
      }
      row = open.insert(open.end(), OpenRow());
    }
    row->source += source;
    row->target += target;
    row->pairs.push_back(pair);
  }
  for (const OpenRow& row : open) close(row.pairs);
}

void PairRows::close(const std::vector<int64_t>& pairs) {
  pairs_.insert(pairs_.end(), pairs.begin(), pairs.end());
  begin_.push_back(std::ssize(pairs_));
}

void PairRows::fill(const IndexedDataset& dataset, int64_t number, int64_t row,
                    Batch& batch) const {
  const auto length = static_cast<size_t>(length_);
  const size_t at = static_cast<size_t>(row) * length;
  Side source(batch.source_ids, batch.source_position_ids, batch.source_document_ids, at, length);
  Side target(batch.input_ids, batch.position_ids, batch.document_ids, at, length);
  int32_t document = 0;
  const auto place = static_cast<size_t>(number);
  for (int64_t i = begin_[place]; i < begin_[place + 1]; ++i) {
    const int64_t pair = pairs_[static_cast<size_t>(i)];
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
