#include "locus/io/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/python.h"
#include "tests/support/temp_folder.h"

namespace locus::io {
namespace {

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

// A file with this header and this many bytes of data.
std::string file_with(const std::string& header, size_t num_data_bytes) {
  const uint64_t length = header.size();
  std::string text(8, '\0');
  std::memcpy(text.data(), &length, 8);
  return text + header + std::string(num_data_bytes, '\x01');
}

// Thousands of files are written here: nothing may wait for the disk, as the atomic write does, and
// as some file systems do when an old file is cut to nothing and written again.
void put_file(const fs::path& path, const std::string& bytes) {
  fs::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

class Safetensors : public ::testing::Test {
 protected:
  std::string error_of_bytes(const std::string& bytes) {
    put_file(path_, bytes);
    const std::string message = test::error_of<DataError>([&] { SafetensorsFile file(path_); });
    EXPECT_TRUE(message.starts_with(path_.string() + ": ")) << message;
    return message.substr(std::min(message.size(), path_.string().size() + 2));
  }
  std::string error_of_header(const std::string& header, size_t num_data_bytes = 8) {
    return error_of_bytes(file_with(header, num_data_bytes));
  }

  const test::TempFolder folder_;
  const fs::path path_ = folder_ / "a.safetensors";
};

TEST_F(Safetensors, WritesTheBytesThatTheReferenceLibraryWrites) {
  SafetensorsWriter writer(path_, {{"a", DType::kI16, {2}}, {"b", DType::kU8, {}}},
                           {{"format", "pytorch"}});
  writer.write("a", bytes_of<int16_t>({1, -1}));
  writer.write("b", bytes_of<uint8_t>({7}));
  const Hash128 hash = writer.close();
  const std::string header =
      R"({"__metadata__":{"format":"pytorch"},"a":{"dtype":"I16","shape":[2],"data_offsets":[0,4]},)"
      R"("b":{"dtype":"U8","shape":[],"data_offsets":[4,5]}})";
  ASSERT_EQ(header.size(), 141U);
  const std::string expected =
      std::string("\x90\0\0\0\0\0\0\0", 8) + header + "   " + std::string("\x01\0\xff\xff\x07", 5);
  EXPECT_EQ(read_file(path_), expected);
  EXPECT_EQ(hash, hash_file(path_));
  EXPECT_EQ(writer.num_bytes(), expected.size());
}

TEST_F(Safetensors, ReadsWhatItWrote) {
  const std::vector<float> floats = {1.5F, -2.0F, 3.25F, 0.0F, 5.0F, 6.0F};
  SafetensorsWriter writer(
      path_,
      {{"empty", DType::kF16, {0, 4}}, {"w", DType::kF32, {2, 3}}, {"scalar", DType::kI64, {}}},
      {{"k", "v \"\xc3\xa4\""}});
  writer.write("empty", {});
  writer.write("w", bytes_of(floats));
  writer.write("scalar", bytes_of<int64_t>({-5}));
  writer.close();

  const SafetensorsFile file(path_);
  ASSERT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.tensors()[0].name, "empty");
  EXPECT_TRUE(file.tensors()[0].data.empty());
  const TensorView* w = file.find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->dtype, DType::kF32);
  EXPECT_EQ(w->shape, (std::vector<int64_t>{2, 3}));
  ASSERT_EQ(w->data.size(), 24U);
  EXPECT_EQ(std::memcmp(w->data.data(), floats.data(), 24), 0);
  EXPECT_TRUE(file.find("scalar")->shape.empty());
  EXPECT_EQ(file.find("x"), nullptr);
  EXPECT_EQ(file.metadata(), (Metadata{{"k", "v \"\xc3\xa4\""}}));
}

TEST_F(Safetensors, HoldsNoTensorsAtAll) {
  SafetensorsWriter(path_, {}, {}).close();
  EXPECT_TRUE(SafetensorsFile(path_).tensors().empty());
}

TEST_F(Safetensors, KnowsEveryTypeByNameAndSize) {
  for (const DTypeInfo& info : kDTypes) {
    EXPECT_EQ(find_dtype(info.name), info.dtype);
    EXPECT_EQ(dtype_name(info.dtype), info.name);
    EXPECT_EQ(dtype_size(info.dtype), info.size);
  }
  EXPECT_EQ(find_dtype("f32"), std::nullopt);
}

TEST_F(Safetensors, ViewsOutliveAMoveOfTheFile) {
  SafetensorsWriter writer(path_, {{"a", DType::kU8, {3}}}, {});
  writer.write("a", bytes_of<uint8_t>({1, 2, 3}));
  writer.close();
  SafetensorsFile first(path_);
  const TensorView* view = first.find("a");
  const SafetensorsFile second = std::move(first);
  EXPECT_EQ(second.find("a"), view);
  EXPECT_EQ(view->data[2], std::byte{3});
}

TEST_F(Safetensors, WriterInsistsOnOrderSizeAndCompleteness) {
  const std::vector<uint8_t> two = {1, 2};
  SafetensorsWriter writer(path_, {{"a", DType::kU8, {2}}, {"b", DType::kU8, {2}}}, {});
  EXPECT_THROW(writer.close(), InternalError);
  EXPECT_THROW(writer.write("b", bytes_of(two)), InternalError);
  SafetensorsWriter other(path_, {{"a", DType::kU8, {3}}}, {});
  EXPECT_THROW(other.write("a", bytes_of(two)), InternalError);
  EXPECT_THROW(SafetensorsWriter(path_, {{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}, {}),
               InternalError);
  EXPECT_THROW(SafetensorsWriter(path_, {{"a", DType::kU8, {-1}}}, {}), InternalError);
}

TEST_F(Safetensors, ReportsAFullDisk) {
  SafetensorsWriter writer("/dev/full", {{"a", DType::kU8, {2}}}, {});
  writer.write("a", bytes_of<uint8_t>({1, 2}));
  EXPECT_THROW(writer.close(), DataError);
}

// ---- hostile files ----

TEST_F(Safetensors, RefusesAFileTooShortForALength) {
  EXPECT_EQ(error_of_bytes(""), "0 bytes are too few for a safetensors file");
  EXPECT_EQ(error_of_bytes("1234567"), "7 bytes are too few for a safetensors file");
}

TEST_F(Safetensors, RefusesAHeaderLengthBeyondTheFileOrTheLimit) {
  EXPECT_EQ(error_of_bytes(std::string("\x03\0\0\0\0\0\0\0{}", 10)),
            "the header of 3 bytes is longer than the file of 10: truncated?");
  EXPECT_EQ(error_of_bytes(std::string(8, '\xff') + "{}"),
            "a header of 18446744073709551615 bytes is over the limit of 100000000: not a "
            "safetensors file?");
}

TEST_F(Safetensors, RefusesAHeaderThatIsNoJsonObject) {
  EXPECT_EQ(error_of_header("[]"), "the header is not a JSON object");
  EXPECT_EQ(error_of_header(" {}", 0), "the header is not a JSON object");
  EXPECT_EQ(error_of_header(""), "the header is not a JSON object");
  for (const char* text : {"{", "{}{}", "{\"a\":}", "{\"a\":1e999}", "{\"\xff\":1}", "{'a':1}"}) {
    EXPECT_TRUE(error_of_header(text).starts_with("the header is not valid JSON: ")) << text;
  }
  EXPECT_TRUE(
      error_of_header(std::string("{}\0\0", 4), 0).starts_with("the header is not valid JSON: "));
}

TEST_F(Safetensors, RefusesDeepNestingWithoutRecursion) {
  EXPECT_EQ(error_of_header("{\"a\":" + std::string(1000000, '[')),
            "the header is nested too deeply");
}

TEST_F(Safetensors, RefusesKeysThatComeTwice) {
  const std::string a = R"("a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]})";
  EXPECT_EQ(error_of_header("{" + a + "," + a + "}"), "the header names \"a\" twice");
  EXPECT_EQ(
      error_of_header(R"({"a":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}})"),
      "the header names \"dtype\" twice");
}

