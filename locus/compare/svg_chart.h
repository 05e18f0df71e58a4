// A picture of a few lines, as SVG that stands in a page.
#pragma once

#include <string>
#include <vector>

namespace locus::compare {

struct Line {
  std::string name;
  std::vector<double> x, y;
};

// The first tenth of the points, where losses fall steeply, has no say in what y spans.
std::string line_chart(const std::string& title, const std::string& x_title,
                       const std::vector<Line>& lines);

// Round numbers from `low` to `high`, about `count` of them: 1, 2 or 5 times a power of ten apart.
std::vector<double> round_ticks(double low, double high, int count);

}  // namespace locus::compare
