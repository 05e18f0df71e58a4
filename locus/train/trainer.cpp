#include "locus/train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <sstream>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/log.h"
#include "locus/base/progress.h"
#include "locus/base/signals.h"
#include "locus/comm/activity.h"
#include "locus/comm/collectives.h"
#include "locus/moe/capacity_bound.h"
#include "locus/train/lr_schedule.h"
#include "locus/train/machine.h"

namespace locus::train {
namespace {

using Clock = std::chrono::steady_clock;

// To and from the text that ranks send each other: a span a line, its four parts after tabs.
std::string to_text(const Timeline& timeline) {
  std::string text;
  for (const TimelineSpan& span : timeline.spans()) {
    text += format("{}\t{}\t{:.9f}\t{:.9f}\n", span.name, span.track, span.begin_s, span.end_s);
  }
  return text;
}

std::vector<TimelineSpan> spans_of(const std::string& text) {
  std::vector<TimelineSpan> spans;
  std::istringstream lines(text);
  TimelineSpan span;
  std::string begin, end;
  while (std::getline(lines, span.name, '\t') && std::getline(lines, span.track, '\t') &&
         std::getline(lines, begin, '\t') && std::getline(lines, end)) {
    span.begin_s = std::stod(begin);
    span.end_s = std::stod(end);
    spans.push_back(span);
  }
  return spans;
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

// What has been seen since the last line of metrics.
struct Trainer::Interval {
  int64_t steps = 0, aux_steps = 0, labels = 0, tokens = 0;
  double loss_sum = 0, aux_loss_sum = 0, grad_norm = 0;
  double flops = 0;
  double data_s = 0, forward_s = 0, backward_s = 0, reduce_s = 0, optimizer_s = 0;
  double pause_s = 0;  // evaluation and checkpoints: not part of a step
  Clock::time_point begin = Clock::now();

  void add(const StepResult& result, int64_t num_tokens) {
    ++steps;
    tokens += num_tokens;
    if (std::isfinite(result.loss)) {
      labels += result.num_labels;
      loss_sum += result.loss * static_cast<double>(result.num_labels);
    }
    if (std::isfinite(result.aux_loss)) {
      ++aux_steps;
      aux_loss_sum += result.aux_loss;
    }
    grad_norm = result.grad_norm;
    forward_s += result.forward_s;
    backward_s += result.backward_s;
    reduce_s += result.reduce_s;
    optimizer_s += result.optimizer_s;
  }
  double loss() const { return labels > 0 ? loss_sum / static_cast<double>(labels) : std::nan(""); }
  double wall_s() const { return seconds_since(begin) - pause_s; }
  double aux_loss() const {
    return aux_steps > 0 ? aux_loss_sum / static_cast<double>(aux_steps) : std::nan("");
  }
};

Trainer::Trainer(const TrainerParts& parts, TrainerSettings settings)
    : parts_(parts),
      settings_(std::move(settings)),
      train_step_(parts_.transformer, parts_.optimizer, settings_.train,
                  parts_.transformer.output_weight().device()) {
  train_step_.set_extra_passes(parts_.extra);
  if (parts_.teacher) train_step_.set_teacher(parts_.teacher, settings_.distillation.label_share);
}

TrainOutcome Trainer::run(TrainerState state) {
  state_ = state;
  parts_.transformer.set_domain_names(parts_.source->domain_names());
  if (parts_.teacher) parts_.teacher->set_domain_names(parts_.source->domain_names());
  start_placement();
  start_expert_moves();
  const TrainConfig& config = settings_.train;
  const Clock::time_point begin = Clock::now();
  const comm::ParallelContext& parallel = parts_.transformer.config().parallel;
  data::PrefetchingLoader loader(parts_.source, config.global_batch_size, config.micro_batch_size,
                                 state_.step, settings_.prefetch,
                                 {.rank = parallel.rank, .num_ranks = parallel.world_size},
                                 placement_ ? placement_->place_sequences() : nullptr);
  ProgressBar bar("train", config.max_steps,
                  parallel.rank == 0 ? ProgressBar::Style::kAuto : ProgressBar::Style::kSilent);
  Interval interval;
  TrainOutcome outcome;
  outcome.reason = "finished";
  int64_t saved_step = state_.step;
  // Killed between its last checkpoint and its last evaluation.
  if (state_.step >= config.max_steps) evaluate(outcome);

  bool stopped = false;
  while (state_.step < config.max_steps && outcome.signal == 0 && !stopped) {
    comm::note_step(parallel.activity, state_.step + 1);
    comm::note_phase(parallel.activity, "data");
    const Clock::time_point data_begin = Clock::now();
    const std::vector<data::Batch> batches = loader.next();
    interval.data_s += seconds_since(data_begin);
    const double lr = learning_rate(settings_.lr_schedule, state_.step, config.max_steps);
    start_router_stats(state_.step);
    start_exchange_stats(state_.step);
    const StepResult result = run_step(batches, lr);
    const int64_t num_tokens = config.global_batch_size * batches.front().sequence_length;
    ++state_.step;
    state_.tokens += num_tokens;
    interval.add(result, num_tokens);
    if (!result.skipped.empty()) note_skipped(result);
    write_router_stats(state_.step);
    write_exchange_stats(state_.step);
    interval.flops += step_flops(num_tokens);
    state_.flops += step_flops(num_tokens);
    if (bar.on_terminal()) {
      bar.update(state_.step, format("loss {:.4f}  {:.0f} tokens/s", result.loss,
                                     static_cast<double>(interval.tokens) / interval.wall_s()));
    }
    outcome.signal = result.signal;
    stopped = stops_ && stops_(state_.step, result.loss);
    const bool last = state_.step == config.max_steps || outcome.signal != 0 || stopped;
    if (state_.step % settings_.log.interval == 0 || last) {
      outcome.loss = interval.loss();
      outcome.peak_rss_bytes = peak_resident_bytes();
      write_train_line(interval, lr);
      if (placement_) {
        for (const MetricLine& line : placement_->take_lines(state_.step)) write(line);
      }
      interval = Interval();
    }
    const Clock::time_point pause_begin = Clock::now();
    const bool eval_due = settings_.eval_interval > 0 && state_.step % settings_.eval_interval == 0;
    if (eval_due || last) evaluate(outcome);
    // Not while steps are being skipped: the older checkpoints may be the good ones.
    const bool save_due = settings_.checkpoint.interval > 0 &&
                          state_.step % settings_.checkpoint.interval == 0 &&
                          state_.skipped_in_row == 0;
    if (save_due || last || outcome.signal != 0) {
      save_checkpoint();
      saved_step = state_.step;
    }
    interval.pause_s += seconds_since(pause_begin);
  }
  bar.finish();
  if (saved_step != state_.step) save_checkpoint();
  comm::note_phase(parallel.activity, "checkpoint");
  parts_.checkpoints.wait();
  if (stopped && state_.step < config.max_steps) outcome.reason = "stopped";
  if (outcome.signal != 0) outcome.reason = "interrupted";
  outcome.state = state_;
  outcome.wall_s = seconds_since(begin);
  return outcome;
}

void Trainer::write(const MetricLine& line) const {
  if (parts_.metrics != nullptr) parts_.metrics->write(line);
}

void Trainer::evaluate(TrainOutcome& outcome) {
  if (!evaluate_ || outcome.signal != 0) return;
  comm::note_phase(parts_.transformer.config().parallel.activity, "evaluation");
  try {
    evaluate_(state_.step);
  } catch (const Interrupted&) {
    outcome.signal = received_signal();  // the checkpoint is written all the same
  }
}

void Trainer::write_train_line(const Interval& interval, double lr) {
  const auto steps = static_cast<double>(interval.steps);
  const double wall_s = interval.wall_s();
  const double tokens_per_s = static_cast<double>(interval.tokens) / wall_s;
  const double flops_per_s = interval.flops / wall_s;
  const double timed_s = interval.data_s + interval.forward_s + interval.backward_s +
                         interval.reduce_s + interval.optimizer_s;
  MetricLine line("train", state_.step);
  line.set("loss", interval.loss())
      .set("perplexity", std::exp(interval.loss()))
      .set("aux_loss", interval.aux_loss())
      .set("lr", lr)
      .set("grad_norm", interval.grad_norm)
      .set("tokens", state_.tokens)
      .set("flops", state_.flops)
      .set("tokens_per_s", tokens_per_s)
      .set("flops_per_s", flops_per_s)
      .set("flops_share",
           settings_.peak_flops > 0 ? flops_per_s / settings_.peak_flops : std::nan(""))
      .set("step_time_s", wall_s / steps)
      .set("time_data_s", interval.data_s / steps)
      .set("time_forward_s", interval.forward_s / steps)
      .set("time_backward_s", interval.backward_s / steps)
      .set("time_reduce_s", interval.reduce_s / steps)
      .set("time_optimizer_s", interval.optimizer_s / steps)
      .set("time_other_s", std::max(0.0, wall_s - timed_s) / steps)
      .set("skipped_steps", state_.skipped_steps)
      .set("rss_bytes", resident_bytes());
  if (parts_.extra != nullptr) parts_.extra->report(line);
  write(line);
  const std::string text = format(
      "iteration {:>7}/{} | lm loss: {:.6f} | learning rate: {:.3E} | grad norm: {:.3f} | "
      "time per iteration (ms): {:.1f} | tokens/s: {:.0f} | model GFLOP/s: {:.1f}",
      state_.step, settings_.train.max_steps, interval.loss(), lr, interval.grad_norm,
      wall_s / steps * 1e3, tokens_per_s, flops_per_s / 1e9);
  if (ProgressBar::stderr_is_terminal()) {
    log::debug("{}", text);
  } else {
    log::info("{}", text);
  }
}

double Trainer::step_flops(int64_t num_tokens) const {
  double per_token = settings_.flops_per_token;
  if (parts_.extra != nullptr) per_token += parts_.extra->flops_per_token();
  for (const auto& [layer, count] : experts_per_token_) {
    const auto of_expert = settings_.flops_per_expert.find(layer);
    if (of_expert != settings_.flops_per_expert.end()) per_token += count * of_expert->second;
  }
  return static_cast<double>(num_tokens) * per_token;
}

// What only some routers tell, or only some steps.
void Trainer::set_measured(const moe::RouterStats& stats, double batches, MetricLine& line) const {
  if (stats.capacity_sum > 0) {
    line.set("capacity", static_cast<double>(stats.capacity_sum) / batches);
  }
  if (stats.cluster_sum_ED.defined()) line.set("calinski_harabasz", stats.calinski_harabasz());
  if (stats.cosine_sum_E.empty()) return;
  const model::TransformerConfig& config = parts_.transformer.config();
  const int64_t num_experts = std::ssize(stats.cosine_sum_E);
  const auto bound = [&](double cosine) {
    if (std::isnan(cosine)) return cosine;
    return moe::capacity_bound(cosine, config.model.hidden_size, num_experts);
  };
  std::vector<double> bounds;
  for (const double cosine : stats.cosines()) bounds.push_back(bound(cosine));
  line.set("cosine", stats.cosine())
      .set("capacity_bound", bound(stats.cosine()))
      .set("cosines", stats.cosines())
      .set("capacity_bounds", bounds);
}

void Trainer::start_placement() {
  if (!settings_.place_sequences) return;
  const comm::ParallelContext& parallel = parts_.transformer.config().parallel;
  const std::string useless = parts_.transformer.moe_layers().empty()
                                  ? "the model has no experts"
                                  : Placement::why_useless(parallel, parts_.source->domain_names());
  if (!useless.empty()) {
    log::info("parallel.place_sequences has nothing to do: {}", useless);
    return;
  }
  // The loader has made one step more than are ready, and is making one.
  placement_ = std::make_unique<Placement>(parallel, settings_.log.domain_interval,
                                           /*lag=*/settings_.prefetch + 2);
  placement_->restore(state_.placement);
}

void Trainer::start_expert_moves() {
  if (settings_.place_experts_interval == 0) return;
  const std::string useless = parts_.transformer.moe_layers().empty()
                                  ? "the model has no experts"
                                  : ExpertMoves::why_useless(parts_.transformer.config().parallel);
  if (!useless.empty()) {
    log::info("parallel.place_experts_interval has nothing to do: {}", useless);
    return;
  }
  moves_ = std::make_unique<ExpertMoves>(parts_.transformer, parts_.optimizer,
                                         settings_.place_experts_interval,
                                         settings_.log.router_interval);
  moves_->restore(state_.experts);
}

void Trainer::start_router_stats(int64_t step) {
  if ((step + 1) % settings_.log.router_interval != 0) {
    // What the first steps cost is not known either.
    if (!experts_per_token_.empty()) return;
    for (const auto& [layer, moe] : parts_.transformer.moe_layers()) moe->start_stats(0);
    return;
  }
  const auto num_domains = static_cast<int64_t>(parts_.source->domain_names().size());
  const bool samples = (step + 1) % settings_.log.domain_interval == 0;
  for (const auto& [layer, moe] : parts_.transformer.moe_layers()) {
    moe->start_stats(num_domains, /*with_clusters=*/samples);
  }
}

void Trainer::write_router_stats(int64_t step) {
  if (step % settings_.log.router_interval != 0) {
    if (!experts_per_token_.empty()) return;
    for (const auto& [layer, moe] : parts_.transformer.moe_layers()) {
      experts_per_token_[layer] = moe->take_stats().experts_per_token();
    }
    return;
  }
  std::map<int64_t, DomainExpert> counts;
  std::map<int64_t, std::vector<int64_t>> own_tokens;
  for (const auto& [layer, moe] : parts_.transformer.moe_layers()) {
    own_tokens[layer] = moe->own_stats().tokens_per_expert;
    const moe::RouterStats stats = moe->take_stats();
    const auto tokens = static_cast<double>(std::max<int64_t>(stats.num_tokens, 1));
    const auto batches = static_cast<double>(std::max<int64_t>(stats.num_batches, 1));
    if (stats.num_tokens > 0) experts_per_token_[layer] = stats.experts_per_token();
    MetricLine line("moe", step);
    line.set("layer", layer)
        .set("tokens_per_expert", stats.tokens_per_expert)
        .set("experts_per_token", stats.experts_per_token())
        .set("load_cv", stats.load_cv())
        .set("load_max_over_mean", stats.load_max_over_mean())
        .set("dead_experts", stats.dead_experts())
        .set("dropped_share", stats.dropped_share())
        .set("unrouted_share", stats.unrouted_share())
        .set("entropy", stats.entropy_sum / tokens)
        .set("top_weight", stats.top_weight_sum / tokens)
        .set("balance_loss", stats.balance_loss / batches)
        .set("z_loss", stats.z_loss / batches)
        .set("locality_loss", stats.locality_loss / batches)
        .set("balance_gradient_norm", stats.gradient_norm(stats.balance_gradient))
        .set("z_gradient_norm", stats.gradient_norm(stats.z_gradient))
        .set("locality_gradient_norm", stats.gradient_norm(stats.locality_gradient));
    set_measured(stats, batches, line);
    if (!stats.domain_expert.empty()) {
      moe::add_counts(domain_expert_[layer], stats.domain_expert);
      if (step % settings_.log.domain_interval == 0) {
        line.set("domain_expert", domain_expert_[layer]);
        domain_expert_.erase(layer);
      }
      counts[layer] = stats.domain_expert;
    }
    write(line);
  }
  bring_together(step, counts, own_tokens);
}

// Experts and tokens, by what the routers counted.
void Trainer::bring_together(int64_t step, const std::map<int64_t, DomainExpert>& counts,
                             const std::map<int64_t, std::vector<int64_t>>& own_tokens) {
  if (moves_) {
    comm::note_phase(parts_.transformer.config().parallel.activity, "moving experts");
    for (const MetricLine& line : moves_->update(step, own_tokens)) write(line);
  }
  if (placement_) placement_->update(step, counts, parts_.transformer);
}

StepResult Trainer::run_step(const std::vector<data::Batch>& batches, double lr) {
  if (state_.step + 1 != settings_.log.timeline_step) return train_step_.run(batches, lr, state_);
  Timeline timeline;
  StepResult result;
  {
    const TimelineScope scope(timeline);
    result = train_step_.run(batches, lr, state_);
  }
  write_timeline(timeline);
  return result;
}

// One file of all ranks' spans.
void Trainer::write_timeline(const Timeline& timeline) const {
  const comm::ParallelContext& parallel = parts_.transformer.config().parallel;
  std::vector<std::vector<TimelineSpan>> spans;
  for (const std::string& text : comm::gather_texts(parallel.world.get(), to_text(timeline))) {
    spans.push_back(spans_of(text));
  }
  if (parallel.rank != 0 || settings_.trace_file.empty()) return;
  write_file_atomic(settings_.trace_file, to_chrome_trace(spans));
  log::info("the timeline of step {} is in {}", settings_.log.timeline_step,
            settings_.trace_file.string());
}

void Trainer::start_exchange_stats(int64_t step) {
  if ((step + 1) % settings_.log.interval != 0) return;
  for (const auto& [layer, moe] : parts_.transformer.moe_layers()) moe->start_exchange_stats();
}

// Of this one step.
void Trainer::write_exchange_stats(int64_t step) {
  if (step % settings_.log.interval != 0) return;
  const comm::ExchangeConfig& exchange = parts_.transformer.config().parallel.exchange;
  for (const auto& [layer, moe] : parts_.transformer.moe_layers()) {
    const std::optional<moe::SummedExchange> sum = moe->take_exchange_stats();
    if (!sum) continue;
    const moe::DirectionStats total = sum->stats.total();
    MetricLine line("exchange", step);
    line.set("layer", layer).set("type", exchange.type).set("chunks", exchange.chunks);
    for (int i = 0; i < moe::kNumDirections; ++i) {
      const std::string name(moe::direction_name(static_cast<moe::Direction>(i)));
      line.set(name + "_intra_bytes", sum->stats.of[i].intra_bytes)
          .set(name + "_inter_bytes", sum->stats.of[i].inter_bytes)
          .set(name + "_flight_s", sum->stats.of[i].flight_s)
          .set(name + "_exposed_s", sum->stats.of[i].exposed_s);
    }
    line.set("intra_bytes", total.intra_bytes)
        .set("inter_bytes", total.inter_bytes)
        .set("least_inter_bytes", sum->stats.least_inter_bytes)
        .set("flat_inter_bytes", sum->stats.flat_inter_bytes)
        .set("assigned_bytes", sum->stats.assigned_bytes)
        .set("inter_messages", sum->stats.inter_messages)
        .set("flight_s", total.flight_s)
        .set("exposed_s", total.exposed_s)
        .set("plan_s", sum->stats.plan_s)
        .set("rank_bytes", sum->matrix_RR);
    write(line);
  }
}

void Trainer::note_skipped(const StepResult& result) {
  const int64_t batch = settings_.train.global_batch_size;
  const int64_t first = (state_.step - 1) * batch;
  log::warning("step {}: no update, {} (samples {} to {} of the training stream)", state_.step,
               result.skipped, first, first + batch - 1);
  write(MetricLine("skipped", state_.step)
            .set("reason", result.skipped)
            .set("first_sample", first)
            .set("num_samples", batch));
  // Nor is it a training where no step at all had one.
  const bool is_in_vain =
      state_.step == settings_.train.max_steps && state_.skipped_steps == state_.step;
  if (state_.skipped_in_row < settings_.train.max_skipped_in_row && !is_in_vain) return;
  write(MetricLine("end", state_.step).set("reason", "diverged"));
  throw DivergedError(
      "{} steps in a row had no update, the last one at step {}: {}; the \"skipped\" lines "
      "of metrics.jsonl "
      "name the batches. A lower lr_schedule.lr, more warm-up or train.clip_grad may help",
      state_.skipped_in_row, state_.step, result.skipped);
}

void Trainer::save_checkpoint() {
  const Clock::time_point begin = Clock::now();
  comm::note_phase(parts_.transformer.config().parallel.activity, "checkpoint");
  if (placement_) state_.placement = placement_->state();
  if (moves_) state_.experts = moves_->state();
  parts_.checkpoints.save(parts_.transformer, parts_.optimizer, state_,
                          settings_.texts ? settings_.texts() : std::vector<TextFile>());
  write(MetricLine("checkpoint", state_.step)
            .set("path", format("checkpoints/step_{:08}", state_.step))
            .set("stall_s", seconds_since(begin)));
}

}  // namespace locus::train
