// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace locus::data {

struct TokenizerFile;  // tokenizer_files.h

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;  // no bos/eos added
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;
  // The text piece of one token, for streaming output (U+2581 turned into a space; byte pieces as
  // bytes).
  virtual std::string piece(int32_t id) const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual int32_t eod_id() const = 0;  // ends each document; also starts generation from nothing
  // Stands for a token that an encoder has to tell: <mask> or [MASK], else the token for what has
  // none of its own; -1: neither.
  virtual int32_t mask_id() const { return -1; }
  // Its file, by which datasets and checkpoints know it: tokenizer.model or tokenizer.json.
  virtual const std::string& serialized() const = 0;
  virtual std::string file_name() const { return "tokenizer.model"; }
  // That file first, then what load_tokenizer() reads beside it or what came with it.
  virtual std::vector<TokenizerFile> source_files() const;
  // See tokenizer_files().
  virtual std::vector<TokenizerFile> files() const;
  // The parts that part_end() (utf8.h) cuts a text into have the ids of the whole text.
  virtual bool is_divisible() const { return false; }
};

// From a SentencePiece model, a Hugging Face tokenizer.json (with the configuration beside it) or a
// folder that holds one of them (load_folder_tokenizer()). DataError if it is missing or broken.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path);
// From the content of one file of either kind.
std::unique_ptr<Tokenizer> parse_tokenizer(std::string serialized, const std::string& name);

}  // namespace locus::data
