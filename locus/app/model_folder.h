// Model folders: what Locus writes beside the weights so that transformers opens a checkpoint, and
// how it opens what transformers, or it itself, has written. docs/formats/model_folder.md.
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "locus/app/run_config.h"
#include "locus/data/tokenizer.h"
#include "locus/model/config_json.h"
#include "locus/train/checkpoint.h"

namespace locus::app {

// The model of a run's settings, and the other way round. Options of the router are shared.
model::Shape shape_of(const RunConfig& config);
void take_shape(RunConfig& config, const model::Shape& shape);

// Everything of a checkpoint that is text: config.toml, config.json, generation_config.json and the
// tokenizer's files.
std::vector<train::TextFile> checkpoint_texts(RunConfig& config, const data::Tokenizer& tokenizer);

// Says in one line, once for each process, what transformers will not compute of this model.
void warn_of_losses(const RunConfig& config);

struct ModelFolder {
  fs::path path;
  int64_t step = -1;  // of a checkpoint; -1: a folder without a trainer's state

  bool is_checkpoint() const { return step >= 0; }
  std::string text() const;  // "<path> (step 100)"
};

// `path`: a run (its newest intact checkpoint), a checkpoint, or a model folder of Hugging Face.
// DataError when it is none of them, and for a damaged checkpoint.
ModelFolder resolve_model_folder(const fs::path& path);

// The model in a folder, by its config.json. DataError when Locus cannot compute it.
model::ConfigJson read_model_config(const fs::path& folder);

// Settings for the model in a folder: of a checkpoint, those that it was trained with; of another,
// the defaults around its shape.
RunConfig folder_config(const ModelFolder& folder);

// The tokenizer of a folder; nullptr: it has none. DataError when it is broken, or has more pieces
// than `vocab_size`.
std::unique_ptr<data::Tokenizer> folder_tokenizer(const fs::path& folder, int64_t vocab_size);

// Whether the folder's tokenizer, in either of its forms, is this one.
bool has_tokenizer(const fs::path& folder, const data::Tokenizer& tokenizer);

// The files of a tokenizer, as Hugging Face names them.
inline constexpr std::array kTokenizerFiles = {"tokenizer.json",
                                               "tokenizer.model",
                                               "tokenizer_config.json",
                                               "special_tokens_map.json",
                                               "added_tokens.json",
                                               "vocab.json",
                                               "merges.txt",
                                               "chat_template.jinja"};

// True for a link, too, wherever it leads.
bool holds(const fs::path& folder, const char* name);

// Shapes and names are compared before anything is allocated.
void check_weights(const fs::path& folder, const model::Shape& shape);

}  // namespace locus::app
