// Streams documents out of text files, folders and JSONL, plain or packed (.gz, .zst).
//
// A text file is one document. A line of JSONL is one: an object with the string `text`, optionally
// the strings `domain` and `id` (Megatron-LM's convention); other keys play no part.
//
// Unfit content of a file that the user named, and of any JSONL, is a DataError with file and byte
// or line. In a folder that is walked, unfit text files (binary: a NUL among the first 8 KiB; not
// UTF-8; not readable) are skipped and counted. Blank documents are always skipped and counted.
//
// Memory: one document of max_document_bytes, the list of files, and what unpacking needs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "locus/data/input_files.h"

namespace locus::data {

struct Document {
  std::string id;
  std::string domain;
  std::string text;  // valid UTF-8, not blank
};

struct ReaderOptions {
  // A longer text file becomes several documents, cut behind a line break where there is one (see
  // part_end()). A longer line of JSONL is a DataError.
  int64_t max_document_bytes = int64_t{64} << 20;
  // Once a domain's documents hold as many bytes, no more are taken from it; 0: no limit. Files of
  // folders are then read in the order of a hash of their path (a fair sample); JSONL from its
  // start.
  int64_t max_bytes_per_domain = 0;
  // Ends of the names of walked files, see list_input_files().
  std::vector<std::string> extensions;
};

struct ReaderCounts {
  int64_t documents = 0;
  int64_t bytes = 0;         // of their text
  int64_t blank = 0;         // documents
  int64_t binary = 0;        // walked files
  int64_t invalid_utf8 = 0;  // walked files
  int64_t unreadable = 0;    // walked files and folders
  // Documents, files and rests of files left out by max_bytes_per_domain.
  int64_t over_limit = 0;
  int64_t cut = 0;  // files longer than max_document_bytes
};

// The documents of one file, from first to last. For document_reader.cpp and its kinds of files.
class FileReader {
 public:
  virtual ~FileReader() = default;
  // False at the end. Blank documents come, too.
  virtual bool next(Document* document) = 0;
  virtual int64_t file_bytes() const = 0;  // bytes of the file read so far
};

class DocumentReader {
 public:
  DocumentReader(const std::vector<InputSpec>& inputs, const ReaderOptions& options);

  // False behind the last document. Interrupted when received_signal() says so; DataError for more
  // domains than a dataset can have.
  bool next(Document* document);

  const ReaderCounts& counts() const { return counts_; }
  int64_t file_bytes_total() const { return list_.size_bytes; }  // packed ones, if packed
  int64_t file_bytes_done() const;

 private:
  bool open_next();
  bool read_open_file(Document* document);
  void count(const Document& document);
  void close_file();
  bool is_full(const std::string& domain) const;

  const ReaderOptions options_;
  InputList list_;
  size_t next_file_ = 0;
  int64_t closed_file_bytes_ = 0;
  std::unique_ptr<FileReader> file_;  // of list_.files[next_file_ - 1]; null: none is open
  std::map<std::string, int64_t> bytes_by_domain_;
  ReaderCounts counts_;
};

}  // namespace locus::data
