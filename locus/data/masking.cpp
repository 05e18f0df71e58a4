#include "locus/data/masking.h"

#include <utility>

#include "locus/base/error.h"
#include "locus/base/random.h"

namespace locus::data {
namespace {

constexpr double kMasked = 0.8, kReplaced = 0.1;  // the rest of the drawn tokens stays

// Streams of draws from a row's key.
uint64_t stream(uint64_t key, std::string_view name) { return random_key({key, name_key(name)}); }

class RowMasker {
 public:
  RowMasker(Batch& batch, const Masking& masking, int64_t row, uint64_t key)
      : batch_(batch),
        masking_(masking),
        first_(static_cast<size_t>(row * batch.sequence_length)),
        word_key_(stream(key, "word")),
        kind_key_(stream(key, "kind")),
        token_key_(stream(key, "token")) {}

  void run(bool at_least_one) {
    const auto length = static_cast<size_t>(batch_.sequence_length);
    bool is_drawn = false, has_label = false;
    for (size_t i = 0; i < length; ++i) {
      batch_.labels[first_ + i] = -1;
      if (begins_word(i)) is_drawn = random_uniform(word_key_, i) < masking_.share;
      if (!is_drawn || batch_.input_ids[first_ + i] == masking_.eod_id) continue;
      mask(i);
      has_label = true;
    }
    if (has_label || !at_least_one) return;
    const size_t start = random_bits(word_key_, length) % length;
    for (size_t i = 0; i < length; ++i) {
      const size_t place = (start + i) % length;
      if (batch_.input_ids[first_ + place] != masking_.eod_id) return mask(place);
    }
  }

 private:
  void mask(size_t i) {
    int32_t& id = batch_.input_ids[first_ + i];
    batch_.labels[first_ + i] = id;
    id = shown(i, id);
  }

  // Of a token that has not been masked yet.
  bool begins_word(size_t i) const {
    if (masking_.begins_word.empty() || i == 0) return true;
    const size_t at = first_ + i;
    if (batch_.document_ids[at] != batch_.document_ids[at - 1]) return true;
    return masking_.begins_word[static_cast<size_t>(batch_.input_ids[at])];
  }

  int32_t shown(size_t i, int32_t id) const {
    const double kind = random_uniform(kind_key_, i);
    if (kind < kMasked) return masking_.mask_id;
    if (kind >= kMasked + kReplaced) return id;
    return static_cast<int32_t>(random_bits(token_key_, i) %
                                static_cast<uint64_t>(masking_.vocab_size));
  }

  Batch& batch_;
  const Masking& masking_;
  const size_t first_;
  const uint64_t word_key_, kind_key_, token_key_;
};

}  // namespace

Masking make_masking(const Tokenizer& tokenizer, double share, bool whole_words) {
  Masking masking{.share = share,
                  .mask_id = tokenizer.mask_id(),
                  .eod_id = tokenizer.eod_id(),
                  .vocab_size = tokenizer.vocab_size()};
  if (masking.mask_id < 0) {
    throw ConfigError(
        "the tokenizer has no token to mask with: neither <mask> nor [MASK] nor one for the "
        "unknown; an encoder (model.num_encoder_layers) needs one");
  }
  if (!whole_words) return masking;
  for (int32_t id = 0; id < static_cast<int32_t>(masking.vocab_size); ++id) {
    const std::string piece = tokenizer.piece(id);
    masking.begins_word.push_back(id == masking.eod_id || piece.starts_with(' ') ||
                                  piece.starts_with('\n') || piece.starts_with('\t'));
  }
  return masking;
}

void mask_tokens(Batch& batch, const Masking& masking, const std::vector<uint64_t>& keys,
                 bool at_least_one) {
  LOCUS_CHECK(std::cmp_equal(keys.size(), batch.num_sequences), "{} keys for {} rows", keys.size(),
              batch.num_sequences);
  for (const int32_t id : batch.input_ids) {
    if (id >= 0 && id < masking.vocab_size) continue;
    throw DataError("the data holds token id {}, but the tokenizer's vocabulary ends at {}", id,
                    masking.vocab_size - 1);
  }
  for (int64_t row = 0; row < batch.num_sequences; ++row) {
    RowMasker(batch, masking, row, keys[static_cast<size_t>(row)]).run(at_least_one);
  }
}

}  // namespace locus::data
