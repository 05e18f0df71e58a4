#include "locus/eval/perplexity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <numeric>

#include "locus/base/error.h"
#include "locus/base/signals.h"
#include "locus/comm/collectives.h"
#include "locus/eval/eval_mode.h"
#include "locus/model/batch_tensors.h"
#include "locus/ops/cross_entropy.h"

namespace locus::eval {
namespace {

constexpr const char* kUnknownDomain = "unknown";

double mean(double sum, int64_t count) {
  return count > 0 ? sum / static_cast<double>(count) : std::numeric_limits<double>::quiet_NaN();
}

// For as long as it lives: routers evaluate with their training rule, and it is compared with the
// causal one.
class TrainingRule {
 public:
  explicit TrainingRule(const model::Transformer& model) : model_(model) { set(true); }
  ~TrainingRule() { set(false); }
  TrainingRule(const TrainingRule&) = delete;
  TrainingRule& operator=(const TrainingRule&) = delete;

 private:
  void set(bool value) {
    for (const auto& [number, layer] : model_.moe_layers()) {
      layer->evaluate_with_training_rule(value);
    }
  }
  const model::Transformer& model_;
};

// For as long as it lives: the model reads the domains of batches by these names.
class DomainNames {
 public:
  DomainNames(model::Transformer& model, const std::vector<std::string>& names)
      : model_(model), before_(model.domain_names()) {
    model_.set_domain_names(names);
  }
  ~DomainNames() { model_.set_domain_names(before_); }
  DomainNames(const DomainNames&) = delete;
  DomainNames& operator=(const DomainNames&) = delete;

 private:
  model::Transformer& model_;
  const std::vector<std::string> before_;
};

class Evaluator {
 public:
  Evaluator(model::Transformer& model, const std::vector<int32_t>& bytes_per_token,
            const std::vector<std::string>& domain_names)
      : model_(model),
        bytes_per_token_(bytes_per_token),
        domain_names_(domain_names),
        scores_(domain_names.size() + 1) {}

  // Without `counts`, only the other ranks' tokens that come to this one's experts matter.
  void add(const data::Batch& batch, bool counts = true) {
    model::check_ids(batch, model_.output_weight().size(0));
    const at::Device device = model_.output_weight().device();
    const model::BatchTensors tensors = model::to_tensors(batch, device);
    const at::Tensor hidden_TD = model_.forward(tensors.input).hidden_TD;
    moe::RuleAgreement agreement;
    for (const auto& [number, layer] : model_.moe_layers()) {
      const moe::RuleAgreement one = layer->take_agreement();
      agreement.tokens += one.tokens;
      agreement.equal += one.equal;
    }
    if (!counts) return;
    agreement_.tokens += agreement.tokens;
    agreement_.equal += agreement.equal;
    const ops::CrossEntropy losses = ops::linear_cross_entropy(
        hidden_TD, model_.output_weight(), tensors.labels_T, /*want_correct=*/true);
    add_tokens(batch, losses.loss_T.to(at::kCPU, at::kDouble).contiguous(),
               losses.correct_T.to(at::kCPU).contiguous());
  }

  Evaluation result() {
    sum_over_ranks();
    Evaluation evaluation;
    evaluation.rule_agreement = mean(static_cast<double>(agreement_.equal), agreement_.tokens);
    for (size_t i = 0; i < scores_.size(); ++i) {
      if (scores_[i].tokens == 0) continue;
      evaluation.total += scores_[i];
      if (domain_names_.empty()) continue;
      evaluation.by_domain[i == 0 ? kUnknownDomain : domain_names_[i - 1]] += scores_[i];
    }
    if (evaluation.total.tokens == 0) {
      throw DataError("the evaluation data holds no token to predict");
    }
    return evaluation;
  }

