// The gates of DANCE's published code (specification, sections 1.2 to 1.5), to compare with:
// dance.mode = "paper". A vector of gates is a layer's heads, or its channels; all vectors keep the
// same share of their units, whatever those cost.
//
// As published: in a step the k units with the largest sigmoid(logit + 0.1 G) are on, with Gumbel
// noise G, and gradients go straight through; each vector adds five losses of its own, which weigh
// 0.1 together, whatever the number of vectors; what is taken out in the end is chosen by moving
// averages of the units' outputs as much as by logits. So its defects are here, too: the loss for
// sparsity is a constant, |1 - 2 rho| up to a unit's share, and that for diversity pulls every gate
// back to where it is undecided.
//
// Not as published:
// - one set of gates a step, where each picture had its own by a network that looked at it; a
//   unit's feature is its mean output, where a network made it from that;
// - correlations are Pearson's, where they were divided by one norm of two; |output| is averaged
//   after taking its size, not before; sigmoid(logit) is that of now, not averaged, too;
// - the share is what a limit on costs allows, floors hold in training, too; experts share their
//   channels' gates; experts, slots of top_k and branches stay;
// - the whole model is trained along, and teaches the gated one, as in the joint stage of all
//   modes; gates learn by Adam at dance.gate_lr without decay, in place of 1e-3, 0.01 and a cycle.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "locus/search/activation_stats.h"
#include "locus/search/cost_model.h"
#include "locus/search/gates.h"

namespace locus::search {

// What it remembers of all steps, beside logits. Of each unit; those without a gate have any value.
struct PaperState {
  std::vector<double> running;                          // how often it is on
  std::vector<double> magnitude, feature, correlation;  // of its outputs; see paper_scores()
  std::vector<std::string> history;  // of the last 100 steps: '1' for each unit that was on
};

// Of so many units, with rho dropped: max(int((1 - rho) count), 1).
int64_t paper_kept(int64_t count, double dropped_share);

// Of each vector, those that score highest; as many as its floor where that is more. Ties go by
// number.
Mask keep_highest(const ArchSpace& space, const std::vector<double>& scores, double dropped_share);

// The least share to drop under which all limits hold. ConfigError where none does.
double find_dropped_share(const CostModel& costs, const std::vector<double>& scores,
                          const std::vector<Limit>& limits);

// A vector's gates, C of them, and what their losses compare them with.
struct GateVector {
  std::vector<double> gates;         // 0 or 1
  double dropped_share = 0;          // rho
  std::vector<double> running;       // moving average of the gates
  std::vector<double> history_mean;  // mean of the last steps'; empty: there are none
  at::Tensor correlation_CC;         // of the units' outputs; undefined: none were seen
};
struct GateLosses {
  static constexpr double kWeight = 0.1;  // of each but the first
  double sparsity = 0;                    // |mean gate - rho|
  double diversity = 0;                   // minus the mean binary entropy of the gates, nats
  double correlation = 0;                 // mean |R - I|
  double stability = 0;                   // mean square of gate - running
  double consistency = 0;                 // mean square of gate - history_mean

  double total() const {
    return sparsity + kWeight * (diversity + correlation + stability + consistency);
  }
};
GateLosses gate_losses(const GateVector& vector);
// d total / d gate, [C].
std::vector<double> gate_loss_slopes(const GateVector& vector);

// What chooses the units that are taken out: 0.3 of sigmoid(logit), 0.3 of the mean |output|, 0.2
// of sigmoid(mean output) and 0.2 of how little a unit's output is like the others', each scaled to
// 0 to 1 within its vector. (Published for evaluations; for what is taken out, a quarter of each of
// the first three: here the model that is evaluated is the one that is taken out.)
std::vector<double> paper_scores(const ArchSpace& space, const std::vector<double>& logits,
                                 const PaperState& state);
Mask paper_choice(const CostModel& costs, const std::vector<double>& logits,
                  const PaperState& state, const std::vector<Limit>& limits);

// The gates of a training, under one limit.
class PaperGates {
 public:
  // All outlive it.
  PaperGates(const CostModel& costs, const Limit& limit, GateState& gates, PaperState& state);
  // Draws logits, once in a training.
  void begin(uint64_t key);

  // The units that are on in this step.
  const Mask& draw(uint64_t key);
  // After that step. `slopes`: dLoss/dm of each unit, of a loss that weighs 1; `seen`: what its
  // model has put out. The sum of the vectors' losses, which weigh 0.1.
  double learn(const std::vector<double>& slopes, const std::vector<GroupActivations>& seen,
               double lr);

 private:
  GateVector vector_of(const UnitGroup& group, const std::vector<GroupActivations>& seen) const;
  void remember(const std::vector<GroupActivations>& seen);

  const ArchSpace& space_;
  const double dropped_share_;
  GateState& gates_;
  PaperState& state_;
  std::vector<double> soft_;  // of this step
  Mask mask_;
};

}  // namespace locus::search
