// Attention of one sequence as loops over doubles.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "tests/reference/norm_reference.h"
#include "tests/reference/rope_reference.h"

namespace locus::reference {

struct Attention {
  size_t num_heads = 0, num_key_value_heads = 0, head_dim = 0;
  Matrix qkv;  // rows: all query heads, all key heads, all value heads
  Row qkv_bias;
  Matrix output;
  Row output_bias;
  std::string qk_norm = "none";  // none | head | full, RMS
  Row q_norm, k_norm;
  double eps = 1e-5;
  double theta = 0;  // 0: no rotary positions
};

inline Row part(const Row& x, size_t begin, size_t size) {
  const auto first = x.begin() + static_cast<std::ptrdiff_t>(begin);
  return {first, first + static_cast<std::ptrdiff_t>(size)};
}

// Head h of `all`, normalised and rotated.
inline Row prepared_head(const Attention& a, const Row& all, size_t h, const Row& norm,
                         double position) {
  const Row normed = a.qk_norm == "full" ? rms_norm(all, norm, a.eps) : all;
  Row head = part(normed, h * a.head_dim, a.head_dim);
  if (a.qk_norm == "head") head = rms_norm(head, norm, a.eps);
  return a.theta > 0 ? rope(head, position, a.theta) : head;
}

// Queries of every token, keys and values of every token that may be seen; `sees(i, j)`: token i
// sees token j of them.
inline Matrix attend(const Attention& a, const Matrix& q, const Matrix& k, const Matrix& v,
                     const std::vector<int64_t>& position,
                     const std::function<bool(size_t, size_t)>& sees) {
  Matrix y;
  for (size_t i = 0; i < q.size(); ++i) {
    Row heads;
    for (size_t h = 0; h < a.num_heads; ++h) {
      const size_t g = h / (a.num_heads / a.num_key_value_heads);  // neighbours share keys
      const Row query = prepared_head(a, q[i], h, a.q_norm, static_cast<double>(position[i]));
      Row weight(k.size(), 0.0), mixed(a.head_dim, 0.0);
      double sum = 0;
      for (size_t j = 0; j < k.size(); ++j) {
        if (!sees(i, j)) continue;
        const Row key = prepared_head(a, k[j], g, a.k_norm, static_cast<double>(position[j]));
        double dot = 0;
        for (size_t c = 0; c < a.head_dim; ++c) dot += query[c] * key[c];
        weight[j] = std::exp(dot / std::sqrt(static_cast<double>(a.head_dim)));
        sum += weight[j];
      }
      for (size_t j = 0; j < k.size(); ++j) {
        for (size_t c = 0; c < a.head_dim; ++c) {
          mixed[c] += weight[j] / sum * v[j][g * a.head_dim + c];
        }
      }
      heads.insert(heads.end(), mixed.begin(), mixed.end());
    }
    y.push_back(linear(a.output, a.output_bias, heads));
  }
  return y;
}

// x: one row per token; token i sees token j of the same document, where it is causal when j <= i.
inline Matrix attention(const Attention& a, const Matrix& x, const std::vector<int64_t>& position,
                        const std::vector<int64_t>& document, bool is_causal = true) {
  const size_t q_size = a.num_heads * a.head_dim, kv_size = a.num_key_value_heads * a.head_dim;
  Matrix q, k, v;
  for (const Row& token : x) {
    const Row qkv = linear(a.qkv, a.qkv_bias, token);
    q.push_back(part(qkv, 0, q_size));
    k.push_back(part(qkv, q_size, kv_size));
    v.push_back(part(qkv, q_size + kv_size, kv_size));
  }
  return attend(a, q, k, v, position, [&](size_t i, size_t j) {
    return document[j] == document[i] && (j <= i || !is_causal);
  });
}

}  // namespace locus::reference
