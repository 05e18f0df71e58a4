#include "locus/data/tokenizers/word_cache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace locus::data {
namespace {

constexpr size_t kFirstSlots = size_t{1} << 10;
constexpr size_t kMaxSlots = size_t{1} << 19;
constexpr size_t kMaxBytes = size_t{8} << 20;
constexpr size_t kMaxValues = size_t{8} << 20;

}  // namespace

WordCache::WordCache() { clear(); }

uint64_t WordCache::hash(std::string_view word) { return XXH3_64bits(word.data(), word.size()); }

void WordCache::clear() {
  slots_.assign(kFirstSlots, {});
  mask_ = kFirstSlots - 1;
  words_.clear();
  values_.clear();
  num_words_ = 0;
}

void WordCache::place(std::string_view word, uint64_t hash, uint32_t word_begin,
                      uint32_t values_begin) {
  size_t i = hash & mask_;
  while (slots_[i].word_bytes != 0) i = (i + 1) & mask_;
  slots_[i] = {.tag = static_cast<uint32_t>(hash >> 32),
               .word_begin = word_begin,
               .word_bytes = static_cast<uint32_t>(word.size()),
               .values_begin = values_begin};
}

void WordCache::grow() {
  std::vector<Slot> old(2 * slots_.size());
  old.swap(slots_);
  mask_ = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.word_bytes == 0) continue;
    const auto word = std::string_view(words_).substr(slot.word_begin, slot.word_bytes);
    place(word, WordCache::hash(word), slot.word_begin, slot.values_begin);
  }
}

void WordCache::insert(std::string_view word, uint64_t hash, std::span<const int32_t> values) {
  const bool full = 2 * (num_words_ + 1) > slots_.size();
  if ((full && slots_.size() == kMaxSlots) || words_.size() + word.size() > kMaxBytes ||
      values_.size() + values.size() + 1 > kMaxValues) {
    clear();
  } else if (full) {
    grow();
  }
  place(word, hash, static_cast<uint32_t>(words_.size()), static_cast<uint32_t>(values_.size()));
  words_ += word;
  values_.push_back(static_cast<int32_t>(values.size()));
  values_.insert(values_.end(), values.begin(), values.end());
  ++num_words_;
}

}  // namespace locus::data
