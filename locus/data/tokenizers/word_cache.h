// What was worked out for a word, kept for the next time that it comes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace locus::data {

// Bounded: when it is full it forgets everything and begins anew. Not for several threads at once.
class WordCache {
 public:
  WordCache();

  static constexpr size_t kMaxWordBytes = 120;
  static uint64_t hash(std::string_view word);

  // nullptr: not there. The values live until the next insert(); the first one is their number.
  const int32_t* find(std::string_view word, uint64_t hash) const {
    for (size_t i = hash & mask_;; i = (i + 1) & mask_) {
      const Slot& slot = slots_[i];
      if (slot.word_bytes == 0) return nullptr;
      if (slot.tag == static_cast<uint32_t>(hash >> 32) && slot.word_bytes == word.size() &&
          word == std::string_view(words_).substr(slot.word_begin, slot.word_bytes)) {
        return values_.data() + slot.values_begin;
      }
    }
  }

  // A word of 1 to kMaxWordBytes bytes that is not there.
  void insert(std::string_view word, uint64_t hash, std::span<const int32_t> values);

 private:
  struct Slot {
    uint32_t tag = 0;
    uint32_t word_begin = 0;
    uint32_t word_bytes = 0;  // 0: free
    uint32_t values_begin = 0;
  };
  void place(std::string_view word, uint64_t hash, uint32_t word_begin, uint32_t values_begin);
  void grow();
  void clear();

  std::vector<Slot> slots_;
  std::string words_;
  std::vector<int32_t> values_;
  size_t num_words_ = 0;
  size_t mask_ = 0;  // slots less one; at most half of them are taken
};

}  // namespace locus::data
