#include "locus/data/tokenizers/hf_normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>

#include "locus/base/error.h"

namespace locus::data {
namespace {

struct CodeRange {
  uint32_t first;
  uint32_t last;
};

// `tokenizers` normalises with the tables of Unicode 9. What got a decomposition, a combining class
// or a part in a composition from then to Unicode 15 (utf8proc's tables) is left alone there.
constexpr std::array<CodeRange, 49> kYoungCharacters{
    {{0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
     {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0xece, 0xece},
     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},
     {0xa7f2, 0xa7f4},   {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x10785},
     {0x10787, 0x107b0}, {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac},
     {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
     {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930},
     {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
     {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
     {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
     {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
     {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1f16c, 0x1f16c},
     {0x1fbf0, 0x1fbf9}}};

bool is_young(uint32_t code) {
  const auto* range = std::ranges::lower_bound(kYoungCharacters, code, {}, &CodeRange::last);
  return range != kYoungCharacters.end() && range->first <= code;
}

// The character that `text` begins with; valid UTF-8.
uint32_t first_code(std::string_view text, size_t* length) {
  const auto lead = static_cast<unsigned char>(text[0]);
  *length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  uint32_t code = *length == 1 ? lead : lead & (0x7fu >> *length);
  for (size_t i = 1; i < *length; ++i) {
    code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3fu);
  }
  return code;
}

bool is_ascii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<signed char>(c) >= 0; });
}

utf8proc_option_t options_of(UnicodeForm form) {
  switch (form) {
    case UnicodeForm::kNfc:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    case UnicodeForm::kNfd:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    case UnicodeForm::kNfkc:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
    case UnicodeForm::kNfkd: break;
  }
  return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
}

std::string run_in_form(std::string_view text, UnicodeForm form) {
  if (is_ascii(text)) return std::string(text);
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &result, options_of(form));
  if (size < 0) {
    throw DataError("a text of {} bytes cannot be normalised: {}", text.size(),
                    utf8proc_errmsg(size));
  }
  std::string normalised(reinterpret_cast<const char*>(result), static_cast<size_t>(size));
  std::free(result);
  return normalised;
}

std::string in_form(std::string_view text, UnicodeForm form) {
  std::string result;
  size_t begin = 0;
  for (size_t i = 0, length = 0; i < text.size(); i += length) {
    if (!is_young(first_code(text.substr(i), &length))) continue;
    result += run_in_form(text.substr(begin, i - begin), form);
    result += text.substr(i, length);
    begin = i + length;
  }
  return result + run_in_form(text.substr(begin), form);
}

}  // namespace

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  result.reserve(text.size());
  size_t begin = 0;
  for (size_t found; (found = text.find(from, begin)) != std::string_view::npos;) {
    result.append(text, begin, found - begin).append(to);
    begin = found + from.size();
  }
  return result.append(text, begin);
}

std::string replace_all(std::string_view text, const TokenizerRegex& regex, std::string_view to) {
  std::vector<TextSpan> spans;
  regex.find_all(text, &spans);
  std::string result;
  size_t begin = 0;
  for (const TextSpan& span : spans) {
    result.append(text, begin, span.begin - begin).append(to);
    begin = span.end;
  }
  return result.append(text, begin);
}

std::string normalize(const HfNormalizer& normalizer, std::string text) {
  for (const HfNormalizerStep& step : normalizer) {
    switch (step.kind) {
      case HfNormalizerStep::Kind::kUnicodeForm: text = in_form(text, step.form); break;
      case HfNormalizerStep::Kind::kPrepend:
        if (!text.empty()) text.insert(0, step.content);
        break;
      case HfNormalizerStep::Kind::kReplace:
        text = replace_all(text, step.from, step.content);
        break;
      case HfNormalizerStep::Kind::kReplaceRegex:
        text = replace_all(text, *step.regex, step.content);
        break;
    }
  }
  return text;
}

}  // namespace locus::data
