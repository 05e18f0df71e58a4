// Generation: one prompt, key/value cache, always the most probable token.
#include "locus/eval/generate.h"

#include <ATen/ATen.h>

#include <memory>

#include "benchmarks/workers/serve.h"
#include "locus/app/run_config.h"
#include "locus/app/session.h"
#include "locus/model/weights.h"

namespace locus::benchmarks {
namespace {

struct GenerateOptions {
  std::string config;
  std::string weights;
  int64_t prompt_tokens = 32;
  int64_t new_tokens = 128;

  template <class V>
  void visit_fields(V& v) {
    v("config", config, "settings of the model");
    v("weights", weights, "model folder; empty: fresh weights");
    v("prompt_tokens", prompt_tokens, "length of the prompt");
    v("new_tokens", new_tokens, "tokens to generate");
  }
};

// Ids stand for themselves, and none of them ends a text: every repetition has the same length.
class IdTokenizer final : public data::Tokenizer {
 public:
  explicit IdTokenizer(int64_t vocab_size) : vocab_size_(vocab_size) {}

  std::vector<int32_t> encode(std::string_view) const override { return {}; }
  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    for (const int32_t id : ids) text += piece(id);
    return text;
  }
  std::string piece(int32_t id) const override { return std::to_string(id) + " "; }
  int64_t vocab_size() const override { return vocab_size_; }
  int32_t eod_id() const override { return -1; }
  const std::string& serialized() const override { return serialized_; }

 private:
  int64_t vocab_size_;
  std::string serialized_;
};

}  // namespace

Worker make_generate(const std::vector<std::string>& settings) {
  const auto options = parse_settings<GenerateOptions>(settings);
  const app::RunConfig config = app::load_run_config(options.config, {});
  const auto transformer = std::make_shared<model::Transformer>(app::transformer_config(config));
  if (!options.weights.empty()) {
    model::load_weights(*transformer, io::open_safetensors_folder(options.weights));
  }
  eval::GenerationRequest request;
  for (int64_t i = 0; i < options.prompt_tokens; ++i) {  // as in peers/generate.py
    request.prompt.push_back(static_cast<int32_t>((i * 37 + 11) % config.model.vocab_size));
  }
  eval::GenerationOptions generation;
  generation.sampler.temperature = 0;
  generation.max_new_tokens = options.new_tokens;
  const auto run = [transformer, request, generation, vocab_size = config.model.vocab_size] {
    const IdTokenizer tokenizer(vocab_size);
    const Stopwatch watch;
    const eval::GenerationReport report =
        eval::generate(*transformer, tokenizer, {request}, generation);
    return Report{{"seconds", watch.seconds()},
                  {"tokens", static_cast<double>(report.results.front().ids.size())},
                  {"text", report.results.front().text}};
  };
  return {{}, run};
}

}  // namespace locus::benchmarks
