#include "locus/io/json_check.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "locus/base/error.h"

namespace locus::io {
namespace {

constexpr int kMaxDepth = 8;

}  // namespace

void check_json_object(std::string_view text, const std::string& what) {
  // To the parser a NUL is the end of the text, whatever follows.
  if (text.find('\0') != std::string_view::npos) {
    throw DataError("{} is not valid JSON: it holds a NUL byte", what);
  }
  using Event = nlohmann::json::parse_event_t;
  // The parsed object keeps the last of two equal keys: the callback sees them both.
  std::vector<std::set<std::string>> open_objects;
  const auto watch = [&](int depth, Event event, nlohmann::json& parsed) {
    if (depth > kMaxDepth) throw DataError("{} is nested too deeply", what);
    if (event == Event::object_start) {
      open_objects.emplace_back();
    } else if (event == Event::object_end) {
      open_objects.pop_back();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) {
        throw DataError("{} names {} twice", what, shown(key));
      }
    }
    return true;
  };
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    throw DataError("{} is not valid JSON: {}", what, error.what());
  }
  if (!json.is_object()) throw DataError("{} is not a JSON object", what);
}

std::string shown(std::string_view name) {
  constexpr size_t kLongest = 100;
  using Handler = nlohmann::json::error_handler_t;
  const std::string text = nlohmann::json(name).dump(-1, ' ', true, Handler::replace);
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...\"";
}

}  // namespace locus::io
