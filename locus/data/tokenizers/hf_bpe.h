// The "model" of a tokenizer.json of type BPE: a word to token ids.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "locus/data/tokenizers/merge_table.h"

namespace locus::data {

class HfBpe {
 public:
  struct Options {
    int32_t unk_id = -1;  // -1: unknown characters are dropped
    bool fuse_unk = false;
    bool byte_fallback = false;
    bool ignore_merges = false;  // a word that is a token is that token
  };

  // `vocab`: the tokens of the model with their ids.
  HfBpe(std::unordered_map<std::string, int32_t> vocab, MergeTable merges, Options options);
  HfBpe(const HfBpe&) = delete;
  HfBpe& operator=(const HfBpe&) = delete;

  const MergeTable& merges() const { return merges_; }
  // Replaces `ids`. `merger` belongs to merges().
  void encode(std::string_view word, SymbolMerger* merger, std::vector<int32_t>* ids) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  int32_t find(std::string_view token) const;
  // False: a byte of it has no token.
  bool add_bytes(std::string_view character, std::vector<int32_t>* ids) const;

  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> vocab_;
  const MergeTable merges_;
  const Options options_;
  std::array<int32_t, 256> byte_ids_{};  // of "<0x0A>"; -1: none
};

}  // namespace locus::data
