// Is it UTF-8, where may text be cut, is there any?
#pragma once

#include <cstddef>
#include <string_view>

namespace locus::data {

// Bytes before the first malformed sequence; text.size() if there is none. Overlong forms,
// surrogates and code points above U+10FFFF are malformed (Unicode, table 3-7).
size_t valid_utf8_prefix(std::string_view text);

// The largest position <= `position` that does not lie inside a character of valid UTF-8.
size_t utf8_boundary(std::string_view text, size_t position);

// Where the first part of `text` ends if it may have `max_bytes` (> 3): behind the last line break
// that fits, else before the last space that follows a word, else behind the last whole character.
// Text that fits is one part; a part is never empty. No piece of a tokenizer of ours crosses the
// first two places.
size_t part_end(std::string_view text, size_t max_bytes);

// Nothing but ASCII white space, or nothing at all.
bool is_blank(std::string_view text);

}  // namespace locus::data
