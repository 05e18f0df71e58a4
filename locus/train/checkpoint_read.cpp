// Finding, checking and loading checkpoints.

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/hash.h"
#include "locus/base/log.h"
#include "locus/io/safetensors.h"
#include "locus/train/checkpoint.h"

namespace locus::train {
namespace {

using nlohmann::json;

constexpr std::string_view kPrefix = "step_";

bool is_optimizer_file(std::string_view name) {
  return name.starts_with("optimizer") && name.ends_with(".safetensors");
}

std::optional<int64_t> step_of(const std::string& folder) {
  if (!folder.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = folder.data() + folder.size();
  const auto result = std::from_chars(folder.data() + kPrefix.size(), end, step);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return step;
}

json read_json(const fs::path& path) {
  try {
    return json::parse(read_file(path));
  } catch (const json::exception& error) {
    throw DataError("{}: not valid JSON: {}", path.string(), error.what());
  }
}

void check_file(const fs::path& path, const json& entry, bool checksums) {
  const auto size = entry.at("bytes").get<uint64_t>();
  std::error_code code;
  const auto found = fs::file_size(path, code);
  if (code) throw DataError("{}: {}", path.string(), code.message());
  if (found != size)
    throw DataError("{}: has {} bytes, the manifest says {}", path.string(), found, size);
  if (checksums && to_hex(hash_file(path)) != entry.at("xxh128").get<std::string>()) {
    throw DataError("{}: its content does not match the checksum in the manifest", path.string());
  }
}

}  // namespace

std::vector<CheckpointRef> list_checkpoints(const fs::path& checkpoints) {
  std::vector<CheckpointRef> found;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(checkpoints, code)) {
    const auto step = step_of(entry.path().filename().string());
    if (step && entry.is_directory()) found.push_back({entry.path(), *step});
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.step > b.step; });
  return found;
}

std::optional<std::string> checkpoint_damage(const fs::path& checkpoint, bool checksums,
                                             bool optimizer_checksum) {
  const fs::path manifest = checkpoint / "manifest.json";
  try {
    const json content = read_json(manifest);
    if (const auto version = content.at("version").get<int64_t>(); version != kCheckpointVersion) {
      throw DataError("{}: is of version {} of the format, this program reads version {}",
                      manifest.string(), version, kCheckpointVersion);
    }
    for (const auto& [name, entry] : content.at("files").items()) {
      if (fs::path(name).filename() != name) {
        throw DataError("{}: the file name {} leaves the folder", manifest.string(), name);
      }
      check_file(checkpoint / name, entry,
                 checksums && (optimizer_checksum || !is_optimizer_file(name)));
    }
  } catch (const DataError& error) {
    return error.what();
  } catch (const json::exception& error) {
    return format("{}: not a manifest: {}", manifest.string(), error.what());
  }
  return std::nullopt;
}

std::optional<CheckpointRef> newest_intact(const fs::path& checkpoints, bool optimizer_checksum) {
  for (const CheckpointRef& candidate : list_checkpoints(checkpoints)) {
    const auto damage = checkpoint_damage(candidate.path, /*checksums=*/true, optimizer_checksum);
    if (!damage) return candidate;
    log::warning("checkpoint {} is damaged and passed over: {}", candidate.path.string(), *damage);
  }
  return std::nullopt;
}

CheckpointRef resolve_checkpoint(const fs::path& path) {
  if (fs::exists(path / "manifest.json")) {
    if (const auto damage =
            checkpoint_damage(path, /*checksums=*/true, /*optimizer_checksum=*/false))
      throw DataError("{}", *damage);
    return {path, load_trainer_state({path, 0}).step};
  }
  const fs::path folder = fs::is_directory(path / "checkpoints") ? path / "checkpoints" : path;
  if (const auto found = newest_intact(folder, /*optimizer_checksum=*/false)) return *found;
  throw DataError(
      "{}: no intact checkpoint here; expected a checkpoint folder (step_...) or a run folder",
      path.string());
}

TrainerState load_trainer_state(const CheckpointRef& checkpoint) {
  const fs::path path = checkpoint.path / "trainer.json";
  const json content = read_json(path);
  try {
    TrainerState state;
    content.at("step").get_to(state.step);
    content.at("tokens").get_to(state.tokens);
    state.flops = content.value("flops", 0.0);  // not in those of older versions
    content.at("skipped_steps").get_to(state.skipped_steps);
    content.at("skipped_in_row").get_to(state.skipped_in_row);
    content.at("loss_mean").get_to(state.loss_mean);
    content.at("loss_mean_steps").get_to(state.loss_mean_steps);
    if (content.contains("placement")) {  // not in those of older versions
      const json& placement = content.at("placement");
      for (const json& version : placement.at("versions")) {
        state.placement.versions.push_back(
            {version.at("from_step").get<int64_t>(),
             version.at("expert_use").get<placement::ExpertUse>(),
             version.value("places", std::vector<placement::ExpertOfSlot>())});
      }
      placement.at("counted").get_to(state.placement.counted_MGE);
    }
    for (const json& one : content.value("experts", json::array())) {
      ExpertMoves::Layer& layer = state.experts[one.at("layer").get<int64_t>()];
      one.at("expert_of_slot").get_to(layer.expert_of_slot);
      one.at("tokens").get_to(layer.tokens_RE);
    }
    return state;
  } catch (const json::exception& error) {
    throw DataError("{}: {}", path.string(), error.what());
  }
}

