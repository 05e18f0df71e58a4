#include "locus/data/tokenizers/tokenizer_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "locus/base/error.h"

namespace locus::data {
namespace {

// What a match needs besides the pattern; each thread has its own.
class Matcher {
 public:
  Matcher()
      : match_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(kStackBytes / 8, kStackBytes, nullptr)) {
    LOCUS_CHECK(match_ != nullptr && context_ != nullptr, "no memory for PCRE2");
    if (stack_ != nullptr) pcre2_jit_stack_assign(context_, nullptr, stack_);
  }
  ~Matcher() {
    pcre2_jit_stack_free(stack_);
    pcre2_match_context_free(context_);
    pcre2_match_data_free(match_);
  }
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;

  // The first match at or behind `start`; false: there is none.
  bool search(const pcre2_code* code, std::string_view text, size_t start, TextSpan* span,
              const std::string& pattern) {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int found =
        pcre2_match(code, subject, text.size(), start, PCRE2_NO_UTF_CHECK, match_, context_);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter takes its memory from the heap
      found = pcre2_match(code, subject, text.size(), start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                          match_, context_);
    }
    if (found == PCRE2_ERROR_NOMATCH) return false;
    if (found < 0) {
      std::array<PCRE2_UCHAR, 128> message{};
      pcre2_get_error_message(found, message.data(), message.size());
      throw DataError("the tokenizer's pattern \"{}\" fails on a text of {} bytes: {}", pattern,
                      text.size(), reinterpret_cast<const char*>(message.data()));
    }
    const PCRE2_SIZE* places = pcre2_get_ovector_pointer(match_);
    *span = {places[0], places[1]};
    return true;
  }

 private:
  static constexpr size_t kStackBytes = size_t{512} << 10;
  pcre2_match_data* match_;
  pcre2_match_context* context_;
  pcre2_jit_stack* stack_;
};

size_t character_bytes(std::string_view text, size_t begin) {
  size_t end = begin + 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
  return end - begin;
}

}  // namespace

TokenizerRegex TokenizerRegex::from_oniguruma(std::string_view pattern, const std::string& where) {
  return TokenizerRegex(oniguruma_to_pcre2(pattern, where), where);
}

TokenizerRegex::TokenizerRegex(const std::string& pattern, const std::string& where)
    : pattern_(pattern) {
  int error = 0;
  PCRE2_SIZE place = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &place, nullptr);
  if (code == nullptr) {
    std::array<PCRE2_UCHAR, 256> message{};
    pcre2_get_error_message(error, message.data(), message.size());
    throw DataError("{}: the pattern \"{}\" is broken at its byte {}: {}", where, pattern, place,
                    reinterpret_cast<const char*>(message.data()));
  }
  code_ =
      std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  // Where the machine has no JIT, the interpreter gives the same matches.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

void TokenizerRegex::find_all(std::string_view text, std::vector<TextSpan>* spans) const {
  thread_local Matcher matcher;
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  spans->clear();
  TextSpan span;
  for (size_t start = 0; start <= text.size();) {
    if (!matcher.search(code, text, start, &span, pattern_)) return;
    if (span.begin == span.end && !spans->empty() && spans->back().end == span.end) {
      start += start < text.size() ? character_bytes(text, start) : 1;
      continue;
    }
    spans->push_back(span);
    start = span.end;
  }
}

}  // namespace locus::data
