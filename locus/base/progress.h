// One line on a terminal that redraws itself; where stderr is no terminal, a plain line now and
// then.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace locus {

// Wall time as people read it: "42s", "3m10s", "2h05m".
std::string format_duration(double seconds);

class ProgressBar {
 public:
  enum class Style {
    kAuto,      // bar on a terminal, a line every ten seconds elsewhere
    kTerminal,  // always the bar
    kSilent,    // nothing
  };

  // `total` in units of the caller (bytes, steps); 0 = unknown. `what` stands in front of the bar.
  ProgressBar(std::string what, int64_t total, Style style = Style::kAuto);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Shows `done` of total and the caller's text (rates, loss). Cheap: redraws at most ten times a
  // second.
  void update(int64_t done, std::string_view text);
  // Draws the last state and ends the line. Called by the destructor if need be.
  void finish();

  bool on_terminal() const { return terminal_; }
  static bool stderr_is_terminal();

  // One drawn line, at most `width` columns: separate from the drawing, so that it can be tested.
  static std::string render(std::string_view what, int64_t done, int64_t total, double elapsed_s,
                            std::string_view text, int width);

  // Wipes a bar that is being drawn, so that a log line can take its place; it comes back by
  // itself.
  static void clear_line();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(bool last);

  std::string what_;
  int64_t total_;
  int64_t done_ = 0;
  int64_t first_done_ = -1;  // a resumed run starts late: ETA counts from here
  std::string text_;
  bool terminal_ = false;
  bool silent_ = false;
  bool finished_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_draw_{};
};

}  // namespace locus
