// Pairs of texts packed into rows: each goes, in the order of the dataset, into the first row that
// has room for it on both sides, of the few that are still open. A pair that is longer than a row
// on either side is in none.
#pragma once

#include <cstdint>
#include <vector>

#include "locus/data/batch.h"
#include "locus/data/indexed_dataset.h"

namespace locus::data {

class PairRows {
 public:
  // `dataset` holds pairs: documents 2p and 2p + 1 are the source and target of pair p, each with
  // its end-of-document token. DataError for a text without tokens.
  PairRows(const IndexedDataset& dataset, int64_t length);

  int64_t num_rows() const { return static_cast<int64_t>(begin_.size()) - 1; }
  int64_t num_left_out() const { return num_left_out_; }

  // Writes row `number` to that of a batch with room for pairs: the sources behind one another, and
  // the targets, each behind an end-of-document token in the place of its own last one, which is a
  // label like the others. Pair k of the row is document k on both sides, what pads it is another.
  void fill(const IndexedDataset& dataset, int64_t number, int64_t row, Batch& batch) const;

 private:
  void close(const std::vector<int64_t>& pairs);

  int64_t length_;
  int64_t num_left_out_ = 0;
  std::vector<int64_t> pairs_;        // row by row
  std::vector<int64_t> begin_ = {0};  // of each row in it, and behind the last one
};

}  // namespace locus::data
