// Small sums and gathers in one hop: every rank sends to every other at once. For transports whose
// rings take as many hops as there are ranks, as Gloo's do; routers call several of these in each
// layer, and wait for them.
#pragma once

#include <memory>

#include "locus/comm/process_group.h"

namespace locus::comm {

// What a rank brings, at most, to a collective that is done in one hop, bytes. A ring sends less in
// sum, and larger messages are bound by that.
inline constexpr int64_t kSmallMessage = 32 * 1024;

// `group` itself, but for all_reduce and all_gather of small messages, which use its all_to_all.
// Sums are made in order of ranks, the same on all.
std::shared_ptr<ProcessGroup> with_direct_messages(std::shared_ptr<ProcessGroup> group);

}  // namespace locus::comm
