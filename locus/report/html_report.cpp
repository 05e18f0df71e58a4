#include "locus/report/html_report.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "locus/base/error.h"
#include "locus/report/chart_data.h"
#include "locus/report/communication.h"
#include "locus/report/locality.h"
#include "locus/report/page.h"
#include "locus/report/summary.h"
#include "locus/report/text.h"

namespace locus::report {
namespace {

constexpr size_t kMaxSampleBytes = 200'000;  // of all runs together
constexpr size_t kNumRunColours = 6;         // as style.css has them

// A coloured mark and the name: the same in the tables, the legend and the charts.
std::string run_label(const std::vector<RunData>& runs, size_t i) {
  if (runs.size() == 1) return escape_html(runs[i].name);
  return format("<span class=\"swatch run-{}\"></span>{}", i % kNumRunColours,
                escape_html(runs[i].name));
}

std::string make_notices(const RunData& run) {
  const std::vector<Notice> notices = find_notices(run);
  if (notices.empty()) return "<p class=\"fine\">Nothing unusual was found.</p>";
  std::string html = "<ul class=\"notices\">";
  for (const Notice& notice : notices) {
    const bool warning = notice.level == Notice::Level::kWarning;
    html += format("<li class=\"{}\"><b>{}</b> {}</li>", warning ? "warning" : "info",
                   warning ? "Warning" : "Note", escape_html(notice.text));
  }
  return html + "</ul>";
}

std::string make_descriptions(const std::vector<RunData>& runs) {
  std::string html;
  for (size_t i = 0; i < runs.size(); ++i) {
    html += "<div class=\"run-text\">";
    if (runs.size() > 1) html += "<h3>" + run_label(runs, i) + "</h3>";
    html +=
        "<p>" + escape_html(describe_run(runs[i])) + "</p>" + make_notices(runs[i]) + "</div>\n";
  }
  return html;
}

// One run: a list that flows into columns. Several: a table with a column for each.
std::string make_facts(const std::vector<RunData>& runs) {
  std::vector<std::vector<Fact>> facts;
  for (const RunData& run : runs) facts.push_back(list_facts(run));
  std::string html;
  if (runs.size() == 1) {
    html = "<dl class=\"facts\">";
    for (const Fact& fact : facts[0]) {
      html += format("<div><dt>{}</dt><dd>{}</dd></div>", fact.name, escape_html(fact.value));
    }
    return html + "</dl>";
  }
  html = "<div class=\"scroll\"><table class=\"numbers\"><thead><tr><th></th>";
  for (size_t i = 0; i < runs.size(); ++i)
    html += "<th scope=\"col\">" + run_label(runs, i) + "</th>";
  html += "</tr></thead><tbody>";
  for (size_t row = 0; row < facts[0].size(); ++row) {
    html += format("<tr><th scope=\"row\">{}</th>", facts[0][row].name);
    for (const auto& column : facts) html += "<td>" + escape_html(column[row].value) + "</td>";
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

// The domains' scores of a run: those of eval.json, else those of the last validation that had
// them.
const ValidPoint* domain_scores(const RunData& run) {
  if (run.eval && !run.eval->score.by_domain.empty()) return &run.eval->score;
  const auto found = std::find_if(run.valid.rbegin(), run.valid.rend(),
                                  [](const ValidPoint& point) { return !point.by_domain.empty(); });
  return found != run.valid.rend() ? &*found : nullptr;
}

struct DomainRow {
  std::string name;
  std::vector<double> perplexity;  // by run
};

// All domains of all runs, the easiest first.
std::vector<DomainRow> collect_domains(const std::vector<RunData>& runs) {
  std::map<std::string, std::vector<double>> by_name;
  for (size_t i = 0; i < runs.size(); ++i) {
    const ValidPoint* scores = domain_scores(runs[i]);
    if (scores == nullptr) continue;
    for (const DomainScore& score : scores->by_domain) {
      auto& row = by_name[score.name];
      row.resize(runs.size(), kMissing);
      row[i] = score.perplexity;
    }
  }
  std::vector<DomainRow> rows;
  for (auto& [name, perplexity] : by_name) rows.push_back({name, std::move(perplexity)});
  const auto least = [](const DomainRow& row) {
    double value = kMissing;
    for (const double perplexity : row.perplexity) value = std::fmin(value, perplexity);
    return std::isfinite(value) ? value : 1e300;
  };
  std::stable_sort(rows.begin(), rows.end(), [&least](const DomainRow& a, const DomainRow& b) {
    return least(a) < least(b);
  });
  return rows;
}

std::string domain_source(const std::vector<RunData>& runs, size_t i) {
  const ValidPoint* scores = domain_scores(runs[i]);
  if (scores == nullptr) return {};
  std::string text =
      run_label(runs, i) + ": step " + human_integer(static_cast<double>(scores->step));
  const bool from_eval = runs[i].eval && scores == &runs[i].eval->score;
  if (!from_eval) return text + ", validation during training";
  text += ", eval.json";
  if (!runs[i].eval->data.empty()) text += " on " + escape_html(runs[i].eval->data);
  if (!runs[i].eval->rule.empty()) text += ", " + escape_html(runs[i].eval->rule) + " rule";
  return text;
}

std::string make_domains(const std::vector<RunData>& runs) {
  const std::vector<DomainRow> rows = collect_domains(runs);
  if (rows.empty()) return "<p class=\"fine\">No scores by domain.</p>";
  double most = 0;
  for (const DomainRow& row : rows) {
    for (const double value : row.perplexity)
      most = std::fmax(most, std::isfinite(value) ? value : 0);
  }
  std::string html = "<table class=\"bars\"><tbody>";
  for (const DomainRow& row : rows) {
    html += "<tr><th scope=\"row\">" + escape_html(row.name) + "</th><td>";
    for (size_t i = 0; i < runs.size(); ++i) {
      const double value = row.perplexity[i];
      if (!std::isfinite(value)) continue;
      html += format(
          "<div class=\"bar\" title=\"{}\"><i class=\"run-{}\" style=\"width:{:.1f}%\"></i>"
          "<span>{}</span></div>",
          escape_html(runs[i].name), i % kNumRunColours, most > 0 ? 100 * value / most : 0.0,
          human_number(value));
    }
    html += "</td></tr>";
  }
  html += "</tbody></table><p class=\"fine\">";
  for (size_t i = 0; i < runs.size(); ++i) {
    const std::string source = domain_source(runs, i);
    if (!source.empty()) html += source + (i + 1 < runs.size() ? "<br>" : "");
  }
  return html + "</p>";
}

std::string make_samples(const std::vector<RunData>& runs) {
  std::string html;
  for (size_t i = 0; i < runs.size(); ++i) {
    std::string text = runs[i].samples;
    if (text.empty()) continue;
    const size_t limit = kMaxSampleBytes / runs.size();
    const bool cut = text.size() > limit;
    if (cut) {
      text.resize(limit);
      // Not within a character: UTF-8's continuation bytes are 10xxxxxx.
      while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xC0) == 0x80)
        text.pop_back();
      if (!text.empty() && static_cast<unsigned char>(text.back()) >= 0xC0) text.pop_back();
    }
    html += format("<details{}><summary>{}</summary><pre>{}</pre>{}</details>",
                   runs.size() == 1 ? " open" : "", run_label(runs, i), escape_html(text),
                   cut ? "<p class=\"fine\">Cut here: samples.txt is longer.</p>" : "");
  }
  return html.empty() ? "<p class=\"fine\">No samples.txt.</p>" : html;
}

const std::string* find_setting(const RunData& run, const std::string& key) {
  const auto found = std::find_if(run.config.begin(), run.config.end(),
                                  [&key](const ConfigLine& line) { return line.key == key; });
  return found != run.config.end() ? &found->value : nullptr;
}

std::string make_whole_config(const RunData& run) {
  std::string html = "<details><summary>" +
                     counted(static_cast<double>(run.config.size()), "setting") +
                     "</summary><div class=\"scroll\"><table class=\"settings\"><tbody>";
  for (const ConfigLine& line : run.config) {
    html += "<tr><th scope=\"row\">" + escape_html(line.key) + "</th><td>" +
            escape_html(line.value) + "</td></tr>";
  }
  return html + "</tbody></table></div></details>";
}

// Keys in the order of the first run that has them.
std::string make_config_difference(const std::vector<RunData>& runs) {
  std::string rows;
  std::set<std::string> seen;
  size_t num_equal = 0;
  for (const RunData& source : runs) {
    for (const ConfigLine& line : source.config) {
      if (!seen.insert(line.key).second) continue;
      std::string cells;
      bool differs = false;
      for (const RunData& run : runs) {
        const std::string* value = find_setting(run, line.key);
        differs = differs || value == nullptr || *value != line.value;
        cells += "<td>" + (value != nullptr ? escape_html(*value) : "<i>not set</i>") + "</td>";
      }
      if (!differs) ++num_equal;
      if (differs)
        rows += "<tr><th scope=\"row\">" + escape_html(line.key) + "</th>" + cells + "</tr>";
    }
  }
  const std::string equal = counted(static_cast<double>(num_equal), "setting");
  if (rows.empty()) return "<p class=\"fine\">All " + equal + " are equal.</p>";
  std::string head;
  for (size_t i = 0; i < runs.size(); ++i)
    head += "<th scope=\"col\">" + run_label(runs, i) + "</th>";
  return "<div class=\"scroll\"><table class=\"settings\"><thead><tr><th></th>" + head +
         "</tr></thead><tbody>" + rows +
         "</tbody></table></div><p class=\"fine\">Only settings that "
         "differ; " +
         equal + (num_equal == 1 ? " is" : " are") + " equal.</p>";
}

// Empty if no run has any; at the end of "Communication", else of "Where the time goes".
std::string make_timelines(const std::vector<RunData>& runs) {
  const bool any = std::any_of(runs.begin(), runs.end(),
                               [](const RunData& run) { return run.trace.has_value(); });
  return any ? "<div id=\"timelines\" class=\"needs-script\" hidden></div>\n" : "";
}

// Equal names would make the legend useless.
void make_names_distinct(std::vector<RunData>& runs) {
  std::map<std::string, int> count;
  for (const RunData& run : runs) ++count[run.name];
  for (RunData& run : runs) {
    if (count[run.name] > 1) run.name = run.folder.lexically_normal().string();
  }
}

}  // namespace

std::string make_html_report(std::vector<RunData> runs) {
  LOCUS_CHECK(!runs.empty(), "a report needs a run");
  make_names_distinct(runs);
  std::string names;
  for (const RunData& run : runs) names += (names.empty() ? "" : ", ") + run.name;
  const bool one = runs.size() == 1;
  std::vector<std::string> labels;
  for (size_t i = 0; i < runs.size(); ++i) labels.push_back(run_label(runs, i));
  const std::string timelines = make_timelines(runs);
  const std::string communication = make_communication(runs, labels, timelines);
  const std::string locality = make_locality(runs, labels);
  return fill_template(
      kPageHtml,
      {{"title", escape_html(names)},
       {"kind",
        one ? "Run report" : "Comparison of " + counted(static_cast<double>(runs.size()), "run")},
       {"style", std::string(kStyleCss)},
       {"descriptions", make_descriptions(runs)},
       {"facts", make_facts(runs)},
       {"timelines", communication.empty() ? timelines : ""},
       {"communication", communication},
       {"communication_link",
        communication.empty() ? "" : "<a href=\"#communication\">Communication</a>"},
       {"locality", locality},
       {"locality_link", locality.empty() ? "" : "<a href=\"#locality\">Locality</a>"},
       {"domains", make_domains(runs)},
       {"samples", make_samples(runs)},
       {"config", one ? make_whole_config(runs[0]) : make_config_difference(runs)},
       {"data", escape_script_json(make_chart_json(runs))},
       {"charts", std::string(kChartsJs)},
       {"plots", std::string(kPlotsJs)},
       {"communication_script", std::string(kCommunicationJs)},
       {"report", std::string(kReportJs)}});
}

}  // namespace locus::report