namespace {

// "exp_avg.layers.0.moe.experts.up_proj" of all experts: "exp_avg.layers.0.moe.experts.5.up_proj".
std::string expert_name(const std::string& name, int64_t expert) {
  const size_t dot = name.rfind('.');
  return format("{}.{}{}", name.substr(0, dot), expert, name.substr(dot));
}

}  // namespace

ExpertNumbers expert_numbers(const model::Transformer& transformer) {
  return [&transformer](const std::string& name) { return transformer.held_experts(name); };
}

NamedTensors global_state(const NamedTensors& state, const ExpertNumbers& numbers) {
  NamedTensors out;
  for (const auto& [name, tensor] : state) {
    if (tensor.dim() == 0 || !is_expert_parameter(name)) {
      out.emplace_back(name, tensor);
      continue;
    }
    const std::vector<int64_t> number = numbers(name);
    for (int64_t e = 0; e < tensor.size(0); ++e) {
      out.emplace_back(expert_name(name, number[static_cast<size_t>(e)]), tensor.select(0, e));
    }
  }
  return out;
}

namespace {

// The name of the state of another expert as this rank's first one has it; the name itself where it
// is no expert's, or of none of the layer.
std::string as_first_expert(const std::string& name, const model::Transformer& transformer) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t begin = name.find(kExperts);
  if (begin == std::string::npos) return name;
  const size_t number = begin + kExperts.size();
  const size_t end = name.find('.', number);
  if (end == std::string::npos) return name;
  int64_t expert = -1;
  std::from_chars(name.data() + number, name.data() + end, expert);
  if (expert < 0 || expert >= transformer.config().moe.num_experts) return name;
  const std::vector<int64_t> held = transformer.held_experts(name);
  if (held.empty()) return name;
  return format("{}{}{}", name.substr(0, number), held.front(), name.substr(end));
}

// A tensor of the file, and the place of its values among those of the parameter.
struct FileTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;
};

// Those that the state of one parameter lies in.
std::vector<FileTensor> file_tensors(const std::string& name, const at::Tensor& value,
                                     const ParameterPart& part, const ExpertNumbers& numbers) {
  if (value.dim() == 0) return {{name, {}, 0, 1}};
  std::vector<int64_t> shape = part.parameter.sizes().vec();
  const int64_t num_values = part.parameter.numel();
  if (!part.is_expert) return {{name, shape, 0, num_values}};
  const int64_t num_experts = shape.front();
  const int64_t size = num_values / num_experts;
  shape.erase(shape.begin());
  const std::vector<int64_t> number = numbers(name);
  std::vector<FileTensor> out;
  for (int64_t e = 0; e < num_experts; ++e) {
    out.push_back(
        {expert_name(name, number[static_cast<size_t>(e)]), shape, e * size, (e + 1) * size});
  }
  return out;
}

// What `value`, which begins at `begin` among the values of the parameter, has of a tensor of the
// file.
void load_values(const io::TensorView& view, const std::string& where, const FileTensor& tensor,
                 int64_t begin, const at::Tensor& value) {
  if (view.shape != tensor.shape) {
    throw DataError("{}: tensor {} has shape {}, the optimiser needs {}", where, view.name,
                    model::shape_text(view.shape), model::shape_text(tensor.shape));
  }
  const int64_t first = std::max(begin, tensor.begin);
  const int64_t last = std::min(begin + value.numel(), tensor.end);
  if (first >= last) return;
  const size_t size = io::dtype_size(view.dtype);
  const io::TensorView own{view.name,
                           view.dtype,
                           {last - first},
                           view.data.subspan(static_cast<size_t>(first - tensor.begin) * size,
                                             static_cast<size_t>(last - first) * size)};
  model::copy_stored(own, where, value.view(-1).narrow(0, first - begin, last - first));
}

}  // namespace

void load_optimizer(const CheckpointRef& checkpoint, Optimizer& optimizer,
                    const model::Transformer& transformer) {
  const ExpertNumbers numbers = expert_numbers(transformer);
  std::vector<io::SafetensorsFile> files;
  for (const auto& entry : fs::directory_iterator(checkpoint.path)) {
    if (is_optimizer_file(entry.path().filename().string())) files.emplace_back(entry.path());
  }
  const auto find = [&](const std::string& name) -> std::pair<const io::TensorView*, fs::path> {
    for (const io::SafetensorsFile& file : files) {
      if (const io::TensorView* view = file.find(name)) return {view, file.path()};
    }
    throw DataError("{}: tensor {} of the optimiser's state is missing", checkpoint.path.string(),
                    name);
  };
  std::set<std::string> wanted;
  for (const auto& [name, value] : optimizer.state()) {
    const ParameterPart& part = optimizer.part_of(name);
    for (const FileTensor& tensor : file_tensors(name, value, part, numbers)) {
      const auto [view, path] = find(tensor.name);
      load_values(*view, path.string(), tensor, value.dim() == 0 ? 0 : part.own_begin(), value);
      wanted.insert(tensor.name);
    }
  }
  for (const io::SafetensorsFile& file : files) {
    for (const io::TensorView& view : file.tensors()) {
      if (wanted.contains(view.name) || wanted.contains(as_first_expert(view.name, transformer))) {
        continue;
      }
      throw DataError("{}: holds {}, which this optimiser has not", file.path().string(),
                      view.name);
    }
  }
}

void load_model(const CheckpointRef& checkpoint, model::Transformer& transformer) {
  model::load_weights(transformer, io::open_safetensors_folder(checkpoint.path));
}

}  // namespace locus::train
