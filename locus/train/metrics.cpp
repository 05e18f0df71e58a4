#include "locus/train/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/base/file.h"

namespace locus::train {
namespace {

using Json = nlohmann::ordered_json;

// Fixed, so that a resumed run and tools that read by position can rely on them. Further keys of a
// train line are in metrics.jsonl alone.
constexpr std::array<std::string_view, 18> kCsvColumns = {
    "step",         "loss",          "perplexity",     "aux_loss",        "lr",
    "grad_norm",    "tokens",        "tokens_per_s",   "flops_per_s",     "flops_share",
    "step_time_s",  "time_data_s",   "time_forward_s", "time_backward_s", "time_optimizer_s",
    "time_other_s", "skipped_steps", "rss_bytes"};

std::string csv_header() {
  std::string header;
  for (const std::string_view column : kCsvColumns) {
    if (!header.empty()) header += ',';
    header += column;
  }
  return header + "\n";
}

Json to_json(const MetricValue& value);

// nlohmann writes null for a double that is not finite: so does the contract.
template <class T>
Json to_json(const T& value) {
  return value;
}

Json to_json(const MetricObject& object) {
  Json json = Json::object();
  for (const MetricEntry& entry : object) json[entry.key] = to_json(entry.value);
  return json;
}

Json to_json(const MetricValue& value) {
  return std::visit([](const auto& typed) { return to_json(typed); }, value.get());
}

std::string csv_text(const MetricValue& value) {
  if (const auto* whole = std::get_if<int64_t>(&value.get())) return std::to_string(*whole);
  const std::optional<double> number = value.number();
  return number && std::isfinite(*number) ? format("{}", *number) : "";
}

// TensorBoard folds its page by what stands before the first slash, and shows a card for each tag
// in it. So what one looks at together has one group: how well the model learns; how fast; one
// quantity of the routers in all layers; one of the validation in all domains.
bool is_of_speed(std::string_view key) {
  return key.starts_with("time_") || key.ends_with("_per_s") || key.ends_with("_time_s") ||
         key == "flops_share" || key == "rss_bytes";
}

// "moe", "load_cv" of layer 2: moe_load_cv/layer_02.
std::string tag_of(const MetricLine& line, const std::string& key) {
  if (const MetricValue* layer = line.find("layer")) {
    return format("{}_{}/layer_{:02}", line.kind(), key,
                  static_cast<int64_t>(layer->number().value_or(0)));
  }
  if (line.kind() == "checkpoint") return "speed/checkpoint_" + key;
  return (is_of_speed(key) ? "speed" : line.kind()) + "/" + key;
}

// What tells which line this is, and what the settings fix, makes no curve.
bool is_measured(std::string_view key) { return key != "layer" && key != "chunks"; }

std::vector<TensorboardScalar> tensorboard_scalars(const MetricLine& line) {
  std::vector<TensorboardScalar> scalars;
  for (const MetricEntry& entry : line.entries()) {
    if (const auto* domains = std::get_if<MetricObject>(&entry.value.get())) {
      for (const MetricEntry& domain : *domains) {
        const auto* scores = std::get_if<MetricObject>(&domain.value.get());
        for (const MetricEntry& score : scores ? *scores : MetricObject()) {
          const auto number = score.value.number();
          if (number) {
            scalars.push_back(
                {format("{}_{}_{}/{}", line.kind(), score.key, entry.key, domain.key), *number});
          }
        }
      }
    } else if (const auto number = entry.value.number(); number && is_measured(entry.key)) {
      scalars.push_back({tag_of(line, entry.key), *number});
    }
  }
  return scalars;
}

AppendFile::Mode mode_of(const std::optional<int64_t>& resumed_step) {
  return resumed_step ? AppendFile::Mode::kContinueLines : AppendFile::Mode::kNew;
}

// The folder has to be there before the first file: members are opened in a row.
std::filesystem::path made(const std::filesystem::path& folder) {
  make_folders(folder);
  return folder;
}

}  // namespace

std::optional<double> MetricValue::number() const {
  if (const auto* whole = std::get_if<int64_t>(&value_)) return static_cast<double>(*whole);
  if (const auto* real = std::get_if<double>(&value_)) return *real;
  return std::nullopt;
}

MetricLine& MetricLine::set(std::string key, MetricValue value) {
  LOCUS_CHECK(key != "kind" && key != "step" && find(key) == nullptr, "metric {} is set twice",
              key);
  entries_.push_back({std::move(key), std::move(value)});
  return *this;
}

const MetricValue* MetricLine::find(std::string_view key) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const MetricEntry& entry) { return entry.key == key; });
  return found == entries_.end() ? nullptr : &found->value;
}

std::string MetricLine::to_json() const {
  Json json = {{"kind", kind_}, {"step", step_}};
  for (const MetricEntry& entry : entries_) json[entry.key] = train::to_json(entry.value);
  // Names of domains come from folders, which may hold any bytes.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

MetricsWriter::MetricsWriter(const std::filesystem::path& folder,
                             std::optional<int64_t> resumed_step, bool tensorboard)
    : jsonl_(made(folder) / "metrics.jsonl", mode_of(resumed_step)),
      csv_(folder / "metrics.csv", mode_of(resumed_step)) {
  const std::string header = csv_header();
  if (csv_.empty()) {
    csv_.append(header);
  } else if (!read_file(folder / "metrics.csv").starts_with(header)) {
    throw DataError("{}: its columns are not {}: move the file away to go on",
                    (folder / "metrics.csv").string(), header.substr(0, header.size() - 1));
  }
  if (tensorboard) tensorboard_.emplace(folder / "tensorboard", resumed_step);
}

void MetricsWriter::write(const MetricLine& line) {
  jsonl_.append(line.to_json() + "\n");
  if (line.kind() == "train") write_csv(line);
  if (tensorboard_) write_tensorboard(line);
}

void MetricsWriter::write_csv(const MetricLine& line) {
  std::string row = std::to_string(line.step());
  for (size_t i = 1; i < kCsvColumns.size(); ++i) {
    const MetricValue* value = line.find(kCsvColumns[i]);
    row += ',';
    if (value != nullptr) row += csv_text(*value);
  }
  csv_.append(row + "\n");
}

void MetricsWriter::write_tensorboard(const MetricLine& line) {
  if (line.kind() == "run" || line.kind() == "end" || line.kind() == "skipped") return;
  const std::vector<TensorboardScalar> scalars = tensorboard_scalars(line);
  std::vector<TensorboardHistogram> histograms;
  if (const MetricValue* load = line.find("tokens_per_expert")) {
    const std::string tag = tag_of(line, "tokens_per_expert");
    if (const auto* counts = std::get_if<std::vector<int64_t>>(&load->get())) {
      histograms.push_back({tag, {counts->begin(), counts->end()}});
    } else if (const auto* reals = std::get_if<std::vector<double>>(&load->get())) {
      histograms.push_back({tag, *reals});
    }
  }
  if (scalars.empty() && histograms.empty()) return;
  tensorboard_->write(line.step(), scalars, histograms);
}

}  // namespace locus::train
