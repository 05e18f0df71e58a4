// What a dataset holds, as `locus prepare` and `locus inspect` print it.
#pragma once

#include <iosfwd>

#include "locus/data/dataset_info.h"

namespace locus::app {

// Documents, tokens, bytes and tokens per byte by split and domain.
void print_dataset(const data::DatasetInfo& info, std::ostream& out);

}  // namespace locus::app
