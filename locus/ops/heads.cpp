#include "locus/ops/heads.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstring>
#include <optional>
#include <vector>

#include "locus/base/error.h"
#include "locus/ops/products.h"

namespace locus::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// x_BSD -> y_BHSC with the heads of a token rotated by its angles, or back. One of the two is read,
// the other written.
void copy_heads(const at::Tensor& x_BSD, const at::Tensor& y_BHSC, const at::Tensor& cos,
                const at::Tensor& sin, bool to_heads) {
  const int64_t num_heads = y_BHSC.size(1);
  const int64_t length = y_BHSC.size(2);
  const int64_t head_dim = y_BHSC.size(3);
  const int64_t size = x_BSD.element_size();
  const cpu::Type type = cpu_type(x_BSD);
  const bool rotated = cos.defined();
  const float sign = to_heads ? 1.0f : -1.0f;
  const auto* cos_data = rotated ? cos.const_data_ptr<float>() : nullptr;
  const auto* sin_data = rotated ? sin.const_data_ptr<float>() : nullptr;
  auto* x = static_cast<char*>(x_BSD.data_ptr());
  auto* y = static_cast<char*>(y_BHSC.data_ptr());
  parallel_rows(x_BSD.size(0) * length, num_heads * head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t b = t / length;
      const int64_t s = t % length;
      char* token = x + (b * x_BSD.stride(0) + s * x_BSD.stride(1)) * size;
      for (int64_t h = 0; h < num_heads; ++h) {
        char* in_row = token + h * head_dim * size;
        char* in_head = y + (((b * num_heads + h) * length) + s) * head_dim * size;
        char* from = to_heads ? in_row : in_head;
        char* to = to_heads ? in_head : in_row;
        if (rotated) {
          cpu::kernels().rotate(type, from, cos_data + t * (head_dim / 2),
                                sin_data + t * (head_dim / 2), sign, head_dim, to);
        } else {
          std::memcpy(to, from, static_cast<size_t>(head_dim * size));
        }
      }
    }
  });
}

class ToHeads : public torch::autograd::Function<ToHeads> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_BSD, int64_t num_heads,
                            const std::optional<at::Tensor>& cos,
                            const std::optional<at::Tensor>& sin) {
    const at::Tensor y_BHSC = at::empty(
        {x_BSD.size(0), num_heads, x_BSD.size(1), x_BSD.size(2) / num_heads}, x_BSD.options());
    copy_heads(x_BSD, y_BHSC, *cos, *sin, true);
    ctx->save_for_backward({*cos, *sin});
    return y_BHSC;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    LOCUS_CHECK(!at::GradMode::is_enabled(), "rotated heads have no second derivative");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor dy_BHSC = grads[0].contiguous();
    const at::Tensor dx_BSD = at::empty(
        {dy_BHSC.size(0), dy_BHSC.size(2), dy_BHSC.size(1) * dy_BHSC.size(3)}, dy_BHSC.options());
    copy_heads(dx_BSD, dy_BHSC, saved[0], saved[1], false);
    return {dx_BSD, {}, {}, {}};
  }
};

at::Tensor to_heads_aten(const at::Tensor& x_BSD, int64_t num_heads, const at::Tensor& cos,
                         const at::Tensor& sin) {
  const at::Tensor x_BSHC =
      x_BSD.view({x_BSD.size(0), x_BSD.size(1), num_heads, x_BSD.size(2) / num_heads});
  if (!cos.defined()) return x_BSHC.transpose(1, 2);
  const auto type = x_BSD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor c = cos.unsqueeze(2).to(type);
  const at::Tensor s = sin.unsqueeze(2).to(type);
  const auto halves = x_BSHC.to(type).chunk(2, -1);
  return at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1)
      .to(x_BSD.dtype())
      .transpose(1, 2);
}

}  // namespace

at::Tensor to_heads(const at::Tensor& x_BSD, int64_t num_heads, const at::Tensor& cos,
                    const at::Tensor& sin) {
  LOCUS_CHECK(x_BSD.dim() == 3 && x_BSD.size(2) % num_heads == 0, "{} heads of {}", num_heads,
              x_BSD.size(-1));
  const std::vector<int64_t> angles{x_BSD.size(0), x_BSD.size(1), x_BSD.size(2) / num_heads / 2};
  LOCUS_CHECK(!cos.defined() || (cos.sizes() == angles && sin.sizes() == angles &&
                                 x_BSD.size(2) / num_heads % 2 == 0),
              "angles that do not fit the heads");
  if (!has_cpu_kernels(x_BSD) || x_BSD.stride(2) != 1)
    return to_heads_aten(x_BSD, num_heads, cos, sin);
  return ToHeads::apply(x_BSD, num_heads,
                        std::optional<at::Tensor>(cos.defined() ? cos.contiguous() : cos),
                        std::optional<at::Tensor>(sin.defined() ? sin.contiguous() : sin));
}

}  // namespace locus::ops
