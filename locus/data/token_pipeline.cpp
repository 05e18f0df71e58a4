#include "locus/data/token_pipeline.h"

#include <chrono>
#include <memory>
#include <string_view>
#include <utility>

#include "locus/data/utf8.h"

namespace locus::data {
namespace {

constexpr size_t kPartBytes = size_t{64} << 10;
// Enough that no thread waits while the front document is a long one.
constexpr int64_t kBytesInWorkPerThread = int64_t{4} << 20;

bool is_ready(const std::future<std::vector<std::vector<int32_t>>>& future) {
  return future.valid() && future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

}  // namespace

TokenPipeline::TokenPipeline(const Tokenizer& tokenizer, int64_t num_threads, Sink sink)
    : tokenizer_(tokenizer), sink_(std::move(sink)), pool_(num_threads) {}

void TokenPipeline::add(Job job) {
  const auto num_bytes = static_cast<int64_t>(job.text.size());
  const int64_t most = kBytesInWorkPerThread * pool_.num_threads();
  while (!entries_.empty() && (front_is_ready() || bytes_in_work_ + num_bytes > most)) {
    hand_out_front();
  }
  Entry entry{.parts = {}, .num_bytes = num_bytes, .domain = job.domain, .split = job.split};
  const auto text = std::make_shared<const std::string>(std::move(job.text));
  const size_t part_bytes = tokenizer_.is_divisible() ? kPartBytes : text->size();
  for (size_t begin = 0; begin < text->size();) {
    const size_t size = part_end(std::string_view(*text).substr(begin), part_bytes);
    entry.parts.push_back(add_part(text, begin, size));
    begin += size;
  }
  bytes_in_work_ += num_bytes;
  entries_.push_back(std::move(entry));
}

TokenPipeline::Part TokenPipeline::add_part(std::shared_ptr<const std::string> text, size_t begin,
                                            size_t size) {
  if (open_ == nullptr) open_ = std::make_shared<Batch>();
  open_->pieces.push_back({std::move(text), begin, size});
  open_->num_bytes += size;
  Part part{open_, open_->pieces.size() - 1};
  if (open_->num_bytes >= kPartBytes) submit_open_batch();
  return part;
}

void TokenPipeline::submit_open_batch() {
  open_->future = pool_.submit([this, pieces = std::move(open_->pieces)] {
    Tokens tokens;
    for (const Batch::Piece& piece : pieces) {
      tokens.push_back(
          tokenizer_.encode(std::string_view(*piece.text).substr(piece.begin, piece.size)));
    }
    return tokens;
  });
  open_.reset();
}

void TokenPipeline::finish() {
  while (!entries_.empty()) hand_out_front();
}

bool TokenPipeline::front_is_ready() const {
  // Batches begin in order: the last one is mostly the last to end, and hand_out_front() waits
  // anyway.
  const auto& parts = entries_.front().parts;
  if (parts.empty()) return true;
  const Batch& last = *parts.back().batch;
  return !last.tokens.empty() || is_ready(last.future);
}

void TokenPipeline::hand_out_front() {
  Entry entry = std::move(entries_.front());
  entries_.pop_front();
  Result result{
      .parts = {}, .num_bytes = entry.num_bytes, .domain = entry.domain, .split = entry.split};
  for (const Part& part : entry.parts) {
    Batch& batch = *part.batch;
    if (part.batch == open_) submit_open_batch();
    if (batch.tokens.empty()) batch.tokens = batch.future.get();
    result.parts.push_back(std::move(batch.tokens[part.place]));
  }
  bytes_in_work_ -= entry.num_bytes;
  sink_(result);
}

}  // namespace locus::data
