// R parts of a parameter, L values of each, N values of a row: one part of every parameter in a
// bucket, side by side, then for each parameter whether there is a gradient.

#include "locus/train/gradient_reducer.h"

#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

namespace locus::train {
namespace {

// A parameter's values and their places in the rows of a bucket, as two pairs of equal shape: the
// full parts, and the one that has fewer.
template <class Visit>
void match_parts(const at::Tensor& rows_RL, const at::Tensor& values, Visit visit) {
  const at::Tensor flat = values.reshape({-1});
  const int64_t length = rows_RL.size(1);
  const int64_t full = flat.numel() / length;
  const int64_t rest = flat.numel() % length;
  if (full > 0) {
    visit(rows_RL.narrow(0, 0, full), flat.narrow(0, 0, full * length).view({full, length}));
  }
  if (rest > 0) {
    visit(rows_RL.select(0, full).narrow(0, 0, rest), flat.narrow(0, full * length, rest));
  }
}

}  // namespace

struct GradientReducer::Bucket {
  std::shared_ptr<comm::ProcessGroup> group;
  int64_t num_rows = 1;  // 1: every rank gets all sums; or one for each rank
  ParameterParts parts;
  std::vector<int64_t> begins;  // of the parts in a row
  int64_t num_values = 0;       // of all of them
  std::vector<bool> has_gradient;
  size_t num_missing = 0;
  at::Tensor rows_RN, sum_N;  // the sum is this rank's row; kept from step to step
  comm::Pending work;

  void add(const ParameterPart& part) {
    parts.push_back(part);
    begins.push_back(num_values);
    num_values += part.part_size;
  }

  void make_rows() {
    const auto num_flags = static_cast<int64_t>(parts.size());
    const at::TensorOptions options = parts.front().parameter.options().requires_grad(false);
    rows_RN = at::zeros({num_rows, num_values + num_flags}, options);
    sum_N = num_rows == 1 ? rows_RN[0] : at::zeros({rows_RN.size(1)}, options);
  }

  at::Tensor rows_of(size_t i) const { return rows_RN.narrow(1, begins[i], parts[i].part_size); }
  at::Tensor own_of(size_t i) const {
    return sum_N.narrow(0, begins[i], parts[i].value.numel()).view_as(parts[i].value);
  }
};

class GradientReducer::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientReducer& reducer, size_t bucket, size_t place)
      : reducer_(reducer), bucket_(bucket), place_(place) {}

  void operator()(const torch::autograd::Variable& /*parameter*/) override {
    if (!reducer_.active_) return;
    Bucket& bucket = *reducer_.buckets_[bucket_];
    if (bucket.has_gradient[place_]) return;
    bucket.has_gradient[place_] = true;
    if (--bucket.num_missing == 0) reducer_.send_ready();
  }

 private:
  GradientReducer& reducer_;
  size_t bucket_, place_;
};

GradientReducer::GradientReducer(const ParameterParts& parts, int64_t bucket_bytes) {
  // The open bucket of each kind: group and type are one for all in it.
  for (auto it = parts.rbegin(); it != parts.rend(); ++it) {
    const ParameterPart& part = *it;
    if (part.group == nullptr || !part.parameter.requires_grad()) continue;
    const auto fits = [&](const std::unique_ptr<Bucket>& bucket) {
      auto bytes = static_cast<int64_t>(part.parameter.nbytes());
      for (const ParameterPart& one : bucket->parts) {
        bytes += static_cast<int64_t>(one.parameter.nbytes());
      }
      return bucket->parts.front().parameter.scalar_type() == part.parameter.scalar_type() &&
             bytes <= bucket_bytes;
    };
    // The newest of its kind or none: an older one has been closed.
    auto found = std::find_if(buckets_.rbegin(), buckets_.rend(),
                              [&](const auto& bucket) { return bucket->group == part.group; });
    if (found == buckets_.rend() || !fits(*found)) {
      buckets_.push_back(std::make_unique<Bucket>());
      buckets_.back()->group = part.group;
      buckets_.back()->num_rows = part.num_parts;
      found = buckets_.rbegin();
    }
    (*found)->add(part);
  }
  for (size_t b = 0; b < buckets_.size(); ++b) {
    for (size_t place = 0; place < buckets_[b]->parts.size(); ++place) {
      torch::autograd::impl::set_post_acc_grad_hooks(buckets_[b]->parts[place].parameter,
                                                     std::make_unique<Hook>(*this, b, place));
    }
  }
}

