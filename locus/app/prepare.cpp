// `locus prepare`
#include <algorithm>
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/dataset_table.h"
#include "locus/app/describe.h"
#include "locus/app/text_table.h"
#include "locus/base/format.h"
#include "locus/base/signals.h"
#include "locus/report/text.h"

namespace locus::app {
namespace {

// One line for each kind of text that is not in the dataset.
void print_left_out(const data::PrepareResult& result, std::ostream& out) {
  const data::ReaderCounts& read = result.read;
  bool first = true;
  const auto line = [&](std::string_view what, int64_t count, const std::string& remark = "") {
    if (count == 0) return;
    if (first) out << "\nleft out\n";
    first = false;
    out << "  " << what << ": " << with_commas(count) << remark << "\n";
  };
  line("duplicates", result.duplicates,
       format(" ({})", short_bytes(static_cast<double>(result.duplicate_bytes))));
  line("blank documents", read.blank);
  line("binary files", read.binary);
  line("files that are not UTF-8", read.invalid_utf8);
  line("files or folders that could not be read", read.unreadable);
  line("documents or files over max_bytes_per_domain", read.over_limit);
}

}  // namespace

void prepare(const data::PrepareConfig& config, std::ostream& out) {
  watch_signals();
  const data::PrepareResult result = data::prepare(config);
  const data::DatasetInfo& info = result.info;
  out << config.output << ": vocabulary of " << with_commas(info.vocab_size) << " pieces, "
      << info.domains.size() << (info.domains.size() == 1 ? " domain" : " domains") << "\n\n";
  print_dataset(info, out);
  print_left_out(result, out);
  out << "\n";
  if (result.training_s > 0)
    out << "tokenizer trained in " << report::human_seconds(result.training_s) << ", ";
  const double megabytes = static_cast<double>(result.total().bytes) / 1e6;
  out << "text tokenised in " << report::human_seconds(result.encoding_s)
      << format(": {:.2f} MB/s\n", megabytes / std::max(result.encoding_s, 1e-9));
}

}  // namespace locus::app
