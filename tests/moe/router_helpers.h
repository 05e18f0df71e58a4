// What the router tests share: routers from a few words, gates whose logits are the input,
// comparisons.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "locus/base/toml.h"
#include "locus/moe/router.h"
#include "tests/reference/router_reference.h"

namespace locus::moe {

inline OptionSet options_of(const std::string& name, const std::string& toml = "") {
  OptionSet options = find_router(name).options();
  read_toml("test", toml, {}, options.fields());
  return options;
}

inline RouterConfig config_of(const std::string& name) {
  RouterConfig config;
  config.type = name;
  return config;
}

inline RouterContext context_of(int64_t num_experts, int64_t hidden_size) {
  return {.layer = 3,
          .hidden_size = hidden_size,
          .num_experts = num_experts,
          .vocab_size = 97,
          .seed = 7,
          .init_std = 0.5,
          .token_frequency = {},
          .pool = {},
          .node_of_expert = {},
          .allowed_GE = {},
          .first_step = 0};
}

// A gate whose logits are its input: D = E, weight = identity.
inline std::shared_ptr<Router> identity_router(const RouterConfig& config, int64_t num_experts,
                                               const std::string& toml = "") {
  auto router =
      make_router(config, context_of(num_experts, num_experts), options_of(config.type, toml));
  const at::NoGradGuard no_grad;
  router->named_parameters()["weight"].copy_(at::eye(num_experts));
  return router;
}

// Tokens first .. first + T - 1 of a global batch.
inline TokenContext tokens_of(int64_t num_tokens, int64_t first = 0, int64_t num_sequences = 1) {
  TokenContext tokens;
  tokens.global_index_T = at::arange(first, first + num_tokens, at::kLong);
  tokens.id_T = (tokens.global_index_T * 31 + 5) % 97;
  tokens.domain_T = at::zeros({num_tokens}, at::kLong);
  tokens.num_sequences = num_sequences;
  tokens.step = 11;
  return tokens;
}

inline at::Tensor random_input(int64_t num_tokens, int64_t hidden_size, uint64_t seed = 1) {
  return at::randn({num_tokens, hidden_size}, at::detail::createCPUGenerator(seed),
                   at::TensorOptions(at::kFloat));
}

inline std::vector<double> numbers_of(const at::Tensor& values) {
  const at::Tensor v = values.detach().to(at::kDouble).contiguous();
  return {v.const_data_ptr<double>(), v.const_data_ptr<double>() + v.numel()};
}

inline reference::Matrix matrix_of(const at::Tensor& x) {
  reference::Matrix rows;
  for (int64_t r = 0; r < x.size(0); ++r) rows.push_back(numbers_of(x[r]));
  return rows;
}

inline at::Tensor tensor_of(const reference::Matrix& rows) {
  std::vector<at::Tensor> stacked;
  for (const reference::Row& row : rows) stacked.push_back(at::tensor(row, at::kDouble));
  return at::stack(stacked).to(at::kFloat);
}

inline std::vector<int64_t> list_of(const at::Tensor& values) {
  const at::Tensor v = values.to(at::kLong).contiguous();
  return {v.const_data_ptr<int64_t>(), v.const_data_ptr<int64_t>() + v.numel()};
}

inline void expect_near(const std::vector<double>& got, const std::vector<double>& want,
                        double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], tolerance) << "entry " << i;
}

inline void expect_routing(const Routing& got, const std::vector<reference::Pair>& want) {
  std::vector<int64_t> tokens, experts;
  std::vector<double> weights;
  for (const reference::Pair& pair : want) {
    tokens.push_back(pair.token);
    experts.push_back(pair.expert);
    weights.push_back(pair.weight);
  }
  EXPECT_EQ(list_of(got.assignment.token_N), tokens);
  EXPECT_EQ(list_of(got.assignment.expert_N), experts);
  expect_near(numbers_of(got.weight_N), weights, 1e-6);
}

// The text of the one problem that the settings must have.
inline std::string only_problem(const RouterConfig& config, int64_t num_experts,
                                const std::string& toml = "") {
  const auto problems =
      find_router(config.type).validate(config, num_experts, options_of(config.type, toml));
  EXPECT_EQ(problems.size(), 1u);
  return problems.empty() ? "" : problems[0];
}

}  // namespace locus::moe
