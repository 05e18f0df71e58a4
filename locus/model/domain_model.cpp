#include "locus/model/domain_model.h"

#include <ATen/ATen.h>

#include <utility>

#include "locus/base/error.h"

namespace locus::model {
namespace {

constexpr int64_t kWindow = 64;       // tokens that are looked at: a document may end at any time
constexpr double kPseudoCount = 0.1;  // of each token in each domain

}  // namespace

DomainModel::DomainModel(int64_t num_domains, int64_t vocab_size) {
  log_share_GV_ = register_buffer("log_share", at::zeros({num_domains, vocab_size}, at::kFloat));
}

void DomainModel::fit(const std::vector<std::vector<int64_t>>& count_GV) {
  const at::NoGradGuard no_grad;
  LOCUS_CHECK(std::cmp_equal(count_GV.size(), log_share_GV_.size(0)),
              "counts of {} domains, not {}", count_GV.size(), log_share_GV_.size(0));
  for (size_t g = 0; g < count_GV.size(); ++g) {
    const at::Tensor count_V = at::tensor(count_GV[g], at::kDouble) + kPseudoCount;
    log_share_GV_[static_cast<int64_t>(g)].copy_((count_V / count_V.sum()).log());
  }
}

at::Tensor DomainModel::infer(const at::Tensor& ids_BS) const {
  at::Tensor evidence_BLG = no_evidence(ids_BS.size(0), ids_BS.size(1));
  return infer(ids_BS, at::zeros({ids_BS.size(0)}, ids_BS.options()), evidence_BLG);
}

at::Tensor DomainModel::no_evidence(int64_t batch_size, int64_t num_places) const {
  return at::zeros({batch_size, num_places + 1, log_share_GV_.size(0)},
                   log_share_GV_.options().dtype(at::kDouble));
}

at::Tensor DomainModel::infer(const at::Tensor& ids_BS, const at::Tensor& start_B,
                              at::Tensor& evidence_BLG) const {
  const at::NoGradGuard no_grad;
  const int64_t num_domains = log_share_GV_.size(0);
  const at::Tensor place_BS = start_B.unsqueeze(1) + at::arange(ids_BS.size(1), ids_BS.options());
  const auto cells = [&](const at::Tensor& place) {
    return place.unsqueeze(2).expand({place.size(0), place.size(1), num_domains});
  };
  const at::Tensor seen_B1G = evidence_BLG.gather(1, cells(start_B.unsqueeze(1)));
  // [S, G] of each row; sums in float64, since differences of them count.
  const at::Tensor score_BSG = log_share_GV_.t()
                                   .index_select(0, ids_BS.flatten())
                                   .to(at::kDouble)
                                   .view({ids_BS.size(0), ids_BS.size(1), num_domains});
  const at::Tensor sum_BSG = score_BSG.cumsum(1) + seen_B1G;
  evidence_BLG.scatter_(1, cells(place_BS + 1), sum_BSG);
  const at::Tensor before_BSG =
      evidence_BLG.gather(1, cells((place_BS + 1 - kWindow).clamp_min(0)));
  return (sum_BSG - before_BSG).argmax(2);
}

}  // namespace locus::model
