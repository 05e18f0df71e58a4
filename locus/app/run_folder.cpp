#include "locus/app/run_folder.h"

#include "locus/base/error.h"
#include "locus/train/checkpoint.h"

namespace locus::app {

RunFolder::RunFolder(const fs::path& path, bool resume, bool claims) : path_(path) {
  if (!claims) return;
  make_folders(path);
  const bool is_run = fs::exists(path / ".lock") || fs::exists(path / "metrics.jsonl") ||
                      fs::is_directory(checkpoints());
  if (!is_run && !fs::is_empty(path)) {
    throw ConfigError(
        "train.output_dir = \"{}\" is a folder with other things in it; name a new one",
        path.string());
  }
  const fs::path lock = path / ".lock";
  lock_ = FileLock::try_acquire(lock);
  if (!lock_) {
    std::string holder = read_file(lock);
    while (!holder.empty() && holder.back() == '\n') holder.pop_back();
    throw ConfigError("train.output_dir = \"{}\" is in use by another process ({})", path.string(),
                      holder.empty() ? "unknown" : holder);
  }
  if (!resume &&
      (fs::exists(path / "metrics.jsonl") || !train::list_checkpoints(checkpoints()).empty())) {
    throw ConfigError(
        "train.output_dir = \"{}\" holds a run already; continue it with --resume, or name another "
        "folder",
        path.string());
  }
}

}  // namespace locus::app
