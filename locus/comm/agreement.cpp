#include "locus/comm/agreement.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <cstring>
#include <map>
#include <sstream>

#include "locus/base/error.h"
#include "locus/base/hash.h"
#include "locus/comm/collectives.h"
#include "locus/comm/diagnosis.h"
#include "locus/comm/together.h"

namespace locus::comm {
namespace {

// Ranks and things; -1: there is no difference.
struct Difference {
  int64_t thing = -1;
  std::vector<int64_t> ranks;  // that differ from the first rank in it
};

Difference find_difference(ProcessGroup& group, const std::vector<Agreement>& things) {
  std::vector<int64_t> own;
  for (const Agreement& thing : things) {
    for (const uint64_t half : hash128(thing.text)) own.push_back(static_cast<int64_t>(half));
  }
  const auto width = static_cast<int64_t>(own.size());
  const at::Tensor all = at::empty({group.size() * width}, at::kLong);
  group.all_gather(all, at::tensor(own, at::kLong))->wait();
  const int64_t* hashes = all.const_data_ptr<int64_t>();
  Difference found;
  for (int64_t thing = 0; 2 * thing < width && found.ranks.empty(); ++thing) {
    found.thing = thing;
    for (int64_t rank = 1; rank < group.size(); ++rank) {
      const int64_t* theirs = hashes + rank * width + 2 * thing;
      if (!std::equal(theirs, theirs + 2, hashes + 2 * thing)) found.ranks.push_back(rank);
    }
  }
  return found.ranks.empty() ? Difference{} : found;
}

std::map<std::string, std::string> values_by_key(const std::string& text) {
  std::map<std::string, std::string> values;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    const size_t end = line.find(" = ");
    if (end != std::string::npos) values[line.substr(0, end)] = line.substr(end + 3);
  }
  return values;
}

// "lr_schedule.lr = 0.01 there and 0.003 on rank 0; 2 more differ"
std::string first_of(const std::string& own, const std::string& theirs, int64_t own_rank) {
  std::map<std::string, std::string> here = values_by_key(own);
  std::map<std::string, std::string> there = values_by_key(theirs);
  for (const auto& [key, value] : here) there.try_emplace(key, "missing");
  std::string text;
  int64_t num_more = 0;
  for (const auto& [key, value] : there) {
    const std::string& other = here.try_emplace(key, "missing").first->second;
    if (other == value) continue;
    if (text.empty()) {
      text = format("{} = {} there and {} on rank {}", key, value, other, own_rank);
    } else {
      ++num_more;
    }
  }
  if (text.empty()) text = "the same values in another order";
  return num_more == 0 ? text : format("{}; {} more differ", text, num_more);
}

}  // namespace

void check_agreement(ProcessGroup* group, const std::string& host,
                     const std::vector<Agreement>& things) {
  if (group == nullptr) return;
  const Difference found = find_difference(*group, things);
  if (found.thing < 0) return;
  const Agreement& thing = things[static_cast<size_t>(found.thing)];
  const int64_t first = found.ranks.front();
  const bool is_first = group->rank() == first;
  const std::vector<std::string> texts = gather_texts(group, is_first ? thing.text : "");
  const std::vector<std::string> hosts = gather_texts(group, is_first ? host : "");
  const bool is_of_settings = thing.kind == Agreement::Kind::kSettings;
  if (group->rank() != 0) {
    throw PeerError(group->world_rank(0),
                    is_of_settings ? ConfigError("").exit_code() : DataError("").exit_code());
  }
  std::vector<int64_t> others;
  for (const int64_t rank : found.ranks) others.push_back(group->world_rank(rank));
  const auto place = static_cast<size_t>(first);
  std::string text = format("rank {} on {} and rank {} have different {}: {}", others.front(),
                            hosts[place], group->world_rank(0), thing.what,
                            first_of(thing.text, texts[place], group->world_rank(0)));
  if (others.size() > 1)
    text += format("; ranks {} differ from rank {}", list_ranks(others), group->world_rank(0));
  if (is_of_settings) throw ConfigError("{}", text);
  throw DataError("{}", text);
}

}  // namespace locus::comm
