// Passes over rows: plain loops that the compiler turns into vectors of the instruction set that
// the including source file is compiled for. Everything is computed in float32.
#pragma once

#include "locus/ops/cpu/gemm_impl.h"
#include "locus/ops/cpu/kernels.h"

namespace locus::ops::cpu {
namespace {

// Bfloat16 is widened and rounded a few hundred elements at a time: loops over one element type
// become good vectors, mixed ones do not.
constexpr int64_t kChunk = 512;

inline const float* widen(const float* p, int64_t /*n*/, float* /*buffer*/) { return p; }
inline const float* widen(const uint16_t* p, int64_t n, float* buffer) {
  for (int64_t i = 0; i < n; ++i) buffer[i] = to_float(p[i]);
  return buffer;
}
// Where results go: in place for float, else a buffer for narrow() to round.
inline float* target(float* p, float* /*buffer*/) { return p; }
inline float* target(uint16_t* /*p*/, float* buffer) { return buffer; }
inline void narrow(const float* /*values*/, int64_t /*n*/, float* /*p*/) {}
inline void narrow(const float* values, int64_t n, uint16_t* p) {
  for (int64_t i = 0; i < n; ++i) p[i] = to_bfloat16(values[i]);
}

// Calls f with a value of the element type.
template <class F>
auto by_type(Type type, F f) {
  return type == Type::kFloat ? f(float{}) : f(uint16_t{});
}

// f(begin, size) over n elements.
template <class F>
void in_chunks(int64_t n, F f) {
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    f(begin, n - begin < kChunk ? n - begin : kChunk);
  }
}

// e^x to about 1 ulp by x = n ln 2 + r and a polynomial in r (Cephes' expf); 0 where the result
// would not be a normal number, largest at e^88.3. A loop over it becomes vectors, which one over
// std::exp does not.
inline float exponential(float x) {
  const bool vanishes = x < -87.3f;
  x = vanishes ? -87.3f : x;
  x = x > 88.3f ? 88.3f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers
  const float n = (x * 1.44269504088896341f + kRound) - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = p * r * r + r + 1.0f;
  const auto exponent = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &exponent, 4);
  return vanishes ? 0.0f : mantissa * scale;
}

inline float sigmoid(float x) {
  const float e = exponential(x < 0.0f ? x : -x);  // never overflows, and vanishes at the far ends
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// The error function by a rational function of x^2, to about 2 ulp of 1.
inline float error_function(float x) {
  x = x < -4.0f ? -4.0f : x;
  x = x > 4.0f ? 4.0f : x;
  const float s = x * x;
  float p = -2.72614225801306e-10f;
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return x * p / q;
}

// --- activations: value and slope of the gate's function ---

struct Slope {
  float value, slope;
};

inline Slope silu(float x) {
  const float s = sigmoid(x);
  return {x * s, s * (1.0f + x * (1.0f - s))};
}
inline Slope gelu(float x) {
  const float below = 0.5f * (1.0f + error_function(x * 0.70710678118654752f));
  return {x * below, below + x * 0.39894228040143268f * exponential(-0.5f * x * x)};
}
// x/2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
inline Slope gelu_tanh(float x) {
  constexpr float kTwice = 1.5957691216057308f;
  float z = x < -20.0f ? -20.0f : x;  // beyond it nothing changes but that the powers overflow
  z = z > 20.0f ? 20.0f : z;
  const float s = sigmoid(kTwice * (z + 0.044715f * z * z * z));
  return {x * s, s + z * s * (1.0f - s) * kTwice * (1.0f + 3.0f * 0.044715f * z * z)};
}

inline void swiglu(const float* gate, const float* up, int64_t n, float* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = silu(gate[i]).value * up[i];
}

inline void swiglu_backward(const float* dout, const float* gate, const float* up, int64_t n,
                            float* dgate, float* dup, float* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const Slope f = silu(gate[i]);
    const float u = up[i];
    const float d = dout[i];
    dgate[i] = d * u * f.slope;
    dup[i] = d * f.value;
    out[i] = f.value * u;
  }
}

template <class Function>
void plain(const float* up, int64_t n, float* out, Function function) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = function(up[i]).value;
}

template <class Function>
void plain_backward(const float* dout, const float* up, int64_t n, float* dup, float* out,
                    Function function) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const Slope f = function(up[i]);
    const float d = dout[i];
    dup[i] = d * f.slope;
    out[i] = f.value;
  }
}

