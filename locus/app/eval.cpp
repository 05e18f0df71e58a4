// `locus eval`: how well a trained model predicts prepared data or raw text, by domain.

#include "locus/eval/perplexity.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/session.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/log.h"
#include "locus/base/progress.h"
#include "locus/base/signals.h"
#include "locus/data/utf8.h"

namespace locus::app {
namespace {

using nlohmann::json;

struct RawText {
  std::vector<data::Batch> batches;
  std::vector<std::string> names;  // of the files: their domains
};

RawText read_text(const EvalOptions& options, const LoadedModel& loaded, int64_t sequence_length) {
  RawText raw;
  for (const std::string& file : options.text) {
    const std::string text = read_file(file);
    if (text.empty()) throw DataError("{}: is empty", file);
    const size_t valid = data::valid_utf8_prefix(text);
    if (valid < text.size())
      throw DataError("{}: is not UTF-8 text: byte {} is wrong", file, valid);
    auto batches = eval::windows(loaded.tokenizer->encode(text), loaded.tokenizer->eod_id(),
                                 sequence_length, options.batch_size);
    for (data::Batch& batch : batches) {
      batch.domain_ids.assign(batch.input_ids.size(), static_cast<int16_t>(raw.names.size()));
      raw.batches.push_back(std::move(batch));
    }
    raw.names.push_back(fs::path(file).filename().string());
  }
  return raw;
}

std::string score_row(std::string_view name, const eval::Score& score) {
  return format("{:<24}{:>10.4f}{:>12.3f}{:>12.4f}{:>11.2f}%{:>12}\n", name, score.loss(),
                score.perplexity(), score.bits_per_byte(), score.accuracy() * 100, score.tokens);
}

json to_json(const eval::Score& score) {
  return {{"loss", score.loss()},
          {"perplexity", score.perplexity()},
          {"bits_per_byte", score.bits_per_byte()},
          {"accuracy", score.accuracy()},
          {"tokens", score.tokens}};
}

json to_json(const eval::Evaluation& result) {
  json out = to_json(result.total);
  out["by_domain"] = json::object();
  for (const auto& [domain, score] : result.by_domain) out["by_domain"][domain] = to_json(score);
  return out;
}

void print(const eval::Evaluation& result, std::ostream& out) {
  out << format("{:<24}{:>10}{:>12}{:>12}{:>12}{:>12}\n", "domain", "loss", "perplexity",
                "bits/byte", "accuracy", "tokens");
  for (const auto& [domain, score] : result.by_domain) out << score_row(domain, score);
  out << score_row("all", result.total);
}

// Evaluates on raw text, or on prepared data.
class Evaluator {
 public:
  Evaluator(const EvalOptions& options, LoadedModel& loaded) : options_(options), loaded_(loaded) {
    if (!options.text.empty()) {
      if (!loaded.config.model.is_decoder()) {
        throw ConfigError(
            "--text: only decoders predict a text from its beginning; prepare it with `locus "
            "prepare`, and give the folder by --data");
      }
      raw_ = read_text(options, loaded, loaded.config.data.sequence_length);
      what_ = options.text.front();
      return;
    }
    const auto paths =
        !options.data.empty() ? options.data : split_paths(loaded.config.data, options.split);
    if (paths.empty() && !loaded.folder.is_checkpoint()) {
      throw ConfigError("a model folder has no data of its own; name some with --data or --text");
    }
    if (paths.empty()) {
      throw ConfigError("the data of the run has no {} split; name some with --data",
                        options.split);
    }
    source_ = open_data(paths, options.split, {}, loaded.config, *loaded.tokenizer);
    what_ = paths.front() + " (" + options.split + ")";
  }

  struct How {
    bool training_rule = false;
    bool infer_domains = false;
  };

