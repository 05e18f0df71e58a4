// Settings of the datasets, [data]. Torch-free, include-free for the field list.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace locus::data {

struct DataConfig {
  std::vector<std::string>
      train;  // prefixes of .bin/.idx, or dataset folders made by `locus prepare`
  std::vector<double> train_weights;
  std::vector<std::string> valid;
  std::string tokenizer;
  int64_t sequence_length = 256;
  bool reset_attention_mask = true;
  bool reset_position_ids = true;
  bool eod_mask_loss = false;
  double mask_share = 0.15;
  bool mask_whole_words = false;
  int64_t prefetch = 4;

  template <class V>
  void visit_fields(V& v) {
    v("train", train,
      "training datasets: folders made by `locus prepare` (their train split) or Megatron "
      ".bin/.idx prefixes");
    v("train_weights", train_weights,
      "share of the samples from each training dataset; empty: by number of tokens");
    v("valid", valid, "validation datasets; empty: the valid split of the training folders");
    v("tokenizer", tokenizer,
      "tokenizer.model, tokenizer.json, or a folder with one; empty: that of the first training "
      "folder");
    v("sequence_length", sequence_length, "tokens per training sequence");
    v("reset_attention_mask", reset_attention_mask,
      "documents packed into one sequence do not see each other");
    v("reset_position_ids", reset_position_ids, "positions restart at each document");
    v("eod_mask_loss", eod_mask_loss, "no loss for predicting the end-of-document token");
    v("mask_share", mask_share, "encoders: share of the tokens to tell");
    v("mask_whole_words", mask_whole_words, "encoders: the tokens of a word are masked together");
    v("prefetch", prefetch,
      "batches prepared ahead by the loader's thread; 0: prepared when asked for");
  }
};

}  // namespace locus::data
