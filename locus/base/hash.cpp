#include "locus/base/hash.h"

#include <xxhash.h>

#include "locus/base/file.h"
#include "locus/base/format.h"

namespace locus {

Hash128 hash128(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

std::string to_hex(const Hash128& hash) { return format("{:016x}{:016x}", hash[0], hash[1]); }

Hash128 hash_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return hash128({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace locus
