#include "locus/train/tensorboard_writer.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>

#include "locus/base/error.h"
#include "locus/base/file.h"

namespace locus::train {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  constexpr uint32_t kReversedPolynomial = 0x82f63b78;
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kReversedPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

// Plain crcs of data that holds crcs are weak: TFRecord rotates and shifts them.
uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

template <class T>
std::string fixed(T value) {
  static_assert(std::endian::native == std::endian::little);
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

// The pieces of the protocol buffers' wire format that events need.
enum class Wire : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string key(uint32_t field, Wire wire) {
  return varint(field << 3 | static_cast<uint32_t>(wire));
}

std::string bytes_field(uint32_t field, std::string_view bytes) {
  return key(field, Wire::kBytes) + varint(bytes.size()) + std::string(bytes);
}

std::string varint_field(uint32_t field, uint64_t value) {
  return key(field, Wire::kVarint) + varint(value);
}

std::string double_field(uint32_t field, double value) {
  return key(field, Wire::kFixed64) + fixed(value);
}

std::string packed_doubles(uint32_t field, std::span<const double> values) {
  std::string bytes;
  for (const double value : values) bytes += fixed(value);
  return bytes_field(field, bytes);
}

// Event: wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7.
std::string event(double wall_time_s, int64_t step, const std::string& content) {
  return double_field(1, wall_time_s) + varint_field(2, static_cast<uint64_t>(step)) + content;
}

// HistogramProto: min = 1, max = 2, num = 3, sum = 4, sum_squares = 5, bucket_limit = 6, bucket
// = 7.
std::string encode_histogram(std::span<const double> counts) {
  std::vector<double> limits;
  double number = 0;
  double sum = 0;
  double sum_of_squares = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double middle = static_cast<double>(i) + 0.5;
    limits.push_back(static_cast<double>(i) + 1);
    number += counts[i];
    sum += counts[i] * middle;
    sum_of_squares += counts[i] * middle * middle;
  }
  return double_field(1, 0) + double_field(2, static_cast<double>(counts.size())) +
         double_field(3, number) + double_field(4, sum) + double_field(5, sum_of_squares) +
         packed_doubles(6, limits) + packed_doubles(7, counts);
}

double wall_time_s() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// TensorBoard wants "tfevents" in the name and reads a folder's files in the order of their names.
std::filesystem::path unused_name(const std::filesystem::path& folder, double time_s) {
  for (int number = 0;; ++number) {
    std::filesystem::path path = folder / format("events.out.tfevents.{:010}.locus.{:010}.{}",
                                                 static_cast<int64_t>(time_s), ::getpid(), number);
    if (!std::filesystem::exists(path)) return path;
  }
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

std::string frame_record(std::string_view payload) {
  const std::string length = fixed(static_cast<uint64_t>(payload.size()));
  return length + fixed(masked_crc32c(length)) + std::string(payload) +
         fixed(masked_crc32c(payload));
}

std::string encode_file_version(double time_s) {
  return double_field(1, time_s) + bytes_field(3, "brain.Event:2");
}

// SessionLog: status = 1, of which START is 1.
std::string encode_session_start(double time_s, int64_t step) {
  return event(time_s, step, bytes_field(7, varint_field(1, 1)));
}

// Summary: value = 1 (repeated); Summary.Value: tag = 1, simple_value = 2 (float), histo = 5.
std::string encode_summary(double time_s, int64_t step, std::span<const TensorboardScalar> scalars,
                           std::span<const TensorboardHistogram> histograms) {
  std::string summary;
  for (const TensorboardScalar& scalar : scalars) {
    summary += bytes_field(1, bytes_field(1, scalar.tag) + key(2, Wire::kFixed32) +
                                  fixed(static_cast<float>(scalar.value)));
  }
  for (const TensorboardHistogram& histogram : histograms) {
    summary += bytes_field(
        1, bytes_field(1, histogram.tag) + bytes_field(5, encode_histogram(histogram.counts)));
  }
  return event(time_s, step, bytes_field(5, summary));
}

TensorboardWriter::TensorboardWriter(const std::filesystem::path& folder,
                                     std::optional<int64_t> resumed_step) {
  make_folders(folder);
  const double now_s = wall_time_s();
  file_ = std::make_unique<AppendFile>(unused_name(folder, now_s), AppendFile::Mode::kNew);
  file_->append(frame_record(encode_file_version(now_s)));
  if (resumed_step) {  // the first step that will come anew
    file_->append(frame_record(encode_session_start(now_s, *resumed_step + 1)));
  }
}

void TensorboardWriter::write(int64_t step, std::span<const TensorboardScalar> scalars,
                              std::span<const TensorboardHistogram> histograms) {
  file_->append(frame_record(encode_summary(wall_time_s(), step, scalars, histograms)));
}

}  // namespace locus::train
