// `locus generate`: text out of a trained model.

#include "locus/eval/generate.h"

#include <ATen/ATen.h>

#include <iostream>
#include <ostream>
#include <sstream>

#include "locus/app/commands.h"
#include "locus/app/session.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/log.h"
#include "locus/base/signals.h"

namespace locus::app {
namespace {

std::vector<std::string> lines_of(std::istream& in) {
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> read_prompts(const GenerateOptions& options) {
  if (!options.prompts.empty() && !options.prompt_file.empty()) {
    throw ConfigError("give prompts either by --prompt or by --prompt-file, not both");
  }
  if (!options.prompts.empty()) return options.prompts;
  std::vector<std::string> prompts;
  if (!options.prompt_file.empty()) {
    std::istringstream file(read_file(options.prompt_file));
    prompts = lines_of(file);
  } else {
    prompts = lines_of(std::cin);
  }
  if (prompts.empty()) throw ConfigError("there is no prompt; an empty one is --prompt \"\"");
  return prompts;
}

eval::GenerationOptions generation_options(const GenerateOptions& options) {
  eval::GenerationOptions out;
  out.sampler = {.temperature = options.temperature,
                 .top_k = options.top_k,
                 .top_p = options.top_p,
                 .repetition_penalty = options.repetition_penalty,
                 .seed = options.seed};
  out.max_new_tokens = options.max_new_tokens;
  out.stop = options.stop;
  out.use_cache = options.use_cache;
  return out;
}

std::string sample_text(const std::string& prompt, const eval::Generation& result) {
  return format("--- prompt: {}\n{}{}\n", prompt, prompt, result.text);
}

void append_to_file(const std::string& path, const std::string& text) {
  const std::string before = fs::exists(path) ? read_file(path) : "";
  write_file_atomic(path, before + text);
}

}  // namespace

void generate(const GenerateOptions& options, std::ostream& out) {
  const std::vector<std::string> prompts = read_prompts(options);
  watch_signals();  // not before: a signal has to end the waiting for input
  if (options.stream && prompts.size() != 1) {
    throw ConfigError("--stream prints one text as it comes; there are {} prompts", prompts.size());
  }
  LoadedModel loaded = load_model(options.checkpoint, options.dtype, options.num_threads);
  if (!loaded.config.model.is_decoder()) {
    throw ConfigError("{}: is {}, and only a decoder continues texts{}", options.checkpoint,
                      loaded.config.model.is_encoder() ? "an encoder" : "an encoder-decoder",
                      loaded.config.model.is_encoder() ? "" : "; see `locus translate`");
  }
  std::vector<eval::GenerationRequest> requests;
  for (const std::string& prompt : prompts) requests.push_back({loaded.tokenizer->encode(prompt)});
  eval::GenerationOptions how = generation_options(options);
  if (options.stream) {
    out << prompts.front() << std::flush;
    how.on_text = [&out](size_t, std::string_view piece) { out << piece << std::flush; };
  }
  const eval::GenerationReport report =
      eval::generate(*loaded.transformer, *loaded.tokenizer, requests, how);
  std::string samples;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const eval::Generation& result = report.results[i];
    samples += sample_text(prompts[i], result);
    if (!options.stream)
      out << (prompts.size() > 1 ? sample_text(prompts[i], result)
                                 : prompts[i] + result.text + "\n");
  }
  if (options.stream) out << "\n";
  if (!options.output.empty()) append_to_file(options.output, samples);
  log::info("prompt and first token: {} tokens, {:.0f} tokens/s; then {} tokens, {:.0f} tokens/s",
            report.prompt_tokens, report.prompt_tokens_per_s(), report.generated_tokens,
            report.generated_tokens_per_s());
}

}  // namespace locus::app
