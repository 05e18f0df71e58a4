// Matrix products as loops over doubles, to be checked by eye.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace locus::reference {

using Row = std::vector<double>;
using Matrix = std::vector<Row>;

// a [N, K] times b [K, M].
inline Matrix matmul(const Matrix& a, const Matrix& b) {
  Matrix out;
  for (const Row& row : a) {
    Row product(b[0].size(), 0.0);
    for (size_t k = 0; k < row.size(); ++k) {
      for (size_t m = 0; m < product.size(); ++m) product[m] += row[k] * b[k][m];
    }
    out.push_back(product);
  }
  return out;
}

// Row n times the matrix of its group; the first counts[0] rows are of group 0, and so on.
inline Matrix grouped_matmul(const Matrix& a, const std::vector<Matrix>& b,
                             const std::vector<int64_t>& counts) {
  Matrix out;
  size_t row = 0;
  for (size_t e = 0; e < counts.size(); ++e) {
    for (int64_t i = 0; i < counts[e]; ++i) out.push_back(matmul({a[row++]}, b[e])[0]);
  }
  return out;
}

// Of each group, the sum of the outer products of its rows of a and b.
inline std::vector<Matrix> grouped_outer(const Matrix& a, const Matrix& b, size_t a_size,
                                         size_t b_size, const std::vector<int64_t>& counts) {
  std::vector<Matrix> out(counts.size(), Matrix(a_size, Row(b_size, 0.0)));
  size_t row = 0;
  for (size_t e = 0; e < counts.size(); ++e) {
    for (int64_t i = 0; i < counts[e]; ++i, ++row) {
      for (size_t k = 0; k < a_size; ++k) {
        for (size_t m = 0; m < b_size; ++m) out[e][k][m] += a[row][k] * b[row][m];
      }
    }
  }
  return out;
}

// y = W x + b; an empty b is no bias.
inline Row linear(const Matrix& weight, const Row& bias, const Row& x) {
  Row y;
  for (size_t o = 0; o < weight.size(); ++o) {
    double sum = bias.empty() ? 0.0 : bias[o];
    for (size_t i = 0; i < x.size(); ++i) sum += weight[o][i] * x[i];
    y.push_back(sum);
  }
  return y;
}

}  // namespace locus::reference
