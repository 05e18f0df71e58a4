// JSONL: one document a line.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "locus/data/byte_stream.h"
#include "locus/data/file_readers.h"

namespace locus::data {
namespace {

constexpr size_t kReadBytes = size_t{256} << 10;

// Takes the three strings out of an object as it is parsed, without a tree of the rest.
class RecordHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::optional<std::string> text, domain, id;
  std::string problem;  // of the content, or the parser's message

  bool null() override { return other_value("null"); }
  bool boolean(bool) override { return other_value("a boolean"); }
  bool number_integer(number_integer_t value) override { return number(std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return number(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& literal) override { return number(literal); }
  bool binary(binary_t&) override { return other_value("binary"); }

  bool string(string_t& value) override {
    if (depth_ == 0) return other_value("a string");
    if (depth_ == 1 && target_ != nullptr) *target_ = std::move(value);
    return true;
  }

  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    key_ = name;
    target_ = name == "text" ? &text : name == "domain" ? &domain : name == "id" ? &id : nullptr;
    return true;
  }

  bool start_object(size_t) override {
    if (depth_ > 0 && !other_value("an object")) return false;
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(size_t) override {
    if (!other_value("an array")) return false;
    ++depth_;
    return true;
  }
  bool end_array() override { return end_object(); }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: ...": of the line we know
    // better.
    problem = error.what();
    constexpr std::string_view kLine = "line 1, ";
    const size_t line = problem.find(kLine);
    if (line != std::string::npos) problem.erase(line, kLine.size());
    problem.erase(0, problem.find(' ') + 1);
    return false;
  }

 private:
  bool number(const std::string& literal) {
    if (depth_ != 1 || target_ != &id) return other_value("a number");
    id = literal;
    return true;
  }

  // Anything that is not a string; null stands for an absent key.
  bool other_value(std::string_view kind) {
    if (depth_ == 0) {
      problem = format("must be an object with the string \"text\", is {}", kind);
      return false;
    }
    if (depth_ > 1 || target_ == nullptr || (kind == "null" && target_ != &text)) return true;
    problem = format("\"{}\" must be a string, is {}", key_, kind);
    return false;
  }

  int64_t depth_ = 0;
  std::string key_;
  std::optional<std::string>* target_ = nullptr;
};

class JsonlFile final : public FileReader {
 public:
  JsonlFile(const InputFile& file, int64_t max_line_bytes)
      : file_(file),
        max_line_bytes_(static_cast<size_t>(max_line_bytes)),
        stream_(open_byte_stream(file.path)) {}

  bool next(Document* document) override {
    std::string_view line;
    do {
      if (!next_line(&line)) return false;
    } while (line.find_first_not_of(" \t\r") == std::string_view::npos);
    parse(line, document);
    return true;
  }

  int64_t file_bytes() const override { return stream_->file_bytes(); }

 private:
  // Without its line break; valid until the next call.
  bool next_line(std::string_view* line) {
    size_t searched = begin_;
    while (true) {
      const size_t end = buffer_.find('\n', searched);
      if (end != std::string::npos || ended_) {
        if (end == std::string::npos && begin_ == buffer_.size()) return false;
        const size_t stop = std::min(end, buffer_.size());
        *line = std::string_view(buffer_).substr(begin_, stop - begin_);
        begin_ = std::min(stop + 1, buffer_.size());
        ++line_number_;
        check_length(line->size(), line_number_);
        return true;
      }
      check_length(buffer_.size() - begin_, line_number_ + 1);
      searched = buffer_.size() - begin_;
      buffer_.erase(0, begin_);
      begin_ = 0;
      refill();
    }
  }

  void refill() {
    const size_t size = buffer_.size();
    buffer_.resize(size + kReadBytes);
    const size_t count = stream_->read(buffer_.data() + size, kReadBytes);
    buffer_.resize(size + count);
    ended_ = count < kReadBytes;
  }

  void check_length(size_t num_bytes, int64_t line_number) const {
    if (num_bytes <= max_line_bytes_) return;
    throw DataError("{}:{}: the line is longer than max_document_bytes = {}", file_.path.string(),
                    line_number, max_line_bytes_);
  }

  void parse(std::string_view line, Document* document) {
    // The parser takes NUL for the end of its input.
    if (const size_t nul = line.find('\0'); nul != std::string_view::npos) {
      throw DataError("{}:{}: column {} is NUL, which no JSON holds", file_.path.string(),
                      line_number_, nul + 1);
    }
    RecordHandler record;
    const bool parsed = nlohmann::json::sax_parse(line, &record);
    if (parsed && !record.text) record.problem = "has no string \"text\"";
    if (record.problem.empty() && record.domain) {
      const std::string problem = domain_name_problem(*record.domain);
      if (!problem.empty()) record.problem = "\"domain\" " + problem;
    }
    if (!record.problem.empty()) {
      throw DataError("{}:{}: {}", file_.path.string(), line_number_, record.problem);
    }
    LOCUS_CHECK(parsed, "a parse error without a message");
    document->id = record.id ? std::move(*record.id) : format("{}:{}", file_.id, line_number_);
    document->domain =
        record.domain && !file_.domain_given ? std::move(*record.domain) : file_.domain;
    document->text = std::move(*record.text);
  }

  const InputFile& file_;
  const size_t max_line_bytes_;
  std::unique_ptr<ByteStream> stream_;
  std::string buffer_;
  size_t begin_ = 0;  // of the next line in the buffer
  bool ended_ = false;
  int64_t line_number_ = 0;
};

}  // namespace

std::unique_ptr<FileReader> open_jsonl_file(const InputFile& file, int64_t max_document_bytes) {
  return std::make_unique<JsonlFile>(file, max_document_bytes);
}

}  // namespace locus::data