  eval::Evaluation run(const How& rule) {
    ProgressBar bar("eval", 0);
    eval::EvaluateOptions how{.batch_size = options_.batch_size,
                              .max_batches = options_.max_batches,
                              .training_rule = rule.training_rule,
                              .infer_domains = rule.infer_domains,
                              .progress = {}};
    if (bar.on_terminal()) {
      how.progress = [&bar](int64_t done, int64_t total) {
        bar.update(done, format("of {} batches", total));
      };
    }
    const auto bytes = eval::bytes_per_token(*loaded_.tokenizer);
    if (source_) return eval::evaluate(*loaded_.transformer, *source_, bytes, how);
    return eval::evaluate(*loaded_.transformer, raw_.batches, bytes, how, raw_.names);
  }

  const std::string& what() const { return what_; }

  // True where the data say of a token which experts it may have.
  bool names_groups() const {
    return source_ && eval::routes_by_domain(*loaded_.transformer) &&
           loaded_.transformer->without_group(source_->domain_names()).size() <
               source_->domain_names().size();
  }

  void warn_of_unknown_domains() const {
    if (!source_) return;
    std::string names;
    for (const std::string& name : loaded_.transformer->without_group(source_->domain_names())) {
      names += (names.empty() ? "" : ", ") + name;
    }
    if (names.empty()) return;
    log::warning("{}: the model has no experts of its own for {}: the text tells which it gets",
                 what_, names);
  }

 private:
  const EvalOptions& options_;
  LoadedModel& loaded_;
  std::shared_ptr<const data::SampleSource> source_;  // null: raw text
  RawText raw_;
  std::string what_;
};

}  // namespace

void eval(const EvalOptions& options, std::ostream& out) {
  if (!options.text.empty() && !options.data.empty()) {
    throw ConfigError("give either prepared data or raw text, not both");
  }
  if (options.max_batches < 0 || options.sequence_length < 0 || options.num_threads < 0) {
    throw ConfigError("--max-batches, --sequence-length and --num-threads must be 0 or more");
  }
  if (options.batch_size < 1) {
    throw ConfigError("--batch-size {} must be 1 or more", options.batch_size);
  }
  watch_signals();
  LoadedModel loaded = load_model(options.checkpoint, options.dtype, options.num_threads);
  if (options.sequence_length > 0) loaded.config.data.sequence_length = options.sequence_length;
  if (loaded.config.data.sequence_length > loaded.config.model.max_position_embeddings) {
    throw ConfigError("a sequence length of {} is over the model's context of {}",
                      loaded.config.data.sequence_length,
                      loaded.config.model.max_position_embeddings);
  }
  Evaluator evaluator(options, loaded);
  out << format("{} {} on {}\n", loaded.folder.is_checkpoint() ? "checkpoint" : "model",
                loaded.folder.text(), evaluator.what());
  evaluator.warn_of_unknown_domains();
  const eval::Evaluation result = evaluator.run({});
  json record = to_json(result);
  record["checkpoint"] = loaded.folder.path.string();
  if (loaded.folder.is_checkpoint()) record["step"] = loaded.folder.step;
  record["data"] = evaluator.what();
  print(result, out);
  if (eval::looks_ahead_in_training(*loaded.transformer)) {
    // Training decisions of this router look at later tokens: the causal figure above is the honest
    // one.
    const eval::Evaluation leaking = evaluator.run({.training_rule = true});
    record["rule"] = "causal";
    record["batch_rule"] = to_json(leaking);
    record["rule_agreement"] = leaking.rule_agreement;
    out << (loaded.config.model.is_decoder()
                ? "the same with the training rule, which looks at later tokens:\n"
                : "the same with the training rule, which looks at other texts of a batch:\n")
        << score_row("all (leaks)", leaking.total)
        << format("both rules give {:.1f}% of the tokens the same experts\n",
                  100 * leaking.rule_agreement);
  }
  if (evaluator.names_groups()) {
    const eval::Evaluation inferred = evaluator.run({.infer_domains = true});
    record["inferred_domains"] = to_json(inferred);
    out << "the same with domains told from the text, as in generation:\n"
        << score_row("all (inferred)", inferred.total);
  }
  if (!options.output.empty())
    write_file_atomic(options.output,
                      record.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace locus::app
