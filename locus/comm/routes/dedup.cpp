// One copy of a row to each node. Between the nodes go the fewest rows that a routing allows; the
// copies and the sums over them stay within the nodes.
#include <ATen/Dispatch_v2.h>

#include <cstring>

#include "locus/base/error.h"
#include "locus/comm/routes/stage.h"
#include "locus/comm/row_route.h"

namespace locus::comm {
namespace {

// out[p] = x[row[p]]
at::Tensor copy_rows(const at::Tensor& x_ND, const std::vector<int64_t>& row_P) {
  LOCUS_CHECK(x_ND.is_cpu(), "rows on {}", x_ND.device().str());
  const at::Tensor out_PD = empty_rows(static_cast<int64_t>(row_P.size()), x_ND);
  const auto row_bytes =
      static_cast<size_t>(x_ND.element_size() * c10::multiply_integers(x_ND.sizes().slice(1)));
  const auto* source = static_cast<const char*>(x_ND.const_data_ptr());
  auto* target = static_cast<char*>(out_PD.mutable_data_ptr());
  for (const int64_t row : row_P) {
    std::memcpy(target, source + static_cast<size_t>(row) * row_bytes, row_bytes);
    target += row_bytes;
  }
  return out_PD;
}

// out[row[p]] = the sum of the y[p], in order of p; zero where there is none.
template <class T, class Sum>
void sum_rows(const T* y, const std::vector<int64_t>& row_P, int64_t num_rows, int64_t dim,
              T* out) {
  std::vector<Sum> sums(static_cast<size_t>(num_rows * dim));
  for (const int64_t row : row_P) {
    Sum* sum = sums.data() + row * dim;
    for (int64_t d = 0; d < dim; ++d) sum[d] += static_cast<Sum>(y[d]);
    y += dim;
  }
  for (size_t i = 0; i < sums.size(); ++i) out[i] = static_cast<T>(sums[i]);
}

at::Tensor sum_rows(const at::Tensor& y_PD, const std::vector<int64_t>& row_P, int64_t num_rows) {
  LOCUS_CHECK(y_PD.is_cpu(), "rows on {}", y_PD.device().str());
  const at::Tensor out_ND = empty_rows(num_rows, y_PD);
  const int64_t dim = c10::multiply_integers(y_PD.sizes().slice(1));
  AT_DISPATCH_V2(y_PD.scalar_type(), "sum_rows", AT_WRAP([&] {
                   using Sum = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
                   sum_rows<scalar_t, Sum>(y_PD.const_data_ptr<scalar_t>(), row_P, num_rows, dim,
                                           out_ND.mutable_data_ptr<scalar_t>());
                 }),
                 at::kDouble, at::kFloat, at::kBFloat16, at::kHalf);
  return out_ND;
}

class DedupRoute : public RowRoute {
 public:
  DedupRoute(NodeGroups groups, CopyPlan plan)
      : groups_(std::move(groups)), plan_(std::make_shared<const CopyPlan>(std::move(plan))) {}

  std::unique_ptr<RowsInFlight> spread(const at::Tensor& x_HD) override {
    return groups_.courier->carry([node = groups_.node, rail = groups_.rail, plan = plan_, x_HD] {
      at::Tensor rows = exchange_and_wait(rail.get(), x_HD, plan->sent_nodes, plan->received_nodes);
      rows = copy_rows(rows, plan->copied_row_P);
      return exchange_and_wait(node.get(), rows, plan->sent_places, plan->received_places);
    });
  }

  std::unique_ptr<RowsInFlight> collect(const at::Tensor& y_MD) override {
    return groups_.courier->carry([node = groups_.node, rail = groups_.rail, plan = plan_, y_MD] {
      at::Tensor rows =
          exchange_and_wait(node.get(), y_MD, plan->received_places, plan->sent_places);
      const auto num_rows =
          std::accumulate(plan->received_nodes.begin(), plan->received_nodes.end(), int64_t{0});
      rows = sum_rows(rows, plan->copied_row_P, num_rows);
      return exchange_and_wait(rail.get(), rows, plan->received_nodes, plan->sent_nodes);
    });
  }

  RowsSent spread_rows() const override { return rows_of(plan_->sent_nodes, plan_->sent_places); }
  RowsSent collect_rows() const override {
    return rows_of(plan_->received_nodes, plan_->received_places);
  }

 private:
  RowsSent rows_of(const std::vector<int64_t>& nodes, const std::vector<int64_t>& places) const {
    RowsSent sent(groups_.rank_of.size());
    for (int64_t b = 0; b < groups_.num_nodes; ++b) {
      sent[static_cast<size_t>(groups_.rank_at(b, groups_.own_place))] +=
          nodes[static_cast<size_t>(b)];
    }
    for (int64_t j = 0; j < groups_.ranks_per_node; ++j) {
      sent[static_cast<size_t>(groups_.rank_at(groups_.own_node, j))] +=
          places[static_cast<size_t>(j)];
    }
    sent[static_cast<size_t>(groups_.rank_at(groups_.own_node, groups_.own_place))] = 0;
    return sent;
  }

  NodeGroups groups_;
  std::shared_ptr<const CopyPlan> plan_;
};

}  // namespace

std::unique_ptr<RowRoute> make_dedup_route(NodeGroups groups, CopyPlan plan) {
  return std::make_unique<DedupRoute>(std::move(groups), std::move(plan));
}

}  // namespace locus::comm
