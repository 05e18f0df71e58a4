#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <string_view>
#include <type_traits>

#include "locus/base/error.h"

namespace locus::cli {
namespace {

template <class T>
constexpr bool kIsList = false;
template <class T>
constexpr bool kIsList<std::vector<T>> = true;

template <class T>
void parse_number(const std::string& name, const std::string& text, std::string_view expected,
                  T* value) {
  const char* end = text.data() + text.size();
  const auto [stop, code] = std::from_chars(text.data(), end, *value);
  if (code != std::errc() || stop != end) {
    throw ConfigError("{} = \"{}\" is not {}", name, text, expected);
  }
}

void parse_value(const std::string& name, const std::string& text, int64_t* value) {
  parse_number(name, text, "an integer", value);
}
void parse_value(const std::string& name, const std::string& text, uint64_t* value) {
  parse_number(name, text, "an integer of at least 0", value);
}
void parse_value(const std::string& name, const std::string& text, double* value) {
  parse_number(name, text, "a number", value);
}
void parse_value(const std::string&, const std::string& text, std::string* value) { *value = text; }

template <class T>
std::string placeholder_of() {
  if constexpr (kIsList<T>) {
    return placeholder_of<typename T::value_type>();
  } else if constexpr (std::is_integral_v<T>) {
    return "N";
  } else if constexpr (std::is_floating_point_v<T>) {
    return "X";
  } else {
    return "TEXT";
  }
}

template <class T>
std::string default_text(const T& value) {
  if constexpr (kIsList<T>) {
    std::string text;
    for (const auto& one : value) text += (text.empty() ? "" : ",") + default_text(one);
    return text;
  } else {
    return format("{}", value);
  }
}

template <class T>
CLI::callback_t reader_of(const std::string& name, T* value) {
  return [name, value](const CLI::results_t& results) {
    if constexpr (kIsList<T>) {
      value->clear();
      for (const std::string& text : results) {
        typename T::value_type one{};
        parse_value(name, text, &one);
        value->push_back(std::move(one));
      }
    } else {
      if (results.size() > 1)
        throw ConfigError("{} is given {} times; once is enough", name, results.size());
      parse_value(name, results.front(), value);
    }
    return true;
  };
}

CLI::Option* describe(CLI::Option* option, const OptionText& text, const std::string& placeholder) {
  if (!text.group.empty()) option->group(text.group);
  return option->type_name(text.placeholder.empty() ? placeholder : text.placeholder);
}

CLI::Option* add(CLI::App& command, const OptionText& text, Target target, bool by_position) {
  return std::visit(
      [&]<class T>(T* value) -> CLI::Option* {
        if constexpr (std::is_same_v<T, bool>) {
          return add_flag(command, text, value);
        } else {
          CLI::Option* option =
              command.add_option(text.name, reader_of(text.name, value), text.doc);
          option->default_str(default_text(*value));
          // A scalar option, too, takes what comes, so that reader_of() can say what is wrong with
          // it.
          option->expected(1,
                           by_position && !kIsList<T> ? 1 : CLI::detail::expected_max_vector_size);
          option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
          // One value for each --name: the next word may be an argument. CLI11 splits "[a,b]"
          // otherwise.
          option->allow_extra_args(by_position && kIsList<T>);
          if (kIsList<T> && text.commas) option->delimiter(',');
          return describe(option, text, placeholder_of<T>());
        }
      },
      target);
}

}  // namespace

CLI::Option* add_option(CLI::App& command, const OptionText& text, Target target) {
  return add(command, text, target, /*by_position=*/false);
}

CLI::Option* add_argument(CLI::App& command, const OptionText& text, Target target) {
  return add(command, text, target, /*by_position=*/true);
}

CLI::Option* add_flag(CLI::App& command, const OptionText& text, bool* target, bool value) {
  return describe(command.add_flag_callback(
                      text.name, [target, value] { *target = value; }, text.doc),
                  text, "");
}

CLI::Option* add_switch(CLI::App& command, const OptionText& text, bool* target) {
  const std::string word = text.name.substr(2);
  const auto read = [target](int64_t count) { *target = count > 0; };
  CLI::Option* option = command.add_flag_function("--" + word + ",!--no-" + word, read, text.doc);
  option->default_str(*target ? "yes" : "no");
  return describe(option, text, "");
}

}  // namespace locus::cli
