// What is behind comm/store.h; for the transports of c10d alone.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <algorithm>
#include <exception>
#include <string>

#include "locus/comm/store.h"

namespace locus::comm {

struct Store::Impl {
  c10::intrusive_ptr<c10d::Store> store;
  int64_t port = 0;
  bool serves = false;
};

// What c10d and Gloo throw, in one line: without the places in their code and traces that they add.
inline std::string first_line(const std::exception& error) {
  std::string text = error.what();
  text.resize(std::min({text.find('\n'), text.find(". This is typically"), text.size()}));
  const size_t end = text.find("] ");
  return text.starts_with('[') && end != std::string::npos ? text.substr(end + 2) : text;
}

}  // namespace locus::comm
