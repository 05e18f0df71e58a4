// A named tensor as bytes: what file formats give and take. No arithmetic happens here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace locus::io {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

struct DTypeInfo {
  DType dtype;
  std::string_view name;  // as safetensors writes it
  size_t size;            // bytes of one element
};

inline constexpr std::array<DTypeInfo, 10> kDTypes = {{
    {DType::kF64, "F64", 8},
    {DType::kF32, "F32", 4},
    {DType::kF16, "F16", 2},
    {DType::kBF16, "BF16", 2},
    {DType::kI64, "I64", 8},
    {DType::kI32, "I32", 4},
    {DType::kI16, "I16", 2},
    {DType::kI8, "I8", 1},
    {DType::kU8, "U8", 1},
    {DType::kBool, "BOOL", 1},
}};

constexpr std::string_view dtype_name(DType dtype) {
  return kDTypes[static_cast<size_t>(dtype)].name;
}

constexpr size_t dtype_size(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].size; }

constexpr std::optional<DType> find_dtype(std::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

// A tensor to be written: everything but its bytes.
struct TensorSpec {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;  // row-major; empty: a scalar
};

// A tensor in a file that is mapped. The bytes are little-endian and may be unaligned for their
// type: copy them with memcpy. They live as long as the file object that handed the view out.
struct TensorView {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

}  // namespace locus::io
