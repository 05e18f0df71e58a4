#include "locus/eval/beam_search.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/signals.h"
#include "locus/eval/eval_mode.h"

namespace locus::eval {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

// A translation that is not finished yet.
struct Beam {
  std::vector<int32_t> ids;
  double log_probability = kNever;
};

// How a beam goes on: with this token, behind beam number `beam` of its text.
struct Step {
  int64_t beam = 0;
  int32_t id = 0;
  double log_probability = 0;
};

// One text and its beams.
class Search {
 public:
  Search(size_t text, int64_t limit, const BeamSearchOptions& options, int32_t eod_id)
      : text_(text), limit_(limit), options_(options), eod_id_(eod_id) {
    beams_.resize(static_cast<size_t>(options.num_beams));
    beams_.front().log_probability = 0;  // all are the same at first: one of them counts
  }

  size_t text() const { return text_; }
  bool is_done() const { return is_done_; }
  const std::vector<Beam>& beams() const { return beams_; }

  // Takes the likeliest steps, best first, of which some end a translation. Returns the beams that
  // the new ones go on from.
  std::vector<int64_t> advance(const std::vector<Step>& steps) {
    std::vector<Beam> next;
    std::vector<int64_t> origin;
    for (size_t rank = 0; rank < steps.size() && next.size() < beams_.size(); ++rank) {
      const Step& step = steps[rank];
      const Beam& before = beams_[static_cast<size_t>(step.beam)];
      if (step.id == eod_id_) {
        // One that many others are likelier than is no candidate.
        if (rank < beams_.size()) finish(before.ids, step.log_probability, /*has_end=*/true);
        continue;
      }
      next.push_back({before.ids, step.log_probability});
      next.back().ids.push_back(step.id);
      origin.push_back(step.beam);
    }
    // Where a vocabulary has fewer tokens than are wanted: beams that nothing goes on from.
    while (next.size() < beams_.size()) {
      next.push_back({next.back().ids, kNever});
      origin.push_back(origin.back());
    }
    beams_ = std::move(next);
    settle();
    return origin;
  }

  Translation best() const { return finished_.front(); }

 private:
  double score(double log_probability, size_t length) const {
    return log_probability / std::pow(static_cast<double>(length), options_.length_penalty);
  }

  void finish(const std::vector<int32_t>& ids, double log_probability, bool has_end) {
    const size_t length = ids.size() + (has_end ? 1 : 0);
    finished_.push_back({ids, log_probability, score(log_probability, length)});
    std::stable_sort(finished_.begin(), finished_.end(),
                     [](const auto& a, const auto& b) { return a.score > b.score; });
    finished_.resize(std::min(finished_.size(), static_cast<size_t>(options_.num_beams)));
  }

  void settle() {
    const size_t length = beams_.front().ids.size();
    if (std::cmp_greater_equal(length, limit_)) {
      for (const Beam& beam : beams_) finish(beam.ids, beam.log_probability, /*has_end=*/false);
      is_done_ = true;
      return;
    }
    const double reachable = score(beams_.front().log_probability, length + 1);
    is_done_ = std::cmp_equal(finished_.size(), options_.num_beams) &&
               (finished_.size() == 1 || finished_.back().score >= reachable);
  }

  size_t text_;
  int64_t limit_;
  const BeamSearchOptions& options_;
  int32_t eod_id_;
  std::vector<Beam> beams_;            // best first
  std::vector<Translation> finished_;  // best first, at most num_beams
  bool is_done_ = false;
};

// The texts of one batch. Rows of the cache: the beams of the first text, of the second, ...
class BatchSearch {
 public:
  BatchSearch(model::Transformer& model, int32_t eod_id, int64_t vocab_size,
              const std::vector<std::vector<int32_t>>& texts, const std::vector<size_t>& chosen,
              const BeamSearchOptions& options)
      : model_(model), eod_id_(eod_id), vocab_size_(vocab_size), num_beams_(options.num_beams) {
    std::vector<int64_t> lengths, rows;
    for (const size_t text : chosen) lengths.push_back(std::ssize(texts[text]) + 1);
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    const int64_t context = model.config().model.max_position_embeddings;
    int64_t capacity = 0;
    for (size_t i = 0; i < chosen.size(); ++i) {
      const double most = static_cast<double>(lengths[i]) * options.max_length_ratio;
      const int64_t limit =
          std::clamp<int64_t>(static_cast<int64_t>(most) + options.max_length_extra, 1,
                              std::max<int64_t>(context - 1, 1));
      searches_.emplace_back(chosen[i], limit, options, eod_id);
      capacity = std::max(capacity, limit + 1);
      rows.insert(rows.end(), static_cast<size_t>(num_beams_), static_cast<int64_t>(i));
    }
    const at::Tensor source_BL =
        at::full({std::ssize(chosen), longest}, static_cast<int64_t>(eod_id), at::kLong);
    for (size_t i = 0; i < chosen.size(); ++i) {
      const std::vector<int32_t>& ids = texts[chosen[i]];
      std::copy(ids.begin(), ids.end(),
                source_BL.mutable_data_ptr<int64_t>() + static_cast<int64_t>(i) * longest);
    }
    cache_ = model.make_cache(source_BL.to(model.output_weight().device()), lengths, capacity);
    cache_.select(rows);
  }

  bool is_done() const { return searches_.empty(); }

