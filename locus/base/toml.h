// Configuration files: TOML into the fields of fields.h and back. The only user of toml++.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "locus/base/fields.h"

namespace locus {

// Reads `text` into `fields`, then each override ("a.b = 3": one TOML line with a dotted key, "="
// may stand without spaces and a bare word counts as a string). Keys that are absent keep their
// value. `source` names the text in messages. Throws ConfigError that lists ALL unknown keys (with
// the nearest known one) and ill-typed values, each with its line.
void read_toml(std::string_view source, std::string_view text,
               const std::vector<std::string>& overrides, const Fields& fields);

// The file at `path`, as above; DataError when it cannot be read.
void read_toml_file(const std::string& path, const std::vector<std::string>& overrides,
                    const Fields& fields);

// Valid TOML that read_toml() reads back to equal values (doubles to the last bit).
// With docs, each key carries its meaning as a comment.
std::string write_toml(const Fields& fields, bool with_docs);

// A field's value as TOML text: `"adamw"`, `0.1`, `[1, 2]`.
std::string to_toml(const FieldPointer& value);

// The candidate with the least edit distance to `word`; empty when nothing is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace locus
