// One all-to-all each way.
#include <numeric>

#include "locus/comm/routes/stage.h"
#include "locus/comm/row_route.h"

namespace locus::comm {
namespace {

class OneExchange : public RowsInFlight {
 public:
  OneExchange(ProcessGroup& group, const at::Tensor& x_ND, const std::vector<int64_t>& in_rows,
              const std::vector<int64_t>& out_rows)
      : in_(x_ND),
        out_(empty_rows(std::accumulate(out_rows.begin(), out_rows.end(), int64_t{0}), x_ND)),
        work_(group.all_to_all(out_, in_, out_rows, in_rows)) {}

  at::Tensor wait() override {
    work_->wait();
    return out_;
  }

 private:
  at::Tensor in_, out_;
  Pending work_;  // goes first: it waits for what it reads and writes
};

class FlatRoute : public RowRoute {
 public:
  FlatRoute(std::shared_ptr<ProcessGroup> group, std::vector<int64_t> sent_R,
            std::vector<int64_t> received_R)
      : group_(std::move(group)), sent_R_(std::move(sent_R)), received_R_(std::move(received_R)) {}

  std::unique_ptr<RowsInFlight> spread(const at::Tensor& x_HD) override {
    return std::make_unique<OneExchange>(*group_, x_HD, sent_R_, received_R_);
  }
  std::unique_ptr<RowsInFlight> collect(const at::Tensor& y_MD) override {
    return std::make_unique<OneExchange>(*group_, y_MD, received_R_, sent_R_);
  }
  RowsSent spread_rows() const override { return without_own(sent_R_); }
  RowsSent collect_rows() const override { return without_own(received_R_); }

 private:
  RowsSent without_own(RowsSent rows) const {
    rows[static_cast<size_t>(group_->rank())] = 0;
    return rows;
  }

  std::shared_ptr<ProcessGroup> group_;
  std::vector<int64_t> sent_R_, received_R_;
};

}  // namespace

std::unique_ptr<RowRoute> make_flat_route(std::shared_ptr<ProcessGroup> group,
                                          std::vector<int64_t> sent_R,
                                          std::vector<int64_t> received_R) {
  return std::make_unique<FlatRoute>(std::move(group), std::move(sent_R), std::move(received_R));
}

}  // namespace locus::comm
