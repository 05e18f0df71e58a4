// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace locus::data {

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
  // The model file, as it goes into datasets and checkpoints.
  virtual const std::string& serialized() const = 0;
};

// From a SentencePiece model file. DataError if it is missing or broken.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path);
std::unique_ptr<Tokenizer> parse_tokenizer(std::string serialized, const std::string& name);

}  // namespace locus::data
