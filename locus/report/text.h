// Text for a page: escaping what comes from files, and numbers as people read them.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace locus::report {

// Safe as HTML text and as a quoted attribute.
std::string escape_html(std::string_view text);

// JSON that may stand inside <script>: no '<' is left, so nothing in it can end the element.
std::string escape_script_json(std::string_view json);

// "12.3 M", "480", "1.20 G"; a dash for what is missing.
std::string human_count(double value);
// The same of bytes: "12.3 MB", "480 B".
std::string bytes_text(double bytes);
// Three to four significant digits: "0.0312", "3.412", "1.2e-05"; a dash for what is missing.
std::string human_number(double value);
// 0.1234 -> "12.3 %"
std::string human_percent(double share);
// Whole numbers with separators: "12,345".
std::string human_integer(double value);
// "3m10s"; below ten seconds "3.2 s" or "140 ms".
std::string human_seconds(double seconds);
// "1 layer", "3 layers"
std::string counted(double count, std::string_view noun);

// `page` with every {{name}} replaced by parts[name]; what is put in is not searched again.
std::string fill_template(std::string_view page, const std::map<std::string, std::string>& parts);

}  // namespace locus::report
