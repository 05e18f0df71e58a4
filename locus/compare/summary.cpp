#include "locus/compare/summary.h"

#include <cmath>
#include <limits>

#include "locus/base/format.h"
#include "locus/compare/svg_chart.h"
#include "locus/report/text.h"

namespace locus::compare {
namespace {

std::vector<double> column(const std::vector<Result>& results, double Result::*number) {
  std::vector<double> values;
  for (const Result& one : results) values.push_back(one.*number);
  return values;
}

double finite_mean(std::vector<double> values) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  return mean_of(values);
}

// Where the i-th seeds of this and the first variant meet.
double reached(const std::vector<Result>& results, const std::vector<Result>& base,
               double CurvePoint::*axis, double Result::*total) {
  std::vector<double> shares;
  for (size_t i = 0; i < results.size(); ++i) {
    shares.push_back(reached_at(results[i].curve, base[i].loss, axis) / (base[i].*total));
  }
  return finite_mean(shares);
}

std::string number(double value, int decimals) {
  if (!std::isfinite(value)) return "-";
  switch (decimals) {
    case 0: return format("{:.0f}", value);
    case 1: return format("{:.1f}", value);
    case 2: return format("{:.2f}", value);
    case 3: return format("{:.3f}", value);
    default: return format("{:.4f}", value);
  }
}

std::string percent(double share) {
  return std::isfinite(share) ? format("{:.1f}%", 100 * share) : "-";
}

std::string difference_text(const PairedDifference& difference) {
  const std::string mean = format("{:+.4f}", difference.mean);
  if (!std::isfinite(difference.low)) return mean;
  return format("{} ({:+.4f} to {:+.4f})", mean, difference.low, difference.high);
}

std::string reach_text(const Summary& one, double share) {
  if (one.num_reached == 0) return "never";
  const bool is_partly = one.num_reached < static_cast<int>(one.results.size());
  return number(share, 2) +
         (is_partly ? format(" ({} of {})", one.num_reached, one.results.size()) : "");
}

const std::vector<std::string>& headings() {
  static const std::vector<std::string> words{"",
                                              "validation loss",
                                              "difference (95%)",
                                              "steps",
                                              "FLOPs",
                                              "time",
                                              "same loss after: steps",
                                              "FLOPs",
                                              "time",
                                              "active parameters",
                                              "peak memory",
                                              "experts of a token",
                                              "dropped",
                                              "max / mean load"};
  return words;
}

std::vector<std::string> cells(const Summary& one, const Summary& first) {
  const bool is_first = &one == &first;
  std::string loss = number(one.loss, 4);
  if (std::isfinite(one.loss_deviation)) loss += " +- " + number(one.loss_deviation, 4);
  return {one.name,
          loss,
          is_first ? "" : difference_text(one.difference),
          number(one.steps, 0),
          number(one.flops / first.flops, 2),
          number(one.wall_s / first.wall_s, 2),
          is_first ? "1" : reach_text(one, one.steps_to_reach),
          is_first ? "1" : reach_text(one, one.flops_to_reach),
          is_first ? "1" : reach_text(one, one.wall_to_reach),
          report::human_count(one.active_parameters),
          number(one.peak_rss_bytes / (1 << 20), 0) + " MiB",
          number(one.experts_per_token, 2),
          percent(one.dropped_share),
          number(one.load_max_over_mean, 2)};
}

std::vector<Line> lines_over(const std::vector<Summary>& summaries, double CurvePoint::*axis) {
  std::vector<Line> lines;
  for (const Summary& one : summaries) {
    Line line{one.name, {}, {}};
    const size_t length = one.results.front().curve.size();
    for (size_t i = 0; i < length; ++i) {
      std::vector<double> x, y;
      for (const Result& result : one.results) {
        if (i >= result.curve.size()) continue;
        x.push_back(result.curve[i].*axis);
        y.push_back(result.curve[i].loss);
      }
      line.x.push_back(mean_of(x));
      line.y.push_back(mean_of(y));
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

constexpr std::string_view kStyle = R"(
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums;font-size:13px}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid #d8dee4;vertical-align:top}
th{font-weight:600;color:#59636e}
th:first-child,td:first-child{text-align:left}
td{white-space:nowrap}
td.sure{font-weight:600}
.wide{overflow-x:auto}
svg{max-width:100%;height:auto}
@media (prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}th{color:#9198a1}th,td{border-color:#3d444d}}
)";

}  // namespace

std::vector<Summary> summarize(const std::vector<Result>& results) {
  std::vector<Summary> out;
  for (const Result& result : results) {
    if (out.empty() || out.back().name != result.variant) {
      out.emplace_back();
      out.back().name = result.variant;
    }
    out.back().results.push_back(result);
  }
  for (Summary& one : out) {
    const std::vector<Result>& base = out.front().results;
    const auto mean = [&one](double Result::*number) {
      return finite_mean(column(one.results, number));
    };
    one.loss = mean(&Result::loss);
    one.loss_deviation = deviation_of(column(one.results, &Result::loss));
    one.difference =
        paired_difference(column(one.results, &Result::loss), column(base, &Result::loss));
    one.steps = mean(&Result::steps);
    one.flops = mean(&Result::flops);
    one.wall_s = mean(&Result::wall_s);
    one.steps_to_reach = reached(one.results, base, &CurvePoint::step, &Result::steps);
    one.flops_to_reach = reached(one.results, base, &CurvePoint::flops, &Result::flops);
    one.wall_to_reach = reached(one.results, base, &CurvePoint::wall_s, &Result::wall_s);
    for (size_t i = 0; i < one.results.size(); ++i) {
      one.num_reached +=
          std::isfinite(reached_at(one.results[i].curve, base[i].loss, &CurvePoint::step));
    }
    one.active_parameters = mean(&Result::active_parameters);
    one.peak_rss_bytes = mean(&Result::peak_rss_bytes);
    one.experts_per_token = mean(&Result::experts_per_token);
    one.dropped_share = mean(&Result::dropped_share);
    one.load_max_over_mean = mean(&Result::load_max_over_mean);
  }
  return out;
}

std::string to_markdown(const About& about, const std::vector<Summary>& summaries) {
  std::string out = format("# {}\n\n", about.title);
  for (const std::string& line : about.lines) out += line + "\n";
  out += "\n|";
  for (const std::string& heading : headings()) out += format(" {} |", heading);
  out += "\n|";
  for (size_t i = 0; i < headings().size(); ++i) out += i == 0 ? " --- |" : " ---: |";
  out += "\n";
  for (const Summary& one : summaries) {
    out += "|";
    for (const std::string& cell : cells(one, summaries.front())) out += format(" {} |", cell);
    out += "\n";
  }
  return out;
}

std::string to_csv(const std::vector<Summary>& summaries) {
  std::string out =
      "variant,seed,loss,steps,flops,wall_s,active_parameters,peak_rss_bytes,experts_per_token,"
      "dropped_share,load_max_over_mean,folder\n";
  for (const Summary& one : summaries) {
    for (const Result& result : one.results) {
      std::string name;
      for (const char c : result.variant)
        name += c == '"' ? std::string("\"\"") : std::string(1, c);
      out += format("\"{}\",{}", name, result.seed);
      for (const double value :
           {result.loss, result.steps, result.flops, result.wall_s, result.active_parameters,
            result.peak_rss_bytes, result.experts_per_token, result.dropped_share,
            result.load_max_over_mean}) {
        out += std::isfinite(value) ? format(",{:.10g}", value) : ",";
      }
      out += "," + result.folder + "\n";
    }
  }
  return out;
}

std::string to_html(const About& about, const std::vector<Summary>& summaries) {
  std::string out = format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>{}</title><style>{}</style></head><body>\n<h1>{}</"
      "h1>\n",
      report::escape_html(about.title), kStyle, report::escape_html(about.title));
  for (const std::string& line : about.lines) {
    out += format("<p>{}</p>\n", report::escape_html(line));
  }
  out += "<div class=\"wide\"><table><thead><tr>";
  for (const std::string& heading : headings()) {
    out += format("<th>{}</th>", report::escape_html(heading));
  }
  out += "</tr></thead><tbody>\n";
  for (const Summary& one : summaries) {
    const std::vector<std::string> row = cells(one, summaries.front());
    out += "<tr>";
    for (size_t i = 0; i < row.size(); ++i) {
      const bool is_sure = i == 2 && one.difference.is_sure() && &one != &summaries.front();
      std::string text = report::escape_html(row[i]);
      if (const size_t at = text.find("+-"); at != std::string::npos)
        text.replace(at, 2, "&plusmn;");
      out += format("<td{}>{}</td>", is_sure ? " class=\"sure\"" : "", text);
    }
    out += "</tr>\n";
  }
  out += "</tbody></table></div>\n";
  out +=
      line_chart("Validation loss over steps", "steps", lines_over(summaries, &CurvePoint::step));
  out += line_chart("over FLOPs of training", "FLOPs", lines_over(summaries, &CurvePoint::flops));
  out += line_chart("over time", "seconds", lines_over(summaries, &CurvePoint::wall_s));
  return out + "</body></html>\n";
}

}  // namespace locus::compare
