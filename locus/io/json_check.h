// JSON out of files that may be hostile: checks that come before anything is read from it.
#pragma once

#include <string>
#include <string_view>

namespace locus::io {

// DataError for text that is not valid JSON, not an object, nested deeper than any format of ours,
// or that names a key twice (parsers differ in which one they keep). `what` names the text in
// messages.
void check_json_object(std::string_view text, const std::string& what);

// A name out of a file, quoted, printable and not too long: for messages.
std::string shown(std::string_view name);

}  // namespace locus::io
