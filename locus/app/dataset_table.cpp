#include "locus/app/dataset_table.h"

#include <ostream>
#include <string>

#include "locus/app/text_table.h"
#include "locus/base/format.h"

namespace locus::app {
namespace {

void add_counts(const std::string& split, const std::string& domain, const data::TextCounts& counts,
                TextTable& table) {
  const double tokens_per_byte =
      counts.bytes > 0 ? static_cast<double>(counts.tokens) / static_cast<double>(counts.bytes) : 0;
  table.add_row({split, domain, with_commas(counts.documents), with_commas(counts.tokens),
                 with_commas(counts.bytes),
                 counts.bytes > 0 ? format("{:.3f}", tokens_per_byte) : "-"});
}

}  // namespace

void print_dataset(const data::DatasetInfo& info, std::ostream& out) {
  TextTable table({"split", "domain", ">documents", ">tokens", ">bytes", ">tokens/byte"});
  data::TextCounts total;
  for (const std::string name : {"train", "valid", "test"}) {  // not in alphabetical order
    const auto split = info.splits.find(name);
    if (split == info.splits.end()) continue;
    add_counts(name, "all", split->second.total, table);
    total += split->second.total;
    if (info.domains.size() < 2) continue;
    for (const auto& [domain, counts] : split->second.by_domain)
      add_counts("", domain, counts, table);
  }
  add_counts("all", "", total, table);
  table.print(out);
}

}  // namespace locus::app
