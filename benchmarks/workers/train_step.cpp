// Whole training steps: forward, backward, clipping, AdamW. The batches come from a file, so that
// peers train on the same ones; with weights from a folder, the losses can be compared, too.
#include "locus/train/train_step.h"

#include <ATen/ATen.h>

#include <cstring>
#include <memory>

#include "benchmarks/workers/serve.h"
#include "locus/app/run_config.h"
#include "locus/app/session.h"
#include "locus/base/error.h"
#include "locus/io/safetensors.h"
#include "locus/model/size.h"
#include "locus/model/weights.h"

namespace locus::benchmarks {
namespace {

struct StepOptions {
  std::string config;
  std::string batches;
  std::string weights;

  template <class V>
  void visit_fields(V& v) {
    v("config", config, "settings of the run");
    v("batches", batches,
      "safetensors: input_ids and labels, int64 [steps, B, S]; lr, float64 [steps]");
    v("weights", weights, "model folder to start from; empty: fresh weights");
  }
};

// All steps of a batches file, read over and over.
struct Batches {
  std::vector<data::Batch> steps;
  std::vector<double> lr;
};

template <class T>
std::vector<T> read_values(const io::SafetensorsFile& file, const std::string& name,
                           io::DType dtype) {
  const io::TensorView* view = file.find(name);
  if (view == nullptr || view->dtype != dtype) {
    throw DataError("{}: needs a tensor {} of type {}", file.path().string(), name,
                    io::dtype_name(dtype));
  }
  std::vector<T> values(view->data.size() / sizeof(T));
  std::memcpy(values.data(), view->data.data(), view->data.size());
  return values;
}

Batches read_batches(const std::string& path) {
  const io::SafetensorsFile file(path);
  const auto ids = read_values<int64_t>(file, "input_ids", io::DType::kI64);
  const auto labels = read_values<int64_t>(file, "labels", io::DType::kI64);
  const std::vector<int64_t> shape = file.find("input_ids")->shape;
  if (shape.size() != 3 || labels.size() != ids.size()) {
    throw DataError("{}: input_ids and labels are not [steps, B, S] both", path);
  }
  Batches batches;
  batches.lr = read_values<double>(file, "lr", io::DType::kF64);
  const int64_t size = shape[1] * shape[2];
  for (int64_t step = 0; step < shape[0]; ++step) {
    data::Batch batch;
    batch.num_sequences = shape[1];
    batch.sequence_length = shape[2];
    batch.input_ids.assign(ids.begin() + step * size, ids.begin() + (step + 1) * size);
    batch.labels.assign(labels.begin() + step * size, labels.begin() + (step + 1) * size);
    for (int64_t i = 0; i < size; ++i) {
      batch.position_ids.push_back(static_cast<int32_t>(i % shape[2]));
    }
    batch.document_ids.assign(static_cast<size_t>(size), 0);
    batch.domain_ids.assign(static_cast<size_t>(size), -1);
    for (int64_t i = 0; i < shape[1]; ++i) batch.global_sequence_index.push_back(i);
    batches.steps.push_back(std::move(batch));
  }
  return batches;
}

// What takes part in a step, in one place: the parts refer to each other.
struct Bench {
  app::RunConfig config;
  Batches batches;
  std::shared_ptr<model::Transformer> transformer;
  std::unique_ptr<train::Optimizer> optimizer;
  std::unique_ptr<train::TrainStep> step;
  train::TrainerState state;

  Report run() {
    const size_t index = static_cast<size_t>(state.step) % batches.steps.size();
    const std::vector<data::Batch> batch{batches.steps[index]};
    const Stopwatch watch;
    const train::StepResult result = step->run(batch, batches.lr[index], state);
    const double seconds = watch.seconds();
    ++state.step;
    return {{"seconds", seconds},
            {"loss", result.loss},
            {"grad_norm", result.grad_norm},
            {"forward_s", result.forward_s},
            {"backward_s", result.backward_s},
            {"optimizer_s", result.optimizer_s}};
  }
};

}  // namespace

// Keys with a dot are settings of the run: train.dtype=bfloat16.
Worker make_train_step(const std::vector<std::string>& settings) {
  std::vector<std::string> own, overrides;
  for (const std::string& setting : settings) {
    const bool dotted = setting.substr(0, setting.find('=')).find('.') != std::string::npos;
    (dotted ? overrides : own).push_back(setting);
  }
  const auto options = parse_settings<StepOptions>(own);
  auto bench = std::make_shared<Bench>();
  bench->config = app::load_run_config(options.config, overrides);
  app::validate(bench->config);
  bench->batches = read_batches(options.batches);
  bench->transformer = std::make_shared<model::Transformer>(app::transformer_config(bench->config));
  if (!options.weights.empty()) {
    model::load_weights(*bench->transformer, io::open_safetensors_folder(options.weights));
  }
  bench->optimizer =
      train::make_optimizer(bench->config.optimizer, train::named_parameters(*bench->transformer));
  bench->step = std::make_unique<train::TrainStep>(*bench->transformer, *bench->optimizer,
                                                   bench->config.train, at::kCPU);
  const auto count = model::count_parameters(bench->config.model, bench->config.moe);
  const double flops = 3 * model::forward_flops_per_token(bench->config.model, bench->config.moe,
                                                          bench->config.data.sequence_length);
  return {{{"parameters", static_cast<double>(count.total())},
           {"flops_per_token", flops},
           {"tokens", static_cast<double>(bench->batches.steps.front().input_ids.size())}},
          [bench] { return bench->run(); }};
}

}  // namespace locus::benchmarks
