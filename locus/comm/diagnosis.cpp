#include "locus/comm/diagnosis.h"

#include <algorithm>
#include <map>
#include <set>

#include "locus/base/format.h"

namespace locus::comm {
namespace {

constexpr size_t kMaxLines = 24;

// A call, named alike on all ranks.
struct CallName {
  int64_t group = 0, first_rank = 0, number = 0;
  auto operator<=>(const CallName&) const = default;
};

std::string step_text(const Place& place) {
  return place.step < 0 ? "" : format(" at step {}", place.step);
}

std::string what_text(const Place& place) {
  return place.layer < 0 ? place.what : format("{} of layer {}", place.what, place.layer);
}

// "dispatch of layer 3 (forward) at step 812", "optimizer step at step 811"
std::string place_text(const Place& place) {
  const std::string what = what_text(place);
  return (what.empty() ? place.phase : format("{} ({})", what, place.phase)) + step_text(place);
}

class Diagnosis {
 public:
  Diagnosis(const std::vector<Heard>& ranks, const Failure& failure)
      : ranks_(ranks), failure_(failure) {}

  std::string text() {
    for (const Heard& one : ranks_) {
      if (one.report && one.report->state == RankState::kBroken) return "";
    }
    std::vector<std::string> lines;
    if (knows_others()) {
      lines = differences();
      if (lines.empty() && failure_.group >= 0) lines = absent_ranks();
      if (lines.empty()) lines = {"the ranks have lost one another"};
      add_all_ranks(lines);
    } else {
      lines = {format("{} has lost the other ranks, and nobody can be asked: {}",
                      names({failure_.rank}), doing_text(failure_.rank))};
    }
    if (!failure_.reason.empty()) {
      lines.push_back(format("{} reports: {}", names({failure_.rank}), failure_.reason));
    }
    std::string text;
    for (const std::string& line : lines) text += (text.empty() ? "" : "\n") + line;
    return text;
  }

 private:
  const RankReport* report(int64_t rank) const {
    const auto& one = ranks_[static_cast<size_t>(rank)].report;
    return one ? &*one : nullptr;
  }

  bool knows_others() const {
    return std::count_if(ranks_.begin(), ranks_.end(),
                         [](const Heard& one) { return one.report.has_value(); }) > 1;
  }

  // "rank 5 on node2", "ranks 0-3 on node1", "ranks 0-7 on node1, node2"
  std::string names(const std::vector<int64_t>& rising) const {
    std::vector<std::string> hosts;
    for (const int64_t rank : rising) {
      if (report(rank) == nullptr) continue;
      const std::string& host = report(rank)->host;
      if (std::find(hosts.begin(), hosts.end(), host) == hosts.end()) hosts.push_back(host);
    }
    std::string text = (rising.size() == 1 ? "rank " : "ranks ") + list_ranks(rising);
    for (size_t i = 0; i < hosts.size() && i < 3; ++i) text += (i == 0 ? " on " : ", ") + hosts[i];
    return hosts.size() > 3 ? text + ", ..." : text;
  }

  const GroupReport* group_of(int64_t rank, int64_t index) const {
    if (report(rank) == nullptr) return nullptr;
    for (const GroupReport& group : report(rank)->groups) {
      if (group.index == index) return &group;
    }
    return nullptr;
  }

  // The members' word for it, of the asking rank's group and of others with the same index.
  const GroupReport* group_of(const CallName& name) const {
    return group_of(name.first_rank, name.group);
  }

  // The ranks that the call is for: make_group is for the members of what it makes.
  std::vector<int64_t> members(const GroupReport& group, int64_t owner, int64_t number) const {
    if (group.index != 0) return group.ranks;
    const GroupReport* made = group_of(owner, number);
    return made != nullptr ? made->ranks : group.ranks;
  }