 private:
  void sum_over_ranks() {
    comm::ProcessGroup* world = model_.config().parallel.world.get();
    if (world == nullptr) return;
    std::vector<double> values;
    for (const Score& score : scores_) {
      values.push_back(score.loss_sum);
      for (const int64_t count : {score.tokens, score.correct, score.bytes}) {
        values.push_back(static_cast<double>(count));
      }
    }
    for (const int64_t count : {agreement_.tokens, agreement_.equal}) {
      values.push_back(static_cast<double>(count));
    }
    const at::Tensor sum = comm::sum_over(world, at::tensor(values, at::kDouble));
    const double* value = sum.const_data_ptr<double>();
    for (Score& score : scores_) {
      score.loss_sum = *value++;
      for (int64_t* count : {&score.tokens, &score.correct, &score.bytes}) {
        *count = static_cast<int64_t>(*value++);
      }
    }
    agreement_ = {static_cast<int64_t>(value[0]), static_cast<int64_t>(value[1])};
  }

  void add_tokens(const data::Batch& batch, const at::Tensor& loss_T, const at::Tensor& correct_T) {
    const double* loss = loss_T.const_data_ptr<double>();
    const bool* correct = correct_T.const_data_ptr<bool>();
    for (size_t i = 0; i < batch.labels.size(); ++i) {
      if (batch.labels[i] < 0) continue;
      const auto slot = static_cast<size_t>(batch.domain_ids[i] + 1);  // 0: unknown
      Score& score = scores_[slot < scores_.size() ? slot : 0];
      score.loss_sum += loss[i];
      score.tokens += 1;
      score.correct += correct[i];
      score.bytes += bytes_of(batch.labels[i]);
    }
  }

  int64_t bytes_of(int32_t id) const {
    const auto index = static_cast<size_t>(id);
    return index < bytes_per_token_.size() ? bytes_per_token_[index] : 0;
  }

