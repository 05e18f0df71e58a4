// `locus train`: from settings to a finished run.

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <ostream>
#include <thread>

#include "locus/app/commands.h"
#include "locus/app/describe.h"
#include "locus/app/dry_run.h"
#include "locus/app/elastic.h"
#include "locus/app/exchange_settings.h"
#include "locus/app/ranks.h"
#include "locus/app/run_identity.h"
#include "locus/app/session.h"
#include "locus/app/teacher.h"
#include "locus/app/train_session.h"
#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/signals.h"
#include "locus/comm/agreement.h"
#include "locus/comm/collectives.h"
#include "locus/comm/together.h"
#include "locus/train/machine.h"

namespace locus::app {
namespace {

constexpr int64_t kPatience_ms = 4000, kTurn_ms = 200;

// Settings that are right for this many ranks. The ranks of a node see the same files and settings,
// and cannot talk yet: one of them tells what is wrong.
RunConfig checked_config(const TrainOptions& options, const cluster::Launch& launch) {
  try {
    RunConfig config = load_run_config(options.config, options.overrides);
    validate(config);
    validate_ranks(config, options.dry_run ? described_ranks(config, launch) : launch.world_size);
    return config;
  } catch (const Error& error) {
    if (launch.local_rank == 0) throw;
    if (launch.launcher == "srun") {  // does not end the others
      throw comm::PeerError(launch.rank - launch.local_rank, error.exit_code());
    }
    // Alone with the error, or ended by the launcher, because the first of the node has told it.
    std::this_thread::sleep_for(
        std::chrono::milliseconds(kPatience_ms + kTurn_ms * launch.local_rank));
    throw;
  }
}

// What ranks must agree on before they make groups of each other.
std::vector<comm::Agreement> in_common(RunConfig& config, const TrainOptions& options) {
  comm::Agreement settings = settings_identity(config);
  settings.text += format("--resume = {}\n", options.resume);
  return {program_identity(), settings};
}

// Settles the exchange, too, which depends on it; `config` says what came out, for a resume.
Speed measure(RunConfig& config, bool resume, const cluster::Launch& launch,
              comm::ParallelContext& parallel) {
  double own_peak = 0;
  const int64_t sharing = ranks_on_the_same_cores(parallel.world.get(), launch.host);
  comm::together(parallel.world.get(), [&] {
    const at::Device device = find_device(config.train.device, parallel);
    set_threads(config.train.num_threads, sharing);
    own_peak = train::measure_matmul_rate(parse_dtype(config.train.dtype), device);
  });
  Speed speed;
  speed.peak_flops =
      comm::sum_over(parallel.world.get(), at::full({1}, own_peak, at::kDouble)).item<double>();
  comm::together(parallel.world.get(), [&] {
    if (resume) keep_exchange(config, parallel);
    speed.exchange = settle_exchange(
        config, speed.peak_flops / static_cast<double>(parallel.world_size), parallel);
  });
  comm::check_agreement(parallel.world.get(), launch.host,
                        {{comm::Agreement::Kind::kFiles, "links",
                          format("parallel.exchange.type = {}\nparallel.exchange.chunks = {}\n",
                                 parallel.exchange.type, parallel.exchange.chunks)}});
  if (parallel.ep != nullptr) config.parallel.exchange = parallel.exchange;
  return speed;
}

}  // namespace

void train(const TrainOptions& options, std::ostream& out) {
  const cluster::Launch launch = find_launch();
  if (launch.rank != 0) log::silence_stderr();
  RunConfig config = checked_config(options, launch);
  if (options.dry_run) {
    const int64_t num_ranks = described_ranks(config, launch);
    if (launch.rank == 0) dry_run(std::move(config), num_ranks, out);
    return;
  }
  warn_of_few_cores(launch, config.train.num_threads);
  comm::ParallelContext parallel = connect_ranks(launch, config.parallel, config.comm,
                                                 in_common(config, options), config.train.device);
  watch_signals();
  std::unique_ptr<data::Tokenizer> tokenizer;
  comm::together(parallel.world.get(), [&] {
    const std::string path = tokenizer_path(config.data);
    tokenizer = data::load_tokenizer(path);
    check_initial_tokenizer(config, *tokenizer, path);
    settle_vocabulary(config, *tokenizer, path);
    check_teacher(config, *tokenizer);
    check_dance_budgets(config);
  });
  const Speed speed = measure(config, options.resume, launch, parallel);
  try {
    TrainSession(std::move(config), std::move(tokenizer), options.resume, parallel, speed).run(out);
  } catch (const Error& error) {
    log::write_to_file(log::Level::kError, error.what());
    const bool is_of_all = dynamic_cast<const Interrupted*>(&error) != nullptr ||
                           dynamic_cast<const DivergedError*>(&error) != nullptr;
    if (!is_of_all || launch.rank == 0) throw;
    throw comm::PeerError(0, error.exit_code());
  }
}

}  // namespace locus::app
