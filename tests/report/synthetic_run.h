// A run folder that looks like a real one, for tests and for looking at the page.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <vector>

#include "locus/base/file.h"
#include "locus/base/format.h"
#include "locus/base/random.h"
#include "locus/base/timeline.h"

namespace locus::report {

// An empty folder below the temporary one.
inline fs::path fresh_folder(const std::string& name) {
  const fs::path folder = fs::temp_directory_path() / "locus_report_test" / name;
  fs::remove_all(folder);
  make_folders(folder);
  return folder;
}

class SyntheticRun {
 public:
  std::string name = "demo";
  uint64_t seed = 1;
  int64_t num_steps = 1200;
  int64_t interval = 2;
  int64_t num_layers = 8;
  std::vector<int64_t> moe_layers = {1, 3, 5, 7};
  int64_t num_experts = 8;
  int64_t samples = 120;  // lines for each MoE layer
  double capability = 0;  // lowers the loss
  double dropped = 0;
  bool has_end = true;
  std::vector<int64_t> node_of_ep_rank = {};  // empty: no exchange
  std::string exchange_type = "dedup";
  int64_t chunks = 2;
  int64_t ranks = 0;  // 0: as many as node_of_ep_rank
  bool has_trace = false;
  std::vector<std::string> domains = {"c_headers", "python", "manual", "docs", "licences"};

  // Writes all files and returns the folder.
  fs::path write() const {
    const fs::path folder = fresh_folder(name);
    std::string lines = run_line();
    const int64_t moe_interval = std::max<int64_t>(1, num_steps / std::max<int64_t>(1, samples));
    for (int64_t step = interval; step <= num_steps; step += interval) {
      lines += train_line(step);
      if (step % moe_interval < interval) {
        for (const int64_t layer : moe_layers) lines += moe_line(step, layer);
      }
      if (!node_of_ep_rank.empty()) {
        for (const int64_t layer : moe_layers) lines += exchange_line(step, layer);
      }
      if (step % std::max<int64_t>(1, num_steps / 12) < interval) lines += valid_line(step);
    }
    if (has_end) {
      lines +=
          format(R"({{"kind":"end","step":{},"reason":"finished","loss":{:.4f},"wall_s":{:.2f},)"
                 R"("tokens":{}}})"
                 "\n",
                 num_steps, loss(num_steps), 0.2134 * static_cast<double>(num_steps),
                 num_steps * kTokensPerStep);
    }
    write_file_atomic(folder / "metrics.jsonl", lines);
    write_file_atomic(folder / "config.toml", config());
    write_file_atomic(folder / "eval.json", eval());
    if (has_trace) write_file_atomic(folder / "trace.json", trace());
    write_file_atomic(
        folder / "samples.txt",
        "prompt: static inline int\n"
        "static inline int list_empty(const struct list_head *head)\n{\n"
        "        return READ_ONCE(head->next) == head;\n}\n\n"
        "prompt: <b>The</b> following\n<script>alert(1)</script> & \"quoted\" text stays text.\n");
    return folder;
  }

 private:
  static constexpr int64_t kTokensPerStep = 4096;

  double noise(std::string_view stream, int64_t step, int64_t which = 0) const {
    const uint64_t key = random_key({seed, name_key(stream), static_cast<uint64_t>(which)});
    double sum = 0;
    for (uint64_t i = 0; i < 4; ++i)
      sum += random_uniform(key, static_cast<uint64_t>(step) * 4 + i);
    return (sum - 2) * std::sqrt(3.0);  // about normal
  }
  double progress(int64_t step) const {
    return static_cast<double>(step) / static_cast<double>(num_steps);
  }
  double clean_loss(int64_t step) const {
    return 2.9 - capability + 6.4 * std::exp(-6 * std::pow(progress(step), 0.5));
  }
  double loss(int64_t step) const {
    const double spike = step > num_steps / 2 && step < num_steps / 2 + 12 ? 0.6 : 0;
    return clean_loss(step) + 0.07 * noise("loss", step) + spike;
  }
  double lr(int64_t step) const {
    const double warm_up = 0.05;
    const double t = progress(step);
    if (t < warm_up) return 1e-3 * t / warm_up;
    return 1e-4 + 9e-4 * 0.5 * (1 + std::cos(std::numbers::pi * (t - warm_up) / (1 - warm_up)));
  }

