// How the two differ, and what is done about it:
//
// - BPE: SentencePiece merges two neighbours if together they are a piece, the best score first,
//   `tokenizers` merges listed pairs. So each piece is listed with all its halves; the halves of
//   one piece have one score, and among them the leftmost in the text must win (add_merges()).
// - Unigram: `tokenizers` also finds the pieces that SentencePiece never takes from text ("<s>",
//   "<0x0A>"). They get a score so low that their characters one by one are better.
// - Names of control pieces in a text are text, in SentencePiece: split_special_tokens.
// - User-defined pieces are found before all else: added tokens.
#include "locus/data/tokenizers/sentencepiece_files.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "locus/base/error.h"
#include "locus/data/utf8.h"

namespace locus::data {
namespace {

using json = nlohmann::ordered_json;
using Type = SentencePieceModel::Type;
using Algorithm = SentencePieceModel::Algorithm;
using Piece = SentencePieceModel::Piece;

// Far below the sum of what the characters of a piece's name cost. A multiple of every score's
// step.
constexpr double kNeverTaken = -65536;

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> result;
  while (!text.empty()) {
    size_t length = 1;
    while (length < text.size() && (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) {
      ++length;
    }
    result.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return result;
}

std::unordered_map<std::string_view, const Piece*> normal_pieces(const SentencePieceModel& model) {
  std::unordered_map<std::string_view, const Piece*> result;
  for (const Piece& piece : model.pieces) {
    if (piece.type == Type::kNormal) result.emplace(piece.text, &piece);
  }
  return result;
}

bool has_type(const SentencePieceModel& model, Type type) {
  return std::ranges::any_of(model.pieces, [type](const Piece& p) { return p.type == type; });
}

std::string piece_obstacle(const SentencePieceModel& model) {
  const bool bpe = model.algorithm == Algorithm::kBpe;
  const auto normal = normal_pieces(model);
  std::unordered_set<float> scores;
  for (const Piece& piece : model.pieces) {
    if (valid_utf8_prefix(piece.text) != piece.text.size()) return "a piece is not UTF-8";
    if (bpe && piece.type == Type::kNormal && characters(piece.text).size() > 1 &&
        !scores.insert(piece.score).second) {
      return "two pieces have the same score";
    }
    if (piece.type == Type::kUserDefined || (bpe && piece.type != Type::kNormal)) continue;
    for (const std::string_view character : characters(piece.text)) {
      if (!normal.contains(character)) {
        return "the character \"" + std::string(character) + "\" of the piece \"" + piece.text +
               "\" is no piece";
      }
    }
  }
  return "";
}

json added_token(int64_t id, const Piece& piece) {
  return {{"id", id},
          {"content", piece.text},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", piece.type != Type::kUserDefined}};
}

json added_tokens(const SentencePieceModel& model) {
  json tokens = json::array();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Type type = model.pieces[id].type;
    if (type == Type::kNormal || type == Type::kByte || type == Type::kUnused) continue;
    tokens.push_back(added_token(static_cast<int64_t>(id), model.pieces[id]));
  }
  return tokens;
}

json replace_step(json pattern, std::string_view content) {
  return {{"type", "Replace"}, {"pattern", std::move(pattern)}, {"content", content}};
}

json sequence(const char* key, json steps) {
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {key, std::move(steps)}};
}

json normalizer(const SentencePieceModel& model) {
  json steps = json::array();
  if (model.remove_extra_whitespaces) {
    steps.push_back(replace_step({{"Regex", "\\A +| +\\z"}}, ""));
    steps.push_back(replace_step({{"Regex", " {2,}"}}, " "));
  }
  if (model.add_dummy_prefix) steps.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  steps.push_back(replace_step({{"String", " "}}, kSpaceMark));
  return sequence("normalizers", std::move(steps));
}

json decoder(const SentencePieceModel& model) {
  json steps = json::array();
  steps.push_back(replace_step({{"String", kSpaceMark}}, " "));
  if (model.byte_fallback) steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (model.add_dummy_prefix || model.remove_extra_whitespaces) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return sequence("decoders", std::move(steps));
}

// Where a piece of `size` bytes may be cut in two, in the order of their ranks. Cuts at k and
// size - k can meet in one text, as left.middle.right, if the middle is an end and a beginning of
// the piece, of which the left pair must win: the cut in front of the middle before that behind it.
std::vector<size_t> ordered_cuts(std::string_view piece) {
  const size_t size = piece.size();
  const auto overlaps = [&](size_t k) { return piece.substr(0, k) == piece.substr(size - k); };
  std::vector<size_t> cuts;
  for (size_t k = 1; 2 * k < size; ++k) {
    const bool longer_first = overlaps(k) && !overlaps(size - k);
    cuts.push_back(longer_first ? size - k : k);
    cuts.push_back(longer_first ? k : size - k);
  }
  if (size % 2 == 0) cuts.push_back(size / 2);
  return cuts;
}

void add_merges(const Piece& piece,
                const std::unordered_map<std::string_view, const Piece*>& normal, json* merges) {
  const std::string_view text = piece.text;
  for (const size_t cut : ordered_cuts(text)) {
    const auto left = text.substr(0, cut), right = text.substr(cut);
    if (normal.contains(left) && normal.contains(right)) merges->push_back({left, right});
  }
}

json bpe_model(const SentencePieceModel& model) {
  const auto normal = normal_pieces(model);
  std::vector<const Piece*> by_score;
  json vocab = json::object(), unknown = nullptr;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    // Not operator[]: an ordered object looks for the key from its beginning.
    vocab.get_ref<json::object_t&>().emplace_back(piece.text, id);
    if (piece.type == Type::kUnknown) unknown = piece.text;
    if (piece.type == Type::kNormal) by_score.push_back(&piece);
  }
  std::ranges::stable_sort(by_score,
                           [](const Piece* a, const Piece* b) { return a->score > b->score; });
  json merges = json::array();
  for (const Piece* piece : by_score) add_merges(*piece, normal, &merges);
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", unknown},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", true},
          {"byte_fallback", model.byte_fallback},
          {"ignore_merges", false},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

json unigram_model(const SentencePieceModel& model) {
  json vocab = json::array(), unknown = nullptr;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    const bool normal = piece.type == Type::kNormal;
    vocab.push_back({piece.text, normal ? static_cast<double>(piece.score) : kNeverTaken});
    if (piece.type == Type::kUnknown) unknown = id;
  }
  return {{"type", "Unigram"},
          {"unk_id", unknown},
          {"vocab", std::move(vocab)},
          {"byte_fallback", model.byte_fallback}};
}

