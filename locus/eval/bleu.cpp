#include "locus/eval/bleu.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <unordered_map>
#include <utility>

#include "locus/base/error.h"

namespace locus::eval {
namespace {

// Bytes are enough for rules about ASCII: UTF-8 has no ASCII byte in any other character.
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_no_digit(char c) { return !is_digit(c); }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_point(char c) { return c == '.' || c == ','; }
bool is_hyphen(char c) { return c == '-'; }

// What is a token of its own wherever it stands: printable ASCII but for the apostrophe, which
// never is, and points and hyphens, which are next to some characters.
bool is_symbol(char c) {
  const bool printable = c >= ' ' && c <= '~';
  return printable && !is_letter(c) && !is_digit(c) && !is_point(c) && !is_hyphen(c) && c != '\'';
}

// Bytes of the whitespace at the start of `text`, one character; 0: there is none.
size_t whitespace_length(std::string_view text) {
  // First and last; the order of UTF-8's bytes is that of code points.
  constexpr std::string_view kRanges[][2] = {
      {"\t", "\r"},
      {"\x1c", " "},
      {"\xc2\x85", "\xc2\x85"},          // U+0085
      {"\xc2\xa0", "\xc2\xa0"},          // U+00A0
      {"\xe1\x9a\x80", "\xe1\x9a\x80"},  // U+1680
      {"\xe2\x80\x80", "\xe2\x80\x8a"},  // U+2000 to U+200A
      {"\xe2\x80\xa8", "\xe2\x80\xa9"},  // U+2028, U+2029
      {"\xe2\x80\xaf", "\xe2\x80\xaf"},  // U+202F
      {"\xe2\x81\x9f", "\xe2\x81\x9f"},  // U+205F
      {"\xe3\x80\x80", "\xe3\x80\x80"},  // U+3000
  };
  for (const auto& [first, last] : kRanges) {
    const std::string_view start = text.substr(0, first.size());
    if (first <= start && start <= last) return first.size();
  }
  return 0;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  bool in_word = false;
  while (!text.empty()) {
    const size_t space = whitespace_length(text);
    if (space == 0) {
      if (!in_word) words.emplace_back();
      words.back() += text.front();
    }
    in_word = space == 0;
    text.remove_prefix(std::max<size_t>(space, 1));
  }
  return words;
}

std::string_view without_trailing_whitespace(std::string_view text) {
  size_t end = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t space = whitespace_length(text.substr(i));
    i += std::max<size_t>(space, 1);
    if (space == 0) end = i;
  }
  return text.substr(0, end);
}

// Finds from the left, without overlap.
std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (size_t found; (found = text.find(from)) != std::string_view::npos;) {
    result.append(text.substr(0, found)).append(to);
    text.remove_prefix(found + from.size());
  }
  result += text;
  return result;
}

std::string symbols_set_apart(std::string_view line) {
  std::string result;
  for (const char c : line) {
    if (is_symbol(c)) {
      result.append({' ', c, ' '});
    } else {
      result += c;
    }
  }
  return result;
}

// Writes each pair of such neighbours as `before`, first, space, second, `after`. From the left,
// without overlap: the second of a pair is the first of no other.
std::string pairs_set_apart(std::string_view line, bool (*is_first)(char), bool (*is_second)(char),
                            std::string_view before, std::string_view after) {
  std::string result;
  for (size_t i = 0; i < line.size(); ++i) {
    if (i + 1 < line.size() && is_first(line[i]) && is_second(line[i + 1])) {
      result.append(before).append({line[i], ' ', line[i + 1]}).append(after);
      ++i;
    } else {
      result += line[i];
    }
  }
  return result;
}

constexpr size_t kMaxOrder = 4;

using NGram = std::array<int32_t, kMaxOrder>;  // token ids; -1 beyond its order
using NGramCounts = std::map<NGram, int64_t>;

// Numbers tokens in the order in which they come.
class TokenIds {
 public:
  std::vector<int32_t> of(std::string_view sentence) {
    std::vector<int32_t> ids;
    // sacrebleu strips before it tokenizes: a hyphen before a line break at the end stays.
    for (std::string& token : tokenize_13a(without_trailing_whitespace(sentence))) {
      const auto next = static_cast<int32_t>(ids_.size());
      ids.push_back(ids_.try_emplace(std::move(token), next).first->second);
    }
    return ids;
  }