GradientReducer::~GradientReducer() {
  for (const auto& bucket : buckets_) {
    for (const ParameterPart& part : bucket->parts) {
      torch::autograd::impl::set_post_acc_grad_hooks(part.parameter, nullptr);
    }
  }
}

void GradientReducer::start() {
  for (const auto& bucket : buckets_) {
    bucket->num_missing = bucket->parts.size();
    bucket->has_gradient.assign(bucket->parts.size(), false);
  }
  next_ = 0;
  active_ = true;
}

// Only in order: whatever order the gradients come in, all ranks send the same bucket.
void GradientReducer::send_ready() {
  while (next_ < buckets_.size() && buckets_[next_]->num_missing == 0) send(*buckets_[next_++]);
}

void GradientReducer::send(Bucket& bucket) {
  const at::NoGradGuard no_grad;
  if (!bucket.rows_RN.defined()) bucket.make_rows();
  for (size_t i = 0; i < bucket.parts.size(); ++i) {
    const at::Tensor& gradient = bucket.parts[i].parameter.grad();
    bucket.rows_RN.select(1, bucket.num_values + static_cast<int64_t>(i))
        .fill_(gradient.defined() ? 1 : 0);
    if (gradient.defined()) {
      match_parts(bucket.rows_of(i), gradient,
                  [](const at::Tensor& place, const at::Tensor& values) { place.copy_(values); });
    } else {
      bucket.rows_of(i).zero_();
    }
  }
  bucket.work = bucket.num_rows == 1
                    ? bucket.group->all_reduce(bucket.sum_N, comm::Reduce::kSum)
                    : bucket.group->reduce_scatter(bucket.sum_N, bucket.rows_RN.view(-1));
}

void GradientReducer::finish() {
  active_ = false;
  while (next_ < buckets_.size()) send(*buckets_[next_++]);
  const at::NoGradGuard no_grad;
  for (const auto& bucket : buckets_) {
    bucket->work->wait();
    bucket->work.reset();
    const auto num_parts = static_cast<int64_t>(bucket->parts.size());
    const at::Tensor flags =
        bucket->sum_N.narrow(0, bucket->num_values, num_parts).ne(0).to(at::kCPU);
    for (size_t i = 0; i < bucket->parts.size(); ++i) {
      const ParameterPart& part = bucket->parts[i];
      if (!flags.const_data_ptr<bool>()[i]) continue;
      if (!part.is_whole()) {
        part.parameter.mutable_grad().reset();
        part.value.mutable_grad() = bucket->own_of(i);
      } else if (part.value.grad().defined()) {
        part.value.grad().copy_(bucket->own_of(i));
      } else {  // another rank's tokens had a use for it
        part.value.mutable_grad() = bucket->own_of(i).clone();
      }
    }
  }
}

void GradientReducer::gather_parameters() {
  const at::NoGradGuard no_grad;
  for (const auto& bucket : buckets_) {
    if (bucket->num_rows == 1) continue;
    for (size_t i = 0; i < bucket->parts.size(); ++i) {
      bucket->parts[i].value.mutable_grad().reset();
      bucket->own_of(i).copy_(bucket->parts[i].value);
    }
    bucket->work = bucket->group->all_gather(bucket->rows_RN.view(-1), bucket->sum_N);
  }
  for (const auto& bucket : buckets_) {
    if (bucket->num_rows == 1) continue;
    bucket->work->wait();
    bucket->work.reset();
    for (size_t i = 0; i < bucket->parts.size(); ++i) {
      match_parts(bucket->rows_of(i), bucket->parts[i].parameter.detach(),
                  [](const at::Tensor& place, const at::Tensor& values) { values.copy_(place); });
    }
  }
}

}  // namespace locus::train
