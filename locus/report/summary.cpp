#include "locus/report/summary.h"

#include <algorithm>
#include <cmath>

#include "locus/base/format.h"
#include "locus/report/downsample.h"
#include "locus/report/text.h"

namespace locus::report {
namespace {

// The last finite value of one number.
template <class Point>
double last_value(const std::vector<Point>& points, double Point::*member) {
  const auto found = std::find_if(points.rbegin(), points.rend(), [member](const Point& point) {
    return std::isfinite(point.*member);
  });
  return found != points.rend() ? (*found).*member : kMissing;
}

double median(std::vector<double> values) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty()) return kMissing;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double median_of(const RunData& run, double TrainPoint::*member) {
  std::vector<double> values;
  for (const TrainPoint& point : run.train) values.push_back(point.*member);
  return median(std::move(values));
}

double most_of(const RunData& run, double TrainPoint::*member) {
  double most = kMissing;
  for (const TrainPoint& point : run.train) most = std::fmax(most, point.*member);
  return most;
}

// Of the whole history, also where it was resumed.
double seconds_in_steps(const RunData& run) {
  double total_s = 0;
  int64_t before = 0;
  for (const TrainPoint& point : run.train) {
    if (std::isfinite(point.step_time_s)) {
      total_s += point.step_time_s * static_cast<double>(point.step - before);
    }
    before = point.step;
  }
  return total_s > 0 ? total_s : kMissing;
}

double wall_seconds(const RunData& run) {
  const bool whole = run.end && run.num_resumes == 0 && std::isfinite(run.end->wall_s);
  return whole ? run.end->wall_s : seconds_in_steps(run);
}

std::string two_digits(double value) {
  return std::isfinite(value) ? format("{:.2f}", value) : human_number(kMissing);
}

// "2026-05-04T10:22:31Z" -> "2026-05-04 10:22"
std::string minute_of(std::string time) {
  if (time.size() < 16 || time[10] != 'T') return time;
  time[10] = ' ';
  return time.substr(0, 16);
}

std::string balance_words(const ExpertBalance& balance) {
  const char* words = balance.load_cv < 0.1   ? "almost evenly"
                      : balance.load_cv < 0.3 ? "fairly evenly"
                      : balance.load_cv < 0.7 ? "unevenly"
                                              : "very unevenly";
  return format(
      "Towards the end the experts share the tokens {} (coefficient of variation {}); the busiest "
      "one gets {} times an even share, in layer {}.",
      words, two_digits(balance.load_cv), two_digits(balance.worst_over_mean), balance.worst_layer);
}

std::string kind_words(const RunInfo& info) {
  if (!(info.num_encoder_layers > 0)) return "A decoder";
  return info.num_encoder_layers == info.num_layers ? "An encoder" : "An encoder-decoder";
}

// The tokens that the model tells.
std::string told_tokens(const RunInfo& info) {
  return info.num_encoder_layers > 0 && info.num_encoder_layers == info.num_layers ? "masked"
                                                                                   : "next";
}

std::string model_words(const RunData& run) {
  const RunInfo& info = run.info;
  std::string words = kind_words(info);
  if (std::isfinite(info.parameters))
    words += " of " + human_count(info.parameters) + " parameters";
  if (info.active_parameters < info.parameters) {
    words += ", of which " + human_count(info.active_parameters) + " are active for each token";
  }
  if (std::isfinite(info.num_layers)) words += ": " + counted(info.num_layers, "layer");
  if (!run.moe.empty()) {
    words +=
        format(", {} with {}", run.moe.size(),
               std::isfinite(info.num_experts) ? counted(info.num_experts, "expert") : "experts");
    if (!info.router.empty()) words += " behind a " + info.router + " router";
  }
  return words + ".";
}

std::string validation_words(const RunData& run) {
  if (run.valid.empty()) return "It was not evaluated during training.";
  const ValidPoint& last = run.valid.back();
  std::string words = format("The validation loss ended at {} (perplexity {}",
                             human_number(last.loss), human_number(last.perplexity));
  if (std::isfinite(last.bits_per_byte)) {
    words += ", " + human_number(last.bits_per_byte) + " bits per byte";
  }
  words += ")";
  if (std::isfinite(last.accuracy)) {
    words += "; " + human_percent(last.accuracy) + " of the " + told_tokens(run.info) +
             " tokens were guessed right";
  }
  return words + ".";
}

std::string ending(const RunData& run) {
  if (!run.end) return "no end line";
  return run.end->reason.empty() ? "ended" : run.end->reason;
}

}  // namespace

