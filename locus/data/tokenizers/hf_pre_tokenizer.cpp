#include "locus/data/tokenizers/hf_pre_tokenizer.h"

#include <utility>

#include "locus/data/tokenizers/byte_alphabet.h"

namespace locus::data {
namespace {

struct Part {
  TextSpan span;
  bool match = false;
};

void find_literal(std::string_view text, std::string_view literal, std::vector<TextSpan>* spans) {
  spans->clear();
  for (size_t begin = 0; (begin = text.find(literal, begin)) != std::string_view::npos;) {
    spans->push_back({begin, begin + literal.size()});
    begin += literal.size();
  }
}

// All of the text, cut at the ends of the matches.
void cut(std::string_view text, const std::vector<TextSpan>& matches, bool invert,
         std::vector<Part>* parts) {
  parts->clear();
  size_t begin = 0;
  for (const TextSpan& match : matches) {
    if (begin != match.begin) parts->push_back({{begin, match.begin}, invert});
    parts->push_back({match, !invert});
    begin = match.end;
  }
  if (begin != text.size()) parts->push_back({{begin, text.size()}, invert});
}

void merge_with_previous(std::vector<Part>* parts) {
  std::vector<Part> merged;
  bool after_match = false;
  for (const Part& part : *parts) {
    if (part.match && !after_match && !merged.empty()) {
      merged.back().span.end = part.span.end;
    } else {
      merged.push_back(part);
    }
    after_match = part.match;
  }
  *parts = std::move(merged);
}

void merge_with_next(std::vector<Part>* parts) {
  std::vector<Part> merged;  // from the last to the first
  bool before_match = false;
  for (auto part = parts->rbegin(); part != parts->rend(); ++part) {
    if (part->match && !before_match && !merged.empty()) {
      merged.back().span.begin = part->span.begin;
    } else {
      merged.push_back(*part);
    }
    before_match = part->match;
  }
  parts->assign(merged.rbegin(), merged.rend());
}

void merge_equals(std::vector<Part>* parts) {
  std::vector<Part> merged;
  for (const Part& part : *parts) {
    if (!merged.empty() && merged.back().match == part.match) {
      merged.back().span.end = part.span.end;
    } else {
      merged.push_back(part);
    }
  }
  *parts = std::move(merged);
}

void apply(SplitBehavior behavior, std::vector<Part>* parts) {
  switch (behavior) {
    case SplitBehavior::kIsolated: return;
    case SplitBehavior::kRemoved:
      std::erase_if(*parts, [](const Part& p) { return p.match; });
      return;
    case SplitBehavior::kMergedWithPrevious: return merge_with_previous(parts);
    case SplitBehavior::kMergedWithNext: return merge_with_next(parts);
    case SplitBehavior::kContiguous: return merge_equals(parts);
  }
}

void split(const HfPreTokenizerStep& step, HfWords* words) {
  std::vector<HfWords::Word> result;
  std::vector<TextSpan> matches;
  std::vector<Part> parts;
  for (const HfWords::Word& word : words->words) {
    const std::string_view text = words->view(word);
    if (step.regex) {
      step.regex->find_all(text, &matches);
    } else {
      find_literal(text, step.literal, &matches);
    }
    cut(text, matches, step.invert, &parts);
    apply(step.behavior, &parts);
    for (const Part& part : parts) {
      if (part.span.begin == part.span.end) continue;
      result.push_back({word.begin + part.span.begin, word.begin + part.span.end,
                        word.at_start && part.span.begin == 0});
    }
  }
  words->words = std::move(result);
}

// Builds the text anew from what `rewrite(word, view, text)` appends for each word.
template <class Rewrite>
void rewrite(HfWords* words, Rewrite rewrite_word) {
  std::string text;
  text.reserve(words->text.size() + words->text.size() / 2);
  for (HfWords::Word& word : words->words) {
    const size_t begin = text.size();
    rewrite_word(word, words->view(word), &text);
    word.begin = begin;
    word.end = text.size();
  }
  words->text = std::move(text);
}

void add_prefix_space(HfWords* words) {
  rewrite(words, [](const HfWords::Word&, std::string_view word, std::string* text) {
    if (!word.starts_with(' ')) *text += ' ';
    *text += word;
  });
}

void map_bytes(HfWords* words) {
  rewrite(words, [](const HfWords::Word&, std::string_view word, std::string* text) {
    for (const char byte : word) *text += byte_character(static_cast<uint8_t>(byte));
  });
}

void mark_spaces(const HfPreTokenizerStep& step, HfWords* words) {
  rewrite(words, [&step](const HfWords::Word& word, std::string_view view, std::string* text) {
    const bool wanted = step.scheme == PrependScheme::kAlways ||
                        (step.scheme == PrependScheme::kFirst && word.at_start);
    if (wanted && !view.starts_with(' ') && !view.starts_with(step.literal)) *text += step.literal;
    for (const char c : view) {
      if (c == ' ') {
        *text += step.literal;
      } else {
        *text += c;
      }
    }
  });
}

}  // namespace

void pre_tokenize(const HfPreTokenizer& steps, HfWords* words) {
  for (const HfPreTokenizerStep& step : steps) {
    switch (step.kind) {
      case HfPreTokenizerStep::Kind::kSplit: split(step, words); break;
      case HfPreTokenizerStep::Kind::kPrefixSpace: add_prefix_space(words); break;
      case HfPreTokenizerStep::Kind::kByteMap: map_bytes(words); break;
      case HfPreTokenizerStep::Kind::kMetaspace: mark_spaces(step, words); break;
    }
  }
}

}  // namespace locus::data
