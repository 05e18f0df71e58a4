// A trained model and the smaller ones inside it: what `locus search` shows and `locus extract`
// takes out.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "locus/app/session.h"
#include "locus/search/choice.h"
#include "locus/search/joint_stage.h"

namespace locus::app {

// A smaller model, chosen under limits.
struct SmallerModel {
  std::string rule;  // by which its units were chosen: learned | proportional
  search::Mask mask;
  search::ModelCut cut;
  std::shared_ptr<model::Transformer> transformer;
  double loss = 0;  // nats per token of the validation data; NaN: there are none
};

class ElasticModel {
 public:
  // `max_batches`: of the validation data; 0: all. `target`: file of this machine's latencies;
  // empty: none. Says it where the run had no joint stage.
  ElasticModel(const std::string& path, int64_t num_threads, int64_t max_batches,
               const std::string& target);

  // Of the choices that the gates and importance make, the one with the lower loss. The gates'
  // choice under a limit of FLOPs is inside the models of larger budgets that were trained, as they
  // were.
  SmallerModel choose(const std::vector<search::Limit>& limits);
  // Its loss as it is.
  double whole_loss();

  LoadedModel& loaded() { return loaded_; }
  const search::ArchSpace& space() const { return *space_; }
  const search::CostModel& costs() const { return *costs_; }
  const search::DanceConfig& dance() const { return loaded_.config.dance; }
  bool has_joint_stage() const { return !state_.gates.logits.empty(); }

 private:
  double loss_of(model::Transformer& transformer);
  search::Mask trained_candidates(const std::vector<search::Limit>& limits) const;

  LoadedModel loaded_;
  int64_t max_batches_;
  search::JointState state_;
  std::unique_ptr<search::ArchSpace> space_;
  std::unique_ptr<search::CostModel> costs_;
  std::vector<double> importance_;
  std::shared_ptr<const data::SampleSource> valid_data_;  // null: none
};

// What a joint stage is to know of a run's costs.
search::CostSettings cost_settings(const RunConfig& config);

// --num-threads as it is; ConfigError where it is no number of threads.
int64_t check_threads(int64_t num_threads);

// ConfigError, by name, where a model of dance.budgets cannot be that small; the vocabulary is
// settled.
void check_dance_budgets(const RunConfig& config);

// The file of a checkpoint that a joint stage goes on with.
inline constexpr const char* kDanceFile = "dance.json";
search::JointState load_joint_state(const fs::path& checkpoint);

// One line for each layer: what is left of it.
std::vector<std::string> describe_cut(const search::ArchSpace& space, const search::ModelCut& cut);

}  // namespace locus::app
