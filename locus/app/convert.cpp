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

fs::path canonical_path(const fs::path& path) {
  std::error_code code;
  const fs::path out = fs::weakly_canonical(fs::absolute(path / ""), code);
  if (code) throw DataError("{}: {}", path.string(), code.message());
  return out.has_filename() ? out : out.parent_path();
}

bool is_within(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first ==
         folder.end();
}

// Nothing of the source, nor of the run that it is a checkpoint of, is where the target will be.
void check_apart(const ModelFolder& folder, const fs::path& target_path) {
  const fs::path source = canonical_path(folder.path), target = canonical_path(target_path);
  const fs::path parent = source.parent_path();
  const bool of_a_run = folder.is_checkpoint() && parent.filename() == "checkpoints";
  const std::string shown = target_path.string();
  if (target == source) throw ConfigError("{}: is the source as well; name another folder", shown);
  if (is_within(source, target)) {
    throw ConfigError("{}: holds the source, {}; name another folder", shown, source.string());
  }
  if (is_within(target, of_a_run ? parent.parent_path() : source)) {
    throw ConfigError("{}: lies inside the {}; name another folder", shown,
                      of_a_run ? "run that is the source" : "source");
  }
}

bool is_weights(const std::string& name) {
  return name == "model.safetensors.index.json" ||
         (name.starts_with("model") && name.ends_with(".safetensors"));
}

bool belongs_to_model(const std::string& name) {
  return name == "config.json" || name == "generation_config.json" || is_weights(name) ||
         std::find(kTokenizerFiles.begin(), kTokenizerFiles.end(), name) != kTokenizerFiles.end();
}

// All of it goes: no more than what `locus import` and `locus export` write themselves.
void check_replaceable(const fs::path& target) {
  bool has_config = false, has_weights = false;
  std::error_code code;
  for (fs::directory_iterator it(target, code), end; !code && it != end; it.increment(code)) {
    const std::string name = it->path().filename().string();
    std::error_code unknown;
    const fs::file_status status = it->symlink_status(unknown);
    if (!belongs_to_model(name) || !(fs::is_regular_file(status) || fs::is_symlink(status))) {
      throw ConfigError("{}: --overwrite replaces model folders alone, and {} is not of one",
                        target.string(), (target / name).string());
    }
    has_config |= name == "config.json";
    has_weights |= is_weights(name);
  }
  if (code) throw DataError("{}: cannot be read: {}", target.string(), code.message());
  if (!has_config || !has_weights) {
    throw ConfigError("{}: --overwrite replaces model folders alone, and this one has no {}",
                      target.string(), has_config ? "weights" : "config.json");
  }
}

void check_target(const ModelFolder& source, const fs::path& target, bool overwrite) {
  std::error_code code;
  check_apart(source, target);
  if (!fs::exists(fs::symlink_status(target, code))) return;
  if (!fs::is_directory(target, code)) {
    throw ConfigError("{}: is there already, and no folder", target.string());
  }
  const bool empty = fs::is_empty(target, code);
  if (code) throw DataError("{}: cannot be read: {}", target.string(), code.message());
  if (empty) return;
  if (!overwrite) {
    throw ConfigError("{}: is there already, and not empty; --overwrite replaces a model folder",
                      target.string());
  }
  check_replaceable(target);
}

// Takes away the empty folders above a target that did not come to be.
class ParentsMade {
 public:
  explicit ParentsMade(const fs::path& target) {
    std::error_code code;
    fs::path folder = canonical_path(target).parent_path();
    for (; !folder.empty() && !fs::exists(folder, code); folder = folder.parent_path()) {
      folders_.push_back(folder);
    }
  }
  // Only empty folders can be removed: where the target is there, all of them stay.
  ~ParentsMade() {
    std::error_code code;
    for (const fs::path& folder : folders_) fs::remove(folder, code);
  }
  ParentsMade(const ParentsMade&) = delete;
  ParentsMade& operator=(const ParentsMade&) = delete;

 private:
  std::vector<fs::path> folders_;  // the deepest first
};

at::ScalarType stored_type(const model::PlannedTensor& tensor,
                           std::optional<at::ScalarType> wanted) {
  return tensor.is_weight && wanted ? *wanted : model::to_scalar_type(tensor.source->dtype);
}

at::Tensor convert(const model::PlannedTensor& tensor, at::ScalarType type,
                   const std::string& where) {
  const at::Tensor value = model::read_stored(model::planned_view(tensor));
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
  if (options.source.empty()) throw ConfigError("SOURCE is empty");
  if (options.target.empty()) throw ConfigError("TARGET is empty");
  const ModelFolder folder = resolve_model_folder(options.source);
  check_target(folder, options.target, options.overwrite);
  watch_signals();
  const model::ConfigJson config = read_model_config(folder.path);
  folder_tokenizer(folder.path, config.shape.model.vocab_size);
  const io::SafetensorsFolder source = io::open_safetensors_folder(folder.path);
  const auto plan = model::plan_weights(config.shape.model, config.shape.moe, source);

  const ParentsMade parents(options.target);  // before the folder: goes after it
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
