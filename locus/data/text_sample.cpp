#include "locus/data/text_sample.h"

#include <algorithm>

#include "locus/base/error.h"
#include "locus/base/hash.h"
#include "locus/data/utf8.h"

namespace locus::data {
void TextSample::add(std::string_view domain, std::string_view text) {
  auto found = domains_.find(domain);
  if (found == domains_.end()) found = domains_.emplace(domain, Domain()).first;
  Domain& own = found->second;
  while (!text.empty()) {
    const std::string_view piece = text.substr(0, part_end(text, kMaxPieceBytes));
    text.remove_prefix(piece.size());
    const uint64_t hash = hash128(piece)[0];
    if (hash >= own.limit || !own.pieces.try_emplace(hash, piece).second) continue;
    own.num_bytes += static_cast<int64_t>(piece.size());
    num_bytes_ += static_cast<int64_t>(piece.size());
    shrink();
  }
}

void TextSample::shrink() {
  while (num_bytes_ > max_bytes_) {
    const auto largest = std::max_element(
        domains_.begin(), domains_.end(),
        [](const auto& a, const auto& b) { return a.second.num_bytes < b.second.num_bytes; });
    Domain& domain = largest->second;
    LOCUS_CHECK(!domain.pieces.empty(), "a sample of {} bytes without pieces", num_bytes_);
    const auto last = std::prev(domain.pieces.end());
    const auto size = static_cast<int64_t>(last->second.size());
    domain.limit = last->first;
    domain.num_bytes -= size;
    num_bytes_ -= size;
    domain.pieces.erase(last);
  }
}

std::map<std::string, int64_t> TextSample::bytes_by_domain() const {
  std::map<std::string, int64_t> result;
  for (const auto& [name, domain] : domains_) result[name] = domain.num_bytes;
  return result;
}

std::vector<std::string_view> TextSample::pieces() const {
  std::vector<std::string_view> result;
  for (const auto& [name, domain] : domains_) {
    for (const auto& [hash, piece] : domain.pieces) result.push_back(piece);
  }
  return result;
}

}  // namespace locus::data
