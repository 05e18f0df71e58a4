// Bpe: two neighbours merge if together they are a piece; the best score goes first, then the
// leftmost. All scores and halves of pieces are known beforehand, as ids: a table of merges.
#include <algorithm>
#include <unordered_map>
#include <utility>

#include "locus/data/tokenizers/merge_table.h"
#include "locus/data/tokenizers/scratch_pool.h"
#include "locus/data/tokenizers/sentencepiece_words.h"
#include "locus/data/tokenizers/word_cache.h"

namespace locus::data {
namespace {

using Type = SentencePieceModel::Type;

class BpeEncoder final : public SentencePieceEncoder {
 public:
  BpeEncoder(const SentencePieceModel& model, std::unordered_map<std::string, int32_t> characters,
             MergeTable merges)
      : words_(model),
        characters_(std::move(characters)),
        merges_(std::move(merges)),
        scratches_([this] { return std::make_unique<Scratch>(&merges_); }) {}

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3);
    const auto scratch = scratches_.borrow();
    words_.for_each(
        text, [&](std::string_view word) { encode_word(word, &*scratch, &ids); },
        [&](unsigned char byte) { ids.push_back(words_.lone_id(byte)); });
    return ids;
  }

  bool is_divisible() const override { return true; }

 private:
  struct Scratch {
    explicit Scratch(const MergeTable* merges) : merger(merges) {}
    SymbolMerger merger;
    WordCache cache;
    std::vector<int32_t> symbols;
    std::vector<std::string_view> unknown;
    std::vector<int32_t> ids;
  };

  void encode_word(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
    const bool cached = word.size() <= WordCache::kMaxWordBytes;
    const uint64_t hash = cached ? WordCache::hash(word) : 0;
    if (cached) {
      if (const int32_t* values = scratch->cache.find(word, hash)) {
        ids->insert(ids->end(), values + 1, values + 1 + values[0]);
        return;
      }
    }
    merge_word(word, scratch);
    if (cached) scratch->cache.insert(word, hash, scratch->ids);
    ids->insert(ids->end(), scratch->ids.begin(), scratch->ids.end());
  }

  // Unknown characters become -1, -2, ... (they merge with nothing) and in the end their bytes.
  void merge_word(std::string_view word, Scratch* scratch) const {
    scratch->symbols.clear();
    scratch->unknown.clear();
    while (!word.empty()) {
      const std::string_view character = word.substr(0, character_bytes(word));
      word.remove_prefix(character.size());
      const auto found = characters_.find(std::string(character));
      if (found == characters_.end()) scratch->unknown.push_back(character);
      scratch->symbols.push_back(found != characters_.end()
                                     ? found->second
                                     : -static_cast<int32_t>(scratch->unknown.size()));
    }
    scratch->merger.merge(&scratch->symbols);
    scratch->ids.clear();
    for (const int32_t symbol : scratch->symbols) {
      if (symbol >= 0) {
        scratch->ids.push_back(symbol);
        continue;
      }
      const std::string_view character = scratch->unknown[static_cast<size_t>(-symbol - 1)];
      // The library sees the mark, not the space.
      for (const char byte : character == " " ? kSpaceMark : character) {
        scratch->ids.push_back(words_.byte_id(byte));
      }
    }
  }

  const SentencePieceWords words_;
  const std::unordered_map<std::string, int32_t> characters_;  // pieces of one character
  const MergeTable merges_;
  mutable ScratchPool<Scratch> scratches_;
};

// Equal scores have equal ranks.
std::vector<uint32_t> ranks_of(const SentencePieceModel& model) {
  std::vector<float> scores;
  for (const auto& piece : model.pieces) scores.push_back(piece.score);
  std::ranges::sort(scores, std::greater<>());
  std::vector<uint32_t> ranks;
  for (const auto& piece : model.pieces) {
    const auto place = std::ranges::lower_bound(scores, piece.score, std::greater<>());
    ranks.push_back(static_cast<uint32_t>(place - scores.begin()));
  }
  return ranks;
}

}  // namespace

// nullptr if a character of a piece is no piece itself: it could merge without having an id.
std::unique_ptr<SentencePieceEncoder> make_bpe_encoder(const SentencePieceModel& model) {
  std::unordered_map<std::string, int32_t> ids, characters;
  size_t num_bytes = 0;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.pieces[id].type != Type::kNormal) continue;
    const std::string text = unmarked(model.pieces[id].text);
    ids.emplace(text, static_cast<int32_t>(id));
    if (character_bytes(text) == text.size()) characters.emplace(text, static_cast<int32_t>(id));
    num_bytes += text.size();
  }
  const std::vector<uint32_t> ranks = ranks_of(model);
  MergeTable merges(num_bytes);
  for (const auto& [text, id] : ids) {
    for (size_t cut = 0; cut < text.size();) {
      const size_t length = character_bytes(std::string_view(text).substr(cut));
      if (!characters.contains(text.substr(cut, length))) return nullptr;
      if (cut > 0) {
        const auto left = ids.find(text.substr(0, cut)), right = ids.find(text.substr(cut));
        if (left != ids.end() && right != ids.end()) {
          merges.set(left->second, right->second, {ranks[static_cast<size_t>(id)], id});
        }
      }
      cut += length;
    }
  }
  return std::make_unique<BpeEncoder>(model, std::move(characters), std::move(merges));
}

}  // namespace locus::data
