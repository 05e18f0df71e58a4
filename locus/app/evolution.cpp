#include "locus/app/evolution.h"

#include "locus/app/session.h"
#include "locus/base/file.h"
#include "locus/train/train_step.h"

namespace locus::app {

RunConfig in_phase(RunConfig& config, size_t phase) {
  RunConfig out = parse_run_config("the settings of this run", to_toml(config), {});
  if (phase + 1 >= evolve::num_phases(config.evolve)) return out;
  evolve::apply_phase(config.evolve, phase, out.model, out.moe);
  out.evolve = evolve::EvolveConfig();
  return out;
}

evolve::Progress load_progress(const train::CheckpointRef& checkpoint) {
  const fs::path file = checkpoint.path / kProgressFile;
  if (!fs::exists(file)) return {};
  return evolve::read_progress(file.string(), read_file(file));
}

WholeModel load_whole(const RunConfig& phase, const train::CheckpointRef* checkpoint) {
  model::TransformerConfig shape = transformer_config(phase);
  // Tables of token ids come with the weights.
  shape.token_frequency.assign(static_cast<size_t>(shape.model.vocab_size), 1);
  WholeModel whole;
  whole.transformer = std::make_shared<model::Transformer>(shape);
  if (checkpoint == nullptr) {
    const ModelFolder folder = resolve_model_folder(phase.checkpoint.initial_load_path);
    model::load_weights(*whole.transformer, io::open_safetensors_folder(folder.path));
    return whole;
  }
  train::load_model(*checkpoint, *whole.transformer);
  whole.optimizer =
      train::make_optimizer(phase.optimizer, train::named_parameters(*whole.transformer));
  train::load_optimizer(*checkpoint, *whole.optimizer, *whole.transformer);
  return whole;
}

}  // namespace locus::app