void activate(Gate gate, Type type, const void* up, int64_t distance, int64_t n, void* out) {
  by_type(type, [&]<class T>(T) {
    in_chunks(n, [&](int64_t begin, int64_t size) {
      float buffer[3][kChunk];
      const T* from = static_cast<const T*>(up) + begin;
      T* to = static_cast<T*>(out) + begin;
      const float* first = widen(from, size, buffer[0]);
      float* result = target(to, buffer[2]);
      if (gate == Gate::kSwiglu) {
        swiglu(first, widen(from + distance, size, buffer[1]), size, result);
      } else if (gate == Gate::kGelu) {
        plain(first, size, result, gelu);
      } else {
        plain(first, size, result, gelu_tanh);
      }
      narrow(result, size, to);
    });
  });
}

void activate_backward(Gate gate, Type type, const float* dout, const void* up, int64_t distance,
                       int64_t n, void* dup, void* out) {
  by_type(type, [&]<class T>(T) {
    in_chunks(n, [&](int64_t begin, int64_t size) {
      float buffer[5][kChunk];
      const T* from = static_cast<const T*>(up) + begin;
      T* dfrom = static_cast<T*>(dup) + begin;
      T* to = static_cast<T*>(out) + begin;
      const float* first = widen(from, size, buffer[0]);
      float* dfirst = target(dfrom, buffer[1]);
      float* result = target(to, buffer[2]);
      if (gate == Gate::kSwiglu) {
        float* dsecond = target(dfrom + distance, buffer[4]);
        swiglu_backward(dout + begin, first, widen(from + distance, size, buffer[3]), size, dfirst,
                        dsecond, result);
        narrow(dsecond, size, dfrom + distance);
      } else if (gate == Gate::kGelu) {
        plain_backward(dout + begin, first, size, dfirst, result, gelu);
      } else {
        plain_backward(dout + begin, first, size, dfirst, result, gelu_tanh);
      }
      narrow(dfirst, size, dfrom);
      narrow(result, size, to);
    });
  });
}

// --- results of products ---

inline void round_row(const float* from, int64_t n, float* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}
inline void round_row(const float* from, int64_t n, uint16_t* to) { narrow(from, n, to); }

void store(const float* c, int64_t c_stride, int64_t rows, int64_t columns, const float* bias,
           Type type, void* out, int64_t out_stride) {
  by_type(type, [&]<class T>(T) {
    for (int64_t i = 0; i < rows; ++i) {
      const float* from = c + i * c_stride;
      T* row = static_cast<T*>(out) + i * out_stride;
      if (bias == nullptr) {
        round_row(from, columns, row);
        continue;
      }
      in_chunks(columns, [&](int64_t begin, int64_t size) {
        float buffer[kChunk];
        float* result = target(row + begin, buffer);
#pragma GCC ivdep
        for (int64_t j = 0; j < size; ++j) result[j] = from[begin + j] + bias[begin + j];
        narrow(result, size, row + begin);
      });
    }
  });
}

// Dot products of a with four rows at once: one alone would wait for its own sum.
template <class T>
void dot_four(const float* a, int64_t k, const T* b, int64_t b_stride, float* c) {
  float sum[4] = {};
  in_chunks(k, [&](int64_t begin, int64_t size) {
    float buffer[4][kChunk];
    const float* x = a + begin;
    const float* b0 = widen(b + begin, size, buffer[0]);
    const float* b1 = widen(b + b_stride + begin, size, buffer[1]);
    const float* b2 = widen(b + 2 * b_stride + begin, size, buffer[2]);
    const float* b3 = widen(b + 3 * b_stride + begin, size, buffer[3]);
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t l = 0; l < size; ++l) {
      s0 += x[l] * b0[l];
      s1 += x[l] * b1[l];
      s2 += x[l] * b2[l];
      s3 += x[l] * b3[l];
    }
    sum[0] += s0;
    sum[1] += s1;
    sum[2] += s2;
    sum[3] += s3;
  });
  std::memcpy(c, sum, sizeof(sum));
}

// Asks for the next four rows while these four are multiplied: each row is too short for the
// processor to find the pattern by itself.
template <class T>
void fetch_rows(const T* b, int64_t k, int64_t b_stride) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t row = 0; row < 4; ++row) {
    for (int64_t l = 0; l < k; l += kLine) __builtin_prefetch(b + row * b_stride + l);
  }
}

