// Content hashes (XXH3, 128 bits): checksums of checkpoints, identity of documents. Not for
// security.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace locus {

using Hash128 = std::array<uint64_t, 2>;  // high, low

Hash128 hash128(std::string_view bytes);
std::string to_hex(const Hash128& hash);  // 32 digits, high first

// Of a whole file, read through a map. DataError when it cannot be read.
Hash128 hash_file(const std::filesystem::path& path);

}  // namespace locus
