// Settings of a training that serves many sizes, [dance].
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace locus::search {

struct DanceConfig {
  std::string mode = "budget";
  std::vector<double> budgets;
  std::string resource = "flops";
  double begin = 0.5;
  int64_t calibration_steps = 16;
  int64_t block_size = 16;
  double least_channels = 0.1;
  bool depth = false;
  int64_t expert_ranks = 0;
  double full_weight = 1.0 / 3;
  double label_share = 0.5;
  double gate_lr = 0.03;
  double gate_share = 0.3;
  int64_t gate_interval = 4;
  double gate_temperature = 0.5;
  double gate_noise = 0.1;

  bool is_on() const { return !budgets.empty(); }
  bool is_paper() const { return mode == "paper"; }

  template <class V>
  void visit_fields(V& v) {
    v("mode", mode,
      "budget | paper: the gates of DANCE's published code, to compare with, for one budget: every "
      "layer keeps the same share of its heads and channels, drawn and learned in each joint step; "
      "of the gates' settings gate_lr alone counts");
    v("budgets", budgets,
      "smaller models that are trained inside this one, by their share of what it costs, as "
      "[0.25, 0.5, 0.75]; `locus extract` takes them out; empty: none");
    v("resource", resource,
      "the cost that budgets are shares of: flops (forward) | parameters | memory | exchange");
    v("begin", begin, "share of train.max_steps after which they are trained, too");
    v("calibration_steps", calibration_steps,
      "steps before that, whose gradients tell how important heads, channels and experts are");
    v("block_size", block_size, "channels of a feed-forward network that go or stay together");
    v("least_channels", least_channels, "share of a feed-forward network's width that stays");
    v("depth", depth, "whole attention and feed-forward branches can go");
    v("expert_ranks", expert_ranks,
      "experts go and stay in sets of one from each of so many equal parts of a layer's, so that "
      "as many ranks can share what is left; 0: parallel.expert_model_parallel_size");
    v("full_weight", full_weight,
      "weight of the whole model's loss; the smallest model and one that is drawn for each step "
      "share the rest");
    v("label_share", label_share,
      "share of the labels in a smaller model's loss; the rest is the whole model's distribution");
    v("gate_lr", gate_lr,
      "rate at which what stays is learned (Adam); 0: by importance alone, every layer alike");
    v("gate_share", gate_share, "share of the joint steps in which it is learned");
    v("gate_interval", gate_interval, "of those steps, every so many");
    v("gate_temperature", gate_temperature, "width of a gate's sigmoid");
    v("gate_noise", gate_noise, "scale of the noise on the gates, which falls to 0");
  }
};

}  // namespace locus::search
