#include "locus/ops/input_probe.h"

#include <ATen/ATen.h>

#include <utility>

#include "locus/base/error.h"

namespace locus::ops {
namespace {

thread_local InputProbe* g_probe = nullptr;

const void* storage_of(const at::Tensor& weight) { return weight.storage().unsafeGetStorageImpl(); }

}  // namespace

InputProbe::InputProbe(const std::vector<at::Tensor>& weights, See see) : see_(std::move(see)) {
  LOCUS_CHECK(g_probe == nullptr, "a second probe of {} weights on a thread", weights.size());
  for (size_t number = 0; number < weights.size(); ++number) {
    const bool is_new = numbers_.emplace(storage_of(weights[number]), number).second;
    LOCUS_CHECK(is_new, "weight {} has the storage of another", number);
  }
  g_probe = this;
}

InputProbe::~InputProbe() { g_probe = nullptr; }

bool InputProbe::looks_at(const at::Tensor& weight) {
  return g_probe != nullptr && g_probe->numbers_.contains(storage_of(weight));
}

void InputProbe::show(const at::Tensor& weight, const at::Tensor& x) {
  if (!looks_at(weight)) return;
  const at::NoGradGuard no_grad;
  g_probe->see_(g_probe->numbers_.at(storage_of(weight)), x.detach());
}

}  // namespace locus::ops
