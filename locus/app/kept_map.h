// A picture of what each layer keeps in the models of a family: heads, channels, experts and
// experts per token as shares of the whole layer's.
#pragma once

#include <string>
#include <vector>

#include "locus/search/arch_space.h"

namespace locus::app {

struct KeptColumn {
  std::string title;  // "50%"
  std::vector<search::LayerSizes> sizes;
};

// An SVG file. `whole`: of all layers before they are cut.
std::string kept_map(const std::vector<search::LayerSizes>& whole,
                     const std::vector<KeptColumn>& columns);

}  // namespace locus::app