  model::Transformer& model_;
  const std::vector<int32_t>& bytes_per_token_;
  const std::vector<std::string>& domain_names_;
  moe::RuleAgreement agreement_;
  std::vector<Score> scores_;  // tokens of no domain, then by domain
};

// Which of `count` batches are looked at: the middles of equal shares.
std::vector<int64_t> chosen_batches(int64_t count, int64_t max_batches) {
  const int64_t wanted = max_batches > 0 ? std::min(count, max_batches) : count;
  std::vector<int64_t> chosen(static_cast<size_t>(wanted));
  for (int64_t i = 0; i < wanted; ++i) {
    chosen[static_cast<size_t>(i)] = (2 * i + 1) * count / (2 * wanted);
  }
  return chosen;
}

template <class BatchAt>
Evaluation evaluate_batches(model::Transformer& model, int64_t count, const BatchAt& batch_at,
                            const std::vector<int32_t>& bytes_per_token,
                            const std::vector<std::string>& domain_names,
                            const EvaluateOptions& options) {
  const EvalMode eval_mode(model);
  const auto rule = options.training_rule ? std::make_unique<TrainingRule>(model) : nullptr;
  const DomainNames names(model, options.infer_domains ? std::vector<std::string>() : domain_names);
  Evaluator evaluator(model, bytes_per_token, domain_names);
  const std::vector<int64_t> chosen = chosen_batches(count, options.max_batches);
  // Ranks take turns. All go through equally many batches, since tokens travel between them;
  // whoever has none left repeats the last one.
  const comm::ParallelContext& parallel = model.config().parallel;
  const auto num_ranks = static_cast<size_t>(parallel.world_size);
  const auto rank = static_cast<size_t>(parallel.rank);
  for (size_t i = 0; i < chosen.size(); i += num_ranks) {
    const int signal = parallel.is_alone() ? received_signal() : 0;  // ranks stop after the step
    if (signal != 0) throw Interrupted(signal);
    const bool counts = i + rank < chosen.size();
    evaluator.add(batch_at(chosen[counts ? i + rank : chosen.size() - 1]), counts);
    if (options.progress) {
      options.progress(static_cast<int64_t>(std::min(i + num_ranks, chosen.size())),
                       static_cast<int64_t>(chosen.size()));
    }
  }
  return evaluator.result();
}

// Rows [first, first + count) of the windows over `ids`.
data::Batch window_rows(const std::vector<int32_t>& ids, int32_t eod, int64_t length, int64_t first,
                        int64_t count) {
  const auto size = static_cast<size_t>(count * length);
  data::Batch batch{.num_sequences = count,
                    .sequence_length = length,
                    .input_ids = std::vector<int32_t>(size, eod),
                    .labels = std::vector<int32_t>(size, -1),
                    .position_ids = std::vector<int32_t>(size),
                    .document_ids = std::vector<int32_t>(size, 0),
                    .domain_ids = std::vector<int16_t>(size, -1),
                    .global_sequence_index = std::vector<int64_t>(static_cast<size_t>(count))};
  std::iota(batch.global_sequence_index.begin(), batch.global_sequence_index.end(), first);
  const auto begin = static_cast<size_t>(first * length);
  for (size_t i = 0; i < size; ++i) {
    batch.position_ids[i] = static_cast<int32_t>(i % static_cast<size_t>(length));
    const size_t place = begin + i;
    if (place >= ids.size()) continue;  // behind the text: no loss, and seen by nothing before it
    batch.labels[i] = ids[place];
    if (place > 0) batch.input_ids[i] = ids[place - 1];
  }
  return batch;
}

}  // namespace

double Score::loss() const { return mean(loss_sum, tokens); }

double Score::perplexity() const { return std::exp(loss()); }

double Score::accuracy() const { return mean(static_cast<double>(correct), tokens); }

double Score::bits_per_byte() const { return mean(loss_sum / std::numbers::ln2, bytes); }

Score& Score::operator+=(const Score& other) {
  loss_sum += other.loss_sum;
  tokens += other.tokens;
  correct += other.correct;
  bytes += other.bytes;
  return *this;
}

bool looks_ahead_in_training(const model::Transformer& model) {
  const auto& layers = model.moe_layers();
  return std::any_of(layers.begin(), layers.end(), [](const auto& numbered) {
    return !numbered.second->router().is_causal_in_training();
  });
}

bool routes_by_domain(const model::Transformer& model) {
  return !model.config().moe.domain_groups.empty() && !model.moe_layers().empty();
}

std::vector<int32_t> bytes_per_token(const data::Tokenizer& tokenizer) {
  std::vector<int32_t> bytes(static_cast<size_t>(tokenizer.vocab_size()));
  for (size_t id = 0; id < bytes.size(); ++id) {
    bytes[id] = static_cast<int32_t>(tokenizer.piece(static_cast<int32_t>(id)).size());
  }
  bytes.at(static_cast<size_t>(tokenizer.eod_id())) = 0;
  return bytes;
}

Evaluation evaluate(model::Transformer& model, const data::SampleSource& source,
                    const std::vector<int32_t>& bytes_per_token, const EvaluateOptions& options) {
  LOCUS_CHECK(options.batch_size > 0, "batch_size {}", options.batch_size);
  const int64_t num_sequences = source.num_evaluation_sequences();
  const auto batch_at = [&](int64_t index) {
    const int64_t first = index * options.batch_size;
    return source.evaluation_batch(first, std::min(options.batch_size, num_sequences - first));
  };
  const int64_t count = (num_sequences + options.batch_size - 1) / options.batch_size;
  return evaluate_batches(model, count, batch_at, bytes_per_token, source.domain_names(), options);
}

Evaluation evaluate(model::Transformer& model, const std::vector<data::Batch>& batches,
                    const std::vector<int32_t>& bytes_per_token, const EvaluateOptions& options,
                    const std::vector<std::string>& domain_names) {
  const auto batch_at = [&](int64_t index) -> const data::Batch& {
    return batches[static_cast<size_t>(index)];
  };
  return evaluate_batches(model, static_cast<int64_t>(batches.size()), batch_at, bytes_per_token,
                          domain_names, options);
}

std::vector<data::Batch> windows(const std::vector<int32_t>& ids, int32_t eod,
                                 int64_t sequence_length, int64_t batch_size) {
  LOCUS_CHECK(sequence_length > 0 && batch_size > 0, "windows of {} x {}", batch_size,
              sequence_length);
  std::vector<data::Batch> batches;
  if (ids.empty()) return batches;
  const auto num_tokens = static_cast<int64_t>(ids.size());
  const int64_t length = std::min(sequence_length, num_tokens);
  const int64_t num_windows = (num_tokens + length - 1) / length;
  for (int64_t first = 0; first < num_windows; first += batch_size) {
    batches.push_back(
        window_rows(ids, eod, length, first, std::min(batch_size, num_windows - first)));
  }
  return batches;
}

}  // namespace locus::eval
