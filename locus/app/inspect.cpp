// `locus inspect`: what a path is and what it holds.
#include <algorithm>
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/dataset_table.h"
#include "locus/app/describe.h"
#include "locus/app/text_table.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/hash.h"
#include "locus/base/log.h"
#include "locus/data/indexed_dataset.h"
#include "locus/data/tokenizer.h"
#include "locus/io/safetensors_folder.h"
#include "locus/train/checkpoint.h"

namespace locus::app {
namespace {

constexpr std::string_view kKinds =
    "known are run, checkpoint and dataset folders, folders of model.safetensors, .safetensors "
    "files, prefixes of "
    ".bin/.idx and SentencePiece models (.model)";

std::string bytes_text(uint64_t num_bytes) { return short_bytes(static_cast<double>(num_bytes)); }

// ---- tensors ----

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

void print_tensors(const std::vector<const io::TensorView*>& tensors, std::ostream& out) {
  TextTable table({"tensor", "type", "shape", ">values", ">bytes"});
  int64_t num_values = 0;
  uint64_t num_bytes = 0;
  for (const io::TensorView* tensor : tensors) {
    const auto values = static_cast<int64_t>(tensor->data.size() / io::dtype_size(tensor->dtype));
    table.add_row({tensor->name, std::string(io::dtype_name(tensor->dtype)),
                   shape_text(tensor->shape), with_commas(values),
                   with_commas(static_cast<int64_t>(tensor->data.size()))});
    num_values += values;
    num_bytes += tensor->data.size();
  }
  table.add_row({format("{} tensors", tensors.size()), "", "", with_commas(num_values),
                 with_commas(static_cast<int64_t>(num_bytes))});
  table.print(out);
}

void inspect_safetensors(const fs::path& path, bool verify, std::ostream& out) {
  const io::SafetensorsFolder folder = io::open_safetensors_folder(path);
  out << path.string() << ": safetensors";
  if (folder.files().size() > 1) out << ", " << folder.files().size() << " files";
  out << "\n";
  for (const auto& [key, value] : folder.metadata())
    out << "metadata: " << key << " = " << value << "\n";
  const fs::path parent = fs::is_directory(path) ? path : path.parent_path();
  if (!fs::exists(parent / "manifest.json")) {
    out << "checksums: none; header and sizes agree\n\n";
  } else {
    const auto damage = train::checkpoint_damage(parent, verify);
    if (damage) throw DataError("{}", *damage);
    out << "checksums: " << (verify ? "intact" : "in manifest.json, not compared (--verify does)")
        << "\n\n";
  }
  print_tensors(folder.tensors(), out);
}

// ---- checkpoints and runs ----

void print_files(const fs::path& folder, std::ostream& out) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  TextTable table({"file", ">bytes"});
  for (const fs::path& file : files) {
    table.add_row(
        {file.filename().string(), with_commas(static_cast<int64_t>(fs::file_size(file)))});
  }
  table.print(out);
}

void inspect_checkpoint(const fs::path& path, bool verify, std::ostream& out) {
  if (const auto damage = train::checkpoint_damage(path, verify)) throw DataError("{}", *damage);
  const train::TrainerState state = train::load_trainer_state({path, 0});
  out << path.string() << ": checkpoint of step " << with_commas(state.step) << ", trained on "
      << with_commas(state.tokens) << " tokens\n"
      << "checksums: "
      << (verify ? "intact" : "not compared (--verify does); all files are there in full")
      << "\n\n";
  print_files(path, out);
  out << "\n";
  print_tensors(io::open_safetensors_folder(path).tensors(), out);
}

void inspect_run(const fs::path& path, bool verify, std::ostream& out) {
  const auto checkpoints = train::list_checkpoints(path / "checkpoints");
  out << path.string() << ": run with " << checkpoints.size()
      << (checkpoints.size() == 1 ? " checkpoint" : " checkpoints") << "\n\n";
  print_files(path, out);
  if (checkpoints.empty()) return;
  out << "\n";
  TextTable table({">step", "checkpoint", ">bytes", "state"});
  std::vector<std::string> damages;
  for (const train::CheckpointRef& checkpoint : checkpoints) {
    uint64_t num_bytes = 0;
    for (const auto& entry : fs::directory_iterator(checkpoint.path)) {
      if (entry.is_regular_file()) num_bytes += entry.file_size();
    }
    const auto damage = train::checkpoint_damage(checkpoint.path, verify);
    if (damage) damages.push_back(*damage);
    table.add_row({with_commas(checkpoint.step), checkpoint.path.string(), bytes_text(num_bytes),
                   damage   ? "damaged"
                   : verify ? "intact"
                            : "complete, checksums not compared"});
  }
  table.print(out);
  if (verify && !damages.empty()) throw DataError("{}", damages.front());
  // The run is no worse for it: it continues from the newest intact one.
  for (const std::string& damage : damages) log::warning("damaged: {}", damage);
}

// ---- datasets and tokenizers ----

// Reading checks each id against the vocabulary.
void read_all(const data::IndexedDataset& dataset) {
  constexpr int64_t kChunk = 1 << 20;
  std::vector<int32_t> tokens(static_cast<size_t>(std::min(kChunk, dataset.num_tokens())));
  for (int64_t first = 0; first < dataset.num_tokens(); first += kChunk) {
    const auto size = static_cast<size_t>(std::min(kChunk, dataset.num_tokens() - first));
    dataset.read(first, std::span(tokens).first(size));
  }
}

void inspect_dataset(const std::string& path, bool verify, std::ostream& out) {
  const data::DatasetInfo info = data::read_dataset_info(path);
  const fs::path tokenizer = fs::path(path) / info.tokenizer;
  if (to_hex(hash_file(tokenizer)) != info.tokenizer_hash) {
    throw DataError("{}: its content does not match the checksum in dataset.json",
                    tokenizer.string());
  }
  for (const auto& [split, counts] : info.splits) {
    const auto dataset = data::open_split(path, split);
    if (verify) read_all(*dataset);
  }
  out << path << ": dataset, vocabulary of " << with_commas(info.vocab_size) << " pieces, "
      << info.domains.size() << (info.domains.size() == 1 ? " domain" : " domains") << "\n"
      << "state: tokenizer and indices are intact; tokens "
      << (verify ? "are, too" : "were not read (--verify does)") << "\n\n";
  print_dataset(info, out);
  out << "\n";
  print_files(path, out);
}

void inspect_prefix(const std::string& prefix, bool verify, std::ostream& out) {
  const auto dataset = data::open_split(prefix, "");
  if (verify) read_all(*dataset);
  out << prefix << ": Megatron dataset, " << data::token_type_name(dataset->token_type()) << "\n"
      << "state: the index fits the tokens; tokens "
      << (verify ? "are intact, too" : "were not read (--verify does)") << "\n\n";
  TextTable table({"", ">"});
  table.add_row({"documents", with_commas(dataset->num_documents())});
  table.add_row({"tokens", with_commas(dataset->num_tokens())});
  table.add_row(
      {"vocabulary", dataset->vocab_size() > 0 ? with_commas(dataset->vocab_size()) : "not known"});
  table.add_row({"domains", dataset->has_domains() ? std::to_string(dataset->domain_names().size())
                                                   : "not known"});
  table.print(out);
}

void inspect_tokenizer(const std::string& path, std::ostream& out) {
  const auto tokenizer = data::load_tokenizer(path);
  out << path << ": SentencePiece model\n\n";
  TextTable table({"", ""});
  table.add_row({"vocabulary", with_commas(tokenizer->vocab_size())});
  table.add_row({"end of document", std::to_string(tokenizer->eod_id())});
  table.add_row({"xxh128", to_hex(hash_file(path))});
  table.print(out);
}

void inspect_folder(const fs::path& path, bool verify, std::ostream& out) {
  const auto holds = [&path](std::string_view name) { return fs::exists(path / name); };
  if (holds("dataset.json")) return inspect_dataset(path.string(), verify, out);
  if (holds("manifest.json")) return inspect_checkpoint(path, verify, out);
  if (holds("checkpoints") || (holds("config.toml") && holds("metrics.jsonl")))
    return inspect_run(path, verify, out);
  if (holds("model.safetensors") || holds("model.safetensors.index.json")) {
    return inspect_safetensors(path, verify, out);
  }
  throw DataError("{}: a folder that Locus does not know; {}", path.string(), kKinds);
}

}  // namespace

void inspect(const std::string& path, bool verify, std::ostream& out) {
  const auto ends_with = [&path](std::string_view end) { return path.ends_with(end); };
  if (path.empty()) throw ConfigError("PATH is empty");
  std::error_code code;
  if (fs::is_directory(path, code))
    return inspect_folder(fs::path(path + "/").parent_path(), verify, out);
  if (!fs::exists(path, code)) {
    if (fs::exists(path + ".idx", code)) return inspect_prefix(path, verify, out);
    if (fs::is_symlink(fs::symlink_status(path, code))) {
      throw DataError("{}: is a link to nothing", path);
    }
    throw DataError("{}: is not there", path);
  }
  if (ends_with(".safetensors") || ends_with(".safetensors.index.json"))
    return inspect_safetensors(path, verify, out);
  if (ends_with(".idx") || ends_with(".bin")) {
    return inspect_prefix(fs::path(path).replace_extension().string(), verify, out);
  }
  if (ends_with(".model")) return inspect_tokenizer(path, out);
  throw DataError("{}: a file that Locus does not know; {}", path, kKinds);
}

}  // namespace locus::app
