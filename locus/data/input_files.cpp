#include "locus/data/input_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/hash.h"
#include "locus/data/byte_stream.h"
#include "locus/data/utf8.h"

namespace locus::data {
namespace {

namespace fs = std::filesystem;

bool is_jsonl(const fs::path& path, bool walked) {
  const fs::path extension = unpacked_name(path).extension();
  return extension == ".jsonl" || (extension == ".json" && !walked);
}

bool has_extension(const fs::path& path, const std::vector<std::string>& extensions) {
  if (extensions.empty()) return true;
  const std::string name = path.filename().string();
  const std::string unpacked = unpacked_name(path).filename().string();
  return std::any_of(extensions.begin(), extensions.end(), [&](const std::string& extension) {
    return name.ends_with(extension) || unpacked.ends_with(extension);
  });
}

// "corpus/" and "." have a name, too.
std::string stem_of(const fs::path& path, bool folder) {
  fs::path full = fs::weakly_canonical(path);
  if (full.filename().empty()) full = full.parent_path();
  std::string name = (folder ? full.filename() : unpacked_name(full).stem()).string();
  return domain_name_problem(name).empty() ? name : "text";
}

// One walk below one folder.
class FolderWalk {
 public:
  FolderWalk(const fs::path& root, const std::vector<std::string>& extensions, InputList* list)
      : root_(root), extensions_(extensions), list_(list) {}

  // Paths below the root with their sizes.
  std::vector<std::pair<fs::path, int64_t>> run() {
    struct stat info {};
    if (::stat(root_.c_str(), &info) == 0) entered_.emplace(info.st_dev, info.st_ino);
    enter(root_);
    return std::move(files_);
  }

 private:
  void enter(const fs::path& folder) {
    std::vector<fs::path> entries;
    std::error_code code;
    for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
      if (!it->path().filename().string().starts_with('.')) entries.push_back(it->path());
    }
    if (code && folder == root_) {
      throw DataError("{}: the folder cannot be read: {}", root_.string(), code.message());
    }
    if (code) ++list_->num_unreadable;
    // Sorted here, so that which of several links to a folder counts does not depend on the disk.
    std::sort(entries.begin(), entries.end());
    for (const fs::path& entry : entries) visit(entry);
  }

  void visit(const fs::path& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) {
      ++list_->num_unreadable;  // a dangling link, or no permission
    } else if (S_ISDIR(info.st_mode)) {
      if (entered_.emplace(info.st_dev, info.st_ino).second) enter(path);
    } else if (S_ISREG(info.st_mode) && has_extension(path, extensions_)) {
      files_.emplace_back(path.lexically_relative(root_), info.st_size);
    }
  }

  const fs::path root_;
  const std::vector<std::string>& extensions_;
  InputList* list_;
  std::set<std::pair<dev_t, ino_t>> entered_;
  std::vector<std::pair<fs::path, int64_t>> files_;
};

void add_folder(const InputSpec& spec, const std::vector<std::string>& extensions, bool sampled,
                InputList* list) {
  auto files = FolderWalk(spec.path, extensions, list).run();
  if (sampled) {
    std::stable_sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
      return hash128(a.first.native()) < hash128(b.first.native());
    });
  } else {
    std::stable_sort(files.begin(), files.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
  }
  const std::string domain = spec.domain.empty() ? stem_of(spec.path, true) : spec.domain;
  for (auto& [below, size_bytes] : files) {
    list->files.push_back({.path = spec.path / below,
                           .id = below.string(),
                           .domain = domain,
                           .domain_given = !spec.domain.empty(),
                           .jsonl = is_jsonl(below, true),
                           .walked = true,
                           .size_bytes = size_bytes});
    list->size_bytes += size_bytes;
  }
}

void add_file(const InputSpec& spec, int64_t size_bytes, InputList* list) {
  if (::access(spec.path.c_str(), R_OK) != 0) {
    throw DataError("{}: may not be read", spec.path.string());
  }
  list->files.push_back({.path = spec.path,
                         .id = spec.path.string(),
                         .domain = spec.domain.empty() ? stem_of(spec.path, false) : spec.domain,
                         .domain_given = !spec.domain.empty(),
                         .jsonl = is_jsonl(spec.path, false),
                         .walked = false,
                         .size_bytes = size_bytes});
  list->size_bytes += size_bytes;
}

}  // namespace

std::string domain_name_problem(std::string_view name) {
  constexpr size_t kMaxBytes = 255;
  if (name.empty()) return "is empty";
  if (name.size() > kMaxBytes) return format("is longer than {} bytes", kMaxBytes);
  if (valid_utf8_prefix(name) < name.size()) return "is no valid UTF-8";
  const bool control = std::any_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
  });
  return control ? "holds a control character" : "";
}

InputSpec parse_input_spec(std::string_view text) {
  InputSpec spec{"", std::string(text)};
  std::error_code code;
  const size_t equals = text.find('=');
  if (equals != std::string_view::npos && !fs::exists(spec.path, code)) {
    spec = {std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
    const std::string problem = domain_name_problem(spec.domain);
    if (!problem.empty()) {
      throw ConfigError("input \"{}\": the domain before '=' {}; write domain=path or path", text,
                        problem);
    }
  }
  if (spec.path.empty()) {
    throw ConfigError("input \"{}\": there is no path; write domain=path or path", text);
  }
  if (!fs::exists(spec.path, code)) {
    throw DataError("{}: {}", spec.path.string(), code ? code.message() : "no such file or folder");
  }
  return spec;
}

InputList list_input_files(const std::vector<InputSpec>& specs,
                           const std::vector<std::string>& extensions, bool sampled) {
  InputList list;
  for (const InputSpec& spec : specs) {
    struct stat info {};
    if (::stat(spec.path.c_str(), &info) != 0) {
      throw DataError("{}: no such file or folder", spec.path.string());
    }
    if (S_ISDIR(info.st_mode)) {
      add_folder(spec, extensions, sampled, &list);
    } else if (S_ISREG(info.st_mode)) {
      add_file(spec, info.st_size, &list);
    } else {
      throw DataError("{}: is neither a file nor a folder", spec.path.string());
    }
  }
  return list;
}

}  // namespace locus::data
