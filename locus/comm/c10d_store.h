// What is behind comm/store.h; for the transports of c10d alone.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include "locus/comm/store.h"

namespace locus::comm {

struct Store::Impl {
  c10::intrusive_ptr<c10d::Store> store;
};

}  // namespace locus::comm
