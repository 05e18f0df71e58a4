// Byte-pair merges: which two neighbours become one, and in which order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace locus::data {

// A hash table from pairs of ids to merges: open addressing, at most half full.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank = kNone;  // the lowest goes first, among equals the leftmost
    int32_t id = -1;        // of the two together
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit MergeTable(size_t num_merges = 0);
  // A pair that is there already gets the new merge.
  void set(int32_t left, int32_t right, Merge merge);
  // Rank kNone: the two do not merge.
  Merge find(int32_t left, int32_t right) const {
    for (size_t i = slot_of(key_of(left, right));; i = (i + 1) & mask_) {
      if (slots_[i].key == key_of(left, right)) return slots_[i].merge;
      if (slots_[i].key == kEmpty) return {};
    }
  }

 private:
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge;
  };
  static constexpr uint64_t kEmpty = UINT64_MAX;  // ids are not negative
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const { return (key * 0x9e3779b97f4a7c15u >> 20) & mask_; }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
};

// Merges the ids of one word in place until no pair is left that merges.
class SymbolMerger {
 public:
  explicit SymbolMerger(const MergeTable* table) : table_(table) {}
  void merge(std::vector<int32_t>* ids);

 private:
  struct Node {
    int32_t id = 0;
    int32_t previous = -1;
    int32_t next = -1;
    bool alive = true;
  };
  struct Candidate {
    uint32_t rank = 0;
    int32_t place = 0;
    int32_t id = 0;
  };
  void merge_short(std::vector<int32_t>* ids);
  void merge_long(std::vector<int32_t>* ids);
  void push(int32_t left, int32_t right);

  const MergeTable* table_;
  std::vector<MergeTable::Merge> merges_;  // of each symbol with the next
  std::vector<Node> nodes_;
  std::vector<Candidate> heap_;
};

}  // namespace locus::data
