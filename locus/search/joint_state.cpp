#include "locus/search/joint_state.h"

#include <nlohmann/json.hpp>
#include <set>

#include "locus/base/error.h"

namespace locus::search {

using nlohmann::json;

namespace {

std::set<size_t> sizes_of(const JointState& state) {
  std::set<size_t> sizes;
  const PaperState& paper = state.paper;
  for (const auto* values :
       {&state.importance, &state.gates.logits, &state.gates.mean, &state.gates.square,
        &paper.running, &paper.magnitude, &paper.feature, &paper.correlation}) {
    if (!values->empty()) sizes.insert(values->size());
  }
  for (const std::string& step : paper.history) sizes.insert(step.size());
  return sizes;
}

}  // namespace

size_t JointState::num_units() const {
  const std::set<size_t> sizes = sizes_of(*this);
  return sizes.empty() ? 0 : *sizes.begin();
}

std::string to_json(const JointState& state) {
  json out{{"calibrated_steps", state.calibrated_steps},
           {"importance", state.importance},
           {"logits", state.gates.logits},
           {"mean", state.gates.mean},
           {"square", state.gates.square},
           {"updates", state.gates.updates}};
  if (!state.paper.running.empty()) {
    out["paper"] = {{"running", state.paper.running},
                    {"magnitude", state.paper.magnitude},
                    {"feature", state.paper.feature},
                    {"correlation", state.paper.correlation},
                    {"history", state.paper.history}};
  }
  return out.dump() + "\n";
}

JointState read_joint_state(const std::string& source, const std::string& text) {
  try {
    const json content = json::parse(text);
    JointState state;
    content.at("calibrated_steps").get_to(state.calibrated_steps);
    content.at("importance").get_to(state.importance);
    content.at("logits").get_to(state.gates.logits);
    content.at("mean").get_to(state.gates.mean);
    content.at("square").get_to(state.gates.square);
    content.at("updates").get_to(state.gates.updates);
    if (content.contains("paper")) {
      const json& paper = content.at("paper");
      paper.at("running").get_to(state.paper.running);
      paper.at("magnitude").get_to(state.paper.magnitude);
      paper.at("feature").get_to(state.paper.feature);
      paper.at("correlation").get_to(state.paper.correlation);
      paper.at("history").get_to(state.paper.history);
    }
    const PaperState& paper = state.paper;
    const bool is_whole =
        paper.magnitude.size() == paper.running.size() &&
        paper.feature.size() == paper.running.size() &&
        paper.correlation.size() == paper.running.size() &&
        (paper.running.empty() || paper.running.size() == state.gates.logits.size());
    if (is_whole && sizes_of(state).size() <= 1) return state;
    throw DataError("{}: its parts are of different numbers of units", source);
  } catch (const json::exception& error) {
    throw DataError("{}: {}", source, error.what());
  }
}

}  // namespace locus::search