  std::string name_list(const std::vector<std::string>& names) const {
    std::string list;
    for (const auto& one : names) list += (list.empty() ? "\"" : ",\"") + one + "\"";
    return "[" + list + "]";
  }

  std::string run_line() const {
    return format(
        R"({{"kind":"run","step":0,"time":"2026-05-04T10:22:31Z","version":"0.1.0",)"
        R"("parameters":{},)"
        R"("active_parameters":{},"flops_per_token":{},"tokens_per_step":{},)"
        R"("router":"{}","num_layers":{},)"
        R"("moe_layers":[],"num_experts":{},"domains":{},"peak_flops":1.4e11,"threads":2,)"
        R"("ranks":{},"node_of_ep_rank":[{}],"resumed_from":null}})"
        "\n",
        6'100'000 + 420'000 * num_experts, 7'020'000, 42'000'000, kTokensPerStep,
        num_experts > 8 ? "switch" : "top_k", num_layers, num_experts, name_list(domains),
        ranks > 0 ? ranks : std::max<int64_t>(1, num_ep_ranks()), node_list());
  }

  std::string train_line(int64_t step) const {
    const double slow = step % 300 < interval ? 1.35 : 1.0;
    const double time_s = 0.21 * slow * (1 + 0.03 * noise("time", step));
    const double grad =
        std::exp(0.25 * noise("grad", step)) * (0.6 + 5 * std::exp(-30 * progress(step)));
    return format(R"({{"kind":"train","step":{},"loss":{:.5f},"perplexity":{:.4f},)"
                  R"("aux_loss":{:.5f},"lr":{:.6g},"grad_norm":{:.4f},)"
                  R"("tokens":{},"tokens_per_s":{:.1f},"flops_per_s":{:.4g},"flops_share":{:.4f},)"
                  R"("step_time_s":{:.5f},)"
                  R"("time_data_s":{:.5f},"time_forward_s":{:.5f},"time_backward_s":{:.5f},)"
                  R"("time_optimizer_s":{:.5f},)"
                  R"("time_other_s":{:.5f},"skipped_steps":{},"rss_bytes":{}}})"
                  "\n",
                  step, loss(step), std::exp(loss(step)),
                  0.04 + 0.03 * std::exp(-20 * progress(step)), lr(step), grad,
                  step * kTokensPerStep, kTokensPerStep / time_s, 42e6 * kTokensPerStep / time_s,
                  42e6 * kTokensPerStep / time_s / 1.4e12, time_s, 0.004, 0.31 * time_s,
                  0.58 * time_s, 0.018, std::max(0.0, 0.11 * time_s - 0.022), 0,
                  610'000'000 + 1000 * step);
  }

  // Uneven at first, then balanced; the last layer keeps one expert that starves.
  std::vector<double> weights(int64_t step, int64_t layer) const {
    std::vector<double> weight;
    for (int64_t e = 0; e < num_experts; ++e) {
      const double taste = 1.3 * noise("taste", e, layer) * std::exp(-7 * progress(step)) +
                           0.16 * noise("taste", e, layer);
      weight.push_back(std::exp(taste + 0.06 * noise("load", step, layer * 100 + e)));
    }
    if (layer == moe_layers.back() && progress(step) > 0.4)
      weight[static_cast<size_t>(num_experts) - 2] = 0;
    return weight;
  }

