#include "locus/data/tokenizers/hf_bpe.h"

#include <algorithm>
#include <utility>

namespace locus::data {
namespace {

size_t character_length(std::string_view text) {
  size_t length = 1;
  while (length < text.size() && (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) {
    ++length;
  }
  return length;
}

}  // namespace

HfBpe::HfBpe(std::unordered_map<std::string, int32_t> vocab, MergeTable merges, Options options)
    : merges_(std::move(merges)), options_(options) {
  vocab_.reserve(vocab.size());
  while (!vocab.empty()) {
    auto node = vocab.extract(vocab.begin());
    vocab_.emplace(std::move(node.key()), node.mapped());
  }
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    byte_ids_[byte] =
        find(std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + std::string(">"));
  }
}

int32_t HfBpe::find(std::string_view token) const {
  const auto found = vocab_.find(token);
  return found == vocab_.end() ? -1 : found->second;
}

bool HfBpe::add_bytes(std::string_view character, std::vector<int32_t>* ids) const {
  const auto id_of = [this](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (!std::ranges::all_of(character, [&](char byte) { return id_of(byte) >= 0; })) return false;
  for (const char byte : character) ids->push_back(id_of(byte));
  return true;
}

void HfBpe::encode(std::string_view word, SymbolMerger* merger, std::vector<int32_t>* ids) const {
  ids->clear();
  if (options_.ignore_merges) {
    if (const int32_t id = find(word); id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  // `tokenizers` writes an unknown character down when the next known one comes: bytes of another
  // unknown character may overtake it.
  bool unknown = false;
  while (!word.empty()) {
    const std::string_view character = word.substr(0, character_length(word));
    word.remove_prefix(character.size());
    if (const int32_t id = find(character); id >= 0) {
      if (unknown) ids->push_back(options_.unk_id);
      unknown = false;
      ids->push_back(id);
      continue;
    }
    if (options_.byte_fallback && add_bytes(character, ids)) continue;
    if (options_.unk_id < 0) continue;
    if (unknown && !options_.fuse_unk) ids->push_back(options_.unk_id);
    unknown = true;
  }
  if (unknown) ids->push_back(options_.unk_id);
  merger->merge(ids);
}

}  // namespace locus::data
