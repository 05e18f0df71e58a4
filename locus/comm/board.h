// Where ranks post what they do, for all to read: one or several stores with equal content, so that
// the loss of the rank that serves one does not silence the others. Nothing here waits for long for
// a store that does not answer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "locus/comm/store.h"

namespace locus::comm {

// A store whose answers have a deadline: a thread asks it, and is left behind where it hangs.
class PatientStore {
 public:
  explicit PatientStore(std::shared_ptr<Store> store);
  ~PatientStore();
  PatientStore(const PatientStore&) = delete;
  PatientStore& operator=(const PatientStore&) = delete;

  // False where `question` has not been answered in time. It owns all that it needs.
  bool ask(std::function<void(Store&)> question, double timeout_s);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

class Board {
 public:
  // Keys begin with `prefix`. Nobody else uses these connections.
  Board(const std::vector<std::shared_ptr<Store>>& stores, std::string prefix);

  // To all stores.
  void post(const std::string& key, const std::string& text);
  // What the first store says that answers. The outer one is empty where none does; a text is
  // empty where nobody has posted it.
  std::optional<std::vector<std::string>> read(const std::vector<std::string>& keys);
  // True for one caller of all. Empty where no store answers.
  std::optional<bool> claim(const std::string& key);
  // Ranks whose stores serve others stay until `num_ranks` have called it, but not for longer than
  // this.
  void leave(int64_t num_ranks, double patience_s);

 private:
  std::string prefix_;
  std::vector<std::unique_ptr<PatientStore>> stores_;
  std::vector<bool> serves_;
};

}  // namespace locus::comm
