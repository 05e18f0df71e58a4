// Checkpoints as training writes and reads them: weights and both moments of AdamW, about 1 GB.
#include "locus/train/checkpoint.h"

#include <ATen/ATen.h>

#include <memory>

#include "benchmarks/workers/serve.h"
#include "locus/app/run_config.h"
#include "locus/app/session.h"
#include "locus/train/train_step.h"

namespace locus::benchmarks {
namespace {

struct CheckpointOptions {
  std::string config;
  std::string folder;

  template <class V>
  void visit_fields(V& v) {
    v("config", config, "settings of the model");
    v("folder", folder, "where the checkpoints go");
  }
};

double total_bytes(const train::NamedTensors& tensors) {
  size_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += tensor.nbytes();
  return static_cast<double>(bytes);
}

struct Bench {
  fs::path folder;
  std::shared_ptr<model::Transformer> transformer;
  std::unique_ptr<train::Optimizer> optimizer;
  std::unique_ptr<train::CheckpointWriter> writer;
  train::TrainerState state;

  Report run() {
    ++state.step;
    const Stopwatch save;
    writer->save(*transformer, *optimizer, state, {});
    const double stall_s = save.seconds();
    writer->wait();
    const double save_s = save.seconds();
    const train::CheckpointRef checkpoint = train::list_checkpoints(folder).front();
    const Stopwatch load;
    train::load_model(checkpoint, *transformer);
    train::load_optimizer(checkpoint, *optimizer, *transformer);
    const double load_s = load.seconds();
    const Stopwatch check;
    train::checkpoint_damage(checkpoint.path, /*checksums=*/true);
    return {{"seconds", save_s + load_s},
            {"stall_s", stall_s},
            {"save_s", save_s},
            {"load_s", load_s},
            {"checksums_s", check.seconds()}};
  }
};

}  // namespace

Worker make_checkpoint(const std::vector<std::string>& settings) {
  const auto options = parse_settings<CheckpointOptions>(settings);
  const app::RunConfig config = app::load_run_config(options.config, {});
  auto bench = std::make_shared<Bench>();
  bench->folder = options.folder;
  bench->transformer = std::make_shared<model::Transformer>(app::transformer_config(config));
  const train::NamedTensors parameters = train::named_parameters(*bench->transformer);
  bench->optimizer = train::make_optimizer(config.optimizer, parameters);
  train::CheckpointConfig checkpoint;
  checkpoint.keep_last = 1;
  bench->writer = std::make_unique<train::CheckpointWriter>(bench->folder, checkpoint);
  const double bytes = total_bytes(parameters) + total_bytes(bench->optimizer->state());
  return {{{"bytes", bytes}}, [bench] { return bench->run(); }};
}

}  // namespace locus::benchmarks