json tokenizer_json(const SentencePieceModel& model) {
  const bool bpe = model.algorithm == Algorithm::kBpe;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added_tokens(model)},
          {"normalizer", normalizer(model)},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", decoder(model)},
          {"model", bpe ? bpe_model(model) : unigram_model(model)}};
}

// The usual names of control pieces and what transformers calls them.
json special_tokens(const SentencePieceModel& model) {
  json tokens = json::object();
  for (const Piece& piece : model.pieces) {
    if (piece.type == Type::kUnknown) tokens["unk_token"] = piece.text;
    if (piece.type != Type::kControl) continue;
    if (piece.text == "<s>") tokens["bos_token"] = piece.text;
    if (piece.text == "</s>") tokens["eos_token"] = piece.text;
    if (piece.text == "<pad>") tokens["pad_token"] = piece.text;
  }
  return tokens;
}

json tokenizer_config(const SentencePieceModel& model) {
  json config = special_tokens(model);
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  config["add_bos_token"] = false;
  config["add_eos_token"] = false;
  config["clean_up_tokenization_spaces"] = false;
  config["split_special_tokens"] = true;
  return config;
}

}  // namespace

std::string hf_obstacle(const SentencePieceModel& model) {
  if (model.algorithm != Algorithm::kBpe && model.algorithm != Algorithm::kUnigram) {
    return "it is neither bpe nor unigram";
  }
  if (model.has_character_map) return "it normalises characters";
  if (model.has_denormalizer) return "it changes characters when it decodes";
  if (model.whitespace_as_suffix) return "it puts spaces behind words";
  if (!model.escape_whitespaces) return "it leaves spaces as they are";
  if (has_type(model, Type::kUnused)) return "it has unused pieces";
  if (has_type(model, Type::kUserDefined)) {
    if (model.add_dummy_prefix || model.remove_extra_whitespaces) {
      return "it has user-defined pieces and changes spaces";
    }
    for (const Piece& piece : model.pieces) {
      const bool spaces = piece.text.find(kSpaceMark) != std::string::npos;
      if (piece.type == Type::kUserDefined && spaces) return "a user-defined piece holds a space";
    }
  }
  return piece_obstacle(model);
}

std::vector<TokenizerFile> hf_files(const SentencePieceModel& model) {
  std::vector<TokenizerFile> files;
  if (hf_obstacle(model).empty()) {
    files.push_back({"tokenizer.json", tokenizer_json(model).dump() + "\n"});
  }
  files.push_back({"tokenizer_config.json", tokenizer_config(model).dump(2) + "\n"});
  files.push_back({"special_tokens_map.json", special_tokens(model).dump(2) + "\n"});
  return files;
}

bool made_from_sentencepiece(std::string_view tokenizer_json, std::string_view serialized) {
  try {
    const SentencePieceModel model = parse_sentencepiece_model(serialized, "tokenizer.model");
    const auto files = hf_files(model);
    return files.front().name == "tokenizer.json" && files.front().content == tokenizer_json;
  } catch (const DataError&) {
    return false;  // what cannot be read was not the source
  }
}

}  // namespace locus::data
