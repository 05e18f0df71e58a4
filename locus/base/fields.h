// How a configuration struct lists its fields, once. Reading, writing, overrides, help and equality
// are all derived from this list.
//
//   struct RouterConfig {
//     std::string type = "top_k";
//     int64_t top_k = 2;
//     template <class V> void visit_fields(V& v) {
//       v("type", type, "router; see `locus list routers`");
//       v("top_k", top_k, "experts per token");
//     }
//   };
//
// A config header needs no include for it. A nested struct is a nested table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace locus {

using FieldPointer = std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*,
                                  std::vector<double>*, std::vector<std::string>*>;

// One key. Pointers go into the struct that was visited: it must outlive the list.
struct Field {
  std::string path;  // dotted: "moe.router.top_k"
  FieldPointer value;
  std::string doc;  // meaning with unit and allowed values, one line
};

using Fields = std::vector<Field>;

namespace detail {

struct FieldCollector {
  Fields* fields;
  std::string prefix;

  template <class T>
  void operator()(std::string_view name, T& value, std::string_view doc) {
    std::string path = prefix;  // not +: GCC 12 then warns of a copy of half the address space
    path += name;
    if constexpr (requires(T & t, FieldCollector & v) { t.visit_fields(v); }) {
      FieldCollector nested{fields, path + "."};
      value.visit_fields(nested);
    } else {
      fields->push_back({path, FieldPointer(&value), std::string(doc)});
    }
  }
};

}  // namespace detail

// All fields of a struct in order of declaration, paths prefixed ("moe." for a table).
template <class Config>
Fields collect_fields(Config& config, std::string prefix = "") {
  Fields fields;
  detail::FieldCollector collector{&fields, std::move(prefix)};
  config.visit_fields(collector);
  return fields;
}

}  // namespace locus