  std::string call_text(const GroupReport& group, int64_t owner, const Call& call) const {
    if (group.index == 0) {
      const GroupReport* made = group_of(owner, call.number);
      return format("make_group of {}", made != nullptr ? made->name : "?");
    }
    return format("{}, call {} of group {}", to_text(call.signature), call.number, group.name);
  }

  // In the user's words where there are any: "dispatch of layer 3 at step 812".
  std::string task_text(const GroupReport& group, int64_t owner, const Call& call) const {
    const std::string text = group.index == 0
                                 ? call_text(group, owner, call)
                                 : format("{} of group {}", operation_text(call), group.name);
    // Checkpoints are written by a thread of their own, whatever the rank does meanwhile.
    if (group.name == "checkpoint") return text + step_text(call.place);
    const std::string what = what_text(call.place);
    if (!what.empty()) return what + step_text(call.place);
    return format("{} ({}){}", text, call.place.phase, step_text(call.place));
  }

  static std::string operation_text(const Call& call) {
    const std::string text = to_text(call.signature);
    return text.substr(0, text.find(' '));
  }

  // What the rank was doing, for the list of all.
  std::string doing_text(int64_t rank) const {
    const Heard& heard = ranks_[static_cast<size_t>(rank)];
    if (!heard.report) return "nothing was heard";
    const RankReport& said = *heard.report;
    std::string text = said.state == RankState::kEnded ? "has ended after " : "";
    text += place_text(said.place);
    if (const auto waiting = said.waits_in()) {
      text += ", waiting in " + call_text(*waiting->first, rank, *waiting->second);
    }
    if (heard.is_silent) text += format("; not heard of for {:.0f} s", heard.ago_s);
    return text;
  }

  std::string last_seen_text(int64_t rank) const {
    const Heard& heard = ranks_[static_cast<size_t>(rank)];
    if (!heard.report) return "nothing was ever heard of it";
    std::string text = heard.report->state == RankState::kEnded ? "it has ended; " : "";
    text += "last seen in " + place_text(heard.report->place);
    if (heard.is_silent) {
      text += format(", not heard of for {:.0f} s: stopped, dead or cut off", heard.ago_s);
    }
    return text;
  }

  // One line for all ranks of which `text_of` says the same.
  template <class TextOf>
  std::vector<std::pair<std::vector<int64_t>, std::string>> merged(
      const std::vector<int64_t>& ranks, const TextOf& text_of) const {
    std::vector<std::pair<std::vector<int64_t>, std::string>> out;
    for (const int64_t rank : ranks) {
      const std::string text = text_of(rank);
      const auto same =
          std::find_if(out.begin(), out.end(), [&](const auto& one) { return one.second == text; });
      if (same == out.end()) {
        out.push_back({{rank}, text});
      } else {
        same->first.push_back(rank);
      }
    }
    return out;
  }

  void add_all_ranks(std::vector<std::string>& lines) const {
    std::vector<int64_t> all;
    for (size_t rank = 0; rank < ranks_.size(); ++rank) all.push_back(static_cast<int64_t>(rank));
    for (const auto& [ranks, text] : merged(all, [&](int64_t r) { return doing_text(r); })) {
      if (lines.size() == kMaxLines) {
        lines.emplace_back("...");
        return;
      }
      lines.push_back(format("{}: {}", names(ranks), text));
    }
  }

  std::vector<std::string> differences() const;
  std::optional<std::string> difference_of(const GroupReport& group) const;
  std::optional<std::string> difference_of_counts(const GroupReport& group) const;
  std::vector<std::string> absent_ranks();
  void blame(const CallName& name);