TEST_F(Safetensors, RefusesEntriesWithoutTheirParts) {
  EXPECT_EQ(error_of_header(R"({"a":3})"), "tensor \"a\": its entry is not an object");
  EXPECT_EQ(error_of_header(R"({"a":{"shape":[8],"data_offsets":[0,8]}})"),
            "tensor \"a\": has no text \"dtype\"");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":5,"shape":[8],"data_offsets":[0,8]}})"),
            "tensor \"a\": has no text \"dtype\"");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"U8","data_offsets":[0,8]}})"),
            "tensor \"a\": has no list \"shape\"");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"U8","shape":8,"data_offsets":[0,8]}})"),
            "tensor \"a\": has no list \"shape\"");
  for (const char* offsets : {"", R"(,"data_offsets":8)", R"(,"data_offsets":[0])",
                              R"(,"data_offsets":[0,8,9])", R"(,"data_offsets":[-1,8])",
                              R"(,"data_offsets":[0,8.0])", R"(,"data_offsets":["0","8"])"}) {
    EXPECT_EQ(error_of_header(std::string(R"({"a":{"dtype":"U8","shape":[8])") + offsets + "}}"),
              "tensor \"a\": data_offsets is not a pair of counts");
  }
}

TEST_F(Safetensors, RefusesAnUnknownTypeAndNamesTheKnownOnes) {
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"F8_E5M2","shape":[8],"data_offsets":[0,8]}})"),
            "tensor \"a\": dtype \"F8_E5M2\" is not known; known: F64, F32, F16, BF16, I64, I32, "
            "I16, I8, U8, BOOL");
}

