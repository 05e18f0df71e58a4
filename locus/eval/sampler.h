// Draws the next token from a row of logits.
//
// The filters apply in the order of Hugging Face's transformers: repetition penalty, temperature,
// top-k, top-p. The draw is a function of (seed, prompt, position), never of the batch or of
// earlier draws. It runs through the candidates in order of their ids: where logits differ by
// rounding, the borders between tokens move a little, and no two tokens exchange their places.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace locus::eval {

struct SamplerOptions {
  double temperature = 1.0;  // 0: always the most probable token
  int64_t top_k = 0;         // draw among so many tokens; 0: off
  double top_p = 1.0;        // draw among the fewest tokens that hold this share; 1: off
  // Above 1, tokens of the text so far get rarer (Keskar et al., 2019, arXiv 1909.05858); 1: off.
  double repetition_penalty = 1.0;
  uint64_t seed = 0;
};

class Sampler {
 public:
  // ConfigError that names all options with impossible values.
  explicit Sampler(const SamplerOptions& options);

  struct Candidate {
    int32_t id;
    double probability;
  };

  // What sample() draws from: the tokens that the filters leave, in order of the ids.
  // Among equal logits the lowest ids go first. `text`: prompt and generated tokens so far.
  // DivergedError if a logit is NaN or +infinity, or none is finite.
  std::vector<Candidate> candidates(std::span<const float> logits,
                                    std::span<const int32_t> text) const;

  // The token at `position` behind prompt number `prompt`.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> text, uint64_t prompt,
                 uint64_t position) const;

 private:
  SamplerOptions options_;
};

}  // namespace locus::eval
