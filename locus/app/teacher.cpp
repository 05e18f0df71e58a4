#include "locus/app/teacher.h"

#include <utility>

#include "locus/app/model_folder.h"
#include "locus/app/session.h"
#include "locus/base/error.h"
#include "locus/base/log.h"

namespace locus::app {

void check_teacher(const RunConfig& config, const data::Tokenizer& tokenizer) {
  const std::string& path = config.distillation.teacher_path;
  if (path.empty()) return;
  const ModelFolder folder = resolve_model_folder(path);
  const RunConfig own = folder_config(folder);
  const auto kind = [](const RunConfig& one) {
    return std::pair(one.model.is_encoder(), one.model.is_encoder_decoder());
  };
  if (!has_tokenizer(folder.path, tokenizer) || own.model.vocab_size != config.model.vocab_size ||
      kind(own) != kind(config)) {
    throw ConfigError(
        "distillation.teacher_path = {}: a teacher has the tokenizer and the vocabulary of what "
        "learns from it, and is a model of the same kind",
        path);
  }
  if (own.model.max_position_embeddings < config.data.sequence_length) {
    throw ConfigError("distillation.teacher_path = {}: takes {} tokens, data.sequence_length is {}",
                      path, own.model.max_position_embeddings, config.data.sequence_length);
  }
}

namespace {

// As this training runs it.
RunConfig teacher_config(const RunConfig& config, const ModelFolder& folder) {
  RunConfig own = folder_config(folder);
  own.train.dtype = config.train.dtype;
  own.data.sequence_length = config.data.sequence_length;
  own.data.mask_share = config.data.mask_share;
  return own;
}

}  // namespace

double teacher_flops_per_token(const RunConfig& config) {
  const std::string& path = config.distillation.teacher_path;
  if (path.empty()) return 0;
  return forward_flops_per_token(teacher_config(config, resolve_model_folder(path)));
}

Teacher load_teacher(const RunConfig& config, const comm::ParallelContext& parallel) {
  if (config.distillation.teacher_path.empty()) return {};
  const ModelFolder folder = resolve_model_folder(config.distillation.teacher_path);
  const RunConfig own = teacher_config(config, folder);
  Teacher teacher{load_transformer(folder, own), forward_flops_per_token(own)};
  teacher.transformer->to(find_device(config.train.device, parallel));
  log::info("learning from {}, too", folder.text());
  return teacher;
}

}  // namespace locus::app
