#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "locus/base/error.h"
#include "locus/data/tokenizers/hf_steps_json.h"
#include "locus/data/tokenizers/hf_tokenizer.h"
#include "locus/data/tokenizers/json_part.h"

namespace locus::data {
namespace {

using Vocab = std::unordered_map<std::string, int32_t>;

int32_t read_id(const JsonPart& part) {
  const int64_t id = part.integer();
  if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
    part.fail(format("= {}: an id must be at least 0 and below 2^31", id));
  }
  return static_cast<int32_t>(id);
}

void check_model(const JsonPart& model) {
  const std::string type = model.string("type", model.has("merges") ? "BPE" : "of no name");
  if (type != "BPE") model.refuse("the type \"" + type + "\"", " (BPE is)");
  if (model.has("dropout") && model.at("dropout").number() != 0) {
    model.refuse("dropout (ids by chance)");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.string(key, "").empty()) model.refuse(std::string(key));
  }
}

Vocab read_vocab(const JsonPart& part) {
  const auto members = part.members();
  Vocab vocab;
  vocab.reserve(members.size());
  for (const auto& [token, id] : members) vocab.emplace(token, read_id(id));
  return vocab;
}

// "left right" or ["left", "right"]
std::pair<std::string, std::string> read_merge(const JsonPart& part) {
  if (part.is_array()) {
    const auto tokens = part.elements();
    if (tokens.size() != 2) part.fail("must hold two tokens");
    return {tokens[0].string(), tokens[1].string()};
  }
  const std::string text = part.string();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    part.fail(format("= \"{}\" must be two tokens with a space between them", text));
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

MergeTable read_merges(const JsonPart& part, const Vocab& vocab) {
  const auto elements = part.elements();
  MergeTable merges(elements.size());
  uint32_t rank = 0;
  for (const JsonPart& element : elements) {
    if (element.is_string() && element.string().starts_with("#version")) continue;
    const auto [left, right] = read_merge(element);
    const auto id_of = [&](const std::string& token) {
      const auto found = vocab.find(token);
      if (found == vocab.end()) {
        element.fail(format("needs the token \"{}\", which is not in model.vocab", token));
      }
      return found->second;
    };
    const int32_t left_id = id_of(left), right_id = id_of(right);
    merges.set(left_id, right_id, {rank++, id_of(left + right)});
  }
  return merges;
}

HfBpe::Options read_options(const JsonPart& model, const Vocab& vocab) {
  HfBpe::Options options;
  options.fuse_unk = model.boolean("fuse_unk", false);
  options.byte_fallback = model.boolean("byte_fallback", false);
  options.ignore_merges = model.boolean("ignore_merges", false);
  if (model.has("unk_token")) {
    const JsonPart unknown = model.at("unk_token");
    const auto found = vocab.find(unknown.string());
    if (found == vocab.end()) unknown.fail("is not in model.vocab");
    options.unk_id = found->second;
  }
  return options;
}

std::vector<HfAddedToken> read_added_tokens(const JsonPart& root) {
  std::vector<HfAddedToken> tokens;
  if (!root.has("added_tokens")) return tokens;
  for (const JsonPart& part : root.at("added_tokens").elements()) {
    tokens.push_back({.id = read_id(part.at("id")),
                      .content = part.at("content").string(),
                      .single_word = part.boolean("single_word", false),
                      .lstrip = part.boolean("lstrip", false),
                      .rstrip = part.boolean("rstrip", false),
                      .normalized = part.boolean("normalized", true),
                      .special = part.boolean("special", false)});
    if (tokens.back().content.empty()) part.at("content").fail("is empty");
  }
  return tokens;
}

// All tokens by id: each id from 0 on has exactly one.
std::vector<std::string> tokens_by_id(const HfTokenizerParts& parts, const std::string& name) {
  Vocab all = parts.vocab;
  for (const HfAddedToken& token : parts.added_tokens) {
    const auto [place, is_new] = all.emplace(token.content, token.id);
    if (!is_new && place->second != token.id) {
      throw DataError("{}: added_tokens: \"{}\" has the id {} here and {} elsewhere", name,
                      token.content, token.id, place->second);
    }
  }
  std::vector<std::string> tokens(all.size());
  std::vector<bool> seen(all.size(), false);
  for (const auto& [token, id] : all) {
    const auto place = static_cast<size_t>(id);
    if (place >= all.size()) {
      throw DataError(
          "{}: model.vocab and added_tokens: the token \"{}\" has the id {} among {} tokens; ids "
          "with holes or twice the same are not supported",
          name, token, id, all.size());
    }
    if (seen[place]) {
      throw DataError("{}: model.vocab and added_tokens: \"{}\" and \"{}\" have the same id {}",
                      name, std::min(token, tokens[place]), std::max(token, tokens[place]), id);
    }
    seen[place] = true;
    tokens[place] = token;
  }
  return tokens;
}

void check_post_processor(const JsonPart& part, int depth = 0) {
  // They add special tokens and correct offsets: we ask for neither.
  constexpr std::array<std::string_view, 5> kKnown{
      "ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing", "Sequence"};
  const std::string type = part.at("type").string();
  if (depth > 8 || std::ranges::find(kKnown, type) == kKnown.end()) {
    part.refuse("the type \"" + type + "\"");
  }
  if (type != "Sequence") return;
  for (const JsonPart& step : part.at("processors").elements())
    check_post_processor(step, depth + 1);
}

// The eos_token of a configuration: a string or an object with the string "content".
std::string eos_of(const TokenizerFile& file, const std::string& folder) {
  const std::string name = folder + file.name;
  const JsonFile json(file.content, name);
  const JsonPart root = json.root();
  if (!root.has("eos_token")) return "";
  const JsonPart token = root.at("eos_token");
  return token.is_string() ? token.string() : token.at("content").string();
}

}  // namespace

