#include "locus/eval/generate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <span>

#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/signals.h"
#include "locus/data/utf8.h"
#include "locus/eval/eval_mode.h"
#include "locus/eval/text_stream.h"

namespace locus::eval {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A text that grows.
struct Row {
  size_t prompt = 0;            // its number
  std::vector<int32_t> tokens;  // what the model has to read
  size_t text_begin = 0;        // 1: the first one is the end of document before an empty prompt
  int64_t limit = 0;            // of new tokens
  TextStream stream;
  Generation result;
  bool finished = false;

  std::span<const int32_t> text() const { return std::span(tokens).subspan(text_begin); }
};

// The texts of one batch and how they go through the model. Rows that are finished leave it.
class Batch {
 public:
  Batch(model::Transformer& model, std::vector<Row> rows, bool use_cache)
      : model_(model), rows_(std::move(rows)), use_cache_(use_cache) {}

  std::vector<Row>& rows() { return rows_; }

  // Logits of the next token of each row, float32 [B, V] on the CPU.
  at::Tensor next_logits() {
    const at::Tensor last_BD = use_cache_ ? read_new_tokens() : read_all_tokens();
    return model_.logits(last_BD).to(at::kCPU, at::kFloat).contiguous();
  }

  // Takes the finished rows out.
  std::vector<Row> take_finished() {
    std::vector<Row> finished, open;
    std::vector<int64_t> kept;
    for (size_t b = 0; b < rows_.size(); ++b) {
      if (!rows_[b].finished) kept.push_back(static_cast<int64_t>(b));
      (rows_[b].finished ? finished : open).push_back(std::move(rows_[b]));
    }
    rows_ = std::move(open);
    if (!finished.empty() && !cache_.layers.empty()) cache_.select(kept);
    return finished;
  }

 private:
  // With the cache: the prompts at first, then the last token of each row.
  at::Tensor read_new_tokens() {
    if (cache_.layers.empty()) make_cache();
    std::vector<int64_t> num_new(rows_.size());
    for (size_t b = 0; b < rows_.size(); ++b) {
      num_new[b] = static_cast<int64_t>(rows_[b].tokens.size()) - cache_.lengths[b];
    }
    const at::Tensor input_ids_BS = padded_ends(num_new);
    return last_of_rows(model_.forward_cached(input_ids_BS, cache_, num_new), num_new);
  }

  // Without: everything. What pads a row comes after its tokens, and no token sees a later one.
  at::Tensor read_all_tokens() {
    std::vector<int64_t> lengths(rows_.size());
    for (size_t b = 0; b < rows_.size(); ++b) {
      lengths[b] = static_cast<int64_t>(rows_[b].tokens.size());
    }
    model::TransformerInput input;
    input.input_ids_BS = padded_ends(lengths);
    const int64_t length = input.input_ids_BS.size(1);
    input.position_ids_BS =
        at::arange(length, input.input_ids_BS.options()).expand_as(input.input_ids_BS);
    return last_of_rows(model_.forward(input).hidden_TD, lengths);
  }

  // The last counts[b] tokens of each row, [B, S]; zeros behind the shorter ones.
  at::Tensor padded_ends(const std::vector<int64_t>& counts) const {
    const int64_t length = *std::max_element(counts.begin(), counts.end());
    const at::Tensor ids_BS = at::zeros({static_cast<int64_t>(rows_.size()), length}, at::kLong);
    int64_t* out = ids_BS.mutable_data_ptr<int64_t>();
    for (size_t b = 0; b < rows_.size(); ++b, out += length) {
      std::copy(rows_[b].tokens.end() - counts[b], rows_[b].tokens.end(), out);
    }
    return ids_BS.to(model_.output_weight().device());
  }

  at::Tensor last_of_rows(const at::Tensor& hidden_TD, const std::vector<int64_t>& counts) const {
    const int64_t length = hidden_TD.size(0) / static_cast<int64_t>(counts.size());
    std::vector<int64_t> last(counts.size());
    for (size_t b = 0; b < counts.size(); ++b) {
      last[b] = static_cast<int64_t>(b) * length + counts[b] - 1;
    }
    return hidden_TD.index_select(0, at::tensor(last, at::kLong).to(hidden_TD.device()));
  }

  void make_cache() {
    int64_t capacity = 0;
    for (const Row& row : rows_) {
      capacity = std::max(capacity, static_cast<int64_t>(row.tokens.size()) + row.limit);
    }
    cache_ = model_.make_cache(static_cast<int64_t>(rows_.size()), capacity);
  }

  model::Transformer& model_;
  std::vector<Row> rows_;
  const bool use_cache_;
  model::TransformerCache cache_;
};

class Generator {
 public:
  Generator(model::Transformer& model, const data::Tokenizer& tokenizer,
            const GenerationOptions& options)
      : model_(model), tokenizer_(tokenizer), options_(options), sampler_(options.sampler) {
    check_options();
  }

