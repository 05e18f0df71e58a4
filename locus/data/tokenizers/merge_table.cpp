#include "locus/data/tokenizers/merge_table.h"

#include <algorithm>
#include <bit>

namespace locus::data {
namespace {

// Up to here looking through all pairs for the lowest rank beats a heap.
constexpr size_t kShortWord = 48;

}  // namespace

MergeTable::MergeTable(size_t num_merges)
    : slots_(std::bit_ceil(2 * num_merges + 2)), mask_(slots_.size() - 1) {}

void MergeTable::set(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = key_of(left, right);
  size_t i = slot_of(key);
  while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & mask_;
  slots_[i] = {key, merge};
}

void SymbolMerger::merge(std::vector<int32_t>* ids) {
  if (ids->size() < 2) return;
  if (ids->size() <= kShortWord) {
    merge_short(ids);
  } else {
    merge_long(ids);
  }
}

void SymbolMerger::merge_short(std::vector<int32_t>* ids) {
  std::vector<int32_t>& symbols = *ids;
  size_t size = symbols.size();
  merges_.resize(size);
  for (size_t i = 0; i + 1 < size; ++i) merges_[i] = table_->find(symbols[i], symbols[i + 1]);
  while (size > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < size; ++i) {
      if (merges_[i].rank < merges_[best].rank) best = i;
    }
    if (merges_[best].rank == MergeTable::kNone) break;
    symbols[best] = merges_[best].id;
    --size;
    for (size_t i = best + 1; i < size; ++i) {
      symbols[i] = symbols[i + 1];
      merges_[i - 1] = merges_[i];
    }
    if (best + 1 < size) merges_[best] = table_->find(symbols[best], symbols[best + 1]);
    if (best > 0) merges_[best - 1] = table_->find(symbols[best - 1], symbols[best]);
  }
  symbols.resize(size);
}

void SymbolMerger::push(int32_t left, int32_t right) {
  const auto merge = table_->find(nodes_[left].id, nodes_[right].id);
  if (merge.rank == MergeTable::kNone) return;
  heap_.push_back({merge.rank, left, merge.id});
  std::ranges::push_heap(heap_, [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.place > b.place;
  });
}

void SymbolMerger::merge_long(std::vector<int32_t>* ids) {
  const auto size = static_cast<int32_t>(ids->size());
  nodes_.clear();
  heap_.clear();
  for (int32_t i = 0; i < size; ++i) {
    nodes_.push_back({(*ids)[static_cast<size_t>(i)], i - 1, i + 1 < size ? i + 1 : -1, true});
  }
  for (int32_t i = 0; i + 1 < size; ++i) push(i, i + 1);
  while (!heap_.empty()) {
    std::ranges::pop_heap(heap_, [](const Candidate& a, const Candidate& b) {
      return a.rank != b.rank ? a.rank > b.rank : a.place > b.place;
    });
    const Candidate top = heap_.back();
    heap_.pop_back();
    Node& left = nodes_[top.place];
    if (!left.alive || left.next < 0) continue;
    Node& right = nodes_[left.next];
    // The two may have changed since the candidate was found.
    if (table_->find(left.id, right.id).id != top.id) continue;
    left.id = top.id;
    right.alive = false;
    left.next = right.next;
    if (left.next >= 0) nodes_[left.next].previous = top.place;
    if (left.previous >= 0) push(left.previous, top.place);
    if (left.next >= 0) push(top.place, left.next);
  }
  ids->clear();
  for (int32_t i = 0; i >= 0; i = nodes_[i].next) ids->push_back(nodes_[i].id);
}

}  // namespace locus::data
