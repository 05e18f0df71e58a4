// `locus extract`: a smaller model out of a trained one, as a model folder.
#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/describe.h"
#include "locus/app/elastic.h"
#include "locus/app/model_folder.h"
#include "locus/base/error.h"
#include "locus/base/signals.h"
#include "locus/data/pending_folder.h"
#include "locus/io/safetensors_folder.h"
#include "locus/model/weights.h"
#include "locus/moe/expert_numbers.h"

namespace locus::app {
namespace {

using nlohmann::ordered_json;

constexpr uint64_t kShardBytes = 5'000'000'000;

void check_empty(const fs::path& target) {
  std::error_code code;
  if (!fs::exists(fs::symlink_status(target, code))) return;
  if (fs::is_directory(target, code) && fs::is_empty(target, code)) return;
  throw ConfigError("--output {}: is there already, and not an empty folder", target.string());
}

void write_weights(model::Transformer& transformer, const fs::path& folder) {
  const std::vector<model::StoredTensor> tensors = model::stored_tensors(transformer);
  std::vector<io::TensorSpec> specs;
  for (const model::StoredTensor& one : tensors) {
    specs.push_back({one.name, model::to_dtype(one.value.scalar_type()), one.value.sizes().vec()});
  }
  io::SafetensorsFolderWriter writer(folder, specs, {{"format", "pt"}}, kShardBytes);
  for (const model::StoredTensor& one : tensors) {
    if (const int signal = received_signal()) throw Interrupted(signal);
    writer.write(one.name, model::tensor_bytes(one.value.detach().cpu().contiguous()));
  }
  writer.close();
}

ordered_json costs_json(const ElasticModel& whole, const search::Mask& mask) {
  ordered_json out;
  for (size_t r = 0; r < search::kNumResources; ++r) {
    const auto resource = static_cast<search::Resource>(r);
    const double cost = whole.costs().cost(resource, mask);
    out[std::string(search::resource_name(resource))] = {
        {"cost", cost}, {"share", cost / whole.costs().whole(resource)}};
  }
  return out;
}

// What was taken, by the numbers that the whole model's layers have for it.
std::string record(ElasticModel& whole, const SmallerModel& part,
                   const std::vector<search::Limit>& limits) {
  ordered_json layers = ordered_json::array();
  for (const search::LayerCut& own : part.cut) {
    layers.push_back({{"heads", moe::expert_numbers_text(own.heads)},
                      {"cross_heads", moe::expert_numbers_text(own.cross_heads)},
                      {"channels", moe::expert_numbers_text(own.channels)},
                      {"experts", moe::expert_numbers_text(own.experts)},
                      {"top_k", own.top_k}});
  }
  std::vector<std::string> budgets;
  for (const search::Limit& limit : limits) budgets.push_back(limit.text);
  ordered_json out{{"source", whole.loaded().folder.text()},
                   {"budgets", budgets},
                   {"chosen_by", part.rule},
                   {"domain", nullptr},
                   {"validation_loss", nullptr},
                   {"costs", costs_json(whole, part.mask)},
                   {"layers", layers}};
  if (!whole.domain().empty()) out["domain"] = whole.domain();
  if (std::isfinite(part.loss)) out["validation_loss"] = part.loss;
  return out.dump(2) + "\n";
}

}  // namespace

void extract(const ExtractOptions& options, std::ostream& out) {
  if (options.budgets.empty()) {
    throw ConfigError("--budget: say what the model may cost, as flops=0.5 or parameters=20M");
  }
  if (options.output.empty()) throw ConfigError("--output: name a folder");
  check_empty(options.output);
  watch_signals();
  ElasticModel whole(options.elastic);
  std::vector<search::Limit> limits;
  for (const std::string& text : options.budgets) {
    limits.push_back(search::parse_limit(text, whole.costs()));
  }
  const SmallerModel part = whole.choose(limits);
  RunConfig config =
      parse_run_config("the settings of this run", to_toml(whole.loaded().config), {});
  std::tie(config.model, config.moe) = search::cut_config(config.model, config.moe, part.cut);
  config.dance = search::DanceConfig();
  config.evolve = evolve::EvolveConfig();

  data::PendingFolder pending(options.output);
  write_weights(*part.transformer, pending.path());
  for (const train::TextFile& file : checkpoint_texts(config, *whole.loaded().tokenizer)) {
    if (file.name == "config.toml") continue;  // of a run, which this is not
    write_file_atomic(pending.path() / file.name, file.content);
  }
  write_file_atomic(pending.path() / "extract.json", record(whole, part, limits));
  pending.commit();
  out << format("{}: chosen by {}", options.output, part.rule);
  for (size_t r = 0; r < search::kNumResources; ++r) {
    const auto resource = static_cast<search::Resource>(r);
    const double share = whole.costs().cost(resource, part.mask) / whole.costs().whole(resource);
    if (std::isfinite(share)) out << format(", {} {:.4f}", search::resource_name(resource), share);
  }
  if (std::isfinite(part.loss)) out << format(", validation loss {:.4f}", part.loss);
  out << "\n";
  const std::vector<std::string> lines = describe_cut(whole.space(), part.cut);
  for (size_t i = 0; i < lines.size(); ++i) out << format("  layer {}: {}\n", i, lines[i]);
}

}  // namespace locus::app
