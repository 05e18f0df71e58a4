#include "locus/data/document_reader.h"

#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/signals.h"
#include "locus/data/dataset_format.h"
#include "locus/data/file_readers.h"
#include "locus/data/utf8.h"

namespace locus::data {
namespace {

// All documents of the file belong to file.domain.
bool has_one_domain(const InputFile& file) { return !file.jsonl || file.domain_given; }

}  // namespace

DocumentReader::DocumentReader(const std::vector<InputSpec>& inputs, const ReaderOptions& options)
    : options_(options),
      list_(list_input_files(inputs, options.extensions, options.max_bytes_per_domain > 0)) {
  LOCUS_CHECK(options.max_document_bytes > 0 && options.max_bytes_per_domain >= 0);
  counts_.unreadable = list_.num_unreadable;
}

bool DocumentReader::next(Document* document) {
  while (file_ != nullptr || open_next()) {
    // Here, for a file may go on for long without a document that is wanted.
    if (const int signal = received_signal(); signal != 0) throw Interrupted(signal);
    if (!read_open_file(document)) {
      close_file();
    } else if (is_blank(document->text)) {
      ++counts_.blank;
    } else if (is_full(document->domain)) {
      ++counts_.over_limit;
      if (has_one_domain(list_.files[next_file_ - 1])) close_file();
    } else {
      count(*document);
      return true;
    }
  }
  return false;
}

void DocumentReader::count(const Document& document) {
  const auto num_bytes = static_cast<int64_t>(document.text.size());
  ++counts_.documents;
  counts_.bytes += num_bytes;
  bytes_by_domain_[document.domain] += num_bytes;
  if (bytes_by_domain_.size() > kMaxDomains) {
    throw DataError(
        "more than {} domains: the `domain` key of the JSONL seems to hold something else; name a "
        "domain of your own with domain=path",
        kMaxDomains);
  }
}

void DocumentReader::close_file() {
  closed_file_bytes_ += list_.files[next_file_ - 1].size_bytes;
  file_.reset();
}

// Opens the next file that can be opened and is wanted; false behind the last one.
bool DocumentReader::open_next() {
  while (next_file_ < list_.files.size()) {
    const InputFile& file = list_.files[next_file_++];
    if (has_one_domain(file) && is_full(file.domain)) {
      ++counts_.over_limit;
      closed_file_bytes_ += file.size_bytes;
      continue;
    }
    try {
      file_ = file.jsonl ? open_jsonl_file(file, options_.max_document_bytes)
                         : open_text_file(file, options_.max_document_bytes, &counts_.cut);
      return true;
    } catch (const DataError& error) {
      if (!file.walked || file.jsonl) throw;
      log::debug("skipped: {}", error.what());
      ++counts_.unreadable;
      closed_file_bytes_ += file.size_bytes;
    }
  }
  return false;
}

// The open file's next document; false at its end, or when a walk skips (the rest of) it.
bool DocumentReader::read_open_file(Document* document) {
  const InputFile& file = list_.files[next_file_ - 1];
  try {
    return file_->next(document);
  } catch (const UnfitText& error) {
    if (!file.walked) throw;
    log::debug("skipped: {}", error.what());
    ++(error.kind() == UnfitText::Kind::kBinary ? counts_.binary : counts_.invalid_utf8);
  } catch (const DataError& error) {
    if (!file.walked || file.jsonl) throw;
    log::debug("skipped: {}", error.what());
    ++counts_.unreadable;
  }
  return false;
}

bool DocumentReader::is_full(const std::string& domain) const {
  if (options_.max_bytes_per_domain == 0) return false;
  const auto found = bytes_by_domain_.find(domain);
  return found != bytes_by_domain_.end() && found->second >= options_.max_bytes_per_domain;
}

int64_t DocumentReader::file_bytes_done() const {
  return closed_file_bytes_ + (file_ == nullptr ? 0 : file_->file_bytes());
}

}  // namespace locus::data
