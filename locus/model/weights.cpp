#include "locus/model/weights.h"

#include <ATen/ATen.h>

#include <cstring>
#include <map>
#include <set>

#include "locus/base/error.h"
#include "locus/model/family.h"

namespace locus::model {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

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

at::Tensor cut(const at::Tensor& parameter, const TensorSlice& slice) {
  at::Tensor part = slice.expert >= 0 ? parameter.select(0, slice.expert) : parameter;
  if (slice.rows >= 0) part = part.narrow(0, slice.row_begin, slice.rows);
  return slice.transposed ? part.t() : part;
}

}  // namespace

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
  for (const TensorSlice& slice : family.tensors(decoder.config().model, decoder.config().moe)) {
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

void copy_stored(const io::TensorView& view, const std::string& where, const at::Tensor& target) {
  if (at::IntArrayRef(view.shape) != target.sizes()) {
    throw DataError("{}: tensor {} has shape {}, the model needs {}", where, view.name,
                    shape_text(view.shape), shape_text(target.sizes()));
  }
  const at::ScalarType type = to_scalar_type(view.dtype);
  if (at::isFloatingType(type) != at::isFloatingType(target.scalar_type())) {
    throw DataError("{}: tensor {} has type {}, the model needs {}", where, view.name,
                    io::dtype_name(view.dtype), io::dtype_name(to_dtype(target.scalar_type())));
  }
  const at::Tensor value = at::empty(view.shape, type);  // the view may be unaligned
  if (!view.data.empty()) std::memcpy(value.mutable_data_ptr(), view.data.data(), view.data.size());
  if (at::isFloatingType(type) && !at::isfinite(value).all().item<bool>()) {
    throw DataError("{}: tensor {} holds a NaN or an infinity", where, view.name);
  }
  const at::NoGradGuard no_grad;
  target.copy_(value);
}

void load_weights(Decoder& decoder, const io::SafetensorsFolder& folder) {
  const std::string where =
      folder.files().empty() ? "" : folder.files().front().path().parent_path().string();
  std::set<std::string> wanted;
  for (const StoredTensor& stored : stored_tensors(decoder)) {
    const io::TensorView* view = folder.find(stored.name);
    if (view == nullptr) throw DataError("{}: tensor {} is missing", where, stored.name);
    copy_stored(*view, where, stored.value);
    wanted.insert(stored.name);
  }
  for (const io::TensorView* view : folder.tensors()) {
    if (!wanted.contains(view->name)) {
      throw DataError("{}: tensor {} is not part of this model's shape", where, view->name);
    }
  }
}

}  // namespace locus::model