TEST_F(Safetensors, RefusesShapesThatAreNegativeHugeOrNoCounts) {
  const auto with_shape = [&](const std::string& shape) {
    return error_of_header(R"({"a":{"dtype":"F32","shape":)" + shape +
                           R"(,"data_offsets":[0,8]}})");
  };
  for (const char* shape : {"[-2]", "[2.0]", "[\"2\"]", "[18446744073709551615]", "[null]"}) {
    EXPECT_EQ(with_shape(shape),
              std::string("tensor \"a\": shape ") + shape + " holds a size that is no count");
  }
  for (const char* shape :
       {"[4294967296,4294967296]", "[9223372036854775807]", "[4611686018427387904,2,0]"}) {
    EXPECT_EQ(with_shape(shape),
              std::string("tensor \"a\": shape ") + shape + " is too large for 64 bits");
  }
  EXPECT_EQ(with_shape("[3]"),
            "tensor \"a\": shape [3] of F32 takes 12 bytes; data_offsets [0, 8] hold 8");
  std::string many = "[1";
  for (int i = 0; i < 100000; ++i) many += ",2";
  EXPECT_LT(with_shape(many + "]").size(), 300U);
}

TEST_F(Safetensors, RefusesOffsetsThatRunBackwardsOrBeyondTheData) {
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[8,0]}})"),
            "tensor \"a\": data_offsets [8, 0] run backwards");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[1,9]}})"),
            "tensor \"a\": data_offsets [1, 9] end behind the data of 8 bytes: truncated?");
  EXPECT_EQ(error_of_header(
                R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,18446744073709551615]}})"),
            "tensor \"a\": data_offsets [0, 18446744073709551615] end behind the data of 8 bytes: "
            "truncated?");
}

TEST_F(Safetensors, RefusesOverlapsHolesAndLeftovers) {
  const auto two = [&](const std::string& a, const std::string& b, const std::string& shape_b) {
    return error_of_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
                           R"(},"b":{"dtype":"U8","shape":)" + shape_b + R"(,"data_offsets":)" + b +
                           "}}");
  };
  EXPECT_EQ(two("[0,4]", "[3,8]", "[5]"),
            "tensor \"b\": its data at 3 overlaps with another tensor's");
  EXPECT_EQ(two("[0,4]", "[0,4]", "[4]"),
            "tensor \"b\": its data at 0 overlaps with another tensor's");
  EXPECT_EQ(two("[0,4]", "[5,8]", "[3]"),
            "tensor \"b\": bytes 4 to 5 in front of it belong to no tensor");
  EXPECT_EQ(two("[1,5]", "[5,8]", "[3]"),
            "tensor \"a\": bytes 0 to 1 in front of it belong to no tensor");
  EXPECT_EQ(two("[0,4]", "[4,7]", "[3]"), "the last 1 bytes belong to no tensor");
  EXPECT_EQ(two("[0,4]", "[2,2]", "[0]"),
            "tensor \"b\": its data at 2 overlaps with another tensor's");
}

