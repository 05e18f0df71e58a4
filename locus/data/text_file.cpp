// A text file: one document, or several when it is longer than max_document_bytes.
#include <algorithm>

#include "locus/base/log.h"
#include "locus/data/byte_stream.h"
#include "locus/data/file_readers.h"
#include "locus/data/utf8.h"

namespace locus::data {
namespace {

constexpr size_t kBinaryProbeBytes = size_t{8} << 10;
constexpr size_t kFirstReadBytes = size_t{64} << 10;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

class TextFile final : public FileReader {
 public:
  TextFile(const InputFile& file, int64_t max_document_bytes, int64_t* num_cut)
      : file_(file),
        max_bytes_(static_cast<size_t>(max_document_bytes)),
        num_cut_(num_cut),
        stream_(open_byte_stream(file.path)) {}

  bool next(Document* document) override {
    if (ended_) return false;
    fill();
    if (num_parts_ == 0) drop_head();
    ended_ = buffer_.size() <= max_bytes_;
    const size_t size = part_end(buffer_, max_bytes_);
    std::string rest = buffer_.substr(size);
    buffer_.resize(size);
    check_utf8();
    offset_ += size;
    document->id = num_parts_ == 0 ? file_.id : format("{}#{}", file_.id, num_parts_ + 1);
    document->domain = file_.domain;
    document->text = std::move(buffer_);
    buffer_ = std::move(rest);
    if (!ended_ && num_parts_ == 0) note_cut();
    ++num_parts_;
    return true;
  }

  int64_t file_bytes() const override { return stream_->file_bytes(); }

 private:
  // One byte more than a document may have tells whether it must be cut. Grows step by step: most
  // files are small.
  void fill() {
    const size_t wanted = max_bytes_ + 1;
    while (buffer_.size() < wanted) {
      const size_t size = buffer_.size();
      const size_t step = std::min(wanted - size, std::max(kFirstReadBytes, size));
      buffer_.resize(size + step);
      const size_t count = stream_->read(buffer_.data() + size, step);
      buffer_.resize(size + count);
      if (count < step) return;
    }
  }

  void drop_head() {
    const std::string_view head = std::string_view(buffer_).substr(0, kBinaryProbeBytes);
    const size_t nul = head.find('\0');
    if (nul != std::string_view::npos) {
      throw UnfitText(UnfitText::Kind::kBinary,
                      "{}: is no text: byte {} is NUL (UTF-16 and other encodings must be turned "
                      "into UTF-8 first)",
                      file_.path.string(), nul);
    }
    if (head.starts_with(kByteOrderMark)) {
      buffer_.erase(0, kByteOrderMark.size());
      offset_ = kByteOrderMark.size();
      fill();  // the mark took the place of text
    }
  }

  void check_utf8() const {
    const size_t valid = valid_utf8_prefix(buffer_);
    if (valid == buffer_.size()) return;
    throw UnfitText(UnfitText::Kind::kInvalidUtf8, "{}: is no valid UTF-8 at byte {} (0x{:02x})",
                    file_.path.string(), offset_ + valid,
                    static_cast<uint64_t>(static_cast<unsigned char>(buffer_[valid])));
  }

  void note_cut() {
    if ((*num_cut_)++ > 0) return;
    log::info(
        "{} is longer than max_document_bytes = {}: it becomes several documents, and so do "
        "other files that are",
        file_.path.string(), max_bytes_);
  }

  const InputFile& file_;
  const size_t max_bytes_;
  int64_t* num_cut_;
  std::unique_ptr<ByteStream> stream_;
  std::string buffer_;
  size_t offset_ = 0;  // of the buffer in the unpacked file
  int64_t num_parts_ = 0;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<FileReader> open_text_file(const InputFile& file, int64_t max_document_bytes,
                                           int64_t* num_cut) {
  return std::make_unique<TextFile>(file, max_document_bytes, num_cut);
}

}  // namespace locus::data
