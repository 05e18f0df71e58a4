// The weights of a transformer as tensors under Hugging Face's names, and back.
//
// What the closest family knows of is cut and named as that family stores it; what it has no name
// for (buffers of routers, say) goes under our own names.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "locus/io/safetensors_folder.h"
#include "locus/model/transformer.h"
#include "locus/model/weight_plan.h"

namespace locus::model {

struct StoredTensor {
  std::string name;
  at::Tensor value;        // a view of the parameter or buffer, perhaps not contiguous
  bool is_expert = false;  // of one expert: with expert parallelism, other ranks do not have it
};

// Views of all weights and buffers that this rank has, in the order of the file.
std::vector<StoredTensor> stored_tensors(Transformer& transformer);

// Copies every tensor of `folder` into the transformer, of the experts those of this rank.
// DataError that names the file and the tensor when one is missing, unknown, of another shape or
// type, or holds a NaN or an infinity, and where weights that the model ties are there twice with
// different values.
void load_weights(Transformer& transformer, const io::SafetensorsFolder& folder);

// One stored tensor into `target`, which has its shape. DataError as above; `where` names the file.
void copy_stored(const io::TensorView& view, const std::string& where, const at::Tensor& target);

// The tensor as it stands in a file: a copy, of the same type.
at::Tensor read_stored(const io::TensorView& view);
// The part of a file's tensor that the plan wants, under the name that it has there.
io::TensorView planned_view(const PlannedTensor& planned);

io::DType to_dtype(at::ScalarType type);
at::ScalarType to_scalar_type(io::DType type);

// The bytes of a contiguous CPU tensor.
std::span<const std::byte> tensor_bytes(const at::Tensor& tensor);

}  // namespace locus::model
