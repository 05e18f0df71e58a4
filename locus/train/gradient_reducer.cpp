#include "locus/train/gradient_reducer.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

#include "locus/base/error.h"

namespace locus::train {

bool is_expert_parameter(const std::string& name) {
  return name.find(".experts.") != std::string::npos;
}

struct GradientReducer::Bucket {
  std::shared_ptr<comm::ProcessGroup> group;
  std::vector<at::Tensor> parameters;
  std::vector<bool> has_gradient;
  size_t num_missing = 0;
  at::Tensor flat;  // the gradients side by side; kept from step to step
  comm::Pending work;
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

GradientReducer::GradientReducer(const NamedTensors& parameters,
                                 const comm::ParallelContext& parallel, int64_t bucket_bytes) {
  // The open bucket of each kind: group and type are one for all in it.
  for (auto it = parameters.rbegin(); it != parameters.rend(); ++it) {
    const auto& [name, parameter] = *it;
    const auto& group = is_expert_parameter(name) ? parallel.edp : parallel.world;
    if (group == nullptr || !parameter.requires_grad()) continue;
    const auto fits = [&](const std::unique_ptr<Bucket>& bucket) {
      auto bytes = static_cast<int64_t>(parameter.nbytes());
      for (const at::Tensor& one : bucket->parameters) bytes += static_cast<int64_t>(one.nbytes());
      return bucket->parameters.front().scalar_type() == parameter.scalar_type() &&
             bytes <= bucket_bytes;
    };
    // The newest of its kind or none: an older one has been closed.
    auto found = std::find_if(buckets_.rbegin(), buckets_.rend(),
                              [&](const auto& bucket) { return bucket->group == group; });
    if (found == buckets_.rend() || !fits(*found)) {
      buckets_.push_back(std::make_unique<Bucket>());
      buckets_.back()->group = group;
      found = buckets_.rbegin();
    }
    (*found)->parameters.push_back(parameter);
  }
  for (size_t b = 0; b < buckets_.size(); ++b) {
    for (size_t place = 0; place < buckets_[b]->parameters.size(); ++place) {
      torch::autograd::impl::set_post_acc_grad_hooks(buckets_[b]->parameters[place],
                                                     std::make_unique<Hook>(*this, b, place));
    }
  }
}

GradientReducer::~GradientReducer() {
  for (const auto& bucket : buckets_) {
    for (const at::Tensor& parameter : bucket->parameters) {
      torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
    }
  }
}

void GradientReducer::start() {
  for (const auto& bucket : buckets_) {
    bucket->num_missing = bucket->parameters.size();
    bucket->has_gradient.assign(bucket->parameters.size(), false);
  }
  next_ = 0;
  active_ = true;
}

// Only in order: whatever order the gradients come in, all ranks send the same bucket.
void GradientReducer::send_ready() {
  while (next_ < buckets_.size() && buckets_[next_]->num_missing == 0) send(*buckets_[next_++]);
}

void GradientReducer::send(Bucket& bucket) {
  int64_t count = 0;
  for (const at::Tensor& parameter : bucket.parameters) count += parameter.numel();
  const at::NoGradGuard no_grad;
  if (!bucket.flat.defined()) {
    bucket.flat = at::empty({count}, bucket.parameters.front().options().requires_grad(false));
  }
  int64_t at = 0;
  for (const at::Tensor& parameter : bucket.parameters) {
    const at::Tensor place = bucket.flat.narrow(0, at, parameter.numel());
    if (parameter.grad().defined()) {
      place.copy_(parameter.grad().reshape({-1}));
    } else {
      place.zero_();
    }
    at += parameter.numel();
  }
  bucket.work = bucket.group->all_reduce(bucket.flat, comm::Reduce::kSum);
}

void GradientReducer::finish() {
  active_ = false;
  while (next_ < buckets_.size()) send(*buckets_[next_++]);
  const at::NoGradGuard no_grad;
  for (const auto& bucket : buckets_) {
    bucket->work->wait();
    bucket->work.reset();
    int64_t at = 0;
    for (const at::Tensor& parameter : bucket->parameters) {
      const at::Tensor sum = bucket->flat.narrow(0, at, parameter.numel()).view_as(parameter);
      if (parameter.grad().defined()) {
        parameter.grad().copy_(sum);
      } else {
        parameter.mutable_grad() = sum.clone();  // another rank's tokens had a use for it
      }
      at += parameter.numel();
    }
  }
}

}  // namespace locus::train
