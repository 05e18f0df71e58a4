// From Oniguruma's dialect to PCRE2's. Where they differ (Oniguruma's doc/RE, pcre2pattern(3)):
//
//   \s \w       Oniguruma: White_Space; Alphabetic, M, Nd, Pc and six fractions and superscripts of
//               Latin-1. PCRE2 adds U+180E to the spaces, all numbers to the words and omits
//               others.
//   .           everything but \n; PCRE2's newline depends on how it was built
//   \p{Han}     the script; PCRE2: the script extensions
//   {,n}        {0,n}; PCRE2: these four characters
//   \h ^ $ {n}? {n}+ and sets in sets, with &&: other meanings, refused here
//   (?i:ss)     matches U+00DF in Oniguruma: letters that are half of such a pair are refused
#include <algorithm>
#include <array>

#include "locus/base/error.h"
#include "locus/data/tokenizers/tokenizer_regex.h"

namespace locus::data {
namespace {

constexpr std::array<std::string_view, 37> kCategories{
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl",
    "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk",
    "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cs", "Co", "Cn"};
constexpr std::array<std::string_view, 16> kScripts{
    "Han",    "Hiragana", "Katakana",   "Hangul",  "Latin", "Greek", "Cyrillic", "Arabic",
    "Hebrew", "Thai",     "Devanagari", "Bengali", "Tamil", "Lao",   "Khmer",    "Armenian"};
// Two letters that one character folds to.
constexpr std::array<std::string_view, 6> kFoldedPairs{"ss", "st", "ff", "fi", "fl", "ij"};

constexpr std::string_view kWord =
    "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string translate() {
    while (!at_end()) {
      switch (peek()) {
        case '\\': escape(false); break;
        case '[': set(); break;
        case '(': group(); break;
        case ')': close(); break;
        case '{': braces(); break;
        case '^':
        case '$': refuse("the anchor", 1);
        case '.': take(1), out_ += "[^\\n]"; break;
        case '*':
        case '+':
        case '?': repeat(); break;
        case '}':
        case ']': out_ += '\\', copy(); break;
        default: literal();
      }
    }
    if (!caseless_.empty()) refuse("the open group", 0);
    return out_;
  }

 private:
  bool at_end(size_t ahead = 0) const { return place_ + ahead >= pattern_.size(); }
  char peek(size_t ahead = 0) const { return at_end(ahead) ? '\0' : pattern_[place_ + ahead]; }
  bool starts(std::string_view text) const { return pattern_.substr(place_).starts_with(text); }
  void take(size_t count) { place_ += count; }
  void copy() { out_ += pattern_[place_++]; }

  [[noreturn]] void refuse(std::string_view what, size_t num_bytes) const {
    throw DataError("{}: {} \"{}\" at byte {} of the pattern \"{}\" is not supported", where_, what,
                    pattern_.substr(std::min(place_, pattern_.size()), num_bytes), place_,
                    pattern_);
  }

  void literal() {
    const bool caseless = !caseless_.empty() && caseless_.back();
    if (caseless && static_cast<unsigned char>(peek()) >= 0x80) {
      refuse("in a group without case, the character", 1);
    }
    if (caseless && is_letter(peek()) && is_letter(peek(1))) {
      const std::string pair{static_cast<char>(peek() | 0x20), static_cast<char>(peek(1) | 0x20)};
      if (std::ranges::find(kFoldedPairs, pair) != kFoldedPairs.end()) {
        refuse("in a group without case, the pair", 2);
      }
    }
    copy();
  }

  void repeat() {
    copy();
    if (peek() == '+' || peek() == '?') copy();  // possessive, lazy: in both dialects
  }

  // {n} {n,} {n,m} {,m}; anything else stands for itself.
  void braces() {
    size_t end = place_ + 1;
    const auto digits = [&] {
      const size_t begin = end;
      while (end < pattern_.size() && is_digit(pattern_[end])) ++end;
      return std::string(pattern_.substr(begin, end - begin));
    };
    const std::string least = digits();
    const bool comma = end < pattern_.size() && pattern_[end] == ',';
    if (comma) ++end;
    const std::string most = comma ? digits() : "";
    if (end >= pattern_.size() || pattern_[end] != '}' || (least.empty() && most.empty())) {
      take(1);
      out_ += "\\{";
      return;
    }
    const char next = end + 1 < pattern_.size() ? pattern_[end + 1] : '\0';
    if (next == '+' || (next == '?' && !comma)) refuse("the repetition", end + 2 - place_);
    out_ += "{" + (least.empty() ? "0" : least) + (comma ? "," : "") + most + "}";
    place_ = end + 1;
    if (next == '?') copy();
  }

