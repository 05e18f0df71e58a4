// The results of a comparison: one row a variant, as table, page and file.
#pragma once

#include <string>
#include <vector>

#include "locus/compare/result.h"
#include "locus/compare/statistics.h"

namespace locus::compare {

// Of one variant, over its seeds.
struct Summary {
  std::string name;
  std::vector<Result> results;  // by seeds, the same for every variant
  double loss = 0, loss_deviation = 0;
  PairedDifference difference;  // of the loss to the first variant's
  double steps = 0, flops = 0, wall_s = 0;
  // Of what the first variant took as a whole, until this one was at its last loss, seed by seed;
  // mean of the seeds that came there, NaN: none did.
  double steps_to_reach = 0, flops_to_reach = 0, wall_to_reach = 0;
  int num_reached = 0;
  double active_parameters = 0, peak_rss_bytes = 0;
  double experts_per_token = 0, dropped_share = 0, load_max_over_mean = 0;
};

// `results`: variants in their order, seeds in theirs within.
std::vector<Summary> summarize(const std::vector<Result>& results);

// Words for the head of table and page.
struct About {
  std::string title;  // "routers, equal steps, 3 seeds"
  std::vector<std::string> lines;
};

std::string to_markdown(const About& about, const std::vector<Summary>& summaries);
// A line a training.
std::string to_csv(const std::vector<Summary>& summaries);
// One file that needs nothing else: the table, and losses over steps, FLOPs and time.
std::string to_html(const About& about, const std::vector<Summary>& summaries);

}  // namespace locus::compare
