// A place in a JSON file that knows its name, so that every complaint can name it:
// "tokenizer.json: model.merges[3] must be a string, is a number".
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace locus::data {

class JsonPart {
 public:
  // `value`: a nlohmann::json, which no header may name.
  JsonPart(const void* value, std::string file, std::string path = "");

  const std::string& path() const { return path_; }
  std::string where() const;  // "file: path"

  bool has(const std::string& key) const;  // there and not null
  JsonPart at(const std::string& key) const;
  std::vector<JsonPart> elements() const;                         // of an array
  std::vector<std::pair<std::string, JsonPart>> members() const;  // of an object
  bool is_string() const;
  bool is_array() const;

  std::string string() const;
  int64_t integer() const;
  double number() const;
  // Of a key; `otherwise` when it is absent or null.
  std::string string(const std::string& key, const std::string& otherwise) const;
  bool boolean(const std::string& key, bool otherwise) const;

  [[noreturn]] void fail(const std::string& problem) const;
  // "what is not supported" and the note.
  [[noreturn]] void refuse(const std::string& what, const std::string& note = "") const;

 private:
  [[noreturn]] void expect(const char* wanted) const;

  const void* value_;
  std::string file_;
  std::string path_;
};

// A file that holds one JSON object.
class JsonFile {
 public:
  // DataError that names the file.
  JsonFile(std::string_view text, std::string file);

  // Parts are valid as long as this.
  JsonPart root() const { return {value_.get(), file_}; }

 private:
  std::shared_ptr<const void> value_;  // nlohmann::json
  std::string file_;
};

}  // namespace locus::data
