#include "locus/ops/cpu/kernels.h"

#include <string>
#include <vector>

#include "locus/base/error.h"

namespace locus::ops::cpu {
namespace {

const Kernels* best() {
  const Kernels* found = nullptr;
  for (const Kernels* kernels : compiled_kernels()) {
    if (!kernels->supported()) continue;
    if (kernels->bfloat16_products && !bfloat16_products_pay()) continue;
    found = kernels;
  }
  return found;
}

const Kernels*& current() {
  static const Kernels* kernels = best();
  return kernels;
}

}  // namespace

const Kernels& kernels() { return *current(); }

void use_kernels(std::string_view name) {
  if (name.empty()) {
    current() = best();
    return;
  }
  std::string known;
  for (const Kernels* kernels : compiled_kernels()) {
    if (!kernels->supported()) continue;
    if (kernels->name == name) {
      current() = kernels;
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw ConfigError("kernels \"{}\" do not run on this processor; those that do: {}", name, known);
}

}  // namespace locus::ops::cpu
