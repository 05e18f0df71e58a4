#include "locus/model/weights.h"

#include <ATen/ATen.h>

#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "locus/base/error.h"
#include "locus/model/family.h"

namespace locus::model {
namespace {

at::Tensor cut(const at::Tensor& parameter, const TensorSlice& slice) {
  at::Tensor part = slice.expert >= 0 ? parameter.select(0, slice.expert) : parameter;
  if (slice.rows >= 0) part = part.narrow(0, slice.row_begin, slice.rows);
  return slice.transposed ? part.t() : part;
}

}  // namespace

at::ScalarType to_scalar_type(io::DType type) {
  switch (type) {
    case io::DType::kF64: return at::kDouble;
    case io::DType::kF32: return at::kFloat;
    case io::DType::kF16: return at::kHalf;
    case io::DType::kBF16: return at::kBFloat16;
    case io::DType::kI64: return at::kLong;
    case io::DType::kI32: return at::kInt;
    case io::DType::kI16: return at::kShort;
    case io::DType::kI8: return at::kChar;
    case io::DType::kU8: return at::kByte;
    case io::DType::kBool: return at::kBool;
  }
  LOCUS_CHECK(false, "a type outside the enumeration");
  return at::kFloat;
}

io::DType to_dtype(at::ScalarType type) {
  for (const io::DTypeInfo& info : io::kDTypes) {
    if (to_scalar_type(info.dtype) == type) return info.dtype;
  }
  LOCUS_CHECK(false, "tensors of type {} are not stored", c10::toString(type));
  return io::DType::kF32;
}

std::span<const std::byte> tensor_bytes(const at::Tensor& tensor) {
  LOCUS_CHECK(tensor.is_cpu() && tensor.is_contiguous(),
              "bytes of a tensor that is not plain memory");
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

std::vector<StoredTensor> stored_tensors(Decoder& decoder) {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> by_name;
  std::vector<std::string> order;
  for (const auto& items : {decoder.named_parameters(), decoder.named_buffers()}) {
    for (const auto& item : items) {
      by_name.emplace(item.key(), item.value());
      order.push_back(item.key());
    }
  }
  std::vector<StoredTensor> out;
  std::set<std::string> known;
  const FamilyEntry& family = closest_family(decoder.config().model, decoder.config().moe);
  for (const TensorSlice& slice :
       family.tensors(decoder.config().model, decoder.config().moe, ExpertLayout::kEach)) {
    const auto found = by_name.find(slice.parameter);
    if (found == by_name.end()) continue;  // a router without this parameter
    out.push_back({slice.name, cut(found->second, slice)});
    known.insert(slice.parameter);
  }
  for (const std::string& name : order) {
    if (!known.contains(name)) out.push_back({name, by_name.at(name)});
  }
  return out;
}

at::Tensor read_stored(const io::TensorView& view) {
  const at::Tensor value = at::empty(view.shape, to_scalar_type(view.dtype));
  // Not a view of the file: its bytes may be unaligned.
  if (!view.data.empty()) std::memcpy(value.mutable_data_ptr(), view.data.data(), view.data.size());
  return value;
}

at::Tensor read_planned(const PlannedTensor& planned) {
  if (planned.expert < 0) return read_stored(*planned.source);
  io::TensorView part = *planned.source;
  part.shape = planned.shape;
  const size_t row_bytes =
      static_cast<size_t>(planned.shape.back()) * io::dtype_size(planned.source->dtype);
  const auto first_row =
      static_cast<size_t>(planned.expert * planned.source->shape[1] + planned.row_begin);
  part.data = part.data.subspan(first_row * row_bytes,
                                static_cast<size_t>(planned.shape.front()) * row_bytes);
  return read_stored(part);
}

namespace {

void copy_value(const at::Tensor& value, const std::string& name, const std::string& where,
                const at::Tensor& target) {
  if (value.sizes() != target.sizes()) {
    throw DataError("{}: tensor {} has shape {}, the model needs {}", where, name,
                    shape_text(value.sizes().vec()), shape_text(target.sizes().vec()));
  }
  const bool floating = at::isFloatingType(value.scalar_type());
  if (floating != at::isFloatingType(target.scalar_type())) {
    throw DataError("{}: tensor {} has type {}, the model needs {}", where, name,
                    io::dtype_name(to_dtype(value.scalar_type())),
                    io::dtype_name(to_dtype(target.scalar_type())));
  }
  if (floating && !at::isfinite(value).all().item<bool>()) {
    throw DataError("{}: tensor {} holds a NaN or an infinity", where, name);
  }
  const at::NoGradGuard no_grad;
  target.copy_(value);
}

}  // namespace

void copy_stored(const io::TensorView& view, const std::string& where, const at::Tensor& target) {
  copy_value(read_stored(view), view.name, where, target);
}

void load_weights(Decoder& decoder, const io::SafetensorsFolder& folder) {
  const std::string where =
      folder.files().empty() ? "" : folder.files().front().path().parent_path().string();
  std::map<std::string, PlannedTensor> planned;
  for (PlannedTensor& one : plan_weights(decoder.config().model, decoder.config().moe, folder)) {
    std::string name = one.name;
    planned.emplace(std::move(name), std::move(one));
  }
  for (const StoredTensor& stored : stored_tensors(decoder)) {
    const auto found = planned.find(stored.name);
    if (found == planned.end()) throw DataError("{}: tensor {} is missing", where, stored.name);
    copy_value(read_planned(found->second), stored.name, where, stored.value);
    planned.erase(found);
  }
  if (!planned.empty()) {
    throw DataError("{}: tensor {} is not part of this model's shape", where,
                    planned.begin()->first);
  }
}

}  // namespace locus::model
