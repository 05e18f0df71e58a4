#include "locus/data/tokenizers/json_part.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "locus/base/error.h"

namespace locus::data {
namespace {

using nlohmann::json;

const json& as_json(const void* value) { return *static_cast<const json*>(value); }

}  // namespace

JsonPart::JsonPart(const void* value, std::string file, std::string path)
    : value_(value), file_(std::move(file)), path_(std::move(path)) {}

std::string JsonPart::where() const { return path_.empty() ? file_ : file_ + ": " + path_; }

void JsonPart::fail(const std::string& problem) const {
  throw DataError("{}: {} {}", file_, path_.empty() ? "the file" : path_, problem);
}

void JsonPart::refuse(const std::string& what, const std::string& note) const {
  throw DataError("{}: {} is not supported{}", where(), what, note);
}

void JsonPart::expect(const char* wanted) const {
  fail(format("must be {}, is {} {}", wanted, as_json(value_).is_structured() ? "an" : "a",
              as_json(value_).type_name()));
}

bool JsonPart::has(const std::string& key) const {
  if (!as_json(value_).is_object()) expect("an object");
  const auto found = as_json(value_).find(key);
  return found != as_json(value_).end() && !found->is_null();
}

JsonPart JsonPart::at(const std::string& key) const {
  if (!has(key)) fail(format("has no \"{}\"", key));
  return {&as_json(value_)[key], file_, path_.empty() ? key : path_ + "." + key};
}

std::vector<JsonPart> JsonPart::elements() const {
  if (!as_json(value_).is_array()) expect("an array");
  std::vector<JsonPart> parts;
  for (size_t i = 0; i < as_json(value_).size(); ++i) {
    parts.emplace_back(&as_json(value_)[i], file_, format("{}[{}]", path_, i));
  }
  return parts;
}

bool JsonPart::is_string() const { return as_json(value_).is_string(); }
bool JsonPart::is_array() const { return as_json(value_).is_array(); }

std::vector<std::pair<std::string, JsonPart>> JsonPart::members() const {
  if (!as_json(value_).is_object()) expect("an object");
  std::vector<std::pair<std::string, JsonPart>> parts;
  for (const auto& [key, value] : as_json(value_).items()) {
    parts.emplace_back(key, JsonPart(&value, file_, path_ + "." + key));
  }
  return parts;
}

std::string JsonPart::string() const {
  if (!as_json(value_).is_string()) expect("a string");
  return as_json(value_).get<std::string>();
}

int64_t JsonPart::integer() const {
  if (!as_json(value_).is_number_integer()) expect("an integer");
  if (as_json(value_).is_number_unsigned() && as_json(value_).get<uint64_t>() > INT64_MAX)
    fail("is too large");
  return as_json(value_).get<int64_t>();
}

std::string JsonPart::string(const std::string& key, const std::string& otherwise) const {
  return has(key) ? at(key).string() : otherwise;
}

bool JsonPart::boolean(const std::string& key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const JsonPart part = at(key);
  if (!as_json(part.value_).is_boolean()) part.expect("true or false");
  return as_json(part.value_).get<bool>();
}

double JsonPart::number() const {
  if (!as_json(value_).is_number()) expect("a number");
  return as_json(value_).get<double>();
}

JsonFile::JsonFile(std::string_view text, std::string file) : file_(std::move(file)) {
  auto value = std::make_shared<json>();
  try {
    *value = json::parse(text);
  } catch (const json::exception& error) {
    std::string message = error.what();  // "[json.exception.parse_error.101] parse error at ..."
    message.erase(0, message.find(' ') + 1);
    throw DataError("{}: is no JSON: {}", file_, message);
  }
  if (!value->is_object()) {
    throw DataError("{}: must be a JSON object, is {}", file_, value->type_name());
  }
  value_ = std::move(value);
}

}  // namespace locus::data