HfTokenizerParts parse_tokenizer_json(std::string_view text, const std::string& name) {
  const JsonFile json(text, name);
  const JsonPart root = json.root();
  if (!root.has("model")) {
    root.fail("is neither a SentencePiece model nor a tokenizer.json: it has no \"model\"");
  }
  const JsonPart model = root.at("model");
  HfTokenizerParts parts;
  check_model(model);
  if (root.has("normalizer")) parts.normalizer = read_normalizer(root.at("normalizer"));
  if (root.has("pre_tokenizer")) parts.pre_tokenizer = read_pre_tokenizer(root.at("pre_tokenizer"));
  if (root.has("decoder")) parts.decoder = read_decoder(root.at("decoder"));
  if (root.has("post_processor")) check_post_processor(root.at("post_processor"));
  parts.vocab = read_vocab(model.at("vocab"));
  parts.merges = read_merges(model.at("merges"), parts.vocab);
  parts.bpe = read_options(model, parts.vocab);
  parts.added_tokens = read_added_tokens(root);
  parts.tokens = tokens_by_id(parts, name);
  if (parts.tokens.empty()) model.at("vocab").fail("holds no tokens");
  return parts;
}

int32_t find_eos(const std::vector<TokenizerFile>& files, const HfTokenizerParts& parts,
                 const std::string& name) {
  const auto id_of = [&parts](const std::string& token) -> int32_t {
    const auto found = std::ranges::find(parts.tokens, token);
    return found == parts.tokens.end() ? -1 : static_cast<int32_t>(found - parts.tokens.begin());
  };
  const std::string folder = name.substr(0, name.rfind('/') + 1);
  for (const char* wanted : {"tokenizer_config.json", "special_tokens_map.json"}) {
    for (const TokenizerFile& file : files) {
      if (file.name != wanted) continue;
      const std::string token = eos_of(file, folder);
      if (token.empty()) continue;
      if (const int32_t id = id_of(token); id >= 0) return id;
      throw DataError("{}{}: eos_token = \"{}\" is not in the vocabulary of {}", folder, wanted,
                      token, name);
    }
  }
  for (const char* usual : {"<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "[EOS]",
                            "<\xef\xbd\x9c"
                            "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"}) {
    const auto is_usual = [usual](const HfAddedToken& t) {
      return t.special && t.content == usual;
    };
    const auto found = std::ranges::find_if(parts.added_tokens, is_usual);
    if (found != parts.added_tokens.end()) return found->id;
  }
  throw DataError(
      "{}: names no end-of-text token; set eos_token in the tokenizer_config.json beside it", name);
}

}  // namespace locus::data
