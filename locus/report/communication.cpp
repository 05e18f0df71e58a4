#include "locus/report/communication.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "locus/base/format.h"
#include "locus/report/text.h"

namespace locus::report {
namespace {

constexpr double ExchangePoint::*kSums[] = {
    &ExchangePoint::intra_bytes,
    &ExchangePoint::inter_bytes,
    &ExchangePoint::least_inter_bytes,
    &ExchangePoint::flat_inter_bytes,
    &ExchangePoint::assigned_bytes,
    &ExchangePoint::inter_messages,
    &ExchangePoint::flight_s,
    &ExchangePoint::exposed_s,
    &ExchangePoint::plan_s,
};

constexpr double ExchangeWay::*kWaySums[] = {&ExchangeWay::intra_bytes, &ExchangeWay::inter_bytes,
                                             &ExchangeWay::flight_s, &ExchangeWay::exposed_s};

void add(ExchangePoint& sum, const ExchangePoint& point) {
  for (const auto member : kSums) sum.*member += point.*member;
}

ExchangePoint zeros(int64_t step) {
  ExchangePoint point{.step = step};
  for (const auto member : kSums) point.*member = 0;
  return point;
}

double step_time_s(const RunData& run, int64_t step) {
  const auto found =
      std::lower_bound(run.train.begin(), run.train.end(), step,
                       [](const TrainPoint& point, int64_t wanted) { return point.step < wanted; });
  return found != run.train.end() && found->step == step ? found->step_time_s : kMissing;
}

double share(double part, double whole) { return whole > 0 ? part / whole : kMissing; }

std::string saved_text(const ExchangePoint& point) {
  const double saved = point.flat_inter_bytes - point.inter_bytes;
  if (!(point.flat_inter_bytes > 0)) return bytes_text(saved);
  return format("{} ({})", bytes_text(saved), human_percent(saved / point.flat_inter_bytes));
}

// "The experts are on 4 ranks on 2 nodes."
std::string layout_words(const RunData& run, const RankMatrix& matrix) {
  const auto num_ranks = static_cast<double>(matrix.bytes.size());
  if (matrix.bytes.empty()) return {};
  std::string words = "The experts are on " + counted(num_ranks, "rank");
  if (!matrix.node_of.empty()) {
    const std::set<int64_t> nodes(matrix.node_of.begin(), matrix.node_of.end());
    words += " of " + counted(static_cast<double>(nodes.size()), "node");
  }
  if (run.info.ranks >= 2 * num_ranks) {
    words += format("; {} such groups train side by side, and all numbers are their sums",
                    human_integer(run.info.ranks / num_ranks));
  }
  return words + ". ";
}

std::string cost_words(const RunData& run) {
  const std::vector<ExchangeStep> steps = sum_over_layers(run);
  if (steps.empty()) return {};
  const ExchangeStep& last = steps.back();
  std::string words = "In step " + human_integer(static_cast<double>(last.step)) + ", ";
  if (last.inter_bytes > 0) {
    words += bytes_text(last.inter_bytes) + " went between nodes";
    if (last.least_inter_bytes > 0) {
      words += format(", {:.2f} times the fewest possible for this routing",
                      last.inter_bytes / last.least_inter_bytes);
    }
    const double saved = share(last.flat_inter_bytes - last.inter_bytes, last.flat_inter_bytes);
    if (saved > 0)
      words += format(" and {} less than a row for every assignment", human_percent(saved));
    words += ", and ";
  }
  words += bytes_text(last.intra_bytes) + " within them.";
  if (!std::isfinite(last.exposed_s)) return words;
  words += " A rank waited " + human_seconds(last.exposed_s) + " for rows";
  if (std::isfinite(last.exposed_of_step)) {
    words += ": " + human_percent(last.exposed_of_step) + " of a step";
  }
  if (std::isfinite(last.exposed_of_flight)) {
    words += format("{}{} of the time that they were under way",
                    std::isfinite(last.exposed_of_step) ? ", and " : ": ",
                    human_percent(last.exposed_of_flight));
  }
  return words + ".";
}

std::string cells_of(const ExchangePoint& point) {
  std::string cells;
  for (const std::string& text :
       {bytes_text(point.intra_bytes), bytes_text(point.inter_bytes),
        bytes_text(point.least_inter_bytes), saved_text(point), human_integer(point.inter_messages),
        human_seconds(point.flight_s), human_seconds(point.exposed_s),
        human_seconds(point.plan_s)}) {
    cells += "<td>" + text + "</td>";
  }
  return cells;
}

std::string make_layer_table(const RunData& run) {
  std::string html =
      "<div class=\"scroll\"><table class=\"figures\"><thead><tr><th scope=\"col\">Layer</th>"
      "<th scope=\"col\">Type</th><th scope=\"col\">Chunks</th>"
      "<th scope=\"col\">Within nodes</th><th scope=\"col\">Between</th>"
      "<th scope=\"col\">Fewest possible</th><th scope=\"col\">Less than flat</th>"
      "<th scope=\"col\">Messages</th><th scope=\"col\">In flight</th>"
      "<th scope=\"col\">Exposed</th><th scope=\"col\">Counting</th></tr></thead><tbody>";
  ExchangePoint total = zeros(0);
  for (const auto& [number, layer] : run.exchange) {
    const ExchangeDetail detail = layer.last.value_or(ExchangeDetail());
    html += format("<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td>{}</tr>", number,
                   detail.type.empty() ? human_count(kMissing) : escape_html(detail.type),
                   human_integer(detail.chunks), cells_of(layer.points.back()));
    add(total, layer.points.back());
  }
  if (run.exchange.size() > 1) {
    html += "<tr class=\"total\"><th scope=\"row\">All</th><td></td><td></td>" + cells_of(total) +
            "</tr>";
  }
  return html + "</tbody></table></div>";
}

std::string make_way_table(const RunData& run) {
  std::string html =
      "<div class=\"scroll\"><table class=\"figures\"><thead><tr><th scope=\"col\">Way</th>"
      "<th scope=\"col\">Within nodes</th><th scope=\"col\">Between</th>"
      "<th scope=\"col\">In flight</th><th scope=\"col\">Exposed</th></tr></thead><tbody>";
  constexpr const char* kWords[] = {"rows to the experts", "outputs back", "gradients of outputs",
                                    "gradients of rows"};
  static_assert(std::size(kWords) == kExchangeWays.size());
  for (size_t way = 0; way < kExchangeWays.size(); ++way) {
    ExchangeWay sum{0, 0, 0, 0};
    for (const auto& [number, layer] : run.exchange) {
      if (!layer.last) continue;
      for (const auto member : kWaySums) sum.*member += layer.last->ways[way].*member;
    }
    html += format(
        "<tr><th scope=\"row\">{} <span>{}</span></th><td>{}</td><td>{}</td><td>{}</td>"
        "<td>{}</td></tr>",
        kExchangeWays[way], kWords[way], bytes_text(sum.intra_bytes), bytes_text(sum.inter_bytes),
        human_seconds(sum.flight_s), human_seconds(sum.exposed_s));
  }
  return html + "</tbody></table></div>";
}

bool has_ways(const RunData& run) {
  return std::any_of(run.exchange.begin(), run.exchange.end(),
                     [](const auto& entry) { return entry.second.last.has_value(); });
}

std::string make_tables(const RunData& run, const std::string& heading) {
  int64_t step = -1;
  for (const auto& [number, layer] : run.exchange) step = std::max(step, layer.points.back().step);
  std::string html = format("<h4 class=\"figures-title\">{} <span>step {}</span></h4>", heading,
                            human_integer(static_cast<double>(step)));
  html += make_layer_table(run);
  if (has_ways(run)) html += make_way_table(run);
  return html;
}

constexpr const char* kTerms =
    "<p class=\"fine\">Bytes and messages are of one step, over all ranks. Fewest possible: each "
    "token crosses to each other node that needs it once, and one row comes back. Flat: a row for "
    "every assignment. Messages: between nodes, on the way to the experts. In flight: from setting "
    "off until taken, all micro-batches and ways together, mean over ranks. Exposed: the part of "
    "it "
    "that a rank waited for. Counting: telling the others how many rows will come.</p>";

}  // namespace

std::vector<ExchangeStep> sum_over_layers(const RunData& run) {
  std::map<int64_t, std::pair<ExchangePoint, size_t>> by_step;
  for (const auto& [number, layer] : run.exchange) {
    for (const ExchangePoint& point : layer.points) {
      auto& [sum, count] = by_step.try_emplace(point.step, zeros(point.step), 0).first->second;
      add(sum, point);
      ++count;
    }
  }
  std::vector<ExchangeStep> steps;
  for (const auto& [step, entry] : by_step) {
    const auto& [sum, count] = entry;
    if (count < run.exchange.size()) continue;  // a kill cut the others off
    ExchangeStep& made = steps.emplace_back(ExchangeStep{
        sum, share(sum.exposed_s, step_time_s(run, step)), share(sum.exposed_s, sum.flight_s)});
    made.on_node = 1 - share(sum.flat_inter_bytes, sum.assigned_bytes);
  }
  return steps;
}

RankMatrix sum_rank_bytes(const RunData& run) {
  RankMatrix sum;
  for (const auto& [number, layer] : run.exchange) {
    if (!layer.last || layer.last->rank_bytes.empty()) continue;
    const ExchangeDetail& detail = *layer.last;
    const int64_t step = layer.points.back().step;
    // Before a resume there may have been another number of ranks.
    if (detail.rank_bytes.size() != sum.bytes.size()) {
      if (step <= sum.step) continue;
      sum = {step, detail.rank_bytes, detail.node_of};
      continue;
    }
    sum.step = std::max(sum.step, step);
    for (size_t from = 0; from < sum.bytes.size(); ++from) {
      for (size_t to = 0; to < sum.bytes.size(); ++to) {
        sum.bytes[from][to] += detail.rank_bytes[from][to];
      }
    }
  }
  return sum;
}

std::string make_communication(const std::vector<RunData>& runs,
                               const std::vector<std::string>& labels,
                               const std::string& timelines) {
  std::string words, tables;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].exchange.empty()) continue;
    words += "<p class=\"words\">";
    if (runs.size() > 1) words += labels[i] + ": ";
    words += layout_words(runs[i], sum_rank_bytes(runs[i])) + cost_words(runs[i]) + "</p>";
    tables += make_tables(runs[i], runs.size() > 1 ? labels[i] : "By layer");
  }
  if (words.empty()) return {};
  return "<section id=\"communication\">\n<h2>Communication</h2>\n" + words +
         "\n<div class=\"charts needs-script\" id=\"communication-charts\" hidden></div>\n"
         "<div class=\"ranks-and-costs\"><div class=\"needs-script\" hidden>"
         "<h3>Who sends to whom</h3><div class=\"scale\" id=\"rank-scale\"></div>"
         "<div id=\"rank-maps\"></div></div>\n<div><h3>Cost of each layer</h3>" +
         tables + kTerms + "</div></div>\n" + timelines + "</section>\n";
}

}  // namespace locus::report
