// Output projection and cross entropy as loops over doubles, with their gradients.
#pragma once

#include <algorithm>
#include <cmath>

#include "tests/reference/matmul_reference.h"

namespace locus::reference {

struct CrossEntropy {
  double sum = 0;
  Row loss;                   // 0 where the label is negative
  std::vector<bool> correct;  // the first largest logit is the label's
  Matrix dhidden, dweight;    // of the sum
};

inline CrossEntropy cross_entropy(const Matrix& hidden, const Matrix& weight,
                                  const std::vector<int64_t>& label) {
  const size_t dim = weight[0].size();
  CrossEntropy out;
  out.dweight.assign(weight.size(), Row(dim, 0.0));
  for (size_t t = 0; t < hidden.size(); ++t) {
    out.dhidden.push_back(Row(dim, 0.0));
    out.loss.push_back(0);
    out.correct.push_back(false);
    if (label[t] < 0) continue;
    const Row logits = linear(weight, {}, hidden[t]);
    const auto largest = std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double z : logits) sum += std::exp(z - *largest);
    const auto target = static_cast<size_t>(label[t]);
    out.loss[t] = *largest + std::log(sum) - logits[target];
    out.sum += out.loss[t];
    out.correct[t] = static_cast<size_t>(largest - logits.begin()) == target;
    for (size_t v = 0; v < weight.size(); ++v) {
      const double dlogit = std::exp(logits[v] - *largest) / sum - (v == target ? 1 : 0);
      for (size_t d = 0; d < dim; ++d) {
        out.dhidden[t][d] += dlogit * weight[v][d];
        out.dweight[v][d] += dlogit * hidden[t][d];
      }
    }
  }
  return out;
}

}  // namespace locus::reference
