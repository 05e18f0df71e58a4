// The optimiser's state spread over ranks (ZeRO-1), against whole states on each rank and against
// one rank alone, on parameters of awkward sizes with gradients that add up without rounding.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <tuple>

#include "locus/base/random.h"
#include "locus/comm/thread_ranks.h"
#include "locus/train/gradient_reducer.h"
#include "locus/train/optimizer.h"

namespace locus::train {
namespace {

constexpr int64_t kExperts = 4;

comm::ParallelConfig parallel_config(int64_t ep, bool distributed) {
  comm::ParallelConfig config;
  config.expert_model_parallel_size = ep;
  config.use_distributed_optimizer = distributed;
  return config;
}

struct Shape {
  const char* name;
  std::vector<int64_t> sizes;
};

const std::vector<Shape> kShapes{{"embed.weight", {37, 5}},   // 185: no multiple of anything
                                 {"norm.weight", {7}},        //
                                 {"scale", {1}},              // fewer values than ranks
                                 {"frozen.weight", {6, 6}},   // wants no gradient
                                 {"unused.weight", {5, 9}},   // gets none
                                 {"seldom.weight", {33, 3}},  // gets one from the last rank alone
                                 {"layers.0.moe.experts.up_proj", {kExperts, 11, 3}},
                                 {"layers.0.moe.experts.up_proj_bias", {kExperts, 7}}};

// Multiples of 1/64 in [-1, 1], different ones for each seed.
at::Tensor pattern(const std::vector<int64_t>& sizes, int64_t seed) {
  const at::Tensor out = at::empty(sizes);
  auto* values = out.mutable_data_ptr<float>();
  for (int64_t i = 0; i < out.numel(); ++i) {
    const uint64_t bits = random_bits(static_cast<uint64_t>(seed), static_cast<uint64_t>(i));
    values[i] = static_cast<float>(static_cast<int64_t>(bits % 129) - 64) / 64.0f;
  }
  return out;
}

// Of the experts those that a rank has.
at::Tensor own_experts(const std::string& name, const at::Tensor& whole, int64_t ep,
                       int64_t ep_rank) {
  if (!is_expert_parameter(name)) return whole;
  return whole.narrow(0, ep_rank * (kExperts / ep), kExperts / ep).clone();
}

NamedTensors make_parameters(int64_t ep, int64_t ep_rank) {
  NamedTensors parameters;
  for (const auto& [name, sizes] : kShapes) {
    at::Tensor value = own_experts(name, pattern(sizes, 1), ep, ep_rank);
    parameters.emplace_back(name, value.requires_grad_(std::string(name) != "frozen.weight"));
  }
  return parameters;
}

bool gets_gradient(const std::string& name, bool is_last_rank) {
  if (name == "frozen.weight" || name == "unused.weight") return false;
  return name != "seldom.weight" || is_last_rank;
}

constexpr int64_t kSteps = 5;

struct Result {
  std::vector<double> norms;  // of each step
  NamedTensors parameters;
  NamedTensors state;
};

// What one rank's optimiser makes of the gradients of all.
Result run_rank(const comm::ParallelContext& context, const NamedTensors& parameters,
                const std::function<at::Tensor(const std::string&, int64_t step)>& gradient) {
  at::set_num_threads(1);
  const auto optimizer = make_optimizer({}, parameters, context);
  GradientReducer reducer(optimizer->parts(), /*bucket_bytes=*/600);
  Result result;
  for (int64_t step = 0; step < kSteps; ++step) {
    at::Tensor loss = at::zeros({});
    for (const auto& [name, parameter] : parameters) {
      const at::Tensor factor = gradient(name, step);
      if (factor.defined()) loss = loss + (parameter * factor).sum();
    }
    reducer.start();
    loss.backward();
    reducer.finish();
    result.norms.push_back(gradient_norm(optimizer->parts(), context));
    optimizer->step(0.01, 2.0);
    reducer.gather_parameters();
    for (const ParameterPart& part : optimizer->parts()) {
      part.parameter.mutable_grad().reset();
      part.value.mutable_grad().reset();
    }
  }
  for (const auto& [name, parameter] : parameters)
    result.parameters.emplace_back(name, parameter.detach());
  result.state = optimizer->state();
  return result;
}

at::Tensor whole_gradient(const std::string& name, int64_t step, int64_t rank) {
  const auto shape = std::find_if(kShapes.begin(), kShapes.end(),
                                  [&](const Shape& one) { return one.name == name; });
  return pattern(shape->sizes, 100 + step * 10 + rank);
}

// Run once, looked at by several tests.
const std::vector<Result>& run_ranks(int64_t world_size, int64_t ep, bool distributed) {
  static std::map<std::tuple<int64_t, int64_t, bool>, std::vector<Result>> done;
  const auto [place, is_new] = done.try_emplace({world_size, ep, distributed});
  std::vector<Result>& results = place->second;
  if (!is_new) return results;
  results.resize(static_cast<size_t>(world_size));
  comm::run_thread_ranks(
      world_size, parallel_config(ep, distributed), [&](const comm::ParallelContext& context) {
        const auto gradient = [&](const std::string& name, int64_t step) {
          if (!gets_gradient(name, context.rank == world_size - 1)) return at::Tensor();
          return own_experts(name, whole_gradient(name, step, context.rank), ep, context.ep_rank);
        };
        results[static_cast<size_t>(context.rank)] =
            run_rank(context, make_parameters(ep, context.ep_rank), gradient);
      });
  return results;
}

// The same with one rank, which has the gradients of all.
Result run_alone(int64_t world_size, int64_t ep) {
  const comm::Layout layout{world_size, ep, false};
  const auto gradient = [&](const std::string& name, int64_t step) {
    at::Tensor sum;
    for (int64_t rank = 0; rank < world_size; ++rank) {
      if (!gets_gradient(name, rank == world_size - 1)) continue;
      at::Tensor own = whole_gradient(name, step, rank);
      if (is_expert_parameter(name)) {  // none for the experts of others
        const at::Tensor mask = at::zeros_like(own);
        mask.narrow(0, layout.ep_rank(rank) * (kExperts / ep), kExperts / ep).fill_(1);
        own = own * mask;
      }
      sum = sum.defined() ? sum + own : own;
    }
    return sum;
  };
  return run_rank(comm::alone(), make_parameters(1, 0), gradient);
}

struct Ranks {
  int64_t world_size, ep;
};

class DistributedOptimizer : public testing::TestWithParam<Ranks> {};

TEST_P(DistributedOptimizer, UpdatesBitForBitLikeWholeStatesWhereGradientsAddUpExactly) {
  const auto [world_size, ep] = GetParam();
  const auto& whole = run_ranks(world_size, ep, false);
  const auto& parts = run_ranks(world_size, ep, true);
  for (int64_t rank = 0; rank < world_size; ++rank) {
    const Result& expected = whole[static_cast<size_t>(rank)];
    const Result& found = parts[static_cast<size_t>(rank)];
    for (size_t i = 0; i < expected.parameters.size(); ++i) {
      EXPECT_TRUE(at::equal(expected.parameters[i].second, found.parameters[i].second))
          << expected.parameters[i].first << " of rank " << rank;
    }
    for (size_t step = 0; step < kSteps; ++step) {
      EXPECT_NEAR(found.norms[step], expected.norms[step], 1e-6 * expected.norms[step]);
      EXPECT_EQ(found.norms[step], parts[0].norms[step]) << "ranks differ";
    }
  }
}

TEST_P(DistributedOptimizer, UpdatesLikeOneRankThatHasAllGradients) {
  const auto [world_size, ep] = GetParam();
  const Result alone = run_alone(world_size, ep);
  for (const bool distributed : {false, true}) {
    const auto& results = run_ranks(world_size, ep, distributed);
    for (size_t rank = 0; rank < results.size(); ++rank) {
      const int64_t ep_rank =
          comm::Layout{world_size, ep, false}.ep_rank(static_cast<int64_t>(rank));
      for (size_t step = 0; step < kSteps; ++step) {
        EXPECT_NEAR(results[rank].norms[step], alone.norms[step], 1e-6 * alone.norms[step]);
      }
      for (size_t i = 0; i < alone.parameters.size(); ++i) {
        const auto& [name, value] = alone.parameters[i];
        EXPECT_TRUE(at::allclose(results[rank].parameters[i].second,
                                 own_experts(name, value, ep, ep_rank), 1e-5, 1e-6))
            << name << " of rank " << rank << (distributed ? ", distributed" : "");
      }
    }
  }
}

TEST_P(DistributedOptimizer, LeavesAloneWhatHasNoGradientOnAnyRank) {
  const auto [world_size, ep] = GetParam();
  for (const bool distributed : {false, true}) {
    for (const Result& result : run_ranks(world_size, ep, distributed)) {
      for (const auto& [name, value] : result.parameters) {
        if (is_expert_parameter(name)) continue;
        const bool is_left = name == "frozen.weight" || name == "unused.weight";
        EXPECT_EQ(at::equal(value, pattern(value.sizes().vec(), 1)), is_left) << name;
      }
      for (const auto& [name, value] : result.state) {
        if (!name.starts_with("step.")) continue;
        const bool is_left = name == "step.frozen.weight" || name == "step.unused.weight";
        EXPECT_EQ(value.item<float>(), is_left ? 0 : kSteps) << name;
      }
    }
  }
}

TEST_P(DistributedOptimizer, KeepsTheStateOfEachValueOnOneRank) {
  const auto [world_size, ep] = GetParam();
  const int64_t edp = world_size / ep;
  std::map<std::string, int64_t> total;
  for (const Result& result : run_ranks(world_size, ep, true)) {
    for (const auto& [name, value] : result.state) total[name] += value.numel();
  }
  for (const auto& [name, sizes] : kShapes) {
    const int64_t numel = c10::multiply_integers(sizes);
    for (const char* slot : {"exp_avg.", "exp_avg_sq."}) {
      EXPECT_EQ(total.at(std::string(slot) + name), numel) << slot << name;
    }
  }
  // Shared out evenly but for the rounding up to whole vectors.
  for (const Result& result : run_ranks(world_size, ep, true)) {
    for (const auto& [name, value] : result.state) {
      const bool is_expert = is_expert_parameter(name);
      if (name.starts_with("step.")) continue;
      const int64_t held = is_expert ? total.at(name) / ep : total.at(name);
      EXPECT_LT(value.numel(), held / (is_expert ? edp : world_size) + 16) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, DistributedOptimizer,
                         testing::Values(Ranks{1, 1}, Ranks{2, 1}, Ranks{2, 2}, Ranks{3, 1},
                                         Ranks{4, 1}, Ranks{4, 2}, Ranks{4, 4}),
                         [](const auto& one) {
                           return "World" + std::to_string(one.param.world_size) + "Ep" +
                                  std::to_string(one.param.ep);
                         });

}  // namespace
}  // namespace locus::train
