// The kinds of files that a DocumentReader reads. Internal to it.
#pragma once

#include <memory>

#include "locus/base/error.h"
#include "locus/data/document_reader.h"

namespace locus::data {

// Content that a walk skips and that is an error in a named file.
class UnfitText : public DataError {
 public:
  enum class Kind { kBinary, kInvalidUtf8 };
  template <class... Args>
  UnfitText(Kind kind, std::string_view pattern, const Args&... args)
      : DataError(pattern, args...), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

// next() throws UnfitText, or DataError when the file cannot be read. `num_cut` counts a file that
// is longer than max_document_bytes.
std::unique_ptr<FileReader> open_text_file(const InputFile& file, int64_t max_document_bytes,
                                           int64_t* num_cut);

std::unique_ptr<FileReader> open_jsonl_file(const InputFile& file, int64_t max_document_bytes);

}  // namespace locus::data
