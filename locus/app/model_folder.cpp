#include "locus/app/model_folder.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/log.h"
#include "locus/data/tokenizers/tokenizer_files.h"
#include "locus/io/json_check.h"
#include "locus/io/safetensors_folder.h"
#include "locus/model/weight_plan.h"

namespace locus::app {
namespace {

// The problems of settings that came out of a folder are the folder's.
void validate_folder(const RunConfig& config, const fs::path& folder) {
  const std::vector<std::string> problems = config.problems();
  if (!problems.empty()) {
    throw DataError("{}: {}", (folder / "config.json").string(), problems.front());
  }
}

bool has_checkpoints(const fs::path& path) {
  return holds(path, "manifest.json") || holds(path, "checkpoints") ||
         !train::list_checkpoints(path).empty();
}

// What a path is that is no model, said exactly.
void check_source(const fs::path& path) {
  if (path.empty()) throw ConfigError("the path of the model is empty; name a folder");
  std::error_code code;
  const fs::file_status link = fs::symlink_status(path, code);
  if (link.type() == fs::file_type::not_found) throw DataError("{}: is not there", path.string());
  const fs::file_status target = fs::status(path, code);
  if (target.type() == fs::file_type::not_found) {
    throw DataError("{}: is a link to nothing", path.string());
  }
  if (!fs::status_known(target)) {
    throw DataError("{}: cannot be read: {}", path.string(), code.message());
  }
  if (!fs::is_directory(target)) {
    throw DataError("{}: is a file; name the folder of a run, of a checkpoint or of a model",
                    path.string());
  }
  if (::access(path.c_str(), R_OK | X_OK) != 0) {
    throw DataError("{}: cannot be read: {}", path.string(),
                    std::generic_category().message(errno));
  }
  if (!holds(path, "config.json") && !has_checkpoints(path)) {
    throw DataError(
        "{}: holds neither config.json nor checkpoints; name the folder of a run, of a checkpoint "
        "or of a model",
        path.string());
  }
}

}  // namespace

bool holds(const fs::path& folder, const char* name) {
  std::error_code code;
  return fs::exists(fs::symlink_status(folder / name, code));
}

std::string ModelFolder::text() const {
  return is_checkpoint() ? format("{} (step {})", path.string(), step) : path.string();
}

model::Shape shape_of(const RunConfig& config) {
  return {config.model, config.moe, config.chosen_router_options()};
}

void take_shape(RunConfig& config, const model::Shape& shape) {
  config.model = shape.model;
  config.moe = shape.moe;
  config.router_options[shape.moe.router.type] = shape.router_options;
}

std::vector<train::TextFile> checkpoint_texts(RunConfig& config, const data::Tokenizer& tokenizer) {
  // Locus lets the end of a document begin the next one, and has no padding.
  const model::TokenIds ids{.bos = tokenizer.eod_id(), .eos = tokenizer.eod_id(), .pad = {}};
  std::vector<train::TextFile> files = {
      {"config.toml", to_toml(config)},
      {"config.json", model::write_config_json(shape_of(config), ids, "float32")},
      {"generation_config.json", model::write_generation_config(ids)}};
  for (const data::TokenizerFile& file : data::tokenizer_files(tokenizer)) {
    files.push_back({file.name, file.content});
  }
  return files;
}

void warn_of_losses(const RunConfig& config) {
  const std::string lost = model::lost_in_transformers(shape_of(config));
  if (!lost.empty()) log::warning("checkpoints load into Locus in full, but {}", lost);
}

ModelFolder resolve_model_folder(const fs::path& path) {
  check_source(path);
  if (!holds(path, "manifest.json") && holds(path, "config.json")) return {path};
  const train::CheckpointRef checkpoint = train::resolve_checkpoint(path);
  return {checkpoint.path, checkpoint.step};
}

model::ConfigJson read_model_config(const fs::path& folder) {
  model::ConfigJson config = model::read_config_json(folder);
  // They travel with the weights as they are: better refused here than by who opens them next.
  for (const char* name : {"generation_config.json", "tokenizer_config.json"}) {
    if (!holds(folder, name)) continue;
    const fs::path file = io::folder_member(folder, name, folder);
    io::check_json_object(read_file(file), file.string() + ": the text");
  }
  RunConfig settings;
  take_shape(settings, config.shape);
  settings.data.sequence_length = 1;  // is none of the folder's matters
  validate_folder(settings, folder);
  return config;
}

RunConfig folder_config(const ModelFolder& folder) {
  if (folder.is_checkpoint()) {
    const fs::path file = io::folder_member(folder.path, "config.toml", folder.path);
    RunConfig config = parse_run_config(file.string(), read_file(file), {});
    validate(config);
    return config;
  }
  RunConfig config;
  take_shape(config, read_model_config(folder.path).shape);
  config.data.sequence_length =
      std::min(config.data.sequence_length, config.model.max_position_embeddings);
  return config;
}

bool has_tokenizer(const fs::path& folder, const data::Tokenizer& tokenizer) {
  for (const char* file : {"tokenizer.json", "tokenizer.model"}) {
    if (holds(folder, file) && read_file(folder / file) == tokenizer.serialized()) return true;
  }
  return false;
}

std::unique_ptr<data::Tokenizer> folder_tokenizer(const fs::path& folder, int64_t vocab_size) {
  for (const char* name : kTokenizerFiles) {
    if (holds(folder, name)) io::folder_member(folder, name, folder);
  }
  auto tokenizer = data::load_folder_tokenizer(folder);
  if (tokenizer && vocab_size > 0 && tokenizer->vocab_size() > vocab_size) {
    throw DataError("{}: the tokenizer has {} pieces, the model a vocabulary of {}",
                    folder.string(), tokenizer->vocab_size(), vocab_size);
  }
  return tokenizer;
}

void check_weights(const fs::path& folder, const model::Shape& shape) {
  model::plan_weights(shape.model, shape.moe, io::open_safetensors_folder(folder));
}

}  // namespace locus::app
