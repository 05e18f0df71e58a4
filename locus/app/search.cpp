// `locus search`: the family of models inside a trained one, as table, page and picture.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/describe.h"
#include "locus/app/elastic.h"
#include "locus/app/kept_map.h"
#include "locus/app/text_table.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/log.h"
#include "locus/base/signals.h"
#include "locus/compare/svg_chart.h"

namespace locus::app {
namespace {

struct Member {
  double budget = 1;
  std::string rule = "whole";
  search::Mask mask;
  search::ModelCut cut;
  double loss = 0;
};

std::string number_or_dash(double value, std::string_view pattern) {
  return std::isfinite(value) ? format(pattern, value) : std::string("-");
}

// Serving a larger model in place of a smaller one that is better costs more: of those that cost no
// more, the best one serves.
double served_loss(const std::vector<Member>& family, const ElasticModel& whole,
                   const Member& member) {
  const search::Resource resource = search::parse_resource(whole.dance().resource);
  double best = member.loss;
  for (const Member& one : family) {
    const bool fits =
        whole.costs().cost(resource, one.mask) <= whole.costs().cost(resource, member.mask);
    if (fits && one.loss < best) best = one.loss;
  }
  return best;
}

std::vector<std::vector<std::string>> table_of(const std::vector<Member>& family,
                                               const ElasticModel& whole) {
  const search::CostModel& costs = whole.costs();
  std::vector<std::vector<std::string>> rows{{"budget", "FLOPs", "parameters", "memory", "exchange",
                                              "latency", "loss", "served", "chosen by"}};
  for (const Member& one : family) {
    std::vector<std::string> row{format("{:.0f}%", one.budget * 100)};
    for (size_t r = 0; r < search::kNumResources; ++r) {
      const auto resource = static_cast<search::Resource>(r);
      row.push_back(
          number_or_dash(costs.cost(resource, one.mask) / costs.whole(resource) * 100, "{:.1f}%"));
    }
    row.push_back(number_or_dash(one.loss, "{:.4f}"));
    row.push_back(number_or_dash(served_loss(family, whole, one), "{:.4f}"));
    row.push_back(one.rule);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string markdown(const std::vector<std::vector<std::string>>& rows) {
  std::string text;
  for (size_t i = 0; i < rows.size(); ++i) {
    text += "|";
    for (const std::string& cell : rows[i]) text += " " + cell + " |";
    text += "\n";
    if (i == 0) {
      text += "|";
      for (size_t c = 0; c < rows[i].size(); ++c) text += " --- |";
      text += "\n";
    }
  }
  return text;
}

void write_page(const fs::path& folder, const ElasticModel& whole,
                const std::vector<Member>& family, const std::string& source) {
  make_folders(folder);
  const search::Resource resource = search::parse_resource(whole.dance().resource);
  compare::Line line{.name = "models", .x = {}, .y = {}};
  std::string text =
      format("# Models inside {}\n\n{}\n", source, markdown(table_of(family, whole)));
  for (auto one = family.rbegin(); one != family.rend(); ++one) {
    if (!std::isfinite(one->loss)) continue;
    line.x.push_back(whole.costs().cost(resource, one->mask) / whole.costs().whole(resource));
    line.y.push_back(one->loss);
  }
  if (line.x.size() > 1) {
    write_file_atomic(
        folder / "front.svg",
        compare::line_chart("Loss of the models inside",
                            format("share of the {}", resource_name(resource)), {line}));
    text += "![Loss over cost](front.svg)\n\n";
  }
  std::vector<KeptColumn> columns;
  for (const Member& one : family) {
    columns.push_back(
        {format("{:.0f}%", one.budget * 100), whole.space().sizes(whole.space().active(one.mask))});
  }
  write_file_atomic(folder / "kept.svg", kept_map(columns.front().sizes, columns));
  text += "![What each layer keeps](kept.svg)\n\n";
  for (const Member& one : family) {
    text += format("## {:.0f}%\n\n", one.budget * 100);
    const std::vector<std::string> lines = describe_cut(whole.space(), one.cut);
    for (size_t i = 0; i < lines.size(); ++i) text += format("- layer {}: {}\n", i, lines[i]);
    text += "\n";
  }
  write_file_atomic(folder / "search.md", text);
}

}  // namespace

void search(const SearchOptions& options, std::ostream& out) {
  watch_signals();
  ElasticModel whole(options.elastic);
  std::vector<double> budgets = options.budgets;
  if (budgets.empty()) budgets = whole.dance().budgets;
  if (budgets.empty()) budgets = {0.25, 0.5, 0.75};
  for (const double budget : budgets) {
    if (budget > 0 && budget < 1) continue;
    throw ConfigError("--budgets {}: a share of the whole model's {} is over 0 and below 1", budget,
                      whole.dance().resource);
  }
  std::sort(budgets.rbegin(), budgets.rend());
  std::vector<Member> family{{.mask = whole.space().all(),
                              .cut = whole.space().to_cut(whole.space().all()),
                              .loss = whole.whole_loss()}};
  for (const double budget : budgets) {
    if (const int signal = received_signal()) throw Interrupted(signal);
    const search::Limit limit = search::budget_limit(whole.dance(), budget, whole.costs());
    try {
      SmallerModel part = whole.choose({limit});
      family.push_back({budget, part.rule, std::move(part.mask), std::move(part.cut), part.loss});
    } catch (const ConfigError& error) {
      if (!options.budgets.empty()) throw;
      log::warning("{}", error.what());  // not a budget that somebody asked for
    }
  }
  const std::vector<std::vector<std::string>> rows = table_of(family, whole);
  std::vector<std::string> headings = rows.front();
  for (size_t i = 0; i + 1 < headings.size(); ++i) headings[i] = ">" + headings[i];
  TextTable table(headings);
  for (size_t i = 1; i < rows.size(); ++i) table.add_row(rows[i]);
  table.print(out);
  if (!options.output.empty()) {
    write_page(options.output, whole, family, whole.loaded().folder.text());
  }
}

}  // namespace locus::app
