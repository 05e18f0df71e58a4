// `locus compare`: the same training with other settings, over several seeds, in one table.

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <map>
#include <optional>
#include <ostream>
#include <thread>
#include <utility>

#include "locus/app/commands.h"
#include "locus/app/run_config.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/log.h"
#include "locus/base/signals.h"
#include "locus/base/thread_pool.h"
#include "locus/base/toml.h"
#include "locus/compare/config.h"
#include "locus/compare/result.h"
#include "locus/compare/summary.h"
#include "locus/compare/variants.h"
#include "locus/model/size.h"

extern char** environ;

namespace locus::app {
namespace {

using compare::Job;
using compare::Result;

// The program that this is, by the name under which a user starts it.
fs::path own_program() {
  const fs::path self = fs::read_symlink("/proc/self/exe");
  const fs::path front = self.parent_path() / "locus";
  return fs::exists(front) ? front : self;
}

// Its output and messages go to `log`. A group of its own: of the terminal's signals it gets what
// we hand on, once.
pid_t start_process(const std::vector<std::string>& words, const fs::path& log) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0644);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  pid_t child = 0;
  const int problem =
      posix_spawn(&child, words.front().c_str(), &actions, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (problem != 0) {
    throw DataError("{}: cannot be started: {}", words.front(), std::strerror(problem));
  }
  return child;
}

std::string last_line(const fs::path& log) {
  std::string text = read_file(log);
  while (text.ends_with('\n')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

// Trainings that run. None outlives this: whoever leaves, by an error too, has told them to stop
// and has waited for their checkpoints.
class Children {
 public:
  Children() = default;
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;
  ~Children() { stop(SIGTERM); }

  size_t size() const { return numbers_.size(); }
  void add(pid_t child, size_t number) { numbers_.emplace(child, number); }

  // One that has ended: its number and status; nothing while all run.
  std::optional<std::pair<size_t, int>> take_ended() {
    for (const auto& [child, number] : numbers_) {
      int status = 0;
      const pid_t ended = ::waitpid(child, &status, WNOHANG);
      if (ended == 0 || (ended < 0 && errno == EINTR)) continue;
      if (ended < 0) throw DataError("waiting for a training: {}", std::strerror(errno));
      const std::pair<size_t, int> found{number, status};
      numbers_.erase(child);
      return found;
    }
    return std::nullopt;
  }

  void stop(int signal) {
    for (const auto& [child, number] : numbers_) ::kill(child, signal);
    for (const auto& [child, number] : numbers_) ::waitpid(child, nullptr, 0);
    numbers_.clear();
  }

 private:
  std::map<pid_t, size_t> numbers_;
};

class Comparison {
 public:
  explicit Comparison(compare::CompareConfig config)
      : config_(std::move(config)),
        variants_(compare::parse_variants(config_)),
        base_(read_file(config_.config)) {
    check_settings();
  }

  // In order of the variants, then of the seeds. With a budget, as many steps for each; what they
  // cost then says how many it buys.
  std::vector<Job> jobs() {
    std::vector<Job> jobs;
    for (const compare::Variant& variant : variants_) {
      const std::vector<std::string> more = of_equal_size(variant);
      for (const int64_t seed : config_.seeds) jobs.push_back(job(variant, seed, more));
    }
    return jobs;
  }

  std::vector<Result> run() {
    const bool has_budget = config_.equal == "flops" || config_.equal == "wall_time";
    return has_budget ? run_by_budget() : train(jobs());
  }

 private:
  Job job(const compare::Variant& variant, int64_t seed, const std::vector<std::string>& more) {
    return compare::make_job(config_, base_, variant, seed, more);
  }

  RunConfig settings_of(const compare::Variant& variant, const std::vector<std::string>& more) {
    return load_run_config(config_.config, job(variant, config_.seeds.front(), more).settings);
  }

  // Before hours are spent on the others.
  void check_settings() {
    std::string problems;
    for (const compare::Variant& variant : variants_) {
      try {
        check(variant, {});
      } catch (const ConfigError& error) {
        if (!problems.empty()) problems += '\n';
        problems += error.what();
      }
    }
    if (!problems.empty()) throw ConfigError("{}", problems);
  }

  void check(const compare::Variant& variant, const std::vector<std::string>& more) {
    try {
      validate(settings_of(variant, more));
    } catch (const ConfigError& error) {
      std::string with;
      for (const std::string& setting : more) with += " with " + setting;
      throw ConfigError("variant {}{}: {}", variant.name, with, error.what());
    }
  }

  // How many steps of a variant cost as much as the budget: what a step costs may depend on how
  // many there are, so by the last two tries.
  struct Search {
    double steps = 0, cost = 0, per_step = 0;
    std::vector<std::string> more;  // settings; empty: as many steps as the first variant

    double wanted(double budget) const { return std::round(steps + (budget - cost) / per_step); }
    bool is_done(double budget) const {
      return std::abs(cost / budget - 1) <= kEnough || wanted(budget) == steps;
    }
    void take(double now_steps, double now_cost) {
      if ((now_cost - cost) / (now_steps - steps) > 0) {
        per_step = (now_cost - cost) / (now_steps - steps);
      }
      steps = now_steps;
      cost = now_cost;
    }
  };

  // First as many steps as the first variant; then, of the others, as many as cost the same, the
  // tries of all of them side by side.
  std::vector<Result> run_by_budget() {
    const auto spent = [this](const Result& result) {
      return config_.equal == "flops" ? result.flops : result.wall_s;
    };
    std::vector<Job> probes;
    for (const compare::Variant& variant : variants_) {
      probes.push_back(job(variant, config_.seeds.front(), {}));
    }
    const std::vector<Result> probed = train(probes);
    const double budget = spent(probed.front());
    std::vector<Search> searches;
    for (const Result& one : probed) {
      searches.push_back({one.steps, spent(one), spent(one) / one.steps, {}});
    }
    for (int tries = 0; tries < kMostTries; ++tries) {
      std::vector<Job> jobs;
      std::vector<Search*> tried;
      for (size_t v = 0; v < variants_.size(); ++v) {
        Search& search = searches[v];
        if (search.is_done(budget)) continue;
        search.more = {format("train.max_steps={}", static_cast<int64_t>(search.wanted(budget)))};
        check(variants_[v], search.more);
        jobs.push_back(job(variants_[v], config_.seeds.front(), search.more));
        tried.push_back(&search);
      }
      if (jobs.empty()) break;
      const std::vector<Result> found = train(jobs);
      for (size_t i = 0; i < tried.size(); ++i) {
        tried[i]->take(tried[i]->wanted(budget), spent(found[i]));
      }
    }
    std::vector<Job> jobs;
    for (size_t v = 0; v < variants_.size(); ++v) {
      const Search& search = searches[v];
      if (std::abs(search.cost / budget - 1) > kEnough) {
        log::warning(
            "variant {}: {} steps take {:.3f} of the budget, and no other number came nearer",
            variants_[v].name, static_cast<int64_t>(search.steps), search.cost / budget);
      }
      for (const int64_t seed : config_.seeds) jobs.push_back(job(variants_[v], seed, search.more));
    }
    return train(jobs);
  }

  static constexpr int kMostTries = 3;
  static constexpr double kEnough = 0.015;  // of the budget, left over or overdrawn

  // The width with which the variant has as many active parameters as the first one: they grow with
  // it along a straight line.
  std::vector<std::string> of_equal_size(const compare::Variant& variant) {
    if (config_.equal != "active_parameters" || &variant == &variants_.front()) return {};
    const auto active = [](const RunConfig& config) {
      return static_cast<double>(model::count_parameters(config.model, config.moe).active());
    };
    const RunConfig first = settings_of(variants_.front(), {});
    RunConfig own = settings_of(variant, {});
    const bool has_experts = own.moe.num_experts > 0;
    int64_t& width = has_experts ? own.moe.intermediate_size : own.model.intermediate_size;
    const auto before = static_cast<double>(width);
    const double size = active(own);
    width *= 2;
    const double per_width = (active(own) - size) / before;
    const auto wanted =
        static_cast<int64_t>(std::llround(before + (active(first) - size) / per_width));
    if (wanted < 1) {
      throw ConfigError("variant {}: no width gives it the {:.0f} active parameters of {}",
                        variant.name, active(first), variants_.front().name);
    }
    const std::vector<std::string> more{
        format("{}.intermediate_size={}", has_experts ? "moe" : "model", wanted)};
    check(variant, more);
    return more;
  }

  // What is not there yet; a failed one does not stop those beside it.
  std::vector<Result> train(const std::vector<Job>& jobs) {
    make_folders(config_.output_dir);
    Children running;
    std::string failed;
    size_t next = 0;
    while (next < jobs.size() || running.size() > 0) {
      if (received_signal() != 0) {
        running.stop(received_signal());
        throw Interrupted(received_signal());
      }
      const bool may_start =
          failed.empty() && next < jobs.size() && std::cmp_less(running.size(), config_.jobs);
      if (may_start) {
        const Job& one = jobs[next];
        if (!compare::is_finished(one.folder)) {
          log::info("{} of {}: {}, seed {}", next + 1, jobs.size(), one.variant, one.seed);
          running.add(start(one), next);
        }
        ++next;
        continue;
      }
      if (running.size() == 0) break;
      const auto ended = running.take_ended();
      if (!ended) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        continue;
      }
      const auto [number, status] = *ended;
      const Job& one = jobs[number];
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
      failed += format("{}{}, seed {}: {}", failed.empty() ? "" : "\n", one.variant, one.seed,
                       last_line(log_of(one)));
    }
    if (!failed.empty()) throw DataError("a training failed:\n{}", failed);
    std::vector<Result> results;
    for (const Job& one : jobs) {
      results.push_back(compare::read_result(one.variant, one.seed, one.folder));
    }
    return results;
  }

  static fs::path log_of(const Job& one) { return one.folder + ".log"; }

  pid_t start(const Job& one) const {
    std::vector<std::string> words{own_program().string(), "train", "--config", config_.config,
                                   "--resume"};
    for (const std::string& setting : one.settings) {
      words.insert(words.end(), {"--set", setting});
    }
    const RunConfig settings = load_run_config(config_.config, one.settings);
    if (settings.train.num_threads == 0 && config_.jobs > 1) {
      const int64_t share = std::max<int64_t>(1, ThreadPool::num_cores() / config_.jobs);
      words.insert(words.end(), {"--set", format("train.num_threads={}", share)});
    }
    return start_process(words, log_of(one));
  }

  const compare::CompareConfig config_;
  const std::vector<compare::Variant> variants_;
  const std::string base_;
};

compare::About about(const compare::CompareConfig& config) {
  const char* equal = config.equal == "flops"       ? "FLOPs of training"
                      : config.equal == "wall_time" ? "time"
                      : config.equal == "steps"     ? "steps"
                                                    : "active parameters";
  std::string seeds;
  for (const int64_t seed : config.seeds)
    seeds += (seeds.empty() ? "" : ", ") + std::to_string(seed);
  return {format("{} variants of {}, equal {}", config.variants.size(),
                 fs::path(config.config).filename().string(), equal),
          {format("Seeds {}. Losses: mean over the seeds +- standard deviation; differences to the "
                  "first variant, seed by seed, with their 95% confidence interval. FLOPs and time "
                  "in those of the first variant; \"same loss after\": what it took until the "
                  "first variant's last loss.",
                  seeds)}};
}

}  // namespace

void compare(const CompareOptions& options, std::ostream& out) {
  compare::CompareConfig config;
  Fields fields;
  for (Field field : collect_fields(config)) {
    field.path = "compare." + field.path;
    fields.push_back(std::move(field));
  }
  read_toml_file(options.file, {}, fields);
  Comparison comparison(config);
  if (options.dry_run) {
    for (const Job& job : comparison.jobs()) {
      out << format("{}, seed {}: {}\n", job.variant, job.seed,
                    compare::is_finished(job.folder) ? "done" : job.folder);
    }
    return;
  }
  watch_signals();
  const std::vector<compare::Summary> summaries = compare::summarize(comparison.run());
  const compare::About head = about(config);
  const fs::path folder = config.output_dir;
  const std::string table = compare::to_markdown(head, summaries);
  write_file_atomic(folder / "compare.md", table);
  write_file_atomic(folder / "compare.csv", compare::to_csv(summaries));
  write_file_atomic(folder / "compare.html", compare::to_html(head, summaries));
  out << table << "\n" << (folder / "compare.html").string() << "\n";
}

}  // namespace locus::app
