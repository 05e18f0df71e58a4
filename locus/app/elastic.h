// A trained model and the smaller ones inside it: what `locus search` shows and `locus extract`
// takes out.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "locus/app/commands.h"
#include "locus/app/session.h"
#include "locus/search/choice.h"
#include "locus/search/joint_stage.h"

namespace locus::app {

// How units are ranked, the first to go last: "learned" by gates; "proportional" by importance, all
// layers alike; "domain" the same by importance for the tokens of ElasticOptions::domain. For
// comparison: "magnitude" by the size of weights, "even" without looking at them, "random", and
// "use", where experts with few tokens go and nothing else does.
// "auto": learned, proportional and domain as far as there are, whichever has the lowest loss.
inline constexpr std::array kChoiceRules = {"auto",      "learned", "proportional", "domain",
                                            "magnitude", "even",    "random",       "use"};

// A smaller model, chosen under limits.
struct SmallerModel {
  std::string rule;  // one of kChoiceRules but "auto"
  search::Mask mask;
  search::ModelCut cut;
  std::shared_ptr<model::Transformer> transformer;
  double loss = 0;  // nats per token of the validation data; NaN: there are none
};

class ElasticModel {
 public:
  // Says it where the run had no joint stage. ConfigError where a rule has nothing to go by.
  explicit ElasticModel(const ElasticOptions& options);

  // By the options' rule. The gates' choice, but for mode = "paper", under a limit of the resource
  // that was trained for is inside the models of larger budgets, as it was in training.
  SmallerModel choose(const std::vector<search::Limit>& limits);
  // Its loss as it is.
  double whole_loss();

  LoadedModel& loaded() { return loaded_; }
  const search::ArchSpace& space() const { return *space_; }
  const search::CostModel& costs() const { return *costs_; }
  const search::DanceConfig& dance() const { return loaded_.config.dance; }
  const std::string& domain() const { return options_.domain; }
  bool has_joint_stage() const { return !state_.gates.logits.empty(); }

 private:
  void check_rule() const;
  void open_data();
  double loss_of(model::Transformer& transformer);
  std::vector<double> ranks_by(const std::string& rule);
  std::vector<double> domain_importance();
  std::vector<double> ranks_by_use();
  SmallerModel make(const std::string& rule, const std::vector<search::Limit>& limits);
  search::Mask learned_choice(const std::vector<search::Limit>& limits) const;

  const ElasticOptions options_;
  LoadedModel loaded_;
  search::JointState state_;
  std::unique_ptr<search::ArchSpace> space_;
  std::unique_ptr<search::CostModel> costs_;
  std::vector<double> importance_, domain_importance_;
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
