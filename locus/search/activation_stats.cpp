#include "locus/search/activation_stats.h"

#include <ATen/ATen.h>

#include <string>

#include "locus/base/error.h"
#include "locus/comm/collectives.h"

namespace locus::search {
namespace {

// Below this share of its mean square, a variance is rounding.
constexpr double kLeastVariance = 1e-12;

// The unit of each channel of the output projection's input.
at::Tensor unit_of_channel(const ArchSpace& space, const UnitGroup& group) {
  const auto& layer = space.layers()[static_cast<size_t>(group.layer)];
  const int64_t of_head = layer.model.head_dim * space.model().heads_per_group();
  std::vector<int64_t> out;
  for (size_t unit = group.begin; unit < group.end; ++unit) {
    int64_t count = of_head;
    if (group.kind == UnitKind::kBlock) {
      const auto [begin, end] = space.channels_of(space.units()[unit]);
      count = end - begin;
    }
    out.insert(out.end(), static_cast<size_t>(count), static_cast<int64_t>(unit - group.begin));
  }
  return at::tensor(out, at::kLong);
}

std::vector<double> to_vector(const at::Tensor& x) {
  const at::Tensor values = x.contiguous();
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

at::Tensor pearson(const at::Tensor& mean_C, const at::Tensor& mean_product_CC) {
  const at::Tensor covariance_CC = mean_product_CC - at::outer(mean_C, mean_C);
  const at::Tensor variance_C = covariance_CC.diagonal();
  const at::Tensor varies_C = variance_C > kLeastVariance * mean_product_CC.diagonal();
  const at::Tensor inverse_C =
      at::where(varies_C, variance_C.clamp_min(1e-300).rsqrt(), at::zeros_like(variance_C));
  return (covariance_CC * at::outer(inverse_C, inverse_C)).clamp_(-1.0, 1.0).fill_diagonal_(1.0);
}

}  // namespace

ActivationStats::ActivationStats(const ArchSpace& space) : space_(space) {
  for (const UnitGroup& group : space.groups()) {
    if (!has_columns(group.kind)) continue;
    const at::Tensor index_K = unit_of_channel(space, group);
    const auto count = static_cast<int64_t>(group.size());
    sums_.push_back({&group, index_K, at::bincount(index_K, {}, count).to(at::kDouble),
                     at::zeros({1 + 2 * count + count * count}, at::kDouble)});
  }
}

std::unique_ptr<ops::InputProbe> ActivationStats::watch(const model::Transformer& transformer) {
  std::vector<at::Tensor> weights;
  const auto parameters = transformer.named_parameters();
  for (const Sums& sums : sums_) {
    weights.push_back(parameters[output_weight(space_, sums.group->kind, sums.group->layer)]);
  }
  return std::make_unique<ops::InputProbe>(
      weights, [this](size_t number, const at::Tensor& x) { add(sums_[number], x); });
}

void ActivationStats::add(Sums& sums, const at::Tensor& x) {
  LOCUS_CHECK(x.size(-1) == sums.unit_of_channel_K.size(0), "{} channels of {}", x.size(-1),
              sums.unit_of_channel_K.size(0));
  const at::Tensor x_NK = x.reshape({-1, x.size(-1)}).to(at::kCPU, at::kDouble);
  const int64_t count = sums.channels_C.size(0);
  const auto by_unit = [&](const at::Tensor& values_NK) {
    return at::zeros({values_NK.size(0), count}, at::kDouble)
               .index_add_(1, sums.unit_of_channel_K, values_NK) /
           sums.channels_C;
  };
  const at::Tensor value_NC = by_unit(x_NK);
  const at::Tensor rows = at::full({1}, static_cast<double>(x_NK.size(0)), at::kDouble);
  sums.all += at::cat({rows, by_unit(x_NK.abs().sum(0, /*keepdim=*/true)).flatten(),
                       value_NC.sum(0), value_NC.t().mm(value_NC).flatten()});
}

std::vector<GroupActivations> ActivationStats::take(comm::ProcessGroup* world) {
  std::vector<at::Tensor> own;
  std::vector<int64_t> sizes;
  for (const Sums& sums : sums_) {
    own.push_back(sums.all);
    sizes.push_back(sums.all.size(0));
  }
  const std::vector<at::Tensor> all = comm::sum_over(world, at::cat(own)).split_with_sizes(sizes);
  std::vector<GroupActivations> out;
  for (size_t i = 0; i < sums_.size(); ++i) {
    sums_[i].all.zero_();
    const double rows = all[i][0].item<double>();
    if (rows == 0) continue;
    const int64_t count = sums_[i].channels_C.size(0);
    const auto parts = (all[i] / rows).split_with_sizes({1, count, count, count * count});
    out.push_back({sums_[i].group, to_vector(parts[1]), to_vector(parts[2]),
                   pearson(parts[2], parts[3].view({count, count}))});
  }
  return out;
}

}  // namespace locus::search
