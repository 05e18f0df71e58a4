#include "locus/app/dry_run.h"

#include <utility>

#include "locus/app/describe.h"
#include "locus/app/elastic.h"
#include "locus/app/session.h"
#include "locus/app/teacher.h"
#include "locus/base/format.h"

namespace locus::app {

void dry_run(RunConfig config, int64_t num_ranks, std::ostream& out) {
  if (num_ranks == 1) find_device(config.train.device, comm::alone());  // others are not here
  const bool knows_data = !config.data.train.empty() || !config.data.tokenizer.empty();
  if (knows_data || config.model.vocab_size == 0) {
    const std::string path = tokenizer_path(config.data);
    const auto tokenizer = data::load_tokenizer(path);
    check_initial_tokenizer(config, *tokenizer, path);
    settle_vocabulary(config, *tokenizer, path);
    check_teacher(config, *tokenizer);
    if (const double teacher = teacher_flops_per_token(config); teacher > 0) {
      out << format("distillation\n  {:<28}{}\n", "teacher's FLOPs per token",
                    short_number(teacher));
    }
    if (!config.data.train.empty()) {
      const auto source =
          open_data(config.data.train, "train", config.data.train_weights, config, *tokenizer);
      source->check_trainable();
      settle_domain_groups(config, *source);
      out << format("training data\n  {:<28}{}\n", "tokens",
                    short_number(static_cast<double>(source->num_tokens())));
    }
  }
  check_dance_budgets(config);
  out << describe_model(config, num_ranks);
}

int64_t described_ranks(const RunConfig& config, const cluster::Launch& launch) {
  return launch.world_size > 1 ? launch.world_size : config.parallel.expert_model_parallel_size;
}

}  // namespace locus::app
