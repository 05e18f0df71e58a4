// Hash layers: the expert is a fixed function of the token id (Roller et al., 2021, arXiv
// 2106.04426).
//
// No parameters, no losses, no gradient into the routing; one map for all layers, positions and
// steps, and for evaluation. The map is a buffer, `table` [K, V], so that a checkpoint carries it:
// what is loaded wins over what was built.
//
//   modulo    id mod E
//   random    a keyed permutation of the vocabulary, then mod E: experts own equally many ids
//   balanced  most frequent id first, each to the expert with the least load so far
//
// Where we differ: with top_k > 1, K tables give a token K different experts with weight 1/K each
// (the paper's MultiHash splits one expert instead). An id that never occurs counts as one that
// occurs once, so that such ids spread over all experts.
//
// T tokens, V vocabulary, E experts, K tables, N assignments.
#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"

namespace locus::moe {
namespace {

struct HashOptions {
  std::string table = "random";

  template <class V>
  void visit_fields(V& v) {
    v("table", table, "expert of a token id: modulo | random | balanced (by frequency)");
  }
};

using Table = std::vector<int64_t>;  // [V], the expert of each id

bool is_taken(const std::vector<Table>& earlier, int64_t id, int64_t expert) {
  return std::any_of(earlier.begin(), earlier.end(),
                     [=](const Table& table) { return table[static_cast<size_t>(id)] == expert; });
}

// place(id) mod E, or the next expert that no earlier table gives to this id.
template <class Place>
Table modulo_table(const RouterContext& context, const std::vector<Table>& earlier, Place place) {
  Table table(static_cast<size_t>(context.vocab_size));
  for (int64_t id = 0; id < context.vocab_size; ++id) {
    int64_t expert = place(id) % context.num_experts;
    while (is_taken(earlier, id, expert)) expert = (expert + 1) % context.num_experts;
    table[static_cast<size_t>(id)] = expert;
  }
  return table;
}

Table random_table(const RouterContext& context, const std::vector<Table>& earlier) {
  const uint64_t key = random_key({context.seed, name_key("hash"), earlier.size()});
  const auto size = static_cast<uint64_t>(context.vocab_size);
  return modulo_table(context, earlier, [=](int64_t id) {
    return static_cast<int64_t>(permute_index(key, static_cast<uint64_t>(id), size));
  });
}

// Greedy bin packing, longest processing time first.
Table balanced_table(const RouterContext& context, const std::vector<Table>& earlier) {
  const std::vector<int64_t>& frequency = context.token_frequency;
  std::vector<int64_t> ids(frequency.size());
  std::iota(ids.begin(), ids.end(), int64_t{0});
  const auto count = [&](int64_t id) { return frequency[static_cast<size_t>(id)]; };
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int64_t a, int64_t b) { return count(a) > count(b); });

  std::set<std::pair<int64_t, int64_t>> loads;  // (load, expert): the least loaded first
  for (int64_t expert = 0; expert < context.num_experts; ++expert) loads.emplace(0, expert);
  Table table(frequency.size());
  for (const int64_t id : ids) {
    const auto emptiest = std::find_if(loads.begin(), loads.end(), [&](const auto& entry) {
      return !is_taken(earlier, id, entry.second);
    });
    const auto [load, expert] = *emptiest;
    loads.erase(emptiest);
    loads.emplace(load + std::max<int64_t>(1, count(id)), expert);
    table[static_cast<size_t>(id)] = expert;
  }
  return table;
}

at::Tensor build_tables(const std::string& kind, int64_t num_tables, const RouterContext& context) {
  std::vector<Table> tables;
  std::vector<at::Tensor> rows;
  for (int64_t k = 0; k < num_tables; ++k) {
    if (kind == "modulo") {
      tables.push_back(modulo_table(context, tables, [](int64_t id) { return id; }));
    } else if (kind == "random") {
      tables.push_back(random_table(context, tables));
    } else {
      tables.push_back(balanced_table(context, tables));
    }
    rows.push_back(at::tensor(tables.back(), at::kLong));
  }
  return at::stack(rows);
}

