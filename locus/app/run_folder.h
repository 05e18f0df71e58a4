// The folder of a run, claimed by one job.
#pragma once

#include <filesystem>
#include <memory>

#include "locus/base/file.h"

namespace locus::app {

class RunFolder {
 public:
  // Makes the folder and locks it; of several ranks, one with `claims`. ConfigError if another
  // process holds it, or if it holds a run already and `resume` is false.
  RunFolder(const fs::path& path, bool resume, bool claims = true);

  const fs::path& path() const { return path_; }
  fs::path checkpoints() const { return path_ / "checkpoints"; }

 private:
  fs::path path_;
  std::unique_ptr<FileLock> lock_;
};

}  // namespace locus::app