  std::string moe_line(int64_t step, int64_t layer) const {
    const std::vector<double> weight = weights(step, layer);
    double total = 0;
    for (const double w : weight) total += w;
    const double mean = total / static_cast<double>(num_experts);
    double square = 0;
    double most = 0;
    int64_t dead = 0;
    std::string tokens;
    for (const double w : weight) {
      square += (w / mean - 1) * (w / mean - 1);
      most = std::max(most, w / mean);
      dead += w == 0 ? 1 : 0;
      tokens.append(tokens.empty() ? "" : ",");
      tokens.append(format("{:.0f}", 2 * kTokensPerStep * w / total));
    }
    std::string matrix;
    for (size_t d = 0; d < domains.size(); ++d) {
      matrix += (d > 0 ? ",[" : "[") + domain_row(weight, layer, static_cast<int64_t>(d)) + "]";
    }
    const double log_experts = std::log(static_cast<double>(num_experts));
    return format(
        R"({{"kind":"moe","step":{},"layer":{},"tokens_per_expert":[{}],"load_cv":{:.4f},)"
        R"("load_max_over_mean":{:.4f},)"
        R"("dead_experts":{},"dropped_share":{:.5f},"unrouted_share":0,"entropy":{:.4f},)"
        R"("top_weight":{:.4f},)"
        R"("balance_loss":{:.5f},"z_loss":0.0,"domain_expert":[{}]}})"
        "\n",
        step, layer, tokens, std::sqrt(square / static_cast<double>(num_experts)), most, dead,
        dropped * (0.2 + std::exp(-8 * progress(step))),
        log_experts * (0.62 + 0.33 * std::exp(-5 * progress(step)) -
                       0.03 * static_cast<double>(layer) + 0.01 * noise("entropy", step, layer)),
        0.35 + 0.2 * progress(step) + 0.01 * noise("top", step, layer), 0.01 * (1 + square / 10),
        matrix);
  }

  int64_t num_ep_ranks() const { return static_cast<int64_t>(node_of_ep_rank.size()); }

  std::string node_list() const {
    std::string list;
    for (const int64_t node : node_of_ep_rank) {
      list.append(list.empty() ? "" : ",").append(std::to_string(node));
    }
    return list;
  }

  // Bytes from each rank to each other one, more to some than to others; `inter` counts those
  // between nodes.
  std::string rank_bytes(int64_t step, int64_t layer, double& intra, double& inter) const {
    std::string rows;
    for (int64_t from = 0; from < num_ep_ranks(); ++from) {
      std::string row;
      for (int64_t to = 0; to < num_ep_ranks(); ++to) {
        const double liking = std::exp(0.5 * noise("liking", from, layer * 1000 + to) +
                                       0.05 * noise("sent", step, from * 1000 + to));
        const double bytes = from == to ? 0 : std::round(150'000 * liking);
        const bool within =
            node_of_ep_rank[static_cast<size_t>(from)] == node_of_ep_rank[static_cast<size_t>(to)];
        (within ? intra : inter) += bytes;
        row.append(row.empty() ? "" : ",").append(format("{:.0f}", bytes));
      }
      rows += format("{}[{}]", rows.empty() ? "" : ",", row);
    }
    return rows;
  }

  std::string exchange_line(int64_t step, int64_t layer) const {
    double intra = 0, inter = 0;
    const std::string matrix = rank_bytes(step, layer, intra, inter);
    const double flight_s = 0.016 * (1 + 0.05 * noise("flight", step, layer));
    const double exposed_s = flight_s * (0.3 + 0.05 * noise("exposed", step, layer));
    std::string ways;
    for (const char* way : {"dispatch", "combine", "combine_gradient", "dispatch_gradient"}) {
      ways += format(R"("{0}_intra_bytes":{1},"{0}_inter_bytes":{2},"{0}_flight_s":{3:.6f},)"
                     R"("{0}_exposed_s":{4:.6f},)",
                     way, intra / 4, inter / 4, flight_s / 4, exposed_s / 4);
    }
    const bool least = exchange_type == "dedup";
    return format(
        R"({{"kind":"exchange","step":{},"layer":{},"type":"{}","chunks":{},{})"
        R"("intra_bytes":{},"inter_bytes":{},"least_inter_bytes":{},"flat_inter_bytes":{},)"
        R"("inter_messages":{},"flight_s":{:.6f},"exposed_s":{:.6f},"plan_s":0.0004,)"
        R"("rank_bytes":[{}]}})"
        "\n",
        step, layer, exchange_type, chunks, ways, intra, inter, least ? inter : 0.6 * inter,
        least ? inter / 0.6 : inter, chunks * num_ep_ranks(), flight_s, exposed_s, matrix);
  }

  // The rows of one layer go out in chunks and come back, while experts compute; then the time.
  double add_exchange(Timeline& timeline, double now_s, int64_t rank, int64_t layer,
                      const std::string& suffix) const {
    const double chunk_s = 0.004 / static_cast<double>(chunks);
    double landed_s = now_s;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const double flight_s = chunk_s * (1.5 + 0.3 * noise("way", layer, rank * 100 + chunk));
      const double out_s = now_s + 0.0002 * static_cast<double>(chunk);
      landed_s = std::max(landed_s, out_s + flight_s);
      timeline.add("dispatch" + suffix, "rows under way", out_s, landed_s);
      if (chunk == 0) timeline.add("dispatch" + suffix, "wait", now_s + 0.0004, landed_s);
      if (suffix.empty()) timeline.add("experts", "compute", landed_s, landed_s + chunk_s);
      landed_s += chunk_s;
      timeline.add("combine" + suffix, "rows under way", landed_s, landed_s + flight_s);
    }
    timeline.add("combine" + suffix, "wait", landed_s, landed_s + 1.5 * chunk_s);
    return landed_s + 1.6 * chunk_s;
  }

