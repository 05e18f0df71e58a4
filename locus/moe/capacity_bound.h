// How few tokens an expert may have (LocMoE, lemmas 1-3 and theorem 1, eq. 8-10).
//
// The value of an expert is highest for the token with the smallest angle to its row of the gate;
// delta is the cosine of that angle. A random token comes as near by chance; an expert should have
// so many tokens that one of them does not. D channels, E experts.
#pragma once

#include <cstdint>

namespace locus::moe {

// P(|cos| >= delta) of a uniformly random direction in D dimensions and a given one:
// 1 - I_{delta^2}(1/2, (D - 1) / 2), I the regularised incomplete beta function. D >= 2.
double chance_of_angle(double delta, int64_t hidden_size);

// Theorem 1: 1 / (E * chance_of_angle(delta)), at least exp(D delta^2 / (2 - delta^2)) / E, its
// form for many channels. Infinity where the chance is below what float64 has; a negative delta,
// which says nothing, counts as 0.
double capacity_bound(double delta, int64_t hidden_size, int64_t num_experts);

}  // namespace locus::moe
