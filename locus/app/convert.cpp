// `locus import` and `locus export`: one model folder into another, tensor by tensor. Memory holds
// one tensor at a time, whatever the size of the model.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/describe.h"
#include "locus/app/model_folder.h"
#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/progress.h"
#include "locus/base/signals.h"
#include "locus/data/pending_folder.h"
#include "locus/model/weight_plan.h"
#include "locus/model/weights.h"

namespace locus::app {
namespace {

struct DTypeName {
  std::string_view name;  // config.json's
  at::ScalarType type;
};
constexpr std::array kDTypeNames = {DTypeName{"float32", at::kFloat},
                                    DTypeName{"bfloat16", at::kBFloat16},
                                    DTypeName{"float16", at::kHalf}};

std::optional<at::ScalarType> wanted_type(const std::string& dtype) {
  if (dtype.empty()) return std::nullopt;
  for (const DTypeName& one : kDTypeNames) {
    if (one.name == dtype) return one.type;
  }
  throw ConfigError("--dtype {} is not known; float32, bfloat16 or float16", dtype);
}

// "5GB", "500MB", "1GiB", "1000": bytes.
uint64_t parse_bytes(const std::string& text) {
  constexpr std::array<std::pair<std::string_view, double>, 8> kUnits = {{{"", 1},
                                                                          {"B", 1},
                                                                          {"KB", 1e3},
                                                                          {"MB", 1e6},
                                                                          {"GB", 1e9},
                                                                          {"KIB", 1024.0},
                                                                          {"MIB", 1048576.0},
                                                                          {"GIB", 1073741824.0}}};
  double number = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  std::string unit(parsed.ptr, end);
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  for (const auto& [name, factor] : kUnits) {
    const double bytes = number * factor;
    if (parsed.ec == std::errc() && unit == name && bytes >= 1 && bytes < 1e18) {
      return static_cast<uint64_t>(bytes);
    }
  }
  throw ConfigError("--max-shard-size {} is not a size; a number with KB, MB or GB, as 5GB", text);
}

void check_target(const fs::path& source, const fs::path& target, bool overwrite) {
  std::error_code code;
  if (!fs::exists(fs::symlink_status(target, code))) return;
  if (!fs::is_directory(target, code)) {
    throw ConfigError("{}: is there already, and no folder", target.string());
  }
  if (fs::equivalent(source, target, code)) {
    throw ConfigError("{}: is the source as well; name another folder", target.string());
  }
  if (!fs::is_empty(target, code) && !overwrite) {
    throw ConfigError("{}: is there already, and not empty; --overwrite replaces it",
                      target.string());
  }
}

at::ScalarType stored_type(const model::PlannedTensor& tensor,
                           std::optional<at::ScalarType> wanted) {
  return tensor.is_weight && wanted ? *wanted : model::to_scalar_type(tensor.source->dtype);
}

at::Tensor convert(const model::PlannedTensor& tensor, at::ScalarType type,
                   const std::string& where) {
  const at::Tensor value = model::read_planned(tensor);
  if (!value.is_floating_point()) return value;
  if (!at::isfinite(value).all().item<bool>()) {
    throw DataError("{}: tensor {} holds a NaN or an infinity", where, tensor.name);
  }
  at::Tensor out = value.to(type);
  if (!at::isfinite(out).all().item<bool>()) {
    throw DataError("{}: tensor {} has values too large for {}; bfloat16 holds them", where,
                    tensor.name, c10::toString(type));
  }
  return out;
}

void write_weights(const io::SafetensorsFolder& source,
                   const std::vector<model::PlannedTensor>& plan, const fs::path& target,
                   std::optional<at::ScalarType> type, uint64_t max_shard_bytes) {
  const std::string where = source.files().front().path().parent_path().string();
  std::vector<io::TensorSpec> specs;
  for (const model::PlannedTensor& one : plan) {
    specs.push_back({one.name, model::to_dtype(stored_type(one, type)), one.shape});
  }
  io::SafetensorsFolderWriter writer(target, specs, {{"format", "pt"}}, max_shard_bytes);
  ProgressBar bar("tensors", static_cast<int64_t>(plan.size()));
  for (size_t i = 0; i < plan.size(); ++i) {
    if (const int signal = received_signal()) throw Interrupted(signal);
    const at::Tensor value = convert(plan[i], stored_type(plan[i], type), where);
    writer.write(plan[i].name, model::tensor_bytes(value));
    // The last part of a tensor that holds several experts lets go of all of it.
    if (i + 1 == plan.size() || plan[i + 1].source != plan[i].source) {
      io::release(*plan[i].source);
    }
    bar.update(static_cast<int64_t>(i + 1), plan[i].name);
  }
  writer.close();
}

// As it is, if it is there.
void copy_file(const fs::path& from, const char* name, const fs::path& to) {
  if (!holds(from, name)) return;
  write_file_atomic(to / name, read_file(io::folder_member(from, name, from)));
}

// config.json says which type most of the weights have.
std::string dtype_name(const std::vector<model::PlannedTensor>& plan,
                       std::optional<at::ScalarType> wanted) {
  const at::ScalarType type = stored_type(plan.front(), wanted);
  for (const DTypeName& one : kDTypeNames) {
    if (one.type == type) return std::string(one.name);
  }
  return "float64";
}

}  // namespace

void convert(const ConvertOptions& options, std::ostream& out) {
  const auto type = wanted_type(options.dtype);
  const uint64_t max_shard_bytes = parse_bytes(options.max_shard_size);
  const ModelFolder folder = resolve_model_folder(options.source);
  check_target(folder.path, options.target, options.overwrite);
  watch_signals();
  const model::ConfigJson config = read_model_config(folder.path);
  folder_tokenizer(folder.path, config.shape.model.vocab_size);
  const io::SafetensorsFolder source = io::open_safetensors_folder(folder.path);
  const auto plan = model::plan_weights(config.shape.model, config.shape.moe, source);

  data::PendingFolder pending(options.target);
  write_weights(source, plan, pending.path(), type, max_shard_bytes);
  write_file_atomic(pending.path() / "config.json",
                    model::with_dtype(config.text, dtype_name(plan, type)));
  copy_file(folder.path, "generation_config.json", pending.path());
  for (const char* name : kTokenizerFiles) copy_file(folder.path, name, pending.path());
  pending.commit();
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(options.target)) {
    if (entry.path().extension() == ".safetensors") bytes += entry.file_size();
  }
  if (const std::string lost = model::lost_in_transformers(config.shape); !lost.empty()) {
    log::warning("{}", lost);
  }
  out << format("{}: {}, {} tensors, {}, {}\n", options.target, config.family->architecture,
                plan.size(), dtype_name(plan, type), short_bytes(static_cast<double>(bytes)));
}

}  // namespace locus::app
