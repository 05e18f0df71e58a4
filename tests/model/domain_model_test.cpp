#include "locus/model/domain_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace locus::model {
namespace {

constexpr int64_t kVocab = 20;

std::vector<std::vector<int64_t>> counts() {
  std::vector<std::vector<int64_t>> count(3, std::vector<int64_t>(kVocab, 1));
  for (size_t v = 0; v < kVocab; ++v) {
    count[0][v] += v < 8 ? 40 : 0;
    count[1][v] += v >= 6 && v < 14 ? 30 : 0;
    count[2][v] += v >= 12 ? 35 : 0;
  }
  return count;
}

at::Tensor random_ids(int64_t rows, int64_t length, uint64_t seed) {
  return at::randint(0, kVocab, {rows, length}, at::detail::createCPUGenerator(seed),
                     at::TensorOptions(at::kLong));
}

// Bayes' rule over the last 64 tokens, in loops.
int64_t most_probable(const at::Tensor& ids, int64_t at) {
  const auto count = counts();
  double best = -1e300;
  int64_t found = -1;
  for (size_t g = 0; g < count.size(); ++g) {
    double total = 0, sum = 0;
    for (const int64_t c : count[g]) total += static_cast<double>(c) + 0.1;
    for (int64_t i = std::max<int64_t>(0, at - 63); i <= at; ++i) {
      const auto id = static_cast<size_t>(ids[i].item<int64_t>());
      sum += std::log((static_cast<double>(count[g][id]) + 0.1) / total);
    }
    if (sum > best) {
      best = sum;
      found = static_cast<int64_t>(g);
    }
  }
  return found;
}

TEST(DomainModel, TellsTheDomainOfTheLastTokens) {
  DomainModel model(3, kVocab);
  model.fit(counts());
  const at::Tensor ids_BS = random_ids(2, 150, 4);
  const at::Tensor domain_BS = model.infer(ids_BS);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t s = 0; s < 150; ++s) {
      EXPECT_EQ(domain_BS[b][s].item<int64_t>(), most_probable(ids_BS[b], s)) << b << " " << s;
    }
  }
}

TEST(DomainModel, IsCausal) {
  DomainModel model(3, kVocab);
  model.fit(counts());
  const at::Tensor ids_BS = random_ids(1, 100, 5);
  at::Tensor other_BS = ids_BS.clone();
  other_BS.slice(1, 60).fill_(0);
  EXPECT_TRUE(
      at::equal(model.infer(ids_BS).slice(1, 0, 60), model.infer(other_BS).slice(1, 0, 60)));
}

// Rows of different lengths, padded, then token by token.
TEST(DomainModel, SaysTheSameWithACache) {
  DomainModel model(3, kVocab);
  model.fit(counts());
  const at::Tensor ids_BS = random_ids(2, 120, 6);
  const at::Tensor whole_BS = model.infer(ids_BS);
  const std::vector<int64_t> prompt{70, 90};
  at::Tensor evidence = model.no_evidence(2, 130);
  const at::Tensor start = at::zeros({2}, at::kLong);
  const at::Tensor first = model.infer(ids_BS.slice(1, 0, 90), start, evidence);
  EXPECT_TRUE(at::equal(first[0].slice(0, 0, 70), whole_BS[0].slice(0, 0, 70)));
  EXPECT_TRUE(at::equal(first[1], whole_BS[1].slice(0, 0, 90)));
  for (int64_t step = 0; step < 30; ++step) {
    const at::Tensor place = at::tensor({prompt[0] + step, prompt[1] + step}, at::kLong);
    const at::Tensor next = ids_BS.gather(1, place.unsqueeze(1));
    const at::Tensor domain = model.infer(next, place, evidence);
    EXPECT_TRUE(at::equal(domain, whole_BS.gather(1, place.unsqueeze(1)))) << step;
  }
}

}  // namespace
}  // namespace locus::model
