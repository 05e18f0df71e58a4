// A balanced assignment of tokens to experts by an auction among the ranks: the sum of scores is as
// high as it can be, up to a small bound, while no expert takes more than its share (Bertsekas,
// 1988; of alike places: Bertsekas and Castanon, 1989).
//
// T tokens of this rank, E experts.
#pragma once

#include <ATen/core/Tensor.h>

#include "locus/moe/token_pool.h"

namespace locus::moe {

// The expert of each token, int64 [T]; no expert takes more than ceil(tokens of all ranks / E). The
// sum of scores is at most `tokens * (highest - lowest score) / 100` below the best possible,
// unless it takes more than 256 rounds: then by a little more for the tokens that were still
// bidding.
//
// score_TE: any floating type; what is not finite counts as the lowest finite score. index_T: place
// in the global batch, int64, one of a kind over the ranks: of equal bids the lower place wins, so
// the answer is the same whatever ranks the tokens are on. All ranks of the pool call it together,
// with equally many tokens. Scores stay on their rank; 24 bytes travel for each bid.
at::Tensor auction_experts(const at::Tensor& score_TE, const at::Tensor& index_T,
                           const TokenPool& pool);

}  // namespace locus::moe
