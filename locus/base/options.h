// The options that belong to one variant of a table (one router, one schedule): the variant's .cpp
// owns the struct, the run configuration reads and writes its fields like all others.
#pragma once

#include <memory>
#include <string_view>
#include <variant>

#include "locus/base/fields.h"

namespace locus {

class OptionSet {
 public:
  OptionSet() = default;

  // An options struct with its defaults and its list of fields. Factories of a table use it:
  //   OptionSet switch_options() { return OptionSet::of<SwitchOptions>(); }
  template <class Options>
  static OptionSet of() {
    auto options = std::make_shared<Options>();
    OptionSet set;
    set.fields_ = collect_fields(*options);
    set.storage_ = std::move(options);
    return set;
  }

  // The variant's own struct. The caller is the variant, so it knows the type.
  template <class Options>
  const Options& as() const {
    return *static_cast<const Options*>(storage_.get());
  }

  const Fields& fields() const { return fields_; }

  // The value of an option; null: there is none of this name and type.
  template <class T>
  T* find(std::string_view name) const {
    for (const Field& field : fields_) {
      if (field.path != name) continue;
      T* const* found = std::get_if<T*>(&field.value);
      return found == nullptr ? nullptr : *found;
    }
    return nullptr;
  }

 private:
  std::shared_ptr<void> storage_;
  Fields fields_;
};

}  // namespace locus
