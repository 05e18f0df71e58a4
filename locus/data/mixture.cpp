#include "locus/data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "locus/base/random.h"

namespace locus::data {

std::vector<int64_t> largest_remainder(const std::vector<double>& weights, int64_t slots) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> result;
  std::vector<double> remainders;
  for (const double weight : weights) {
    const double quota = weight / sum * static_cast<double>(slots);
    result.push_back(static_cast<int64_t>(std::floor(quota)));
    remainders.push_back(quota - std::floor(quota));
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  int64_t left = slots - std::accumulate(result.begin(), result.end(), int64_t{0});
  for (size_t i = 0; left > 0; ++i, --left) result[order[i]] += 1;
  return result;
}

Mixture::Mixture(const std::vector<double>& weights, uint64_t seed)
    : slots_(largest_remainder(weights, kMixtureBlock)), seed_(seed) {}

Mixture::Block Mixture::block(int64_t number) const {
  std::array<int32_t, kMixtureBlock> owners{};  // of the slots before the shuffle
  auto owner = owners.begin();
  for (size_t dataset = 0; dataset < slots_.size(); ++dataset) {
    owner = std::fill_n(owner, slots_[dataset], static_cast<int32_t>(dataset));
  }
  std::vector<int64_t> next;
  for (const int64_t slots : slots_) next.push_back(number * slots);
  const uint64_t key = random_key({seed_, name_key("mixture"), static_cast<uint64_t>(number)});
  Block block;
  for (size_t i = 0; i < block.size(); ++i) {
    const int32_t dataset = owners[permute_index(key, i, kMixtureBlock)];
    block[i] = {dataset, next[static_cast<size_t>(dataset)]++};
  }
  return block;
}

}  // namespace locus::data