  std::string trace() const {
    std::vector<std::vector<TimelineSpan>> spans;
    for (int64_t rank = 0; rank < num_ep_ranks(); ++rank) {
      Timeline timeline;
      double now_s = 100;
      double begin_s = now_s;
      for (int64_t layer = 0; layer < num_layers; ++layer) {
        now_s = add_exchange(timeline, now_s + 0.003, rank, layer, "");
      }
      timeline.add("forward", "compute", begin_s, now_s += 0.004);
      begin_s = now_s;
      for (int64_t layer = num_layers; layer-- > 0;) {
        now_s = add_exchange(timeline, now_s + 0.006, rank, layer, "_gradient");
      }
      timeline.add("backward", "compute", begin_s, now_s += 0.002);
      timeline.add("sum gradients", "wait", now_s, now_s + 0.005);
      timeline.add("optimizer", "compute", now_s + 0.005, now_s + 0.012);
      spans.push_back(timeline.spans());
    }
    return to_chrome_trace(spans);
  }

  std::string domain_row(const std::vector<double>& weight, int64_t layer, int64_t domain) const {
    std::vector<double> share;
    double total = 0;
    for (int64_t e = 0; e < num_experts; ++e) {
      const double affinity = noise("affinity", e, layer * 10 + domain);
      share.push_back(weight[static_cast<size_t>(e)] *
                      std::exp(0.25 * static_cast<double>(layer + 1) * affinity / 2));
      total += share.back();
    }
    std::string row;
    for (const double s : share)
      row.append(row.empty() ? "" : ",").append(format("{:.0f}", 1638 * s / total));
    return row;
  }

  std::string by_domain(double base) const {
    std::string text;
    for (size_t d = 0; d < domains.size(); ++d) {
      const double own = base - 1.1 + 0.5 * static_cast<double>(d);
      text += format(R"({}"{}":{{"loss":{:.4f},"perplexity":{:.4f},"tokens":20000}})",
                     d > 0 ? "," : "", domains[d], own, std::exp(own));
    }
    return "{" + text + "}";
  }

  std::string valid_line(int64_t step) const {
    const double value = clean_loss(step) + 0.09 + 0.05 * progress(step);
    return format(
        R"({{"kind":"valid","step":{},"loss":{:.4f},"perplexity":{:.4f},"bits_per_byte":{:.4f},)"
        R"("accuracy":{:.4f},"tokens":100000,"by_domain":{}}})"
        "\n",
        step, value, std::exp(value), value / 3.1, 0.62 - value / 12, by_domain(value));
  }

  std::string config() const {
    return format(
        "[model]\nhidden_size = 256  # width\nnum_hidden_layers = {}\nname = \"a # b\"\n\n[moe]\n"
        "num_local_experts = {}\nlayers = [\n  1,\n  3,  # comment\n]\n\n[moe.router]\ntype = "
        "\"{}\"\n"
        "top_k = 2\n\n[train]\nseed = {}\nlearning_rate = 0.001\n\n[log]\ntimeline_step = {}\n",
        num_layers, num_experts, num_experts > 8 ? "switch" : "top_k", seed, has_trace ? 40 : 0);
  }

  std::string eval() const {
    const double value = clean_loss(num_steps) + 0.14;
    return format(R"({{"checkpoint":"checkpoints/step_{:08}","step":{},)"
                  R"("data":"runs/demo-data/test","loss":{:.4f},)"
                  R"("perplexity":{:.4f},"bits_per_byte":1.02,"accuracy":0.38,"tokens":100000,)"
                  R"("by_domain":{}}})",
                  num_steps, num_steps, value, std::exp(value), by_domain(value));
  }
};

}  // namespace locus::report
