#include "locus/app/kept_map.h"

#include <algorithm>
#include <array>

#include "locus/base/format.h"

namespace locus::app {
namespace {

constexpr double kLeft = 70, kTop = 50, kCellWidth = 110, kRowHeight = 46, kBarHeight = 8,
                 kBarLength = 90;

struct Kind {
  const char* name;
  const char* colour;
  double search::LayerSizes::*size;
  double search::LayerSizes::*branch;
};
constexpr auto kKinds = std::to_array<Kind>({
    {"heads", "#4269d0", &search::LayerSizes::heads, &search::LayerSizes::attention},
    {"channels", "#efb118", &search::LayerSizes::channels, &search::LayerSizes::feed_forward},
    {"experts", "#3ca951", &search::LayerSizes::experts, &search::LayerSizes::feed_forward},
    {"per token", "#ff725c", &search::LayerSizes::top_k, &search::LayerSizes::feed_forward},
});

std::string text(double x, double y, const char* anchor, const std::string& what) {
  return format("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                what);
}

}  // namespace

std::string kept_map(const std::vector<search::LayerSizes>& whole,
                     const std::vector<KeptColumn>& columns) {
  const double width =
      kLeft + kCellWidth * static_cast<double>(std::max<size_t>(columns.size(), 4));
  const double height = kTop + kRowHeight * static_cast<double>(whole.size()) + 10;
  std::string out = format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "role=\"img\" aria-label=\"What each layer keeps\" font-family=\"system-ui,sans-serif\" "
      "font-size=\"12\" fill=\"currentColor\">\n",
      width, height);
  for (size_t k = 0; k < kKinds.size(); ++k) {
    const double x = kLeft + kCellWidth * static_cast<double>(k);
    out += format("<rect x=\"{:.0f}\" y=\"8\" width=\"12\" height=\"8\" fill=\"{}\"/>\n", x,
                  kKinds[k].colour);
    out += text(x + 18, 16, "start", kKinds[k].name);
  }
  for (size_t c = 0; c < columns.size(); ++c) {
    out += text(kLeft + kCellWidth * static_cast<double>(c), kTop - 8, "start", columns[c].title);
  }
  for (size_t layer = 0; layer < whole.size(); ++layer) {
    const double top = kTop + kRowHeight * static_cast<double>(layer);
    out += text(kLeft - 10, top + 20, "end", format("layer {}", layer));
    for (size_t c = 0; c < columns.size(); ++c) {
      const double left = kLeft + kCellWidth * static_cast<double>(c);
      double y = top;
      for (const Kind& kind : kKinds) {
        const double all = whole[layer].*kind.size;
        if (all == 0 || whole[layer].*kind.branch == 0) continue;  // the layer has no such thing
        const search::LayerSizes& own = columns[c].sizes[layer];
        const double share = own.*kind.branch * (own.*kind.size) / all;
        out += format(
            "<rect x=\"{0:.0f}\" y=\"{1:.0f}\" width=\"{2:.0f}\" height=\"{3:.0f}\" "
            "fill=\"currentColor\" opacity=\".12\"/><rect x=\"{0:.0f}\" y=\"{1:.0f}\" "
            "width=\"{4:.1f}\" height=\"{3:.0f}\" fill=\"{5}\"><title>{6}: "
            "{7:.0f}%</title></rect>\n",
            left, y, kBarLength, kBarHeight, kBarLength * share, kind.colour, kind.name,
            100 * share);
        y += kBarHeight + 2;
      }
    }
  }
  return out + "</svg>\n";
}

}  // namespace locus::app
