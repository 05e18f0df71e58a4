// A bounded, fair sample of a stream of documents: what a tokenizer is trained on.
//
// Text is cut into pieces at line breaks. Within a domain the pieces with the smallest hashes stay:
// a uniform sample of the distinct pieces (text that recurs, as licences at the top of files,
// counts once). While there is more than the bound allows, the domain with most bytes gives up its
// piece with the largest hash: all domains end with equal shares, except those that have less than
// their share. The same documents in the same order give the same sample.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace locus::data {

class TextSample {
 public:
  static constexpr size_t kMaxPieceBytes = 2048;

  // Memory: max_bytes of text, about 100 bytes for each piece, some hundred for each domain. A
  // piece does not go beyond its document: in all a tenth more than the text where documents are
  // long, but many times the text where they have a few bytes each.
  explicit TextSample(int64_t max_bytes) : max_bytes_(max_bytes) {}

  // Text is valid UTF-8; no character is cut in two.
  void add(std::string_view domain, std::string_view text);

  int64_t num_bytes() const { return num_bytes_; }
  std::map<std::string, int64_t> bytes_by_domain() const;

  // All pieces by domain name, then by hash. The views live as long as the sample does unchanged.
  std::vector<std::string_view> pieces() const;

 private:
  struct Domain {
    std::map<uint64_t, std::string> pieces;  // by hash
    int64_t num_bytes = 0;
    uint64_t limit = std::numeric_limits<uint64_t>::max();  // hashes from here on were given up
  };
  void shrink();

  const int64_t max_bytes_;
  int64_t num_bytes_ = 0;
  std::map<std::string, Domain, std::less<>> domains_;
};

}  // namespace locus::data