  const std::vector<Heard>& ranks_;
  const Failure& failure_;
  // Of absent_ranks(): calls that were looked at; for each rank to blame the call it is missed in.
  std::set<CallName> seen_;
  std::map<int64_t, CallName> blamed_;
};

// Those that are not like most of them; like the first where there is no majority.
template <class Value>
std::pair<std::vector<int64_t>, std::vector<int64_t>> split_by_majority(
    const std::map<int64_t, Value>& values) {
  std::vector<int64_t> most;
  for (const auto& [rank, value] : values) {
    std::vector<int64_t> same;
    for (const auto& [other, theirs] : values) {
      if (theirs == value) same.push_back(other);
    }
    if (same.size() > most.size()) most = same;
  }
  std::vector<int64_t> odd;
  for (const auto& [rank, value] : values) {
    if (!std::binary_search(most.begin(), most.end(), rank)) odd.push_back(rank);
  }
  return {most, odd};
}

// The first call of the group, of those that are still kept, that is not the same on all members.
std::optional<std::string> Diagnosis::difference_of(const GroupReport& group) const {
  for (int64_t number = std::max<int64_t>(1, group.num_calls - GroupReport::kKeptCalls + 1);
       number <= group.num_calls; ++number) {
    std::map<int64_t, Signature> by_rank;
    for (const int64_t rank : group.ranks) {
      const GroupReport* theirs = group_of(rank, group.index);
      const Call* call = theirs == nullptr ? nullptr : theirs->find(number);
      if (call != nullptr) by_rank[rank] = call->signature;
    }
    const auto equal = [&](const auto& one) { return one.second == by_rank.begin()->second; };
    if (std::all_of(by_rank.begin(), by_rank.end(), equal)) continue;
    // Signatures have no order: as texts.
    std::map<int64_t, std::string> texts;
    for (const auto& [rank, signature] : by_rank) {
      texts[rank] = group.index == 0 ? call_text(group, rank, *group_of(rank, 0)->find(number))
                                     : to_text(signature);
    }
    const auto [most, odd] = split_by_majority(texts);
    const Call& call = *group_of(odd.front(), group.index)->find(number);
    return format("{} {} {} where {} {} {}: call {} of group {}, in {}", names(odd),
                  odd.size() == 1 ? "calls" : "call", texts[odd.front()], names(most),
                  most.size() == 1 ? "calls" : "call", texts[most.front()], number, group.name,
                  place_text(call.place));
  }
  return std::nullopt;
}

// The calls that differ are no longer kept.
std::optional<std::string> Diagnosis::difference_of_counts(const GroupReport& group) const {
  std::map<int64_t, std::pair<int64_t, uint64_t>> by_rank;
  for (const int64_t rank : group.ranks) {
    const GroupReport* theirs = group_of(rank, group.index);
    if (theirs != nullptr) by_rank[rank] = {theirs->num_calls, theirs->hash};
  }
  const auto [most, odd] = split_by_majority(by_rank);
  if (odd.empty()) return std::nullopt;
  return format("{} {} made other calls of group {} than {}: {} against {} of them", names(odd),
                odd.size() == 1 ? "has" : "have", group.name, names(most),
                by_rank[odd.front()].first, by_rank[most.front()].first);
}

std::vector<std::string> Diagnosis::differences() const {
  std::vector<std::string> lines;
  std::set<std::pair<int64_t, int64_t>> looked_at;
  const auto look_at = [&](const GroupReport& group, bool at_counts) {
    if (!lines.empty()) return;
    const auto line = at_counts ? difference_of_counts(group) : difference_of(group);
    if (line) lines.push_back(*line);
  };
  for (const bool at_counts : {false, true}) {
    if (at_counts && failure_.group >= 0) break;  // who waits has made fewer calls
    looked_at.clear();
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      if (!ranks_[rank].report) continue;
      for (const GroupReport& group : ranks_[rank].report->groups) {
        if (looked_at.emplace(group.index, group.ranks.front()).second) look_at(group, at_counts);
      }
    }
  }
  return lines;
}

// Follows who waits for whom, from the call that failed to ranks that wait for nobody.
void Diagnosis::blame(const CallName& name) {
  if (!seen_.insert(name).second) return;
  const GroupReport* group = group_of(name);
  if (group == nullptr) return;
  for (const int64_t rank : members(*group, name.first_rank, name.number)) {
    const Heard& heard = ranks_[static_cast<size_t>(rank)];
    const GroupReport* theirs = group_of(rank, name.group);
    const bool is_there = theirs != nullptr && theirs->num_calls >= name.number;
    if (heard.is_silent || !heard.report) {
      blamed_.emplace(rank, name);
      continue;
    }
    if (is_there) continue;
    const auto waiting = heard.report->waits_in();
    if (waiting) {
      blame({waiting->first->index, rank, waiting->second->number});
    } else {
      blamed_.emplace(rank, name);
    }
  }
}

std::vector<std::string> Diagnosis::absent_ranks() {
  blame({failure_.group, failure_.rank, failure_.number});
  const auto is_silent = [&](int64_t rank) {
    const Heard& heard = ranks_[static_cast<size_t>(rank)];
    return heard.is_silent || !heard.report;
  };
  // Where some are gone, those that are late are so because of them.
  const bool some_are_gone = std::any_of(blamed_.begin(), blamed_.end(),
                                         [&](const auto& one) { return is_silent(one.first); });
  std::vector<int64_t> ranks;
  for (const auto& [rank, name] : blamed_) {
    if (!some_are_gone || is_silent(rank)) ranks.push_back(rank);
  }
  const auto sentence = [&](int64_t rank) {
    const CallName& name = blamed_.at(rank);
    const GroupReport& group = *group_of(name);
    const Call* call = group.find(name.number);
    const GroupReport* theirs = group_of(rank, name.group);
    const bool is_there = theirs != nullptr && theirs->num_calls >= name.number;
    return format("{} {}; {}", is_there ? "was lost in" : "has not entered",
                  call == nullptr ? "a call of group " + group.name
                                  : task_text(group, name.first_rank, *call),
                  last_seen_text(rank));
  };
  std::vector<std::string> lines;
  for (const auto& [together, text] : merged(ranks, sentence)) {
    lines.push_back(format("{} {}", names(together), text));
  }
  const GroupReport* own = group_of(failure_.rank, failure_.group);
  const Call* call = own == nullptr ? nullptr : own->find(failure_.number);
  if (call == nullptr) return lines;
  std::vector<int64_t> there, missing;
  const std::vector<int64_t> all = members(*own, failure_.rank, failure_.number);
  for (const int64_t rank : all) {
    const GroupReport* theirs = group_of(rank, failure_.group);
    (theirs != nullptr && theirs->num_calls >= failure_.number ? there : missing).push_back(rank);
  }
  const std::string what =
      format("{} of ranks {}", call_text(*own, failure_.rank, *call), list_ranks(all));
  if (lines.empty()) {
    lines.push_back(missing.empty() ? format("all ranks have entered {}, but it does not end", what)
                                    : format("the ranks wait for one another since {}", what));
  }
  lines.push_back(missing.empty() ? format("{}: all have entered it", what)
                                  : format("{}: {} {} entered it, {} {} not", what, names(there),
                                           there.size() == 1 ? "has" : "have", names(missing),
                                           missing.size() == 1 ? "has" : "have"));
  return lines;
}

}  // namespace

std::string list_ranks(const std::vector<int64_t>& rising) {
  std::string text;
  for (size_t i = 0; i < rising.size();) {
    size_t end = i + 1;
    while (end < rising.size() && rising[end] == rising[end - 1] + 1) ++end;
    text += format("{}{}", text.empty() ? "" : ", ", rising[i]);
    if (end - i > 1) text += format("{}{}", end - i == 2 ? ", " : "-", rising[end - 1]);
    i = end;
  }
  return text;
}

std::string diagnose(const std::vector<Heard>& ranks, const Failure& failure) {
  return Diagnosis(ranks, failure).text();
}

}  // namespace locus::comm
