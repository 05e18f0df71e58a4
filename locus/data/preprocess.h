// `locus prepare`: from text to a dataset folder (docs/formats/dataset.md).
//
//   documents -> without exact duplicates -> split by a hash of the text -> tokens, on all cores
//             -> train.*, valid.*, test.*, tokenizer.model or .json, dataset.json
//
// The same inputs and settings give the same bytes, whatever the number of threads. Which split a
// document falls in depends on its text and split_seed alone: not on its place, nor on other
// documents; pairs may have files of their own for a split. The folder appears complete or not at
// all.
//
// Memory: a few documents of max_document_bytes or some MiB a thread, whichever is more; the sample
// that trains the tokenizer (SentencePiece takes 20 to 30 times its size); the list of files; and
// with `deduplicate` 21 to 43 bytes for each distinct document.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "locus/base/progress.h"
#include "locus/data/dataset_info.h"
#include "locus/data/document_reader.h"

namespace locus::data {

struct PrepareConfig {
  std::vector<std::string> inputs;
  std::string output;
  bool overwrite = false;
  std::string tokenizer;
  std::string model_type = "bpe";
  int64_t vocab_size = 8192;
  int64_t tokenizer_sample_bytes = int64_t{16} << 20;
  double valid_share = 0.01;
  double test_share = 0.01;
  int64_t split_seed = 0;
  bool deduplicate = true;
  std::vector<std::string> extensions;
  int64_t max_document_bytes = int64_t{64} << 20;
  int64_t max_bytes_per_domain = 0;
  int64_t num_clusters = 0;
  bool pairs = false;
  std::vector<std::string> valid_pairs;
  std::vector<std::string> test_pairs;
  int64_t num_threads = 0;

  template <class V>
  void visit_fields(V& v) {
    v("inputs", inputs,
      "text files, folders and JSONL, also .gz and .zst, each as path or domain=path");
    v("output", output, "folder of the dataset; it appears when it is complete");
    v("overwrite", overwrite, "replace a dataset that is there already");
    v("tokenizer", tokenizer,
      "tokenizer.model (SentencePiece), tokenizer.json (Hugging Face) or a folder with one of "
      "them; empty: train one");
    v("model_type", model_type,
      "type of tokenizer to train: bpe (trains fast) or unigram (encodes fast)");
    v("vocab_size", vocab_size, "pieces of the tokenizer to train, 256 byte pieces included");
    v("tokenizer_sample_bytes", tokenizer_sample_bytes,
      "bytes of text to train the tokenizer on, shared equally among domains");
    v("valid_share", valid_share, "share of the documents for validation");
    v("test_share", test_share, "share of the documents for testing");
    v("split_seed", split_seed, "another number gives another random split");
    v("deduplicate", deduplicate, "drop documents whose text came before");
    v("extensions", extensions,
      "ends of names to take from folders, as \".py\"; empty: all text files");
    v("max_document_bytes", max_document_bytes,
      "longer text files are cut into several documents; longer JSONL lines are an error");
    v("max_bytes_per_domain", max_bytes_per_domain,
      "take no more documents of a domain once they hold so many bytes, folders in random order; "
      "0: no limit");
    v("num_clusters", num_clusters,
      "domains are so many clusters of documents with like words, whatever the inputs say; 0: the "
      "domains of the inputs");
    v("pairs", pairs,
      "the inputs are parallel text, to translate: a file and its translation, line by line, then "
      "the next two");
    v("valid_pairs", valid_pairs,
      "with pairs: a file and its translation for validation, instead of valid_share");
    v("test_pairs", test_pairs, "with pairs: the same for testing, instead of test_share");
    v("num_threads", num_threads, "threads that tokenise; 0: one a core");
  }
};

struct PrepareResult {
  DatasetInfo info;
  ReaderCounts read;       // what was skipped, cut and left out
  int64_t duplicates = 0;  // documents dropped
  int64_t duplicate_bytes = 0;
  double training_s = 0;  // of the tokenizer, with the reading for it; 0: one was given
  double encoding_s = 0;  // reading, tokenising, writing

  TextCounts total() const;  // of all splits
};

// ConfigError (all wrong settings in one), DataError, Interrupted when received_signal()
// (base/signals.h) says so: nothing is left behind then.
PrepareResult prepare(const PrepareConfig& config,
                      ProgressBar::Style progress = ProgressBar::Style::kAuto);

}  // namespace locus::data
