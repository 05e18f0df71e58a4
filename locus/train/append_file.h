// A file that grows by whole pieces, each handed to the system at once: a reader of a run that is
// still going, or was killed, sees all but the piece that was being written.
#pragma once

#include <filesystem>
#include <string_view>

namespace locus::train {

class AppendFile {
 public:
  enum class Mode {
    kNew,            // starts empty
    kContinueLines,  // goes on behind the last whole line: what a kill cut off is removed
  };

  // DataError when it cannot be opened or cut.
  AppendFile(std::filesystem::path path, Mode mode);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  // DataError when the disk takes less than all of it.
  void append(std::string_view piece);

  bool empty() const { return empty_; }

 private:
  std::filesystem::path path_;
  int descriptor_;
  bool empty_ = true;
};

}  // namespace locus::train
