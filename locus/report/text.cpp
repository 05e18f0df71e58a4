#include "locus/report/text.h"

#include <cmath>

#include "locus/base/error.h"
#include "locus/base/progress.h"

namespace locus::report {
namespace {

constexpr const char* kDash = "\xE2\x80\x93";  // en dash

}  // namespace

std::string escape_html(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&': escaped += "&amp;"; break;
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '"': escaped += "&quot;"; break;
      case '\'': escaped += "&#39;"; break;
      case '\0': escaped += "\xEF\xBF\xBD"; break;  // U+FFFD; HTML knows no NUL
      default: escaped += c;
    }
  }
  return escaped;
}

std::string escape_script_json(std::string_view json) {
  std::string escaped;
  escaped.reserve(json.size());
  for (const char c : json) {
    if (c == '<') {
      escaped += "\\u003c";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string bytes_text(double bytes) {
  return human_count(bytes) + (std::abs(bytes) < 999.5 ? " B" : "B");
}

std::string human_count(double value) {
  if (!std::isfinite(value)) return kDash;
  constexpr const char* kUnits[] = {"", " k", " M", " G", " T", " P", " E"};
  size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return format(value == std::floor(value) ? "{:.0f}" : "{:.3g}", value);
  const double size = std::abs(value);
  return format(size < 9.995   ? "{:.2f}{}"
                : size < 99.95 ? "{:.1f}{}"
                               : "{:.0f}{}",
                value, kUnits[unit]);
}

std::string human_number(double value) {
  if (!std::isfinite(value)) return kDash;
  const double size = std::abs(value);
  if (size >= 99999.5) return human_count(value);
  if (size >= 999.5) return human_integer(value);
  if (size >= 99.95) return format("{:.1f}", value);
  return format("{:.4g}", value);
}

std::string human_percent(double share) {
  if (!std::isfinite(share)) return kDash;
  const double percent = 100 * share;
  if (percent == 0) return "0 %";
  return format(std::abs(percent) < 0.95    ? "{:.2g} %"
                : std::abs(percent) < 99.95 ? "{:.1f} %"
                                            : "{:.0f} %",
                percent);
}

std::string human_integer(double value) {
  if (!std::isfinite(value)) return kDash;
  std::string digits = format("{:.0f}", std::abs(value));
  for (size_t place = digits.size(); place > 3; place -= 3) digits.insert(place - 3, 1, ',');
  return value <= -0.5 ? format("-{}", digits) : digits;
}

std::string human_seconds(double seconds) {
  if (!std::isfinite(seconds)) return kDash;
  if (seconds >= 10) return format_duration(seconds);
  if (seconds >= 1) return format("{:.1f} s", seconds);
  return format("{:.3g} ms", 1000 * seconds);
}

std::string counted(double count, std::string_view noun) {
  return format("{} {}{}", human_integer(count), noun, count == 1 ? "" : "s");
}

std::string fill_template(std::string_view page, const std::map<std::string, std::string>& parts) {
  std::string filled;
  while (true) {
    const size_t open = page.find("{{");
    filled += page.substr(0, open);
    if (open == std::string_view::npos) return filled;
    const size_t close = page.find("}}", open);
    LOCUS_CHECK(close != std::string_view::npos, "an opened part without its end in the page");
    const std::string name(page.substr(open + 2, close - open - 2));
    const auto part = parts.find(name);
    LOCUS_CHECK(part != parts.end(), "the page asks for an unknown part {}", name);
    filled += part->second;
    page.remove_prefix(close + 2);
  }
}

}  // namespace locus::report