  GenerationReport run(const std::vector<GenerationRequest>& requests) {
    std::vector<Row> rows;
    for (const GenerationRequest& request : requests) {
      rows.push_back(make_row(request, rows.size()));
    }
    report_.results.resize(rows.size());
    const auto batch_size = static_cast<size_t>(options_.batch_size);
    for (size_t begin = 0; begin < rows.size(); begin += batch_size) {
      const size_t end = std::min(rows.size(), begin + batch_size);
      run_batch({std::make_move_iterator(rows.begin() + static_cast<ptrdiff_t>(begin)),
                 std::make_move_iterator(rows.begin() + static_cast<ptrdiff_t>(end))});
    }
    return std::move(report_);
  }

 private:
  void check_options() const {
    if (options_.max_new_tokens < 1) {
      throw ConfigError("max_new_tokens = {}: must be 1 or more", options_.max_new_tokens);
    }
    if (options_.batch_size < 1) {
      throw ConfigError("batch_size = {}: must be 1 or more", options_.batch_size);
    }
    for (const std::string& stop : options_.stop) {
      if (stop.empty()) throw ConfigError("stop: a stop string must not be empty");
      if (data::valid_utf8_prefix(stop) < stop.size()) {
        throw ConfigError("stop: a stop string is not valid UTF-8, so that no text can hold it");
      }
    }
    const int64_t vocab_size = model_.output_weight().size(0);
    if (tokenizer_.vocab_size() > vocab_size) {
      throw DataError(
          "the tokenizer has {} pieces, but the model's vocabulary only {}: they do "
          "not belong together",
          tokenizer_.vocab_size(), vocab_size);
    }
  }

  Row make_row(const GenerationRequest& request, size_t number) {
    Row row;
    row.prompt = number;
    row.tokens = request.prompt;
    row.stream = TextStream(options_.stop);
    if (row.tokens.empty()) {
      row.tokens.push_back(tokenizer_.eod_id());
      row.text_begin = 1;
    }
    const int64_t context = model_.config().model.max_position_embeddings;
    const auto length = static_cast<int64_t>(row.tokens.size());
    if (length > context - 1) {
      throw ConfigError(
          "prompt {} has {} tokens, but the model's context of {} tokens "
          "(max_position_embeddings) leaves room for at most {}",
          number + 1, length, context, context - 1);
    }
    row.limit = std::min(options_.max_new_tokens, context - length);
    if (row.limit < options_.max_new_tokens && !said_context_) {
      said_context_ = true;
      log::warning("the model's context of {} tokens ends before max_new_tokens = {} are generated",
                   context, options_.max_new_tokens);
    }
    return row;
  }

  void run_batch(std::vector<Row> rows) {
    for (const Row& row : rows) report_.prompt_tokens += static_cast<int64_t>(row.tokens.size());
    Batch batch(model_, std::move(rows), options_.use_cache);
    for (int64_t step = 0; !batch.rows().empty(); ++step) {
      if (const int signal = received_signal()) throw Interrupted(signal);
      const Clock::time_point start = Clock::now();
      const at::Tensor logits_BV = batch.next_logits();
      for (size_t b = 0; b < batch.rows().size(); ++b) {
        append_token(batch.rows()[b], logits_BV[static_cast<int64_t>(b)]);
      }
      (step == 0 ? report_.prompt_s : report_.generation_s) += seconds_since(start);
      if (step > 0) report_.generated_tokens += logits_BV.size(0);
      for (Row& row : batch.take_finished()) report_.results[row.prompt] = std::move(row.result);
    }
  }

  void append_token(Row& row, const at::Tensor& logits_V) const {
    // A vocabulary may be padded beyond the tokenizer's: those tokens have no text and never come.
    const std::span<const float> logits(logits_V.const_data_ptr<float>(),
                                        static_cast<size_t>(tokenizer_.vocab_size()));
    const int32_t id = sampler_.sample(logits, row.text(), row.prompt, row.result.ids.size());
    if (id == tokenizer_.eod_id()) return finish(row, FinishReason::kEod);
    row.tokens.push_back(id);
    row.result.ids.push_back(id);
    show(row, row.stream.push(tokenizer_.piece(id)));
    if (row.stream.stopped()) return finish(row, FinishReason::kStop);
    const auto num_new = static_cast<int64_t>(row.result.ids.size());
    if (num_new == row.limit) finish(row, FinishReason::kLength);
  }

  void finish(Row& row, FinishReason reason) const {
    show(row, row.stream.finish());
    row.result.text = row.stream.text();
    // The last characters, held back until now, can complete a stop string.
    row.result.reason = row.stream.stopped() ? FinishReason::kStop : reason;
    row.finished = true;
  }

  void show(const Row& row, const std::string& piece) const {
    if (options_.on_text && !piece.empty()) options_.on_text(row.prompt, piece);
  }

  model::Transformer& model_;
  const data::Tokenizer& tokenizer_;
  const GenerationOptions& options_;
  const Sampler sampler_;
  GenerationReport report_;
  bool said_context_ = false;
};

double rate(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

}  // namespace

double GenerationReport::prompt_tokens_per_s() const { return rate(prompt_tokens, prompt_s); }

double GenerationReport::generated_tokens_per_s() const {
  return rate(generated_tokens, generation_s);
}

GenerationReport generate(model::Transformer& model, const data::Tokenizer& tokenizer,
                          const std::vector<GenerationRequest>& requests,
                          const GenerationOptions& options) {
  const EvalMode eval_mode(model);
  return Generator(model, tokenizer, options).run(requests);
}

}  // namespace locus::eval
