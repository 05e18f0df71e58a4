#include "locus/ops/keyed_random.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "locus/base/random.h"

namespace locus::ops {

at::Tensor keyed_uniform(uint64_t key, const at::Tensor& index_T, int64_t columns) {
  const at::Tensor index = index_T.cpu().contiguous();
  const int64_t* first = index.const_data_ptr<int64_t>();
  const at::Tensor out = at::empty({index.numel(), columns}, at::kFloat);
  float* value = out.mutable_data_ptr<float>();
  at::parallel_for(0, index.numel(), std::max<int64_t>(1, 4096 / (columns + 1)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t t = begin; t < end; ++t) {
                       const uint64_t row_key = random_bits(key, static_cast<uint64_t>(first[t]));
                       for (int64_t c = 0; c < columns; ++c) {
                         const uint64_t bits = random_bits(row_key, static_cast<uint64_t>(c));
                         value[t * columns + c] = static_cast<float>(bits >> 40) * 0x1.0p-24f;
                       }
                     }
                   });
  return out.to(index_T.device());
}

at::Tensor keyed_dropout(const at::Tensor& x_TD, double p, uint64_t key,
                         const at::Tensor& index_T) {
  const at::Tensor kept = keyed_uniform(key, index_T, x_TD.size(1)).ge(p);
  return (x_TD * kept.to(x_TD.dtype())) * (1.0 / (1.0 - p));
}

void keyed_normal_(at::Tensor tensor, double std, uint64_t key) {
  const at::NoGradGuard no_grad;
  const at::Generator generator = at::detail::createCPUGenerator(key);
  tensor.copy_(at::empty(tensor.sizes(), at::kFloat).normal_(0.0, std, generator));
}

}  // namespace locus::ops
