// From what the user names (`[domain=]path`) to the list of files to read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace locus::data {

struct InputSpec {
  std::string domain;  // empty: JSONL's own `domain` key, else the name of the file or folder
  std::filesystem::path path;
};

// "c-headers=/usr/include". A text that as a whole names an existing path is that path, whatever
// '=' it holds. ConfigError for an empty path or a bad domain name, DataError for a path that is
// not there.
InputSpec parse_input_spec(std::string_view text);

// Why `name` cannot name a domain ("is empty"); empty if it can. Up to 255 bytes of UTF-8 without
// control characters.
std::string domain_name_problem(std::string_view name);

struct InputFile {
  std::filesystem::path path;
  std::string id;             // of its document: the path, below its folder if that was walked
  std::string domain;         // what stands if the documents themselves have no say
  bool domain_given = false;  // by the user: documents have no say
  bool jsonl = false;
  bool walked = false;     // found in a folder: unfit content is skipped, not an error
  int64_t size_bytes = 0;  // as it lies there, packed or not
};

struct InputList {
  std::vector<InputFile> files;
  int64_t size_bytes = 0;      // of all files
  int64_t num_unreadable = 0;  // files and folders that a walk may not enter
};

// Walks the folders. Order: that of the specs; within a folder by path, or with `sampled` by a hash
// of the path below the folder, so that any beginning of the list is a fair sample of the folder.
// Hidden entries are left out; links are followed, a folder is entered once however many links lead
// to it. `extensions` (".h", ".py"; empty: all) chooses among walked files by the end of the name,
// with or without .gz/.zst. Named .jsonl and .json files are JSONL, among walked ones only .jsonl
// (a system is full of .json that is no list of documents); also packed.
// Memory: some hundred bytes a file. DataError for a named path that cannot be read.
InputList list_input_files(const std::vector<InputSpec>& specs,
                           const std::vector<std::string>& extensions, bool sampled);

}  // namespace locus::data
