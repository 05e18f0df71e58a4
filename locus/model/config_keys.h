// How a family lists the keys of its config.json, once: writing and reading are visitors of the
// list.
//
//   void keys(ConfigKeys& k, Shape& shape) {
//     k.value("n_embd", &shape.model.hidden_size);                   must be there
//     k.value("layer_norm_epsilon", &shape.model.norm_eps, "1e-05"); transformers' default
//     k.only("scale_attn_weights", "true");                          all that Locus computes
//   }
#pragma once

#include <string_view>

#include "locus/model/shape.h"

namespace locus::model {

class ConfigKeys {
 public:
  virtual ~ConfigKeys() = default;

  // The families' words are those of a shape that was made canonical.
  virtual bool is_reading() const = 0;

  // A key and the setting of equal value. `absent`, as JSON: what transformers takes where the key
  // is not there or null; empty: it has to be there.
  virtual void value(std::string_view key, const FieldPointer& setting,
                     std::string_view absent = "") = 0;
  // Some version of transformers writes `key` under another name.
  virtual void also_named(std::string_view key, std::string_view other) = 0;
  // A key that must have this value (JSON) if it is there: Locus computes nothing else.
  virtual void only(std::string_view key, std::string_view json) = 0;
  // A key without influence on what a model computes.
  virtual void unused(std::string_view key) = 0;
  // Dropout inside attention, which Locus has not: it is said, and training goes without.
  virtual void attention_dropout(std::string_view key, double absent) = 0;
  // rope_parameters, or rope_theta and rope_scaling as transformers had them before version 5.
  virtual void rope(ModelConfig& model, double default_theta) = 0;
};

}  // namespace locus::model
