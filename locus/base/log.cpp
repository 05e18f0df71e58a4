#include "locus/base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "locus/base/error.h"
#include "locus/base/progress.h"

namespace locus::log {
namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::kDebug: return spdlog::level::debug;
    case Level::kInfo: return spdlog::level::info;
    case Level::kWarning: return spdlog::level::warn;
    case Level::kError: return spdlog::level::err;
    case Level::kOff: return spdlog::level::off;
  }
  return spdlog::level::info;
}

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    auto created = std::make_shared<spdlog::logger>("locus", std::move(sink));
    created->set_pattern("[%H:%M:%S] %l: %v");
    created->flush_on(spdlog::level::info);
    return created;
  }();
  return *instance;
}

}  // namespace

Level parse_level(std::string_view name) {
  if (name == "debug") return Level::kDebug;
  if (name == "info") return Level::kInfo;
  if (name == "warning") return Level::kWarning;
  if (name == "error") return Level::kError;
  if (name == "off") return Level::kOff;
  throw ConfigError("log level \"{}\" is not known; one of debug, info, warning, error, off", name);
}

void set_level(Level level) { logger().set_level(to_spdlog(level)); }

void silence_stderr() { logger().sinks().front()->set_level(spdlog::level::off); }

void open_file(const std::string& path) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    sink->set_pattern("[%Y-%m-%d %H:%M:%S] %l: %v");
    close_file();
    logger().sinks().push_back(std::move(sink));
  } catch (const spdlog::spdlog_ex& failure) {
    throw DataError("{}: cannot be opened for the log: {}", path, failure.what());
  }
}

void close_file() {
  auto& sinks = logger().sinks();
  if (sinks.size() > 1) sinks.resize(1);
}

void write(Level level, std::string_view message) {
  ProgressBar::clear_line();
  logger().log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
}

void write_to_file(Level level, std::string_view message) {
  auto& sinks = logger().sinks();
  if (sinks.size() < 2) return;
  sinks.back()->log({"locus", to_spdlog(level), {message.data(), message.size()}});
  sinks.back()->flush();
}

}  // namespace locus::log
