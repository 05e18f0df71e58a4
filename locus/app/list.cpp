// `locus list`: the tables of variants, as they are.
#include <algorithm>
#include <ostream>
#include <utility>

#include "locus/app/commands.h"
#include "locus/app/text_table.h"
#include "locus/base/error.h"
#include "locus/base/toml.h"
#include "locus/model/family.h"
#include "locus/moe/exchange.h"
#include "locus/moe/experts.h"
#include "locus/moe/router.h"
#include "locus/train/lr_schedule.h"
#include "locus/train/optimizer.h"

namespace locus::app {
namespace {

using Rows = std::vector<std::pair<std::string_view, std::string_view>>;  // name, summary

template <class Entries>
Rows rows_of(const Entries& entries) {
  Rows rows;
  for (const auto& entry : entries) rows.emplace_back(entry.name, entry.summary);
  return rows;
}

Rows list_routers() { return rows_of(moe::router_entries()); }
Rows list_families() { return rows_of(model::family_entries()); }
Rows list_experts() { return rows_of(moe::expert_kernel_entries()); }
Rows list_exchanges() { return rows_of(moe::exchange_entries()); }
Rows list_optimizers() { return rows_of(train::optimizer_entries()); }
Rows list_schedules() { return rows_of(train::lr_schedule_entries()); }

Rows list_presets() {
  Rows rows;
  for (const auto& family : model::family_entries()) {
    for (const auto& preset : family.presets) rows.emplace_back(preset.name, preset.summary);
  }
  return rows;
}

struct ListEntry {
  std::string_view name;
  std::string_view summary;
  Rows (*rows)();
};

constexpr ListEntry kLists[] = {
    {"routers", "who computes which token: moe.router.type", list_routers},
    {"presets", "shapes of public models: model.preset", list_presets},
    {"families", "architectures whose tensor names checkpoints use", list_families},
    {"experts", "kernels of the experts: moe.experts", list_experts},
    {"exchanges", "how tokens travel to experts of other ranks: parallel.exchange.type",
     list_exchanges},
    {"optimizers", "how weights are updated: optimizer.type", list_optimizers},
    {"schedules", "learning rate over time: lr_schedule.type", list_schedules},
};

Rows rows_named(const std::string& what) {
  if (what.empty()) return rows_of(kLists);
  std::vector<std::string> names;
  std::string known;
  for (const ListEntry& entry : kLists) {
    if (entry.name == what) return entry.rows();
    names.emplace_back(entry.name);
    known += (known.empty() ? "" : ", ") + names.back();
  }
  const std::string near = nearest(what, names);
  throw ConfigError("there is no list of \"{}\"{}; known: {}", what,
                    near.empty() ? "" : format(" (did you mean {}?)", near), known);
}

}  // namespace

void list(const std::string& what, std::ostream& out) {
  TextTable table({"", ""});
  for (const auto& [name, summary] : rows_named(what)) {
    table.add_row({std::string(name), std::string(summary)});
  }
  table.print(out);
}

}  // namespace locus::app
