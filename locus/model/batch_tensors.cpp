#include "locus/model/batch_tensors.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "locus/base/error.h"

namespace locus::model {
namespace {

template <class T>
at::Tensor to_int64(const std::vector<T>& values, std::vector<int64_t> shape, at::Device device) {
  const at::Tensor out = at::empty(shape, at::kLong);
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<int64_t>());
  return out.to(device);
}

}  // namespace

void check_ids(const data::Batch& batch, int64_t vocab_size) {
  for (const std::vector<int32_t>* ids : {&batch.input_ids, &batch.labels, &batch.source_ids}) {
    const auto largest = std::max_element(ids->begin(), ids->end());
    if (largest == ids->end() || *largest < vocab_size) continue;
    throw DataError(
        "the data holds token id {}, but the model's vocabulary ends at {}: they have different "
        "tokenizers",
        *largest, vocab_size - 1);
  }
}

BatchTensors to_tensors(const data::Batch& batch, at::Device device, int64_t step) {
  const std::vector<int64_t> shape{batch.num_sequences, batch.sequence_length};
  BatchTensors out;
  out.input.input_ids_BS = to_int64(batch.input_ids, shape, device);
  out.input.position_ids_BS = to_int64(batch.position_ids, shape, device);
  out.input.document_ids_BS = to_int64(batch.document_ids, shape, device);
  out.input.domain_ids_BS = to_int64(batch.domain_ids, shape, device);
  out.input.sequence_index_B = to_int64(batch.global_sequence_index, {batch.num_sequences}, device);
  out.input.is_placed = batch.is_placed;
  out.input.step = step;
  if (!batch.source_ids.empty()) {
    out.input.source_ids_BL = to_int64(batch.source_ids, shape, device);
    out.input.source_position_ids_BL = to_int64(batch.source_position_ids, shape, device);
    out.input.source_document_ids_BL = to_int64(batch.source_document_ids, shape, device);
  }
  out.labels_T = to_int64(batch.labels, {batch.num_sequences * batch.sequence_length}, device);
  return out;
}

}  // namespace locus::model