// The first tables of the layer before experts were cut from it, by the numbers of those that are
// left. A token whose expert is gone goes to the one with the highest draw for it, of those that no
// other table gives to it: the same one whatever else was cut before (rendezvous hashing, Thaler
// and Ravishankar, 1998).
// `kept_rows`: their numbers in that layer; `names`: those that draws are keyed by.
at::Tensor cut_tables(const at::Tensor& table_KV, int64_t num_tables, int64_t num_experts,
                      const std::vector<int64_t>& kept_rows, const std::vector<int64_t>& names) {
  constexpr int64_t kNone = -1;
  std::vector<int64_t> number(static_cast<size_t>(num_experts), kNone);
  for (size_t i = 0; i < kept_rows.size(); ++i) {
    number[static_cast<size_t>(kept_rows[i])] = static_cast<int64_t>(i);
  }
  const at::Tensor on_host = table_KV.cpu();
  const auto before = on_host.accessor<int64_t, 2>();
  std::vector<Table> tables(static_cast<size_t>(num_tables));
  for (size_t k = 0; k < tables.size(); ++k) {
    for (int64_t id = 0; id < table_KV.size(1); ++id) {
      const int64_t expert = before[static_cast<int64_t>(k)][id];
      tables[k].push_back(number[static_cast<size_t>(expert)]);
    }
  }
  const auto best_of = [&](int64_t id) {
    int64_t best = kNone;
    uint64_t highest = 0;
    for (size_t i = 0; i < names.size(); ++i) {
      const auto own = static_cast<int64_t>(i);
      const uint64_t draw = random_key(
          {name_key("rendezvous"), static_cast<uint64_t>(id), static_cast<uint64_t>(names[i])});
      if (is_taken(tables, id, own) || (best != kNone && draw <= highest)) continue;
      best = own;
      highest = draw;
    }
    return best;
  };
  std::vector<at::Tensor> rows;
  for (Table& table : tables) {
    for (size_t id = 0; id < table.size(); ++id) {
      if (table[id] == kNone) table[id] = best_of(static_cast<int64_t>(id));
    }
    rows.push_back(at::tensor(table, at::kLong));
  }
  return at::stack(rows);
}

class HashRouter final : public Router {
 public:
  HashRouter(const RouterConfig& config, const RouterContext& context, const HashOptions& options)
      : Router(config, context) {
    table_KV_ = register_buffer("table", build_tables(options.table, config.top_k, context));
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    Routing routing;
    routing.assignment = replay ? *replay : choose(tokens);
    routing.num_requested = routing.assignment.requested_TK.numel();
    routing.weight_N =
        at::full(routing.assignment.token_N.sizes(), 1.0 / static_cast<double>(config_.top_k),
                 x_TD.options().dtype(compute_type(x_TD)).requires_grad(false));
    if (is_training() && !replay) {
      add_requested(requested_E, routing.assignment.requested_TK, context_.num_experts);
    }
    return routing;
  }

  void set_evaluate_with_training_rule(bool value) override { limit_in_evaluation_ = value; }

  void cut_from(const Router& whole) override {
    const at::NoGradGuard no_grad;
    const at::Tensor table_KV = whole.named_buffers()["table"];
    const std::vector<int64_t> rows = kept_rows(whole);
    const bool is_cut = !context_.kept_experts.empty();
    table_KV_.copy_(cut_tables(table_KV, config_.top_k, whole.context().num_experts, rows,
                               is_cut ? context_.kept_experts : rows));
  }

 private:
  Assignment choose(const TokenContext& tokens) const {
    LOCUS_CHECK(tokens.id_T.defined(), "hash routing needs TokenContext::id_T");
    const Assignment requested = assign(table_KV_.index_select(1, tokens.id_T).t().contiguous());
    if (!(is_training() || limit_in_evaluation_)) return requested;
    // All weights are equal: both drop policies keep the first to come.
    return within_capacity_factor(
        config_, context_, tokens, requested,
        at::zeros({requested.expert_N.size(0)}, requested.expert_N.options().dtype(at::kFloat)));
  }

  at::Tensor table_KV_;
  bool limit_in_evaluation_ = false;
};

void check_frequency(const RouterContext& context) {
  if (context.token_frequency.empty()) {
    throw ConfigError(
        "moe.hash.table = \"balanced\" needs the token counts of the training data, and there "
        "are none; prepare the data anew, or use \"random\" or \"modulo\"");
  }
  if (static_cast<int64_t>(context.token_frequency.size()) != context.vocab_size) {
    throw ConfigError(
        "moe.hash.table = \"balanced\": the training data counts {} token ids, the model's "
        "vocabulary has {}",
        context.token_frequency.size(), context.vocab_size);
  }
}

}  // namespace

std::shared_ptr<Router> make_hash_router(const RouterConfig& config, const RouterContext& context,
                                         const OptionSet& option_set) {
  const auto& options = option_set.as<HashOptions>();
  LOCUS_CHECK(context.vocab_size > 0, "vocabulary of {}", context.vocab_size);
  if (options.table == "balanced") check_frequency(context);
  return std::make_shared<HashRouter>(config, context, options);
}

OptionSet hash_options() { return OptionSet::of<HashOptions>(); }

std::vector<std::string> validate_hash(const RouterConfig& config, int64_t num_experts,
                                       const OptionSet& options) {
  std::vector<std::string> problems = common_problems(config, num_experts);
  check_top_k(problems, config, num_experts);
  if (config.z_loss_coeff > 0) {
    problems.push_back(format("moe.router.z_loss_coeff = {}: the hash router has no logits; set 0",
                              config.z_loss_coeff));
  }
  check_choice(problems, "hash.table", options.as<HashOptions>().table,
               {"modulo", "random", "balanced"});
  return problems;
}

}  // namespace locus::moe
