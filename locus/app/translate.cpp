// `locus translate`: texts through an encoder-decoder, and how well it does.

#include <algorithm>
#include <iterator>
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/session.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/log.h"
#include "locus/base/progress.h"
#include "locus/base/signals.h"
#include "locus/data/pair_reader.h"
#include "locus/data/utf8.h"
#include "locus/eval/beam_search.h"
#include "locus/eval/bleu.h"

namespace locus::app {
namespace {

// An empty path: of standard input.
std::vector<std::string> read_lines(const std::string& path) {
  std::vector<std::string> lines;
  data::LineReader reader(path.empty() ? "/dev/stdin" : path);
  for (std::string line; reader.next(&line);) lines.push_back(line);
  return lines;
}

// Before the work, not after it.
void check_output(const std::string& path) {
  if (path.empty()) return;
  const fs::path folder = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : ".";
  std::error_code ignored;  // what cannot be looked at cannot be written to
  if (!fs::is_directory(folder, ignored)) {
    throw DataError("{}: cannot be created: {} is no folder", path, folder.string());
  }
  if (fs::is_directory(path, ignored)) throw DataError("{}: is a folder", path);
}

// A translation is a line, whatever a model says.
std::string as_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return text;
}

// Of blank texts, which nobody has trained on, blank ones.
std::vector<std::string> translate_texts(LoadedModel& loaded, const std::vector<std::string>& texts,
                                         const TranslateOptions& options) {
  const int64_t context = loaded.config.model.max_position_embeddings;
  std::vector<std::vector<int32_t>> ids;
  for (size_t i = 0; i < texts.size(); ++i) {
    if (data::is_blank(texts[i])) continue;
    ids.push_back(loaded.tokenizer->encode(texts[i]));
    if (std::ssize(ids.back()) < context) continue;
    throw DataError(
        "{}: line {} has {} tokens, but the model's context (max_position_embeddings) holds at "
        "most {} and their end",
        options.input.empty() ? "standard input" : options.input, i + 1, ids.back().size(),
        context - 1);
  }
  ProgressBar bar("translating", std::ssize(ids));
  const auto found = eval::beam_search(
      *loaded.transformer, loaded.tokenizer->eod_id(), loaded.tokenizer->vocab_size(), ids,
      {.num_beams = options.num_beams,
       .length_penalty = options.length_penalty,
       .batch_size = options.batch_size,
       .progress = [&bar](int64_t done, int64_t) { bar.update(done, "texts"); }});
  std::vector<std::string> translations;
  size_t next = 0;
  for (const std::string& text : texts) {
    translations.push_back(
        data::is_blank(text) ? "" : as_line(loaded.tokenizer->decode(found[next++].ids)));
  }
  return translations;
}

std::string bleu_text(const eval::Bleu& bleu) {
  return format(
      "BLEU {:.2f} ({:.1f}/{:.1f}/{:.1f}/{:.1f}, brevity penalty {:.3f}, {} tokens, reference {})",
      bleu.score, bleu.precisions[0], bleu.precisions[1], bleu.precisions[2], bleu.precisions[3],
      bleu.brevity_penalty, bleu.hypothesis_length, bleu.reference_length);
}

}  // namespace

void translate(const TranslateOptions& options, std::ostream& out) {
  const std::vector<std::string> texts = read_lines(options.input);
  if (texts.empty())
    throw DataError("{}: holds no text", options.input.empty() ? "standard input" : options.input);
  std::vector<std::string> references;
  if (!options.reference.empty()) {
    references = read_lines(options.reference);
    if (references.size() != texts.size()) {
      throw DataError("{}: has {} lines for {} texts", options.reference, references.size(),
                      texts.size());
    }
  }
  check_output(options.output);
  watch_signals();  // not before: a signal has to end the waiting for input
  LoadedModel loaded = load_model(options.checkpoint, options.dtype, options.num_threads);
  if (!loaded.config.model.is_encoder_decoder()) {
    throw ConfigError("{}: is {}; an encoder-decoder translates", options.checkpoint,
                      loaded.config.model.is_encoder() ? "an encoder" : "a decoder");
  }
  const std::vector<std::string> found = translate_texts(loaded, texts, options);
  std::string lines;
  for (const std::string& line : found) {
    lines += line;
    lines += "\n";
  }
  if (options.output.empty()) {
    out << lines;
  } else {
    write_file_atomic(options.output, lines);
  }
  if (references.empty()) return;
  const std::string told = bleu_text(eval::corpus_bleu(found, references));
  if (options.output.empty()) {
    log::info("{}", told);  // standard output holds the translations
  } else {
    out << told << "\n";
  }
}

}  // namespace locus::app
