"""Pictures for the documents as SVG, without a library: lines over steps, and a table of shades."""
from __future__ import annotations

import html
import math

# Okabe and Ito's colours: told apart with any kind of sight.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333", "#999999"]
FONT = 'font-family="system-ui, sans-serif" font-size="13" fill="#222"'


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {FONT} {more}>'
            f"{html.escape(text)}</text>")


def _svg(width: float, height: float, parts: list[str]) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}">\n'
            f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>\n'
            + "\n".join(parts) + "\n</svg>\n")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within [low, high], about `count` of them."""
    raw = (high - low or 1.0) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(title: str, x_label: str, y_label: str,
          series: dict[str, list[tuple[float, float]]], log: bool = False) -> str:
    """One line for each name; names that start with "~" are dashed (and lose the sign).

    `log`: a logarithmic y axis, which values of zero are left out of.
    """
    if log:
        series = {name: [(x, math.log10(y)) for x, y in one if y > 0]
                  for name, one in series.items()}
    height, left, top, bottom = 420, 76, 44, 52
    right = 56 + 8 * max(map(len, series))  # the legend
    width = left + 520 + right
    points = [point for one in series.values() for point in one]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    pad = (y_high - y_low or 1.0) * 0.05
    y_low, y_high = y_low - pad, y_high + pad

    def place(x: float, y: float) -> tuple[float, float]:
        return (left + (x - x_low) / (x_high - x_low or 1) * (width - left - right),
                height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom))

    parts = [_text(left, 24, title, more='font-weight="600"'),
             _text((left + width - right) / 2, height - 12, x_label, "middle"),
             _text(16, height / 2, y_label, "middle",
                   f'transform="rotate(-90 16 {height / 2})"')]
    for value in ticks(y_low, y_high):
        _, y = place(x_low, value)
        label = f"{10 ** value:.1g}" if log else f"{value:g}"
        parts += [f'<path d="M{left} {y:.1f}H{width - right}" stroke="#ddd"/>',
                  _text(left - 6, y + 4, label, "end")]
    for value in ticks(x_low, x_high):
        parts.append(_text(place(value, 0)[0], height - bottom + 18, f"{value:g}", "middle"))
    for i, (name, one) in enumerate(series.items()):
        colour, dash = COLOURS[i % len(COLOURS)], ' stroke-dasharray="5 4"' * name.startswith("~")
        spots = [place(*point) for point in one]
        path = "M" * bool(one) + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        y = top + 14 + 22 * i
        parts += [f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>',
                  f'<path d="M{width - right + 12} {y - 4}h22" stroke="{colour}" '
                  f'stroke-width="2.4"{dash}/>', _text(width - right + 40, y, name.lstrip("~"))]
    return _svg(width, height, parts)


def roofline(title: str, peak: float, bandwidth: float,
             points: dict[str, tuple[float, float]]) -> str:
    """Operations per second over operations per byte, both logarithmic, below the machine's two
    limits; `points`: (operations per byte, operations per second)."""
    width, height, left, right, top, bottom = 820, 460, 76, 24, 44, 52
    x_low = math.floor(math.log10(min(x for x, _ in points.values())))
    x_high = math.ceil(math.log10(max(max(x for x, _ in points.values()), peak / bandwidth)))
    y_high = math.log10(peak) + 0.15
    y_low = min(math.log10(min(y for _, y in points.values())), math.log10(bandwidth) + x_low) - 0.1

    def place(x: float, y: float) -> tuple[float, float]:
        return (left + (math.log10(x) - x_low) / (x_high - x_low) * (width - left - right),
                height - bottom - (math.log10(y) - y_low) / (y_high - y_low) * (height - top - bottom))

    parts = [_text(left, 24, title, more='font-weight="600"'),
             _text((left + width - right) / 2, height - 12, "operations per byte", "middle"),
             _text(16, height / 2, "GFLOP/s", "middle", f'transform="rotate(-90 16 {height / 2})"')]
    for power in range(math.ceil(y_low), math.floor(y_high) + 1):
        _, y = place(10 ** x_low, 10 ** power)
        parts += [f'<path d="M{left} {y:.1f}H{width - right}" stroke="#ddd"/>',
                  _text(left - 6, y + 4, f"{10 ** (power - 9):g}", "end")]
    for power in range(x_low, x_high + 1):
        parts.append(_text(place(10 ** power, peak)[0], height - bottom + 18, f"{10 ** power:g}", "middle"))
    start = max(10 ** x_low, 10 ** y_low / bandwidth)
    roof = [place(start, bandwidth * start), place(peak / bandwidth, peak), place(10 ** x_high, peak)]
    parts.append('<path d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in roof)
                 + '" fill="none" stroke="#333" stroke-width="2"/>')
    parts.append(_text(roof[2][0], roof[2][1] - 8, f"{peak / 1e9:.0f} GFLOP/s", "end"))
    parts.append(_text(roof[0][0] + 8, roof[0][1] - 14, f"{bandwidth / 1e9:.0f} GB/s"))
    taken: list[tuple[float, float, float]] = []  # labels: from, to, height
    for i, (name, point) in enumerate(sorted(points.items(), key=lambda item: item[1])):
        x, y = place(*point)
        label = f"{name}: {point[1] / min(peak, bandwidth * point[0]):.0%}"
        end = x > width / 2
        span = (x - 9 - 7.5 * len(label), x - 9) if end else (x + 9, x + 9 + 7.5 * len(label))
        down = 0
        while any(span[0] < right_ and left_ < span[1] and abs(y + down - at) < 16
                  for left_, right_, at in taken):
            down += 17
        taken.append((*span, y + down))
        colour = COLOURS[i % len(COLOURS)]
        parts += [f'<path d="M{x:.1f} {y:.1f}V{y + down:.1f}" stroke="{colour}"/>' * bool(down),
                  f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>',
                  _text(x - 9 if end else x + 9, y + down + 4, label, "end" if end else "start")]
    return _svg(width, height, parts)


def shades(title: str, columns: list[str], rows: dict[str, list[float]], form: str = "{:+.2f}",
           note: str = "") -> str:
    """A table whose cells are blue below zero (better) and orange above it."""
    left, cell, line, top = 170, 96, 26, 74
    width, height = left + cell * len(columns) + 16, top + line * len(rows) + 30
    most = max((abs(value) for one in rows.values() for value in one), default=1) or 1
    parts = [_text(12, 24, title, more='font-weight="600"')]
    parts += [_text(left + cell * (i + 0.5), top - 10, name, "middle")
              for i, name in enumerate(columns)]
    for j, (name, values) in enumerate(rows.items()):
        y = top + line * j
        parts.append(_text(12, y + 18, name))
        for i, value in enumerate(values):
            base = "#0072b2" if value < 0 else "#d55e00"
            parts += [f'<rect x="{left + cell * i + 1}" y="{y + 1}" width="{cell - 2}" '
                      f'height="{line - 2}" fill="{base}" '
                      f'fill-opacity="{0.05 + 0.55 * abs(value) / most:.2f}"/>',
                      _text(left + cell * (i + 0.5), y + 18, form.format(value), "middle")]
    return _svg(width, height, [*parts, _text(12, height - 10, note)])
