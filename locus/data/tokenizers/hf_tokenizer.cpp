#include "locus/data/tokenizers/hf_tokenizer.h"

#include <algorithm>
#include <utility>

#include "locus/base/error.h"
#include "locus/data/tokenizers/scratch_pool.h"
#include "locus/data/tokenizers/word_cache.h"
#include "locus/data/utf8.h"
#include "locus/data/utf8_repair.h"

namespace locus::data {
namespace {

class HfTokenizer final : public Tokenizer {
 public:
  HfTokenizer(std::vector<TokenizerFile> files, const std::string& name, HfTokenizerParts parts)
      : name_(name),
        files_(std::move(files)),
        eod_id_(find_eos(files_, parts, name)),
        unk_id_(parts.bpe.unk_id),
        normalizer_(std::move(parts.normalizer)),
        pre_tokenizer_(std::move(parts.pre_tokenizer)),
        decoder_(std::move(parts.decoder)),
        tokens_(std::move(parts.tokens)),
        special_(tokens_.size(), false),
        bpe_(std::move(parts.vocab), std::move(parts.merges), parts.bpe),
        scratches_([this] { return std::make_unique<Scratch>(&bpe_.merges()); }) {
    for (const HfAddedToken& token : parts.added_tokens) add(token);
    const auto is_special = [&](const std::string& text) {
      return std::ranges::any_of(parts.added_tokens, [&](const HfAddedToken& token) {
        return token.special && token.content == text;
      });
    };
    for (const HfAddedToken& token : parts.added_tokens) {
      const auto place = static_cast<size_t>(token.id);
      special_[place] = is_special(tokens_[place]);
    }
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    if (valid_utf8_prefix(text) != text.size()) return encode(repair_utf8(text));
    std::vector<int32_t> ids;
    const auto scratch = scratches_.borrow();
    for (const auto& section : raw_tokens_.find(text)) {
      if (section.id >= 0) {
        ids.push_back(section.id);
        continue;
      }
      const auto raw = text.substr(section.begin, section.end - section.begin);
      encode_section(normalize(normalizer_, std::string(raw)), section.begin == 0, &*scratch, &ids);
    }
    return ids;
  }

  std::string decode(const std::vector<int32_t>& ids) const override {
    std::vector<std::string> tokens;
    for (const int32_t id : ids) {
      check_id(id);
      if (!special_[static_cast<size_t>(id)]) tokens.push_back(tokens_[static_cast<size_t>(id)]);
    }
    if (!decoder_.empty()) return decode_tokens(decoder_, std::move(tokens));
    std::string text;
    for (const std::string& token : tokens) text += text.empty() ? token : " " + token;
    return text;
  }

  std::string piece(int32_t id) const override {
    check_id(id);
    if (special_[static_cast<size_t>(id)]) return "";
    return decode_piece(decoder_, tokens_[static_cast<size_t>(id)]);
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  int32_t eod_id() const override { return eod_id_; }
  int32_t mask_id() const override {
    for (const char* name : {"<mask>", "[MASK]"}) {
      const auto found = std::find(tokens_.begin(), tokens_.end(), name);
      if (found != tokens_.end()) return static_cast<int32_t>(found - tokens_.begin());
    }
    return unk_id_;
  }
  const std::string& serialized() const override { return files_.front().content; }
  std::string file_name() const override { return files_.front().name; }
  std::vector<TokenizerFile> source_files() const override { return files_; }

 private:
  struct Scratch {
    explicit Scratch(const MergeTable* merges) : merger(merges) {}
    SymbolMerger merger;
    WordCache cache;
    std::vector<int32_t> ids;
  };

  void add(const HfAddedToken& token) {
    if (!token.normalized) return raw_tokens_.add(token, token.content);
    // From then on `tokenizers` knows it by its normalised text: that is what it decodes to, and a
    // special token that has changed is not left out.
    std::string& text = tokens_[static_cast<size_t>(token.id)];
    text = normalize(normalizer_, token.content);
    normalized_tokens_.add(token, text);
  }

  void encode_section(const std::string& text, bool at_start, Scratch* scratch,
                      std::vector<int32_t>* ids) const {
    if (normalized_tokens_.empty()) return encode_text(text, at_start, scratch, ids);
    for (const auto& section : normalized_tokens_.find(text)) {
      if (section.id >= 0) {
        ids->push_back(section.id);
      } else {
        encode_text(text.substr(section.begin, section.end - section.begin),
                    at_start && section.begin == 0, scratch, ids);
      }
    }
  }

  void encode_text(std::string text, bool at_start, Scratch* scratch,
                   std::vector<int32_t>* ids) const {
    if (text.empty()) return;
    const size_t size = text.size();
    HfWords words{.text = std::move(text), .words = {{0, size, at_start}}};
    pre_tokenize(pre_tokenizer_, &words);
    for (const auto& word : words.words) encode_word(words.view(word), scratch, ids);
  }

  void encode_word(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
    const bool cached = word.size() <= WordCache::kMaxWordBytes;
    const uint64_t hash = cached ? WordCache::hash(word) : 0;
    if (cached) {
      if (const int32_t* values = scratch->cache.find(word, hash)) {
        ids->insert(ids->end(), values + 1, values + 1 + values[0]);
        return;
      }
    }
    bpe_.encode(word, &scratch->merger, &scratch->ids);
    if (cached) scratch->cache.insert(word, hash, scratch->ids);
    ids->insert(ids->end(), scratch->ids.begin(), scratch->ids.end());
  }

  void check_id(int32_t id) const {
    if (id < 0 || id >= vocab_size()) {
      throw DataError("{}: token id {} is not in the vocabulary of {} pieces", name_, id,
                      vocab_size());
    }
  }

  const std::string name_;
  const std::vector<TokenizerFile> files_;
  const int32_t eod_id_;
  const int32_t unk_id_;  // -1: none
  const HfNormalizer normalizer_;
  const HfPreTokenizer pre_tokenizer_;
  const HfDecoder decoder_;
  std::vector<std::string> tokens_;  // by id
  std::vector<bool> special_;
  HfTokenFinder raw_tokens_;
  HfTokenFinder normalized_tokens_;
  const HfBpe bpe_;
  mutable ScratchPool<Scratch> scratches_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_hf_tokenizer(std::vector<TokenizerFile> files,
                                             const std::string& name) {
  HfTokenizerParts parts = parse_tokenizer_json(files.front().content, name);
  return std::make_unique<HfTokenizer>(std::move(files), name, std::move(parts));
}

}  // namespace locus::data
