#include "locus/data/pending_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "locus/base/error.h"
#include "locus/base/log.h"

namespace locus::data {
namespace {

constexpr const char* kLockName = ".lock";

void remove_tree(const fs::path& path) {
  std::error_code code;
  fs::remove_all(path, code);
  if (code) throw DataError("{}: cannot be removed: {}", path.string(), code.message());
}

constexpr std::string_view kTemporary = ".tmp-";
constexpr std::string_view kReplaced = ".replaced";

// The rest of `name` behind "<target>.tmp-<digits>"; empty optional: the name is none of ours.
std::optional<std::string> suffix_of_ours(std::string name, const fs::path& target) {
  const std::string prefix = target.filename().string() + std::string(kTemporary);
  if (!name.starts_with(prefix)) return std::nullopt;
  name.erase(0, prefix.size());
  const size_t num_digits = std::min(name.find_first_not_of("0123456789"), name.size());
  if (num_digits == 0) return std::nullopt;
  return name.substr(num_digits);
}

// The lock goes last: a kill in between leaves a folder that is still known as ours.
void remove_unfinished(const fs::path& folder) {
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    if (it->path().filename() != kLockName) remove_tree(it->path());
  }
  remove_tree(folder);
}

// A living process holds its lock.
bool is_in_use(const fs::path& folder) {
  std::error_code absent;
  return fs::exists(folder / kLockName, absent) &&
         FileLock::try_acquire(folder / kLockName) == nullptr;
}

// Both names change their folders at once; false where the system cannot do that.
bool exchange(const fs::path& a, const fs::path& b) {
  if (::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) != 0) return false;
  sync_path(b.parent_path());
  return true;
}

}  // namespace

PendingFolder::PendingFolder(const fs::path& target)
    // "data/" and "data" are the same folder; its parent must have a name to be listed.
    : target_(fs::absolute(target / "").lexically_normal().parent_path()),
      temporary_(format("{}{}{}", target_.string(), kTemporary, ::getpid())) {
  make_folders(target_.parent_path());
  clean_up();
  std::error_code code;
  if (!fs::create_directory(temporary_, code)) {
    throw DataError("{}: the folder cannot be made: {}", temporary_.string(),
                    code ? code.message() : "it is there already, and in use");
  }
  lock_ = FileLock::try_acquire(temporary_ / kLockName);
  if (lock_ == nullptr) throw DataError("{}: is in use", temporary_.string());
}

PendingFolder::~PendingFolder() {
  if (lock_ == nullptr) return;
  try {
    remove_unfinished(temporary_);
  } catch (const DataError& error) {
    log::warning("{}", error.what());
  }
}

void PendingFolder::clean_up() const {
  std::vector<fs::path> unfinished, replaced;
  const fs::path parent = target_.parent_path();
  std::error_code code;
  for (fs::directory_iterator it(parent, code), end; !code && it != end; it.increment(code)) {
    const fs::directory_entry& entry = *it;
    const auto suffix = suffix_of_ours(entry.path().filename().string(), target_);
    std::error_code absent;
    if (suffix == "" && fs::exists(entry.path() / kLockName, absent)) {
      unfinished.push_back(entry.path());
    } else if (suffix == "" && entry.is_directory(absent)) {
      ::rmdir(entry.path().c_str());  // killed before its lock was there, or not ours: not empty
    }
    if (suffix == kReplaced) replaced.push_back(entry.path());
  }
  if (code) throw DataError("{}: cannot be read: {}", parent.string(), code.message());
  for (const fs::path& folder : unfinished) {
    if (is_in_use(folder)) continue;
    log::info("removing {}, left by a process that has ended", folder.string());
    remove_unfinished(folder);
  }
  for (const fs::path& folder : replaced) {
    if (is_in_use(folder)) continue;
    if (fs::exists(target_)) {
      remove_tree(folder);
    } else {
      log::info("{} comes back: the process that was to replace it has ended", target_.string());
      rename_durable(folder, target_);
    }
  }
}

void PendingFolder::commit() {
  LOCUS_CHECK(lock_ != nullptr, "committed twice");
  sync_path(temporary_);
  const fs::path old = temporary_.string() + std::string(kReplaced);
  const bool replaces = fs::exists(target_);
  if (replaces) {
    replace(old);
  } else {
    rename_durable(temporary_, target_);
  }
  // Not before: without it nobody could tell that the temporary folder was left by a dead process.
  remove_tree(target_ / kLockName);
  lock_.reset();
  if (replaces) remove_tree(old);
}

void PendingFolder::replace(const fs::path& old) const {
  // Exchanged under the name `old`, at any moment a folder of that name is one to remove.
  rename_durable(temporary_, old);
  if (exchange(old, target_)) return;
  rename_durable(old, temporary_);
  rename_durable(target_, old);
  try {
    rename_durable(temporary_, target_);
  } catch (const DataError&) {
    rename_durable(old, target_);
    throw;
  }
}

}  // namespace locus::data
