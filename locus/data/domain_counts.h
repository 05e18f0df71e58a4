// What training data hold of each domain.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "locus/data/loader.h"

namespace locus::data {

// The domains in the order of source.domain_names(), with their tokens. Looks at the documents'
// lengths alone.
std::vector<std::pair<std::string, int64_t>> domain_sizes(const SampleSource& source);

// How often each token id occurs in each of the domains of these names, [domain][vocab_size]; in a
// sample of at most 4M tokens, evenly spread. Ids beyond the vocabulary are left out.
std::vector<std::vector<int64_t>> token_counts(const SampleSource& source,
                                               const std::vector<std::string>& domains,
                                               int64_t vocab_size);

}  // namespace locus::data
