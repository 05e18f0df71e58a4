// Which domain a text is of, told from its tokens: what routing by domain falls back on where
// nobody says it, as in generation. A mixture of unigrams: each domain has its distribution over
// the vocabulary, and the domain of a token is the one under which the last tokens, itself
// included, are most probable. Later tokens play no part.
//
// It is a table of counts, not trained: made when training begins, and stored with the weights.
//
// B sequences, S tokens each, G domains, V vocabulary, L places of a cache.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <vector>

namespace locus::model {

class DomainModel : public torch::nn::Module {
 public:
  // Knows nothing yet: fit(), or loading of weights, is next.
  DomainModel(int64_t num_domains, int64_t vocab_size);

  // From the tokens of each domain, [G][V].
  void fit(const std::vector<std::vector<int64_t>>& count_GV);

  // Number of the most probable domain at each token, int64 [B, S].
  at::Tensor infer(const at::Tensor& ids_BS) const;

  // The same for tokens that follow others. evidence_BLG [B, L + 1, G] holds what was seen before
  // place l of row b, and takes up the new tokens, whose places begin at start_B; zeros at first.
  at::Tensor infer(const at::Tensor& ids_BS, const at::Tensor& start_B,
                   at::Tensor& evidence_BLG) const;
  at::Tensor no_evidence(int64_t batch_size, int64_t num_places) const;

 private:
  at::Tensor log_share_GV_;  // float32; a buffer
};

}  // namespace locus::model
