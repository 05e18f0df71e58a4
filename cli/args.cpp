#include "cli/args.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <ostream>
#include <utility>

#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "locus/base/error.h"
#include "locus/base/toml.h"
#include "locus/base/version.h"

namespace locus::cli {
namespace {

constexpr const char* kGlobal = "Global options";

constexpr std::string_view kFooter = R"(`locus COMMAND --help` says more about one of them.

Exit codes:
  0         success
  1         a fault of the program
  2         wrong command line or settings
  3         missing, damaged or unwritable file
  4         lost connection to another process
  5         the training diverged
  130, 143  interrupted by SIGINT or SIGTERM; a training wrote its checkpoint
)";

Request printing(std::string text) {
  return {.run = [text = std::move(text)](std::ostream& out) { out << text; }};
}

// The parser of the whole program and what its commands do.
class Parser {
 public:
  Parser() : program_("Trains mixture-of-experts language models.", "locus") {
    program_.allow_extras();
    program_.set_version_flag("--version",
                              format("locus {} (libtorch {})", kVersion, LOCUS_LIBTORCH_VERSION),
                              "print the version");
    program_.get_version_ptr()->group(kGlobal);
    add_global_options(program_);
    for (const CommandEntry& entry : command_entries()) {
      CLI::App* command =
          program_.add_subcommand(std::string(entry.name), std::string(entry.summary));
      command->allow_extras();  // we report them ourselves, with what is near
      actions_[command] = entry.add(*command);
      add_global_options(*command);
      entries_[command] = &entry;
    }
    program_.require_subcommand(0, 1);
  }

  Request parse(std::vector<std::string> arguments, int columns);

 private:
  void add_global_options(CLI::App& command) {
    command.set_help_flag("-h,--help", "print this")->group(kGlobal);
    add_option(command, {"--log-level", "debug, info, warning, error or off", "LEVEL", kGlobal},
               &log_level_);
  }

  const CLI::App& chosen() const {
    const auto commands = program_.get_subcommands();
    return commands.empty() ? program_ : *commands.back();
  }

  std::string help(int columns) const;
  [[noreturn]] void fail(const std::string& problem) const;
  void reject_extras() const;

  CLI::App program_;
  std::string log_level_ = "info";
  std::map<const CLI::App*, Action> actions_;
  std::map<const CLI::App*, const CommandEntry*> entries_;
};

std::string command_of(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name()
                                     : app.get_parent()->get_name() + " " + app.get_name();
}

bool is_option(const std::string& word) { return word.starts_with("-"); }

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

void Parser::fail(const std::string& problem) const {
  throw ConfigError("{}; see `{} --help`", problem, command_of(chosen()));
}

// An unknown word: an option, a command, or an argument too many.
void Parser::reject_extras() const {
  const std::vector<std::string> extras = chosen().remaining();
  if (extras.empty()) return;
  const bool lacks_command = &chosen() == &program_;
  // A misspelt option leaves its value behind, which may have become an argument.
  auto word =
      lacks_command ? extras.begin() : std::find_if(extras.begin(), extras.end(), is_option);
  if (word == extras.end()) word = extras.begin();
  if (is_option(*word)) {
    const std::string near = nearest(word->substr(0, word->find('=')), option_names(chosen()));
    const std::string problem =
        format("`{}` is not an option of `{}`", *word, command_of(chosen()));
    if (near.empty()) fail(problem);
    throw ConfigError("{}; did you mean {}?", problem, near);
  }
  if (!lacks_command)
    fail(format("`{}` is one argument too many for `{}`", *word, command_of(chosen())));
  std::vector<std::string> known;
  std::string list;
  for (const CommandEntry& entry : command_entries()) {
    known.emplace_back(entry.name);
    list += (list.empty() ? "" : ", ") + known.back();
  }
  const std::string near = nearest(*word, known);
  throw ConfigError("`{}` is not a command{} Known: {}", *word,
                    near.empty() ? "." : "; did you mean " + near + "?", list);
}

std::string Parser::help(int columns) const {
  const auto entry = entries_.find(&chosen());
  if (entry == entries_.end()) {
    return format_help(program_, program_.get_description(), kFooter, columns);
  }
  return format_help(chosen(), entry->second->description, entry->second->footer, columns);
}

Request Parser::parse(std::vector<std::string> arguments, int columns) {
  if (!arguments.empty() && arguments.front() == "help") {  // `locus help train`
    arguments.erase(arguments.begin());
    arguments.emplace_back("--help");
  }
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
  try {
    program_.parse(std::move(arguments));
  } catch (const CLI::CallForHelp&) {
    return printing(help(columns));
  } catch (const CLI::CallForVersion& version) {
    return printing(std::string(version.what()) + "\n");
  } catch (const CLI::ArgumentMismatch& error) {  // "--config: 1 required FILE missing"
    const std::string_view text = error.what();
    fail(format("{} needs a value", text.substr(0, text.find(':'))));
  } catch (const CLI::ParseError& error) {
    reject_extras();  // a misspelt option is also missing under its right name
    fail(error.what());
  }
  reject_extras();
  const auto action = actions_.find(&chosen());
  if (action == actions_.end()) {
    Request request = printing(help(columns));
    request.lacks_command = true;
    return request;
  }
  return {.run = action->second,
          .log_level = log_level_,
          .computes_tensors = entries_.at(&chosen())->computes_tensors};
}

}  // namespace

Request parse_arguments(std::vector<std::string> arguments, int columns) {
  return Parser().parse(std::move(arguments), columns);
}

}  // namespace locus::cli
