// TensorBoard event files, written without TensorFlow.
//
// A file is a sequence of TFRecords, each one Event (a protocol buffer; event.proto,
// summary.proto):
//
//   u64 length | u32 masked crc32c of these 8 bytes | length bytes | u32 masked crc32c of them
//
// The first event carries file_version "brain.Event:2"; each later one a step and its values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "locus/train/append_file.h"

namespace locus::train {

struct TensorboardScalar {
  std::string tag;  // "train/loss": what stands before the slash is the group
  double value;     // stored as float32
};

// Counts of the bins [0, 1), [1, 2), ...: for the load of the experts, bin = expert.
struct TensorboardHistogram {
  std::string tag;
  std::vector<double> counts;
};

uint32_t crc32c(std::string_view bytes);
std::string frame_record(std::string_view payload);

std::string encode_file_version(double wall_time_s);
std::string encode_session_start(double wall_time_s, int64_t step);
std::string encode_summary(double wall_time_s, int64_t step,
                           std::span<const TensorboardScalar> scalars,
                           std::span<const TensorboardHistogram> histograms);

class TensorboardWriter {
 public:
  // Opens a new event file in `folder`, which is made. After a resume at a step, TensorBoard is
  // told to forget what older files say of later steps. DataError as in AppendFile.
  TensorboardWriter(const std::filesystem::path& folder, std::optional<int64_t> resumed_step);

  // One event for all values, at the system before it returns.
  void write(int64_t step, std::span<const TensorboardScalar> scalars,
             std::span<const TensorboardHistogram> histograms);

 private:
  std::unique_ptr<AppendFile> file_;
};

}  // namespace locus::train
