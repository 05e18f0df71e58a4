// The page's parts, embedded from locus/report/page/ when the program is built.
#pragma once

#include <string_view>

namespace locus::report {

extern const std::string_view kPageHtml;  // the frame, with {{name}} where the report goes
extern const std::string_view kStyleCss;
extern const std::string_view kChartsJs;         // scales, axes, cross-hair, zoom
extern const std::string_view kPlotsJs;          // line, stack and heat charts
extern const std::string_view kCommunicationJs;  // its section, and the timeline of one step
extern const std::string_view kReportJs;         // which chart shows what

}  // namespace locus::report
