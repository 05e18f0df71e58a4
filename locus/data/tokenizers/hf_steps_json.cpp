#include "locus/data/tokenizers/hf_steps_json.h"

#include <limits>
#include <utility>

namespace locus::data {
namespace {

// GPT-2's words: contractions, letters, digits and other characters, each with one space before.
const char* const kGpt2Words =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+|"
    "\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+";
// ASCII's and Unicode's punctuation as of Unicode 8: the tables of `tokenizers`. Excluded is what
// was added later, included what has left since.
const char* const kPunctuation =
    "(?!["
    "\\x{61d}\\x{9fd}\\x{a76}\\x{c77}\\x{c84}\\x{1b7d}-\\x{1b7e}\\x{2e43}-\\x{2e4f}"
    "\\x{2e52}-\\x{2e5d}\\x{10ead}\\x{10f55}-\\x{10f59}\\x{10f86}-\\x{10f89}"
    "\\x{1144b}-\\x{1144f}\\x{1145a}-\\x{1145b}\\x{1145d}\\x{11660}-\\x{1166c}\\x{116b9}"
    "\\x{1183b}\\x{11944}-\\x{11946}\\x{119e2}\\x{11a3f}-\\x{11a46}\\x{11a9a}-\\x{11a9c}"
    "\\x{11a9e}-\\x{11aa2}\\x{11c41}-\\x{11c45}\\x{11c70}-\\x{11c71}\\x{11ef7}-\\x{11ef8}"
    "\\x{11fff}\\x{12ff1}-\\x{12ff2}\\x{16e97}-\\x{16e9a}\\x{16fe2}\\x{1e95e}-\\x{1e95f}"
    "])[\\p{P}\\x{166d}\\x{111c9}!-/:-@\\[-`{-~]";
constexpr int kMaxDepth = 8;  // of sequences in sequences

// Calls `read(part)` for each leaf of nested "Sequence" steps, whose lists are under `key`.
template <class Read>
void for_each_step(const JsonPart& part, const char* key, const Read& read, int depth = 0) {
  if (depth > kMaxDepth) part.refuse("a sequence nested so deep");
  if (part.at("type").string() != "Sequence") return read(part);
  for (const JsonPart& step : part.at(key).elements()) for_each_step(step, key, read, depth + 1);
}

struct Pattern {
  std::optional<TokenizerRegex> regex;
  std::string literal;
};

// {"String": "..."} or {"Regex": "..."}
Pattern read_pattern(const JsonPart& part) {
  if (part.has("Regex")) {
    const JsonPart regex = part.at("Regex");
    return {TokenizerRegex::from_oniguruma(regex.string(), regex.where()), ""};
  }
  if (!part.has("String")) part.fail("must be {\"String\": ...} or {\"Regex\": ...}");
  const JsonPart literal = part.at("String");
  if (literal.string().empty()) literal.refuse("an empty string to look for");
  return {std::nullopt, literal.string()};
}

SplitBehavior read_behavior(const JsonPart& part) {
  const std::string name = part.string();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  part.refuse("the behavior \"" + name + "\"");
}

HfPreTokenizerStep split_at(Pattern pattern, SplitBehavior behavior, bool invert = false) {
  HfPreTokenizerStep step;
  step.regex = std::move(pattern.regex);
  step.literal = std::move(pattern.literal);
  step.behavior = behavior;
  step.invert = invert;
  return step;
}

HfPreTokenizerStep split_at(const char* own_pattern, SplitBehavior behavior) {
  return split_at(Pattern{TokenizerRegex(own_pattern), ""}, behavior);
}

HfPreTokenizerStep step_of(HfPreTokenizerStep::Kind kind) {
  HfPreTokenizerStep step;
  step.kind = kind;
  return step;
}

// Older files say "add_prefix_space" instead.
PrependScheme read_scheme(const JsonPart& part) {
  if (!part.has("prepend_scheme")) {
    return part.boolean("add_prefix_space", true) ? PrependScheme::kAlways : PrependScheme::kNever;
  }
  const JsonPart scheme = part.at("prepend_scheme");
  if (scheme.string() == "always") return PrependScheme::kAlways;
  if (scheme.string() == "first") return PrependScheme::kFirst;
  if (scheme.string() == "never") return PrependScheme::kNever;
  scheme.refuse("\"" + scheme.string() + "\"");
}

std::string read_mark(const JsonPart& part) {
  const std::string mark = part.string("replacement", "\xe2\x96\x81");
  if (mark.empty()) part.refuse("an empty replacement");
  return mark;
}

void add_byte_level(const JsonPart& part, HfPreTokenizer* steps) {
  using Kind = HfPreTokenizerStep::Kind;
  if (part.boolean("add_prefix_space", true)) steps->push_back(step_of(Kind::kPrefixSpace));
  if (part.boolean("use_regex", true)) {
    steps->push_back(split_at(kGpt2Words, SplitBehavior::kIsolated));
  }
  steps->push_back(step_of(Kind::kByteMap));
}

void add_metaspace(const JsonPart& part, HfPreTokenizer* steps) {
  HfPreTokenizerStep step = step_of(HfPreTokenizerStep::Kind::kMetaspace);
  step.literal = read_mark(part);
  step.scheme = read_scheme(part);
  steps->push_back(step);
  if (part.boolean("split", true)) {
    steps->push_back(split_at(Pattern{std::nullopt, step.literal}, SplitBehavior::kMergedWithNext));
  }
}

void add_pre_tokenizer_step(const JsonPart& part, HfPreTokenizer* steps) {
  const std::string type = part.at("type").string();
  if (type == "ByteLevel") {
    add_byte_level(part, steps);
  } else if (type == "Metaspace") {
    add_metaspace(part, steps);
  } else if (type == "Split") {
    steps->push_back(split_at(read_pattern(part.at("pattern")), read_behavior(part.at("behavior")),
                              part.boolean("invert", false)));
  } else if (type == "Digits") {
    const bool individual = part.boolean("individual_digits", false);
    steps->push_back(
        split_at("\\p{N}", individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
  } else if (type == "Punctuation") {
    steps->push_back(split_at(kPunctuation, part.has("behavior")
                                                ? read_behavior(part.at("behavior"))
                                                : SplitBehavior::kIsolated));
  } else if (type == "WhitespaceSplit") {
    steps->push_back(split_at("\\p{White_Space}", SplitBehavior::kRemoved));
  } else {
    part.refuse("the type \"" + type + "\"");
  }
}

void add_normalizer_step(const JsonPart& part, HfNormalizer* steps) {
  using Kind = HfNormalizerStep::Kind;
  const std::string type = part.at("type").string();
  HfNormalizerStep step;
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    step.form = type == "NFC"    ? UnicodeForm::kNfc
                : type == "NFD"  ? UnicodeForm::kNfd
                : type == "NFKC" ? UnicodeForm::kNfkc
                                 : UnicodeForm::kNfkd;
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    step.content = part.at("prepend").string();
  } else if (type == "Replace") {
    Pattern pattern = read_pattern(part.at("pattern"));
    step.kind = pattern.regex ? Kind::kReplaceRegex : Kind::kReplace;
    step.regex = std::move(pattern.regex);
    step.from = std::move(pattern.literal);
    step.content = part.at("content").string();
  } else {
    part.refuse("the type \"" + type + "\"");
  }
  steps->push_back(std::move(step));
}

int64_t read_count(const JsonPart& part) {
  const int64_t count = part.integer();
  if (count < 0) part.fail("must not be negative");
  return count;
}

void add_decoder_step(const JsonPart& part, HfDecoder* steps) {
  using Kind = HfDecoderStep::Kind;
  const std::string type = part.at("type").string();
  HfDecoderStep step;
  if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = Kind::kFuse;
  } else if (type == "Metaspace") {
    step.kind = Kind::kMetaspace;
    step.from = read_mark(part);
    step.strip_first = read_scheme(part) != PrependScheme::kNever;
  } else if (type == "Replace") {
    Pattern pattern = read_pattern(part.at("pattern"));
    step.kind = Kind::kReplace;
    step.regex = std::move(pattern.regex);
    step.from = std::move(pattern.literal);
    step.content = part.at("content").string();
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    step.from = part.at("content").string();
    if (step.from.empty()) part.refuse("an empty content");
    step.num_start = read_count(part.at("start"));
    step.num_stop = read_count(part.at("stop"));
  } else {
    part.refuse("the type \"" + type + "\"");
  }
  steps->push_back(std::move(step));
}

}  // namespace

HfNormalizer read_normalizer(const JsonPart& part) {
  HfNormalizer steps;
  for_each_step(part, "normalizers",
                [&](const JsonPart& step) { add_normalizer_step(step, &steps); });
  return steps;
}

HfPreTokenizer read_pre_tokenizer(const JsonPart& part) {
  HfPreTokenizer steps;
  for_each_step(part, "pretokenizers",
                [&](const JsonPart& step) { add_pre_tokenizer_step(step, &steps); });
  return steps;
}

HfDecoder read_decoder(const JsonPart& part) {
  HfDecoder steps;
  for_each_step(part, "decoders", [&](const JsonPart& step) { add_decoder_step(step, &steps); });
  return steps;
}

}  // namespace locus::data