TEST_F(Safetensors, RefusesMetadataThatIsNotText) {
  EXPECT_EQ(error_of_header(R"({"__metadata__":{"a":1}})"),
            "__metadata__: the value of \"a\" is not text");
  EXPECT_EQ(error_of_header(R"({"__metadata__":[]})"), "__metadata__ is not an object");
}

TEST_F(Safetensors, ShowsHostileNamesQuotedAndShort) {
  EXPECT_EQ(error_of_header("{\"\\u001b[31m\\n\xc3\xa4\":1}"),
            "tensor \"\\u001b[31m\\n\\u00e4\": its entry is not an object");
  EXPECT_LT(error_of_header("{\"" + std::string(100000, 'x') + "\":1}").size(), 200U);
}

TEST_F(Safetensors, SurvivesEveryTruncationAndEveryFlippedHeaderByte) {
  SafetensorsWriter writer(path_, {{"a", DType::kF32, {2}}, {"b", DType::kU8, {3}}}, {{"k", "v"}});
  writer.write("a", bytes_of<float>({1, 2}));
  writer.write("b", bytes_of<uint8_t>({1, 2, 3}));
  writer.close();
  const std::string good = read_file(path_);
  for (size_t length = 0; length < good.size(); ++length) {
    error_of_bytes(good.substr(0, length));
  }
  for (uint64_t i = 0; i < 3000; ++i) {
    std::string bad = good;
    const auto bits = random_bits(3, i);
    bad[bits % (good.size() - 11)] ^= static_cast<char>(1 << (bits >> 61));
    put_file(path_, bad);
    try {  // a flip inside a name or a text is none that the format could notice
      EXPECT_EQ(SafetensorsFile(path_).tensors().size(), 2U);
    } catch (const DataError& error) {
      EXPECT_TRUE(std::string_view(error.what()).starts_with(path_.string()));
    }
  }
}

// ---- the reference library ----

TEST_F(Safetensors, AgreesWithTheReferenceLibraryByteForByte) {
  if (!test::python_has("numpy, safetensors.numpy")) {
    GTEST_SKIP() << "the Python packages numpy and safetensors are not there";
  }
  // The library sorts by width and name: written in that order the files must be equal.
  SafetensorsWriter writer(path_,
                           {{"ints", DType::kI64, {2, 2}},
                            {"floats", DType::kF32, {3}},
                            {"scalar", DType::kF32, {}},
                            {"empty", DType::kF16, {0, 4}},
                            {"halves", DType::kF16, {2}},
                            {"bools", DType::kBool, {3}}},
                           {{"format", "pt"}});
  writer.write("ints", bytes_of<int64_t>({1, -2, 3, 4}));
  writer.write("floats", bytes_of<float>({0.5F, 1.5F, -2.5F}));
  writer.write("scalar", bytes_of<float>({3.0F}));
  writer.write("empty", {});
  writer.write("halves", bytes_of<uint16_t>({0x3c00, 0xc000}));
  writer.write("bools", bytes_of<uint8_t>({1, 0, 1}));
  writer.close();
  const std::string theirs = (folder_ / "b.safetensors").string();
  const std::string output = test::run_python(R"(
import sys, numpy as np
from safetensors.numpy import load_file, save_file
tensors = load_file(sys.argv[1])
expected = {
    "ints": np.array([[1, -2], [3, 4]], np.int64), "floats": np.array([0.5, 1.5, -2.5], np.float32),
    "scalar": np.array(3.0, np.float32), "empty": np.zeros((0, 4), np.float16),
    "halves": np.array([1.0, -2.0], np.float16), "bools": np.array([True, False, True])}
assert tensors.keys() == expected.keys()
for name, value in expected.items():
    assert tensors[name].dtype == value.dtype and tensors[name].shape == value.shape, name
    assert np.array_equal(tensors[name], value), name
save_file(expected, sys.argv[2], metadata={"format": "pt"})
print("good")
)",
                                              path_.string() + " " + theirs);
  EXPECT_EQ(output, "good\n");
  const SafetensorsFile file(theirs);
  EXPECT_EQ(file.tensors().size(), 6U);
  EXPECT_EQ(read_file(theirs), read_file(path_));
}

}  // namespace
}  // namespace locus::io
