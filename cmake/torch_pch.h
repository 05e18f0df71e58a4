// The narrow precompiled header of the folders that see libtorch: tensors, autograd, modules.
// Nothing may rely on it: LOCUS_PCH=OFF builds too.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>
