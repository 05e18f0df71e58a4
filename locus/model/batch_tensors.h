// Batches of the loader as tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include "locus/data/batch.h"
#include "locus/model/transformer.h"

namespace locus::model {

// All int64 on `device`; labels_T flattened, -1 without a label.
struct BatchTensors {
  TransformerInput input;
  at::Tensor labels_T;
};

// DataError if the batch holds a token that the vocabulary does not have.
void check_ids(const data::Batch& batch, int64_t vocab_size);

BatchTensors to_tensors(const data::Batch& batch, at::Device device, int64_t step = 0);

}  // namespace locus::model
