#include "locus/compare/svg_chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "locus/base/format.h"
#include "locus/report/text.h"

namespace locus::compare {
namespace {

constexpr double kWidth = 860, kHeight = 400, kLeft = 60, kRight = 200, kTop = 40, kBottom = 50;
// Told apart by those who see few colours, too (Okabe and Ito, 2008).
constexpr const char* kColours[] = {"#0072b2", "#e69f00", "#009e73", "#d55e00",
                                    "#cc79a7", "#56b4e9", "#8c6d1f", "#999999"};

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void take(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  double place(double value) const { return high > low ? (value - low) / (high - low) : 0.5; }
};

std::string tick_text(double value) {
  if (value == 0) return "0";
  const double size = std::abs(value);
  return size >= 1e5 || size < 1e-2 ? format("{:.1e}", value) : format("{:g}", value);
}

// Most of what the lines do after their first steps.
Range shown_losses(const std::vector<Line>& lines) {
  Range range;
  for (const Line& line : lines) {
    const size_t skipped = line.y.size() / 10;
    for (size_t i = skipped; i < line.y.size(); ++i) range.take(line.y[i]);
  }
  return range;
}

}  // namespace

std::vector<double> round_ticks(double low, double high, int count) {
  if (!(high > low)) return {low};
  const double raw = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0}) {
    if (factor * power >= raw) step = factor * power;
  }
  std::vector<double> ticks;
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; ++k) {
    ticks.push_back(k * step);
  }
  return ticks;
}

std::string line_chart(const std::string& title, const std::string& x_title,
                       const std::vector<Line>& lines) {
  Range x;
  x.take(0);
  for (const Line& line : lines) {
    for (const double value : line.x) x.take(value);
  }
  const Range y = shown_losses(lines);
  const double width = kWidth - kLeft - kRight, height = kHeight - kTop - kBottom;
  const auto at_x = [&](double value) { return kLeft + width * x.place(value); };
  const auto at_y = [&](double value) { return kTop + height * (1 - y.place(value)); };
  std::string clip = report::escape_html(x_title);  // an id, of this chart among others of a page
  std::replace(clip.begin(), clip.end(), ' ', '-');
  std::string out = format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" "
      "role=\"img\" aria-label=\"{}\" "
      "font-family=\"system-ui,sans-serif\" font-size=\"12\" fill=\"currentColor\">\n"
      "<clipPath id=\"{}\"><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/></clipPath>\n"
      "<text x=\"{}\" y=\"22\" font-size=\"15\" font-weight=\"600\">{}</text>\n",
      kWidth, kHeight, kWidth, report::escape_html(title), clip, kLeft, kTop, width, height, kLeft,
      report::escape_html(title));
  for (const double tick : round_ticks(y.low, y.high, 5)) {
    out += format(
        "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"currentColor\" "
        "opacity=\".15\"/><text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        kLeft, kLeft + width, at_y(tick), at_y(tick), kLeft - 8, at_y(tick) + 4, tick_text(tick));
  }
  for (const double tick : round_ticks(x.low, x.high, 6)) {
    out += format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", at_x(tick),
                  kHeight - kBottom + 20, tick_text(tick));
  }
  out += format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", kLeft + width / 2,
                kHeight - 8, report::escape_html(x_title));
  for (size_t i = 0; i < lines.size(); ++i) {
    const char* colour = kColours[i % std::size(kColours)];
    std::string points;
    for (size_t p = 0; p < lines[i].x.size(); ++p) {
      if (!std::isfinite(lines[i].y[p])) continue;
      points += format("{:.1f},{:.1f} ", at_x(lines[i].x[p]), at_y(lines[i].y[p]));
    }
    const double legend_y = kTop + 10 + 18 * static_cast<double>(i);
    out += format(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" "
        "clip-path=\"url(#{})\"/>\n<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"4\" "
        "fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>\n",
        points, colour, clip, kLeft + width + 16, legend_y - 6, colour, kLeft + width + 36,
        legend_y, report::escape_html(lines[i].name));
  }
  return out + "</svg>\n";
}

}  // namespace locus::compare
