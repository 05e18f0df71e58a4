// Documents in, tokens out in the same order, with many documents in work at once.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <string>
#include <vector>

#include "locus/base/thread_pool.h"
#include "locus/data/tokenizer.h"

namespace locus::data {

// One thread feeds it, and the results are handed out in that thread too: the sink needs no lock.
// Long documents are encoded in parts of about 64 KiB, cut by part_end(), so that the encoder's
// memory (some 100 bytes a character) stays small and all threads share the work. Tokenizers of
// ours give what they give for the whole text (see train_tokenizer.h); others may put a space in
// front of each part.
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
  struct Entry {
    std::vector<std::future<std::vector<int32_t>>> parts;
    int64_t num_bytes = 0;
    int32_t domain = 0;
    int split = 0;
  };
  bool front_is_ready() const;
  void hand_out_front();

  const Tokenizer& tokenizer_;
  const Sink sink_;
  std::deque<Entry> entries_;
  int64_t bytes_in_work_ = 0;
  ThreadPool pool_;  // last: its threads end before what they use
};

}  // namespace locus::data
