#include "locus/report/locality.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "locus/base/format.h"
#include "locus/report/communication.h"
#include "locus/report/text.h"

namespace locus::report {
namespace {

// More nodes than these make no table that anyone reads.
constexpr size_t kMaxNodes = 16;

// One step has whichever domains it has: means of some.
constexpr size_t kSteps = 10;

// A run whose experts are on several nodes.
struct Located {
  const RunData* run;
  std::string label;
  ExchangePoint mean;  // of the last logged steps, all layers
  int64_t first_step = 0, num_steps = 0;
};

void set_mean(const std::vector<ExchangeStep>& steps, Located& one) {
  const size_t count = std::min(kSteps, steps.size());
  one.first_step = steps[steps.size() - count].step;
  one.num_steps = static_cast<int64_t>(count);
  one.mean = ExchangePoint{.step = steps.back().step};
  for (const auto member : {&ExchangePoint::inter_bytes, &ExchangePoint::flat_inter_bytes,
                            &ExchangePoint::assigned_bytes}) {
    one.mean.*member = 0;
    for (size_t i = steps.size() - count; i < steps.size(); ++i) {
      one.mean.*member += steps[i].*member / static_cast<double>(count);
    }
  }
  one.mean.on_node = 1 - one.mean.flat_inter_bytes / one.mean.assigned_bytes;
}

std::vector<Located> located_runs(const std::vector<RunData>& runs,
                                  const std::vector<std::string>& labels) {
  std::vector<Located> found;
  for (size_t i = 0; i < runs.size(); ++i) {
    const std::vector<ExchangeStep> steps = sum_over_layers(runs[i]);
    if (steps.empty()) continue;
    Located one{&runs[i], labels[i], {}};
    set_mean(steps, one);
    if (!std::isfinite(one.mean.on_node)) continue;
    // Where all is on one node, every way stays there.
    if (one.mean.flat_inter_bytes > 0 || !runs[i].placement.empty()) found.push_back(one);
  }
  return found;
}

// What was expected of the placement of sequences in those steps, or at last before them; nothing
// where sequences stay.
std::optional<PlacementPoint> expectation(const Located& one) {
  std::vector<PlacementPoint> points;
  for (const PlacementPoint& point : one.run->placement) {
    if (point.step > one.mean.step) break;
    if (!points.empty() && points.front().step < one.first_step) points.clear();
    points.push_back(point);
  }
  if (points.empty()) return std::nullopt;
  PlacementPoint mean{one.mean.step, 0, 0};
  for (const PlacementPoint& point : points) {
    mean.expected_on_node += point.expected_on_node / static_cast<double>(points.size());
    mean.unplaced_on_node += point.unplaced_on_node / static_cast<double>(points.size());
  }
  return mean;
}

std::string words_of(const Located& one) {
  std::string words = format(
      "In the last {} that were logged, up to step {}, {} of the tokens' ways to experts "
      "stayed on their node.",
      counted(static_cast<double>(one.num_steps), "step"),
      human_integer(static_cast<double>(one.mean.step)), human_percent(one.mean.on_node));
  double moved = 0, saved = 0;
  for (const auto& [layer, points] : one.run->migration) {
    for (const MigrationPoint& point : points) {
      moved += std::isfinite(point.moved) ? point.moved : 0;
      saved += std::isfinite(point.saves_bytes) ? point.saves_bytes : 0;
    }
  }
  if (saved > 0) {
    words += format(" Experts changed ranks {} times, to save {} between nodes.",
                    human_integer(moved), bytes_text(saved));
  }
  return words;
}

// One measure after another: what would go between nodes with it, and what it takes off the line
// above.
std::string make_measures(const Located& one) {
  const double all = one.mean.assigned_bytes;
  std::string html =
      "<div class=\"scroll\"><table class=\"figures\"><thead><tr><th scope=\"col\">Measure</th>"
      "<th scope=\"col\">Between nodes</th><th scope=\"col\">Of all ways</th>"
      "<th scope=\"col\">Saved by it</th></tr></thead><tbody>";
  double above = all;
  const auto add = [&](const std::string& name, const char* kind, double bytes) {
    html += format("<tr><th scope=\"row\">{} <span>{}</span></th><td>{}</td><td>{}</td>", name,
                   kind, bytes_text(bytes), human_percent(bytes / all));
    html += bytes == above ? "<td></td></tr>" : "<td>" + bytes_text(above - bytes) + "</td></tr>";
    above = bytes;
  };
  add("none: every way leads to another node", "the most possible", all);
  if (const std::optional<PlacementPoint> point = expectation(one)) {
    add("experts where they are", "expected", all * (1 - point->unplaced_on_node));
    add("sequences placed near their experts", "expected", all * (1 - point->expected_on_node));
    add("the same", "observed", one.mean.flat_inter_bytes);
  } else {
    add("experts where they are", "observed", one.mean.flat_inter_bytes);
  }
  const auto& [number, layer] = *one.run->exchange.begin();
  const std::string type = layer.last ? escape_html(layer.last->type) : "";
  if (one.mean.inter_bytes != one.mean.flat_inter_bytes) {
    add("the exchange" + (type.empty() ? "" : " (" + type + ")"), "observed", one.mean.inter_bytes);
  }
  return html + "</tbody></table></div>";
}

std::string make_layers(const Located& one) {
  std::string html =
      "<div class=\"scroll\"><table class=\"figures\"><thead><tr><th scope=\"col\">Layer</th>"
      "<th scope=\"col\">Stayed, first</th><th scope=\"col\">Stayed, last</th></tr></thead><tbody>";
  for (const auto& [number, layer] : one.run->exchange) {
    html += format("<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>", number,
                   human_percent(layer.points.front().on_node),
                   human_percent(layer.points.back().on_node));
  }
  return html + "</tbody></table></div>";
}

// Rows that one node's ranks send to another's. What stays on a node is not all in the lines: a
// rank sends itself nothing.
std::string make_node_table(const RunData& run) {
  const RankMatrix matrix = sum_rank_bytes(run);
  const std::set<int64_t> nodes(matrix.node_of.begin(), matrix.node_of.end());
  if (matrix.node_of.size() != matrix.bytes.size() || nodes.size() < 2 ||
      nodes.size() > kMaxNodes) {
    return {};
  }
  std::map<int64_t, std::map<int64_t, double>> bytes;
  for (size_t from = 0; from < matrix.bytes.size(); ++from) {
    for (size_t to = 0; to < matrix.bytes.size(); ++to) {
      bytes[matrix.node_of[from]][matrix.node_of[to]] += matrix.bytes[from][to];
    }
  }
  std::string html =
      "<div class=\"scroll\"><table class=\"figures\"><thead><tr><th scope=\"col\">From node</th>";
  for (const int64_t to : nodes) html += format("<th scope=\"col\">to {}</th>", to);
  html += "</tr></thead><tbody>";
  for (const int64_t from : nodes) {
    html += format("<tr><th scope=\"row\">{}</th>", from);
    for (const int64_t to : nodes) {
      html += "<td>" + (from == to ? "" : bytes_text(bytes[from][to])) + "</td>";
    }
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

constexpr const char* kTerms =
    "<p class=\"fine\">A way: one token to one of its experts. Bytes are of one step, a mean of "
    "those, "
    "all layers, there and back, forward and backward, a row for every way, but for the exchange's "
    "own. Expected: by what each domain's tokens used before. Stayed, first and last: of the steps "
    "that were logged. By node: rows of the last one, those that ranks pass on included.</p>";

}  // namespace

std::string make_locality(const std::vector<RunData>& runs,
                          const std::vector<std::string>& labels) {
  const std::vector<Located> located = located_runs(runs, labels);
  if (located.empty()) return {};
  std::string words, tables;
  for (const Located& one : located) {
    const std::string heading = runs.size() > 1 ? one.label + ": " : "";
    words += "<p class=\"words\">" + heading + words_of(one) + "</p>";
    const auto title = [&](const char* text) {
      return format("<h4 class=\"figures-title\">{}{}</h4>", heading, text);
    };
    tables += "<div>" + title("Bytes between nodes, measure by measure") + make_measures(one) +
              "</div><div>" + title("Ways that stayed on the node, by layer") + make_layers(one);
    const std::string nodes = make_node_table(*one.run);
    if (!nodes.empty()) tables += title("Who sends to whom, by node") + nodes;
    tables += "</div>";
  }
  return "<section id=\"locality\">\n<h2>Locality</h2>\n" + words +
         "\n<div class=\"ranks-and-costs\">" + tables + "</div>\n" + kTerms + "</section>\n";
}

}  // namespace locus::report