 private:
  std::unordered_map<std::string, int32_t> ids_;
};

NGramCounts count_ngrams(const std::vector<int32_t>& ids, size_t order) {
  NGramCounts counts;
  for (size_t begin = 0; begin + order <= ids.size(); ++begin) {
    NGram ngram;
    ngram.fill(-1);
    std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(begin), order, ngram.begin());
    ++counts[ngram];
  }
  return counts;
}

// Sums over sentences; n-grams by order from 1.
struct Matches {
  std::array<int64_t, kMaxOrder> matched{};  // of the hypothesis' n-grams, those in the reference
  std::array<int64_t, kMaxOrder> total{};    // n-grams of the hypothesis
  int64_t hypothesis_length = 0;             // tokens
  int64_t reference_length = 0;              // tokens

  // An n-gram matches at most as often as it stands in the reference.
  void add(const std::vector<int32_t>& hypothesis, const std::vector<int32_t>& reference) {
    hypothesis_length += static_cast<int64_t>(hypothesis.size());
    reference_length += static_cast<int64_t>(reference.size());
    for (size_t order = 1; order <= kMaxOrder; ++order) {
      const NGramCounts in_reference = count_ngrams(reference, order);
      for (const auto& [ngram, count] : count_ngrams(hypothesis, order)) {
        total[order - 1] += count;
        const auto found = in_reference.find(ngram);
        if (found != in_reference.end()) matched[order - 1] += std::min(count, found->second);
      }
    }
  }
};

double brevity_penalty(int64_t hypothesis_length, int64_t reference_length) {
  if (hypothesis_length >= reference_length) return 1;
  if (hypothesis_length == 0) return 0;
  return std::exp(1 -
                  static_cast<double>(reference_length) / static_cast<double>(hypothesis_length));
}

// In percent. The k-th order without a match counts as 1 / 2^k matches (Chen and Cherry, 2014,
// third method); without any match, and where there are no n-grams, precisions are 0.
std::array<double, kMaxOrder> smoothed_precisions(const Matches& matches) {
  std::array<double, kMaxOrder> precisions{};
  if (matches.matched[0] == 0) return precisions;
  double match = 1;
  for (size_t i = 0; i < kMaxOrder && matches.total[i] > 0; ++i) {
    if (matches.matched[i] == 0) match /= 2;
    const double matched =
        matches.matched[i] == 0 ? match : static_cast<double>(matches.matched[i]);
    precisions[i] = 100 * matched / static_cast<double>(matches.total[i]);
  }
  return precisions;
}

double geometric_mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += std::log(value);  // 0: minus infinity, and a mean of 0
  return std::exp(sum / static_cast<double>(values.size()));
}

}  // namespace

std::vector<std::string> tokenize_13a(std::string_view text) {
  std::string line = replaced(text, "<skipped>", "");
  line = replaced(line, "-\n", "");  // a word that was divided between two lines
  line = replaced(line, "\n", " ");
  line = replaced(line, "&quot;", "\"");
  line = replaced(line, "&amp;", "&");  // what this brings forth can be one of the next two
  line = replaced(line, "&lt;", "<");
  line = replaced(line, "&gt;", ">");
  line = " " + line + " ";  // so that each character has neighbours
  line = symbols_set_apart(line);
  line = pairs_set_apart(line, is_no_digit, is_point, "", " ");
  line = pairs_set_apart(line, is_point, is_no_digit, " ", "");
  line = pairs_set_apart(line, is_digit, is_hyphen, "", " ");
  return words_of(line);
}

Bleu corpus_bleu(std::span<const std::string> hypotheses, std::span<const std::string> references) {
  LOCUS_CHECK(hypotheses.size() == references.size(), "{} hypotheses and {} references",
              hypotheses.size(), references.size());
  TokenIds ids;
  Matches matches;
  for (size_t i = 0; i < hypotheses.size(); ++i) {
    matches.add(ids.of(hypotheses[i]), ids.of(references[i]));
  }
  Bleu bleu;
  bleu.hypothesis_length = matches.hypothesis_length;
  bleu.reference_length = matches.reference_length;
  bleu.brevity_penalty = brevity_penalty(matches.hypothesis_length, matches.reference_length);
  bleu.precisions = smoothed_precisions(matches);
  bleu.score = bleu.brevity_penalty * geometric_mean(bleu.precisions);
  return bleu;
}

}  // namespace locus::eval