ExpertBalance measure_balance(const RunData& run) {
  std::vector<double> layer_cv;
  ExpertBalance balance;
  for (const auto& [number, layer] : run.moe) {
    std::vector<double> cv;
    std::vector<double> over_mean;
    for (size_t i = layer.points.size() * 9 / 10; i < layer.points.size(); ++i) {
      cv.push_back(layer.points[i].load_cv);
      over_mean.push_back(layer.points[i].load_max_over_mean);
    }
    layer_cv.push_back(finite_mean(cv));
    const double worst = finite_mean(over_mean);
    if (std::isfinite(worst) && !(worst <= balance.worst_over_mean)) {
      balance.worst_over_mean = worst;
      balance.worst_layer = number;
    }
  }
  balance.load_cv = finite_mean(layer_cv);
  return balance;
}

std::string describe_run(const RunData& run) {
  const TrainPoint& last = run.train.back();
  std::string words = model_words(run);
  words += format(" It was trained on {} tokens in {} and {}, at a median of {} tokens/s.",
                  human_count(last_value(run.train, &TrainPoint::tokens)),
                  counted(static_cast<double>(last.step), "step"), human_seconds(wall_seconds(run)),
                  human_count(median_of(run, &TrainPoint::tokens_per_s)));
  const double loss = last_value(run.train, &TrainPoint::loss);
  words += format(" The training loss went from {} to {} (perplexity {}).",
                  human_number(run.train.front().loss), human_number(loss),
                  human_number(std::exp(loss)));
  words.append(" ").append(validation_words(run));
  const ExpertBalance balance = measure_balance(run);
  if (std::isfinite(balance.load_cv) && balance.worst_layer >= 0) {
    words.append(" ").append(balance_words(balance));
  }
  return words;
}

std::vector<Fact> list_facts(const RunData& run) {
  const RunInfo& info = run.info;
  const ValidPoint none;
  const ValidPoint& valid = run.valid.empty() ? none : run.valid.back();
  const double loss = last_value(run.train, &TrainPoint::loss);
  const ExpertBalance balance = measure_balance(run);
  const auto or_dash = [](const std::string& text) {
    return text.empty() ? human_count(kMissing) : text;
  };
  return {
      {"Train loss", human_number(loss)},
      {"Train perplexity", human_number(std::exp(loss))},
      {"Validation loss", human_number(valid.loss)},
      {"Validation perplexity", human_number(valid.perplexity)},
      {"Bits per byte", human_number(valid.bits_per_byte)},
      {told_tokens(run.info) == "next" ? "Next-token accuracy" : "Masked-token accuracy",
       human_percent(valid.accuracy)},
      {"Parameters", human_count(info.parameters)},
      {"Active parameters", human_count(info.active_parameters)},
      {"Layers", human_integer(info.num_layers)},
      {"MoE layers", human_integer(static_cast<double>(run.moe.size()))},
      {"Experts a layer", human_integer(info.num_experts)},
      {"Router", or_dash(info.router)},
      {"Load variation", two_digits(balance.load_cv)},
      {"Busiest expert / mean", two_digits(balance.worst_over_mean)},
      {"Steps", human_integer(static_cast<double>(run.train.back().step))},
      {"Tokens", human_count(last_value(run.train, &TrainPoint::tokens))},
      {"Tokens a step", human_integer(info.tokens_per_step)},
      {"Wall time", human_seconds(wall_seconds(run))},
      {"Tokens/s (median)", human_count(median_of(run, &TrainPoint::tokens_per_s))},
      {"Share of matmul peak", human_percent(median_of(run, &TrainPoint::flops_share))},
      {"FLOPs a token", human_count(info.flops_per_token)},
      {"Peak memory", human_count(most_of(run, &TrainPoint::rss_bytes)) + "B"},
      {"Threads", human_integer(info.threads)},
      {"Started", or_dash(minute_of(info.time))},
      {"Version", or_dash(info.version)},
      {"End", ending(run)},
  };
}

}  // namespace locus::report
