#include "locus/model/weights.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/model/family.h"

namespace locus::model {
namespace {

// Where the expert of a slice is among those of its layer on this rank; nothing: on another one. 0
// for what is no expert's.
std::optional<int64_t> place_of(const Transformer& transformer, const TensorSlice& slice) {
  if (slice.expert < 0) return 0;
  const std::vector<int64_t> held = transformer.held_experts(slice.parameter);
  const auto found = std::find(held.begin(), held.end(), slice.expert);
  return found == held.end() ? std::nullopt : std::optional(found - held.begin());
}

std::vector<TensorSlice> family_tensors(const TransformerConfig& config) {
  return closest_family(config.model, config.moe)
      .tensors(config.model, config.moe, ExpertLayout::kEach);
}

at::Tensor cut(const at::Tensor& parameter, const TensorSlice& slice, int64_t place) {
  at::Tensor part = slice.expert >= 0 ? parameter.select(0, place) : parameter;
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

std::vector<StoredTensor> stored_tensors(Transformer& transformer) {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> by_name;
  std::vector<std::string> order;
  for (const auto& items : {transformer.named_parameters(), transformer.named_buffers()}) {
    for (const auto& item : items) {
      by_name.emplace(item.key(), item.value());
      order.push_back(item.key());
    }
  }
  std::vector<StoredTensor> out;
  std::set<std::string> known;
  for (const TensorSlice& slice : family_tensors(transformer.config())) {
    const auto found = by_name.find(slice.parameter);
    if (found == by_name.end()) continue;  // a router without this parameter
    known.insert(slice.parameter);
    if (const auto place = place_of(transformer, slice)) {
      out.push_back({slice.name, cut(found->second, slice, *place), slice.expert >= 0});
    }
  }
  for (const std::string& name : order) {
    if (!known.contains(name)) out.push_back({name, by_name.at(name), false});
  }
  return out;
}

at::Tensor read_stored(const io::TensorView& view) {
  const at::Tensor value = at::empty(view.shape, to_scalar_type(view.dtype));
  // Not a view of the file: its bytes may be unaligned.
  if (!view.data.empty()) std::memcpy(value.mutable_data_ptr(), view.data.data(), view.data.size());
  return value;
}

io::TensorView planned_view(const PlannedTensor& planned) {
  io::TensorView part = *planned.source;
  part.name = planned.name;
  if (planned.expert < 0) return part;
  part.shape = planned.shape;
  const size_t row_bytes =
      static_cast<size_t>(planned.shape.back()) * io::dtype_size(planned.source->dtype);
  const auto first_row =
      static_cast<size_t>(planned.expert * planned.source->shape[1] + planned.row_begin);
  part.data = part.data.subspan(first_row * row_bytes,
                                static_cast<size_t>(planned.shape.front()) * row_bytes);
  return part;
}

namespace {

// Copies float32 values and says whether all of them are finite: in one pass, by pieces that stay
// in the cache, on all threads. Loading a model is waiting for this loop.
bool copy_finite(const std::byte* from, float* to, int64_t count) {
  constexpr int64_t kPages = 1 << 19;
  constexpr int64_t kPiece = 1 << 13;
  constexpr uint32_t kExponent = 0x7f800000;  // all ones: NaN or infinity
  std::atomic<bool> finite = true;
  at::parallel_for(0, count, 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += kPiece) {
      if ((at - begin) % kPages == 0) {
        const int64_t size = std::min(kPages, end - at);
        map_pages({from + at * 4, static_cast<size_t>(size) * 4});
      }
      const int64_t size = std::min(kPiece, end - at);
      std::memcpy(to + at, from + at * 4, static_cast<size_t>(size) * 4);
      uint32_t bad = 0;
      for (int64_t i = at; i < at + size; ++i) {
        bad |= (std::bit_cast<uint32_t>(to[i]) & kExponent) == kExponent ? 1u : 0u;
      }
      if (bad != 0) finite = false;
    }
  });
  return finite;
}

bool copy_values(const io::TensorView& view, const at::Tensor& target) {
  const at::NoGradGuard no_grad;
  const bool as_it_is = view.dtype == io::DType::kF32 && target.scalar_type() == at::kFloat &&
                        target.is_cpu() && target.is_contiguous();
  if (as_it_is) {
    return copy_finite(view.data.data(), target.mutable_data_ptr<float>(), target.numel());
  }
  const at::Tensor value = read_stored(view);
  target.copy_(value);
  return !at::isFloatingType(value.scalar_type()) || at::isfinite(value).all().item<bool>();
}

}  // namespace

void copy_stored(const io::TensorView& view, const std::string& where, const at::Tensor& target) {
  if (at::IntArrayRef(view.shape) != target.sizes()) {
    throw DataError("{}: tensor {} has shape {}, the model needs {}", where, view.name,
                    shape_text(view.shape), shape_text(target.sizes().vec()));
  }
  if (at::isFloatingType(to_scalar_type(view.dtype)) != at::isFloatingType(target.scalar_type())) {
    throw DataError("{}: tensor {} has type {}, the model needs {}", where, view.name,
                    io::dtype_name(view.dtype), io::dtype_name(to_dtype(target.scalar_type())));
  }
  if (!copy_values(view, target)) {
    throw DataError("{}: tensor {} holds a NaN or an infinity", where, view.name);
  }
  io::release(view);  // else a model would take twice its memory while it is loaded
}

void load_weights(Transformer& transformer, const io::SafetensorsFolder& folder) {
  const std::string where =
      folder.files().empty() ? "" : folder.files().front().path().parent_path().string();
  std::map<std::string, PlannedTensor> planned;
  for (PlannedTensor& one :
       plan_weights(transformer.config().model, transformer.config().moe, folder)) {
    std::string name = one.name;
    planned.emplace(std::move(name), std::move(one));
  }
  for (const TensorSlice& slice : family_tensors(transformer.config())) {
    if (!place_of(transformer, slice)) planned.erase(slice.name);  // another rank's
  }
  for (const StoredTensor& stored : stored_tensors(transformer)) {
    const auto found = planned.find(stored.name);
    if (found == planned.end()) throw DataError("{}: tensor {} is missing", where, stored.name);
    copy_stored(planned_view(found->second), where, stored.value);
    planned.erase(found);
  }
  if (!planned.empty()) {
    throw DataError("{}: tensor {} is not part of this model's shape", where,
                    planned.begin()->first);
  }
}

}  // namespace locus::model