template <class T>
float dot(const float* a, int64_t k, const T* b) {
  float sum = 0.0f;
  in_chunks(k, [&](int64_t begin, int64_t size) {
    float buffer[kChunk];
    const float* x = a + begin;
    const float* from = widen(b + begin, size, buffer);
    float part = 0.0f;
#pragma omp simd reduction(+ : part)
    for (int64_t l = 0; l < size; ++l) part += x[l] * from[l];
    sum += part;
  });
  return sum;
}

void multiply_few(const float* a, int64_t m, int64_t k, Type b_type, const void* b,
                  int64_t b_stride, int64_t n, float* c, int64_t c_stride) {
  by_type(b_type, [&]<class T>(T) {
    const auto* rows = static_cast<const T*>(b);
    int64_t j = 0;
    for (; j + 4 <= n; j += 4) {
      if (j + 8 <= n) fetch_rows(rows + (j + 4) * b_stride, k, b_stride);
      for (int64_t i = 0; i < m; ++i) {
        dot_four(a + i * k, k, rows + j * b_stride, b_stride, c + i * c_stride + j);
      }
    }
    for (; j < n; ++j) {
      for (int64_t i = 0; i < m; ++i) c[i * c_stride + j] = dot(a + i * k, k, rows + j * b_stride);
    }
  });
}

// --- norms ---

float rms_norm(Type type, const void* x, const float* weight, int64_t n, float eps, void* out) {
  return by_type(type, [&]<class T>(T) {
    const auto* row = static_cast<const T*>(x);
    auto* to = static_cast<T*>(out);
    float squares = 0.0f;
    in_chunks(n, [&](int64_t begin, int64_t size) {
      float buffer[kChunk];
      const float* from = widen(row + begin, size, buffer);
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < size; ++i) squares += from[i] * from[i];
    });
    const float inverse = 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps);
    in_chunks(n, [&](int64_t begin, int64_t size) {
      float buffer[2][kChunk];
      const float* from = widen(row + begin, size, buffer[0]);
      float* result = target(to + begin, buffer[1]);
#pragma GCC ivdep
      for (int64_t i = 0; i < size; ++i) result[i] = from[i] * inverse * weight[begin + i];
      narrow(result, size, to + begin);
    });
    return inverse;
  });
}

// With x^ = x / rms: dx = (w dout - x^ mean(w dout x^)) / rms, dweight = sum of dout x^.
void rms_norm_backward(Type type, const void* dout, const void* x, const float* weight,
                       float inverse_rms, int64_t n, void* dx, float* dweight) {
  by_type(type, [&]<class T>(T) {
    const auto* drow = static_cast<const T*>(dout);
    const auto* row = static_cast<const T*>(x);
    auto* to = static_cast<T*>(dx);
    float dot = 0.0f;
    in_chunks(n, [&](int64_t begin, int64_t size) {
      float buffer[2][kChunk];
      const float* d = widen(drow + begin, size, buffer[0]);
      const float* from = widen(row + begin, size, buffer[1]);
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < size; ++i) dot += d[i] * weight[begin + i] * from[i];
    });
    const float pull = dot * inverse_rms * inverse_rms / static_cast<float>(n);
    in_chunks(n, [&](int64_t begin, int64_t size) {
      float buffer[3][kChunk];
      const float* d = widen(drow + begin, size, buffer[0]);
      const float* from = widen(row + begin, size, buffer[1]);
      float* result = target(to + begin, buffer[2]);
      // Two loops, and copies of what the lambda refers to: else the compiler fears overlap.
      const float inverse = inverse_rms;
      const float mean = pull;
      const float* w = weight + begin;
      float* dw = dweight + begin;
#pragma GCC ivdep
      for (int64_t i = 0; i < size; ++i) dw[i] += d[i] * from[i] * inverse;
#pragma GCC ivdep
      for (int64_t i = 0; i < size; ++i) result[i] = (d[i] * w[i] - from[i] * mean) * inverse;
      narrow(result, size, to + begin);
    });
  });
}

// --- rotation ---

void rotate(Type type, const void* x, const float* cos, const float* sin, float sign, int64_t n,
            void* out) {
  by_type(type, [&]<class T>(T) {
    const int64_t half = n / 2;
    in_chunks(half, [&](int64_t begin, int64_t size) {
      float buffer[4][kChunk];
      const T* from = static_cast<const T*>(x) + begin;
      T* to = static_cast<T*>(out) + begin;
      const float* a = widen(from, size, buffer[0]);
      const float* b = widen(from + half, size, buffer[1]);
      float* first = target(to, buffer[2]);
      float* second = target(to + half, buffer[3]);
#pragma GCC ivdep
      for (int64_t i = 0; i < size; ++i) {
        const float ai = a[i];
        const float bi = b[i];
        const float s = sign * sin[begin + i];
        first[i] = ai * cos[begin + i] - bi * s;
        second[i] = bi * cos[begin + i] + ai * s;
      }
      narrow(first, size, to);
      narrow(second, size, to + half);
    });
  });
}