  // One more token in every beam; translations that are found go to `out`.
  void advance(std::vector<Translation>& out) {
    const auto [value_BK, place_BK] = likeliest_steps();
    const int64_t cache_rows = std::ssize(searches_) * num_beams_;
    std::vector<Search> open;
    std::vector<int64_t> rows;
    for (size_t i = 0; i < searches_.size(); ++i) {
      const auto number = static_cast<int64_t>(i);
      const auto origin = searches_[i].advance(steps_of(value_BK[number], place_BK[number]));
      if (searches_[i].is_done()) {
        out[searches_[i].text()] = searches_[i].best();
        continue;
      }
      for (const int64_t beam : origin) rows.push_back(number * num_beams_ + beam);
      open.push_back(std::move(searches_[i]));
    }
    searches_ = std::move(open);
    // Beams change places with beams of their own text, unless texts have left.
    const bool with_memory = std::ssize(rows) < cache_rows;
    if (!searches_.empty()) cache_.select(rows, with_memory);
  }

 private:
  // Of each text, twice as many as it has beams: so many remain if every beam ends.
  std::pair<at::Tensor, at::Tensor> likeliest_steps() {
    const int64_t num_rows = std::ssize(searches_) * num_beams_;
    std::vector<int64_t> last;
    std::vector<double> before;
    for (const Search& search : searches_) {
      for (const Beam& beam : search.beams()) {
        last.push_back(beam.ids.empty() ? eod_id_ : beam.ids.back());
        before.push_back(beam.log_probability);
      }
    }
    const at::Tensor input_ids_BS =
        at::tensor(last, at::kLong).view({num_rows, 1}).to(model_.output_weight().device());
    const at::Tensor hidden_BD = model_.forward_cached(
        input_ids_BS, cache_, std::vector<int64_t>(static_cast<size_t>(num_rows), 1));
    const at::Tensor logits_BV = model_.logits(hidden_BD).to(at::kCPU).narrow(1, 0, vocab_size_);
    if (!logits_BV.isfinite().all().item<bool>()) {
      throw DivergedError("the model's output is not finite");
    }
    const at::Tensor total_BV =
        at::log_softmax(logits_BV, 1, at::kDouble) + at::tensor(before, at::kDouble).unsqueeze(1);
    auto [value, place] = total_BV.view({std::ssize(searches_), num_beams_ * vocab_size_})
                              .topk(std::min(2 * num_beams_, num_beams_ * vocab_size_), 1);
    return {value.contiguous(), place.contiguous()};
  }

  std::vector<Step> steps_of(const at::Tensor& value_K, const at::Tensor& place_K) const {
    std::vector<Step> steps;
    for (int64_t k = 0; k < value_K.numel(); ++k) {
      const double value = value_K.const_data_ptr<double>()[k];
      const int64_t place = place_K.const_data_ptr<int64_t>()[k];
      if (value == kNever) continue;
      steps.push_back({place / vocab_size_, static_cast<int32_t>(place % vocab_size_), value});
    }
    return steps;
  }

  model::Transformer& model_;
  int32_t eod_id_;
  int64_t vocab_size_;
  int64_t num_beams_;
  std::vector<Search> searches_;
  model::TransformerCache cache_;
};

void check(const model::Transformer& model, int64_t vocab_size,
           const std::vector<std::vector<int32_t>>& texts, const BeamSearchOptions& options) {
  const int64_t context = model.config().model.max_position_embeddings;
  constexpr int64_t kMostBeams = 1024;
  if (options.num_beams < 1 || options.num_beams > kMostBeams) {
    throw ConfigError("num_beams = {}: must be 1 to {}", options.num_beams, kMostBeams);
  }
  if (vocab_size > model.config().model.vocab_size) {
    throw DataError(
        "the tokenizer has {} pieces, but the model's vocabulary only {}: they do not belong "
        "together",
        vocab_size, model.config().model.vocab_size);
  }
  if (options.batch_size < 1) {
    throw ConfigError("batch_size = {}: must be 1 or more", options.batch_size);
  }
  if (!std::isfinite(options.length_penalty)) {
    throw ConfigError("length_penalty = {}: must be finite", options.length_penalty);
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    if (std::ssize(texts[i]) < context) continue;
    throw ConfigError(
        "text {} has {} tokens, but the model's context of {} tokens (max_position_embeddings) "
        "holds at most {} and its end",
        i + 1, texts[i].size(), context, context - 1);
  }
}

}  // namespace

std::vector<Translation> beam_search(model::Transformer& model, int32_t eod_id, int64_t vocab_size,
                                     const std::vector<std::vector<int32_t>>& texts,
                                     const BeamSearchOptions& options) {
  check(model, vocab_size, texts, options);
  const EvalMode eval_mode(model);
  // Texts of like length go together: little padding, and their translations end together.
  std::vector<size_t> order(texts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return texts[a].size() < texts[b].size(); });
  std::vector<Translation> out(texts.size());
  for (size_t begin = 0; begin < order.size(); begin += static_cast<size_t>(options.batch_size)) {
    const size_t end = std::min(order.size(), begin + static_cast<size_t>(options.batch_size));
    BatchSearch batch(model, eod_id, vocab_size, texts,
                      {order.begin() + static_cast<ptrdiff_t>(begin),
                       order.begin() + static_cast<ptrdiff_t>(end)},
                      options);
    while (!batch.is_done()) {
      if (const int signal = received_signal()) throw Interrupted(signal);
      batch.advance(out);
    }
    if (options.progress) {
      options.progress(static_cast<int64_t>(end), static_cast<int64_t>(order.size()));
    }
  }
  return out;
}

}  // namespace locus::eval
