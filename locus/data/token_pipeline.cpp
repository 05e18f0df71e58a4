#include "locus/data/token_pipeline.h"

#include <chrono>
#include <memory>
#include <string_view>
#include <utility>

#include "locus/data/utf8.h"

namespace locus::data {
namespace {

// SentencePiece's bpe slows down with the length: a text of 2 MB took 3 times as long at once.
constexpr size_t kPartBytes = size_t{64} << 10;
// Enough that no thread waits while the front document is a long one.
constexpr int64_t kBytesInWorkPerThread = int64_t{4} << 20;

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
  for (size_t begin = 0; begin < text->size();) {
    const size_t size = part_end(std::string_view(*text).substr(begin), kPartBytes);
    entry.parts.push_back(pool_.submit([this, text, begin, size] {
      return tokenizer_.encode(std::string_view(*text).substr(begin, size));
    }));
    begin += size;
  }
  bytes_in_work_ += num_bytes;
  entries_.push_back(std::move(entry));
}

void TokenPipeline::finish() {
  while (!entries_.empty()) hand_out_front();
}

bool TokenPipeline::front_is_ready() const {
  // Parts begin in order: the last one is mostly the last to end, and hand_out_front() waits
  // anyway.
  const auto& last = entries_.front().parts.back();
  return last.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

void TokenPipeline::hand_out_front() {
  Entry entry = std::move(entries_.front());
  entries_.pop_front();
  Result result{
      .parts = {}, .num_bytes = entry.num_bytes, .domain = entry.domain, .split = entry.split};
  for (auto& part : entry.parts) result.parts.push_back(part.get());
  bytes_in_work_ -= entry.num_bytes;
  sink_(result);
}

}  // namespace locus::data
