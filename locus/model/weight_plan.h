// Which tensor of a model folder holds which of the model's, from names and shapes alone: nothing
// is read or allocated yet, so a broken folder is refused before a large model is built.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "locus/io/safetensors_folder.h"
#include "locus/model/config.h"
#include "locus/model/family.h"

namespace locus::model {

// One tensor under its family's name, found in a folder: all of `source`, or of the experts that it
// holds together, one expert's rows.
struct PlannedTensor {
  std::string name;
  std::vector<int64_t> shape;
  const io::TensorView* source = nullptr;
  int64_t expert = -1;  // -1: all of source
  int64_t row_begin = 0;
  bool is_weight = true;  // false: a buffer of a router, whose shape the router alone knows
};

// All of them in the order of the file. DataError as load_weights() has it, apart from values.
std::vector<PlannedTensor> plan_weights(const ModelConfig& model, const moe::MoeConfig& moe,
                                        const io::SafetensorsFolder& folder);

// The shape of one of our parameters, by the name that Transformer::named_parameters() has for it;
// empty for what routers have beside the gate.
std::optional<std::vector<int64_t>> parameter_shape(const ModelConfig& model,
                                                    const moe::MoeConfig& moe,
                                                    const std::string& name);

std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace locus::model
