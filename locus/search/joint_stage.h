// Training many sizes at once: in each step, beside the whole model, the smallest one inside it and
// another one that is drawn (the sandwich of Yu and Huang, 2019), both taught by the whole one's
// distribution. They are models of their own shape, as extract() makes them, with the whole one's
// weights, so that they cost what they are; their gradients go back to the weights that they were.
//
// Stages, by the training's steps: main (nothing is added); the last steps before the joint one
// also sum up how important each unit is; joint, in whose first part the gates are learned.
//
// Where we differ from the specification (section 3.7): importance comes from the gradients of
// training steps, not of batches of its own; what writes to the residual stream is gated by its
// weights (search/unit_gradients.h), so that no layer knows of masks; a slot of top_k keeps the
// rank that it begins with; of experts, those that are there learn their gates, others by the noise
// that brings them in.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "locus/search/activation_stats.h"
#include "locus/search/choice.h"
#include "locus/search/config.h"
#include "locus/search/joint_net.h"
#include "locus/search/joint_state.h"
#include "locus/search/paper_gates.h"
#include "locus/train/extra_passes.h"

namespace locus::search {

// The joint stage's first step; max_steps without one.
int64_t first_joint_step(const DanceConfig& config, int64_t max_steps);

// The limit of one of the settings' budgets.
Limit budget_limit(const DanceConfig& config, double budget, const CostModel& costs);

// ConfigError where no smaller model costs so little; it says what the least is.
void check_reach(const DanceConfig& config, const CostModel& costs, const Limit& limit);

// `ep_size`: where the settings do not say how many ranks experts are shared by.
ArchOptions arch_options(const DanceConfig& config, int64_t ep_size);

// Problems of the settings, one text each.
std::vector<std::string> problems(const DanceConfig& config, int64_t max_steps);

class JointStage final : public train::ExtraPasses {
 public:
  struct Training {
    int64_t max_steps = 0;
    uint64_t seed = 0;
    CostSettings costs;
    int64_t ep_size = 1;  // of the settings: layouts of ranks choose the same units
  };
  // `whole` outlives it, as `state` does, which it goes on with.
  JointStage(model::Transformer& whole, const DanceConfig& config, const Training& training,
             JointState& state);
  ~JointStage() override;

  double begin_step(int64_t step) override;
  void run(const MicroBatch& batch) override;
  void add_gradients() override;
  void see_gradients() override;
  double flops_per_token() const override { return flops_per_token_; }
  void report(train::MetricLine& line) override;

  const ArchSpace& space() const { return space_; }
  const CostModel& costs() const { return costs_; }
  // What is left under each budget, the largest first; nested. Once the joint stage has begun; not
  // with mode = "paper", which draws anew in each step.
  const std::vector<Mask>& masks();

 private:
  void calibrate();
  void begin_joint_stage();
  bool learns_gates(int64_t step) const;
  std::vector<size_t> draw_budgets() const;
  uint64_t gate_key(size_t budget) const;
  Mask noisy_mask(size_t budget) const;
  JointNet& net_of(size_t budget);
  model::TransformerOutput forward(const JointNet& net, const model::TransformerInput& input);
  std::vector<double> slopes_of(const JointNet& net) const;
  void learn_gates();
  void learn_gates_of_the_paper();

  model::Transformer& whole_;
  const DanceConfig config_;
  const Training training_;
  JointState& state_;
  const ArchSpace space_;
  const CostModel costs_;
  std::vector<double> budgets_;  // falling
  std::vector<Limit> limits_;    // of them
  std::vector<Mask> masks_;      // by the gates as they are; empty: to be chosen anew
  int64_t step_ = 0;
  double flops_per_token_ = 0;
  bool learns_ = false;
  std::map<size_t, std::unique_ptr<JointNet>> kept_;  // by budget, once the gates are settled
  std::vector<JointNet*> nets_;                       // of this step
  std::vector<std::unique_ptr<JointNet>> own_;        // those of them that are not kept
  std::unique_ptr<PaperGates> paper_;                 // with mode = "paper"
  std::unique_ptr<ActivationStats> activations_;      // likewise
  struct Mean {
    double sum = 0;
    int64_t steps = 0;
  };
  std::map<double, Mean> losses_;  // by budget, since the last report
  Mean gate_losses_;               // likewise, of mode = "paper"
};

}  // namespace locus::search
