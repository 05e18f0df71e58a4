// A set of content hashes that only grows: to find exact duplicates among many documents.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "locus/base/hash.h"

namespace locus::data {

// Open addressing: 21 to 43 bytes a hash, half as much again for a moment when it grows.
class HashSet {
 public:
  // False if it was there already.
  bool insert(const Hash128& hash) {
    if (hash == kEmpty) return !std::exchange(has_empty_, true);
    if (4 * (size_ + 1) > 3 * slots_.size()) grow();
    Hash128& slot = find(hash);
    if (slot == hash) return false;
    slot = hash;
    ++size_;
    return true;
  }

  int64_t size() const { return static_cast<int64_t>(size_) + (has_empty_ ? 1 : 0); }

 private:
  static constexpr Hash128 kEmpty{0, 0};

  // The slot that holds the hash, or the free one where it belongs.
  Hash128& find(const Hash128& hash) {
    size_t i = hash[1] & (slots_.size() - 1);
    while (slots_[i] != kEmpty && slots_[i] != hash) i = (i + 1) & (slots_.size() - 1);
    return slots_[i];
  }

  void grow() {
    std::vector<Hash128> old(slots_.empty() ? 1024 : 2 * slots_.size(), kEmpty);
    old.swap(slots_);
    for (const Hash128& hash : old) {
      if (hash != kEmpty) find(hash) = hash;
    }
  }

  std::vector<Hash128> slots_;  // a power of two
  size_t size_ = 0;
  bool has_empty_ = false;
};

}  // namespace locus::data
