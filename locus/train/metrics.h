// What a run has to say in numbers: lines of metrics.jsonl, and from them metrics.csv and
// TensorBoard events. The keys are those of docs/formats/run.md. No torch here.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "locus/train/append_file.h"
#include "locus/train/tensorboard_writer.h"

namespace locus::train {

struct MetricEntry;
using MetricObject = std::vector<MetricEntry>;  // keys in order of insertion

// A value of a line. NaN and infinities become null, for JSON has no word for them.
class MetricValue {
 public:
  using Variant =
      std::variant<std::nullptr_t, bool, int64_t, double, std::string, std::vector<int64_t>,
                   std::vector<double>, std::vector<std::string>, std::vector<std::vector<int64_t>>,
                   std::vector<std::vector<double>>, MetricObject>;

  template <std::integral T>
  MetricValue(T value) : value_(to_whole(value)) {}  // NOLINT: implicit, as all below
  MetricValue(std::nullptr_t) : value_(nullptr) {}
  MetricValue(double value) : value_(value) {}
  MetricValue(const char* value) : value_(std::string(value)) {}
  MetricValue(std::string value) : value_(std::move(value)) {}
  MetricValue(std::vector<int64_t> value) : value_(std::move(value)) {}
  MetricValue(std::vector<double> value) : value_(std::move(value)) {}
  MetricValue(std::vector<std::string> value) : value_(std::move(value)) {}
  MetricValue(std::vector<std::vector<int64_t>> value) : value_(std::move(value)) {}
  MetricValue(std::vector<std::vector<double>> value) : value_(std::move(value)) {}
  MetricValue(MetricObject value);

  const Variant& get() const { return value_; }
  // As a number; empty for what is none.
  std::optional<double> number() const;

 private:
  template <std::integral T>
  static Variant to_whole(T value) {
    if constexpr (std::same_as<T, bool>) {
      return value;
    } else {
      return static_cast<int64_t>(value);
    }
  }

  Variant value_;
};

struct MetricEntry {
  std::string key;
  MetricValue value;
};

inline MetricValue::MetricValue(MetricObject value) : value_(std::move(value)) {}

// One line: MetricLine("train", step).set("loss", 3.2).set("tokens", tokens)
class MetricLine {
 public:
  MetricLine(std::string kind, int64_t step) : kind_(std::move(kind)), step_(step) {}

  MetricLine& set(std::string key, MetricValue value);

  const std::string& kind() const { return kind_; }
  int64_t step() const { return step_; }
  const MetricObject& entries() const { return entries_; }
  const MetricValue* find(std::string_view key) const;  // nullptr: not set
  std::string to_json() const;                          // without the line end

 private:
  std::string kind_;
  int64_t step_;
  MetricObject entries_;
};

// Writes the lines of one run into its folder; one thread at a time. Each line is at the system
// when write() returns. DataError when the disk is full or the folder cannot be written.
class MetricsWriter {
 public:
  // Without `resumed_step` the files start empty. With it they go on behind their last whole line;
  // DataError when metrics.csv has other columns.
  MetricsWriter(const std::filesystem::path& folder, std::optional<int64_t> resumed_step,
                bool tensorboard);

  // Every line goes to metrics.jsonl, "train" lines also to metrics.csv, and the numbers of all but
  // "run", "end" and "skipped" to TensorBoard: "train/loss", "moe_load_cv/layer_02",
  // "exchange_inter_bytes/layer_02", "valid_loss_by_domain/c".
  void write(const MetricLine& line);

 private:
  void write_csv(const MetricLine& line);
  void write_tensorboard(const MetricLine& line);

  AppendFile jsonl_;
  AppendFile csv_;
  std::optional<TensorboardWriter> tensorboard_;
};

}  // namespace locus::train
