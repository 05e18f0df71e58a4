// A folder that appears under its name complete or not at all.
//
// It is filled as <name>.tmp-<process id>, beside its later place, with a locked file `.lock` in
// it: who gets that lock knows that the writer is dead, on whatever host it was, and removes the
// folder.
#pragma once

#include <filesystem>
#include <memory>

#include "locus/base/file.h"

namespace locus::data {

class PendingFolder {
 public:
  // Cleans up behind dead writers of the same folder, then makes the temporary one. DataError if
  // that cannot be done.
  explicit PendingFolder(const fs::path& target);
  // Removes the temporary folder unless it was committed.
  ~PendingFolder();
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  const fs::path& path() const { return temporary_; }

  // Gives the folder its name, on the disk as well. What was there changes names with it at once
  // and is removed as <name>.tmp-<process id>.replaced; where the file system cannot exchange
  // names, it is put aside under that name first, and put back if renaming fails. A kill in between
  // leaves nothing that the next PendingFolder of that name does not clean up.
  void commit();

 private:
  void clean_up() const;
  void replace(const fs::path& old) const;

  fs::path target_;
  fs::path temporary_;
  std::unique_ptr<FileLock> lock_;
};

}  // namespace locus::data
