// What a model is, whatever it is trained on: [model], [moe] and the options of its router.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "locus/base/options.h"
#include "locus/model/config.h"
#include "locus/moe/config.h"

namespace locus::model {

struct Shape {
  ModelConfig model;
  moe::MoeConfig moe;
  OptionSet router_options;  // of moe.router.type; a copy of a shape shares them

  // "model.*", "moe.*" and "moe.<router>.*"; points into this object.
  Fields fields();
};

// A dense model's defaults, and the options of the default router.
Shape default_shape();

// The router changes to `type`, with its default options.
void set_router(Shape& shape, const std::string& type);

// An equal model, written one way: sizes that were left to be derived stand there, and what has no
// influence has its default. Shares nothing with `shape`.
Shape canonical(const Shape& shape);

// True for settings of training: the same weights compute the same whatever they are.
bool is_of_training(std::string_view setting);

// The settings of `shape` that `other` has not, or not so; both are made canonical first.
struct ShapeDifference {
  std::string setting, value, other;  // values as TOML; other empty: it has no such setting
};
std::vector<ShapeDifference> differences(const Shape& shape, const Shape& other);

}  // namespace locus::model