// --- sums of rows ---

void add_scaled(Type type, const void* x, float scale, int64_t n, float* sum) {
  by_type(type, [&]<class T>(T) {
    in_chunks(n, [&](int64_t begin, int64_t size) {
      float buffer[kChunk];
      const float* from = widen(static_cast<const T*>(x) + begin, size, buffer);
#pragma GCC ivdep
      for (int64_t i = 0; i < size; ++i) sum[begin + i] += scale * from[i];
    });
  });
}

float scale_and_dot(Type type, const void* dout, const void* y, float scale, int64_t n, void* dy) {
  return by_type(type, [&]<class T>(T) {
    float dot = 0.0f;
    in_chunks(n, [&](int64_t begin, int64_t size) {
      float buffer[3][kChunk];
      const float* d = widen(static_cast<const T*>(dout) + begin, size, buffer[0]);
      const float* row = widen(static_cast<const T*>(y) + begin, size, buffer[1]);
      T* to = static_cast<T*>(dy) + begin;
      float* result = target(to, buffer[2]);
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < size; ++i) {
        dot += d[i] * row[i];
        result[i] = scale * d[i];
      }
      narrow(result, size, to);
    });
    return dot;
  });
}

// --- groups of channels ---

// f(group, begin, size) over the groups of a row.
template <class F>
void by_group(int64_t n, int64_t groups, F f) {
  int64_t begin = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t size = n / groups + (g < n % groups ? 1 : 0);
    f(g, begin, size);
    begin += size;
  }
}

void group_sums(Type type, const void* x, int64_t n, int64_t groups, float* sums) {
  by_type(type, [&]<class T>(T) {
    by_group(n, groups, [&](int64_t g, int64_t first, int64_t channels) {
      float sum = 0.0f;
      in_chunks(channels, [&](int64_t begin, int64_t size) {
        float buffer[kChunk];
        const float* from = widen(static_cast<const T*>(x) + first + begin, size, buffer);
        float part = 0.0f;
#pragma omp simd reduction(+ : part)
        for (int64_t i = 0; i < size; ++i) part += from[i];
        sum += part;
      });
      sums[g] = sum;
    });
  });
}

void spread_groups(Type type, const float* values, int64_t n, int64_t groups, void* dx) {
  by_type(type, [&]<class T>(T) {
    by_group(n, groups, [&](int64_t g, int64_t first, int64_t channels) {
      T value;
      round_row(values + g, 1, &value);
      T* to = static_cast<T*>(dx) + first;
      for (int64_t i = 0; i < channels; ++i) to[i] = value;
    });
  });
}

// --- softmax ---

float log_sum_exp(const float* logits, int64_t n) {
  float largest = logits[0];
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) largest = logits[i] > largest ? logits[i] : largest;
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += exponential(logits[i] - largest);
  return largest + __builtin_logf(sum);
}

void softmax_of(float* logits, int64_t n, float log_sum) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) logits[i] = exponential(logits[i] - log_sum);
}

// The table of one instruction set.
template <class W, class FloatM, class Bfloat16M>
constexpr Kernels make_kernels(std::string_view name, bool (*supported)(), bool bfloat16_products) {
  return {.name = name,
          .supported = supported,
          .row_tile = W::kRowTile,
          .column_tile = W::kColumnTile,
          .bfloat16_products = bfloat16_products,
          .pack = pack<W, FloatM, Bfloat16M>,
          .multiply = multiply<W, FloatM, Bfloat16M>,
          .multiply_few = multiply_few,
          .store = store,
          .activate = activate,
          .activate_backward = activate_backward,
          .rms_norm = rms_norm,
          .rms_norm_backward = rms_norm_backward,
          .rotate = rotate,
          .add_scaled = add_scaled,
          .scale_and_dot = scale_and_dot,
          .group_sums = group_sums,
          .spread_groups = spread_groups,
          .log_sum_exp = log_sum_exp,
          .softmax_of = softmax_of};
}

}  // namespace
}  // namespace locus::ops::cpu