  void group() {
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:"}) {
      if (!starts(opening)) continue;
      out_ += opening;
      take(opening.size());
      caseless_.push_back(opening == "(?i:" || (!caseless_.empty() && caseless_.back()));
      return;
    }
    if (starts("(?")) refuse("the group", 3);
    out_ += "(?:";  // what it captures nobody asks for
    take(1);
    caseless_.push_back(!caseless_.empty() && caseless_.back());
  }

  void close() {
    if (caseless_.empty()) refuse("the closing", 1);
    caseless_.pop_back();
    copy();
  }

  void set() {
    copy();
    if (peek() == '^') copy();
    if (peek() == ']') refuse("in a set, the first", 1);
    while (peek() != ']') {
      if (at_end()) refuse("the open set", 0);
      if (peek() == '[') refuse("in a set, the set", 2);
      if (starts("&&")) refuse("in a set, the operator", 2);
      if (peek() == '\\') {
        escape(true);
      } else {
        copy();
      }
    }
    copy();
  }

  void escape(bool in_set) {
    const char c = peek(1);
    switch (c) {
      case 's': return replace(2, "\\p{White_Space}");
      case 'S': return replace(2, "\\P{White_Space}");
      case 'd': return replace(2, "\\p{Nd}");
      case 'D': return replace(2, "\\P{Nd}");
      case 'w': return replace(2, in_set ? std::string(kWord) : "[" + std::string(kWord) + "]");
      case 'W':
        if (in_set) refuse("in a set, the escape", 2);
        return replace(2, "[^" + std::string(kWord) + "]");
      case 'n':
      case 'r':
      case 't':
      case 'f': return replace(2, std::string{'\\', c});
      case 'v': return replace(2, "\\x{0b}");
      case 'p':
      case 'P': return property();
      case 'x':
      case 'u': return code_point();
      default: break;
    }
    if (is_letter(c) || is_digit(c) || at_end(1)) refuse("the escape", 2);
    if (static_cast<unsigned char>(c) >= 0x80) return take(1);
    replace(2, std::string{'\\', c});
  }

  void replace(size_t num_bytes, std::string_view by) {
    take(num_bytes);
    out_ += by;
  }

  void property() {
    const size_t end = pattern_.find('}', place_);
    if (peek(2) != '{' || end == std::string_view::npos) refuse("the property", 3);
    std::string name(pattern_.substr(place_ + 3, end - place_ - 3));
    bool negated = peek(1) == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.erase(0, 1);
    }
    if (std::ranges::find(kScripts, name) != kScripts.end()) {
      name = "sc:" + name;
    } else if (std::ranges::find(kCategories, name) == kCategories.end()) {
      refuse("the property", end + 1 - place_);
    }
    replace(end + 1 - place_, (negated ? "\\P{" : "\\p{") + name + "}");
  }

  // \xHH \x{H...} \uHHHH
  void code_point() {
    size_t begin = place_ + 2, end = begin;
    const bool braced = peek(1) == 'x' && peek(2) == '{';
    const size_t most = braced ? 8 : peek(1) == 'x' ? 2 : 4;
    if (braced) end = ++begin;
    while (end < pattern_.size() && end < begin + most && is_hex(pattern_[end])) ++end;
    const std::string digits(pattern_.substr(begin, end - begin));
    const bool whole = braced ? end < pattern_.size() && pattern_[end] == '}' : end == begin + most;
    if (digits.empty() || !whole) refuse("the escape", 3);
    if (!braced && most == 2 && digits[0] >= '8') refuse("the byte", 4);
    replace(end + (braced ? 1 : 0) - place_, "\\x{" + digits + "}");
  }

  std::string_view pattern_;
  const std::string& where_;
  size_t place_ = 0;
  std::string out_;
  std::vector<bool> caseless_;  // of the groups around this place
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).translate();
}

}  // namespace locus::data
