// Documents in, tokens out in the same order, with many documents in work at once.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "locus/base/thread_pool.h"
#include "locus/data/tokenizer.h"

namespace locus::data {

// One thread feeds it, and the results are handed out in that thread too: the sink needs no lock.
// Where the tokenizer gives the same ids (Tokenizer::is_divisible()), long documents are encoded in
// parts of about 64 KiB, cut by part_end(), so that all threads share the work. Short ones go to a
// thread together.
class TokenPipeline {
 public:
  struct Job {
    std::string text;
    int32_t domain = 0;
    int split = 0;
  };
  struct Result {
    std::vector<std::vector<int32_t>> parts;  // the tokens, end-of-document token not included
    int64_t num_bytes = 0;                    // of the text
    int32_t domain = 0;
    int split = 0;
  };
  using Sink = std::function<void(const Result&)>;

  // num_threads 0: one a core.
  TokenPipeline(const Tokenizer& tokenizer, int64_t num_threads, Sink sink);

  // Waits until there is room, which hands out results. Throws what an encoder or the sink threw.
  void add(Job job);
  // Hands out all that is left.
  void finish();

  int64_t num_threads() const { return pool_.num_threads(); }

 private:
  using Tokens = std::vector<std::vector<int32_t>>;
  // Parts of documents that one thread encodes one after the other.
  struct Batch {
    struct Piece {
      std::shared_ptr<const std::string> text;
      size_t begin = 0;
      size_t size = 0;
    };
    std::vector<Piece> pieces;
    size_t num_bytes = 0;
    std::future<Tokens> future;  // valid when it was submitted
    Tokens tokens;               // when they were taken out of the future
  };
  struct Part {
    std::shared_ptr<Batch> batch;
    size_t place = 0;
  };
  struct Entry {
    std::vector<Part> parts;
    int64_t num_bytes = 0;
    int32_t domain = 0;
    int split = 0;
  };
  Part add_part(std::shared_ptr<const std::string> text, size_t begin, size_t size);
  void submit_open_batch();
  bool front_is_ready() const;
  void hand_out_front();

  const Tokenizer& tokenizer_;
  const Sink sink_;
  std::deque<Entry> entries_;
  std::shared_ptr<Batch> open_;  // still takes parts
  int64_t bytes_in_work_ = 0;
  ThreadPool pool_;  // last: its threads end before what they use
};

}  // namespace locus::data
