#include "locus/train/expert_migration.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "locus/base/error.h"
#include "locus/comm/process_group.h"

namespace locus::train {
namespace {

// The tensors [experts of this rank, ...] that belong to the layer's experts.
std::vector<at::Tensor> expert_tensors(Optimizer& optimizer, int64_t layer) {
  const std::string prefix = format("layers.{}.", layer);
  std::vector<at::Tensor> tensors;
  for (const ParameterPart& part : optimizer.parts()) {
    if (part.is_expert && part.name.starts_with(prefix)) {
      LOCUS_CHECK(part.is_whole(), "{}: a part of an expert cannot move", part.name);
      tensors.push_back(part.parameter);
    }
  }
  for (const auto& [name, value] : optimizer.state()) {
    const ParameterPart& part = optimizer.part_of(name);
    if (value.dim() > 0 && part.is_expert && part.name.starts_with(prefix)) {
      tensors.push_back(value);
    }
  }
  LOCUS_CHECK(!tensors.empty(), "no expert in layer {}", layer);
  return tensors;
}

// Which rows of this rank go where, and where those that come belong.
struct Route {
  std::vector<int64_t> sent_rows;                     // by receiver, in the order of its places
  std::vector<int64_t> received_places;               // by sender
  std::vector<int64_t> sent_counts, received_counts;  // by rank
};

Route route_of(const std::vector<int64_t>& before, const std::vector<int64_t>& after,
               int64_t num_ranks, int64_t rank) {
  const auto per_rank = std::ssize(before) / num_ranks;
  const auto place_before = [&](int64_t expert) {
    return std::find(before.begin(), before.end(), expert) - before.begin();
  };
  Route route;
  route.sent_counts.assign(static_cast<size_t>(num_ranks), 0);
  route.received_counts.assign(static_cast<size_t>(num_ranks), 0);
  for (int64_t slot = 0; slot < std::ssize(after); ++slot) {
    const int64_t from = place_before(after[static_cast<size_t>(slot)]);
    if (from / per_rank != rank) continue;
    route.sent_rows.push_back(from % per_rank);
    ++route.sent_counts[static_cast<size_t>(slot / per_rank)];
  }
  for (int64_t sender = 0; sender < num_ranks; ++sender) {
    for (int64_t place = 0; place < per_rank; ++place) {
      const int64_t expert = after[static_cast<size_t>(rank * per_rank + place)];
      if (place_before(expert) / per_rank != sender) continue;
      route.received_places.push_back(place);
      ++route.received_counts[static_cast<size_t>(sender)];
    }
  }
  return route;
}

void move_rows(comm::ProcessGroup& group, const Route& route, const at::Tensor& tensor) {
  const at::Tensor rows = tensor.detach();
  const at::Tensor sent =
      rows.index_select(0, at::tensor(route.sent_rows, at::kLong).to(tensor.device()));
  const at::Tensor received = at::empty_like(sent, at::MemoryFormat::Contiguous);
  group.all_to_all(received, sent.contiguous(), route.received_counts, route.sent_counts)->wait();
  rows.index_copy_(0, at::tensor(route.received_places, at::kLong).to(tensor.device()), received);
}

}  // namespace

void migrate_experts(model::Transformer& transformer, Optimizer& optimizer, int64_t layer,
                     const placement::ExpertOfSlot& expert_of_slot) {
  const at::NoGradGuard no_grad;
  moe::MoeLayer& moe = transformer.moe_layer(layer);
  const comm::ParallelContext& parallel = transformer.config().parallel;
  if (parallel.ep == nullptr) return;
  const Route route =
      route_of(moe.expert_of_slot(), expert_of_slot, parallel.ep_size, parallel.ep_rank);
  for (const at::Tensor& tensor : expert_tensors(optimizer, layer)) {
    move_rows(*parallel.ep, route, tensor);
  }
  moe.place_experts(expert_of_slot);
}

double expert_bytes(Optimizer& optimizer, int64_t layer) {
  double bytes = 0;
  for (const at::Tensor& tensor : expert_tensors(optimizer, layer)) {
    bytes += static_cast<double>(tensor.nbytes()) / static_cast<double>(tensor.size(0));
  }
  return bytes;
}

}  // namespace locus::train
