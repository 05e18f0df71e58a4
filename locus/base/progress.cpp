#include "locus/base/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>

#include "locus/base/format.h"

namespace locus {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kPlainLineSeconds = 10.0;
constexpr int kBarColumns = 24;

std::atomic<bool> line_is_dirty{false};

int terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col;
  return 80;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 60) return format("{}s", whole);
  if (whole < 3600) return format("{}m{:02}s", whole / 60, whole % 60);
  return format("{}h{:02}m", whole / 3600, whole % 3600 / 60);
}

ProgressBar::ProgressBar(std::string what, int64_t total, Style style)
    : what_(std::move(what)), total_(total), silent_(style == Style::kSilent) {
  terminal_ = style == Style::kTerminal || (style == Style::kAuto && stderr_is_terminal());
}

ProgressBar::~ProgressBar() { finish(); }

bool ProgressBar::stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

void ProgressBar::update(int64_t done, std::string_view text) {
  if (first_done_ < 0) first_done_ = done;
  done_ = done;
  text_ = text;
  const double since = std::chrono::duration<double>(Clock::now() - last_draw_).count();
  if (!silent_ && since >= (terminal_ ? kRedrawSeconds : kPlainLineSeconds)) draw(false);
}

void ProgressBar::finish() {
  if (finished_) return;
  finished_ = true;
  if (!silent_ && first_done_ >= 0) draw(true);
}

void ProgressBar::draw(bool last) {
  last_draw_ = Clock::now();
  const double elapsed_s = std::chrono::duration<double>(last_draw_ - start_).count();
  // ETA from the work of this run alone.
  const int64_t total = total_ > 0 ? std::max<int64_t>(total_, 1) : 0;
  const double fresh = static_cast<double>(done_ - first_done_);
  const double share = total > first_done_ ? fresh / static_cast<double>(total - first_done_) : 0.0;
  const double scaled =
      share > 0 && done_ < total
          ? elapsed_s / share * static_cast<double>(done_) / static_cast<double>(total)
          : elapsed_s;
  const std::string line = render(what_, done_, total, last ? elapsed_s : scaled, text_,
                                  terminal_ ? terminal_columns() - 1 : 160);
  if (terminal_) {
    std::fprintf(stderr, "\r\x1b[K%s%s", line.c_str(), last ? "\n" : "");
    line_is_dirty = !last;
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::fflush(stderr);
}

std::string ProgressBar::render(std::string_view what, int64_t done, int64_t total,
                                double elapsed_s, std::string_view text, int width) {
  std::string line(what);
  if (total > 0) {
    const double share =
        std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    const int filled = static_cast<int>(share * kBarColumns);
    const std::string time = done >= total || share <= 0
                                 ? format_duration(elapsed_s)
                                 : "ETA " + format_duration(elapsed_s / share * (1 - share));
    line += format(" [{}{}] {:3.0f}% {}", std::string(static_cast<size_t>(filled), '#'),
                   std::string(static_cast<size_t>(kBarColumns - filled), '.'), share * 100, time);
  } else {
    line += format(" {}", format_duration(elapsed_s));
  }
  if (!text.empty()) line += "  " + std::string(text);
  if (static_cast<int>(line.size()) > width) line.resize(static_cast<size_t>(width));
  return line;
}

void ProgressBar::clear_line() {
  if (line_is_dirty.exchange(false)) {
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
  }
}

}  // namespace locus
