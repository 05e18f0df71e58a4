// Constants of the .idx and .domains formats, shared by their reader and writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace locus::data {

// magic (9), version (8), dtype (1), number of sequences (8), number of document indices (8).
inline constexpr std::string_view kIndexMagic{"MMIDIDX\0\0", 9};
inline constexpr uint64_t kIndexVersion = 1;
inline constexpr size_t kIndexHeaderBytes = 34;

inline constexpr std::string_view kDomainsMagic = "LOCUSDM1";
inline constexpr uint16_t kUnknownDomain = 0xffff;
// Batches carry domains as int16.
inline constexpr uint32_t kMaxDomains = 0x7fff;

}  // namespace locus::data
