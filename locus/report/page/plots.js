// The three kinds of chart, on the ground that charts.js lays.
'use strict';

// series: {run, key, label, colour(), steps, values, meanSteps, meanValues, noisy, marks, dash,
// shape}
class LineChart extends Plot {
  constructor(parent, view, options, series) {
    super(parent, view, options);
    this.series = series;
    const shown = new Set();
    for (const one of series) {
      if (!options.toggle || shown.has(one.key)) continue;
      shown.add(one.key);
      const shape = one.shape || (one.marks ? 'dot' : '');
      this.addToggle(one.key, one.keyLabel || one.key, one.keyColour || one.colour, shape);
    }
  }

  visible() {
    return this.series.filter((s) => !this.hidden.has(s.key) && !this.view.hiddenRuns.has(s.run));
  }

  // x and y as drawn, under the present axis and smoothing.
  prepared(series) {
    const view = this.view;
    const key = view.axis.name + '/' + view.smoothing;
    if (series.cacheKey === key) return series.cache;
    const toX = (step) => view.axis.toX(series.run, step);
    const raw = {x: series.steps.map(toX), y: series.values};
    let line = raw;
    if (series.noisy && view.smoothing > 0) {
      const x = series.meanSteps ? series.meanSteps.map(toX) : raw.x;
      const width = view.smoothing * (x[x.length - 1] - x[0]);
      line = {x, y: smooth(x, series.meanValues || raw.y, width)};
    }
    series.cacheKey = key;
    series.cache = {raw, line};
    return series.cache;
  }

  xs() {
    return this.visible().flatMap((s) => {
      const x = this.prepared(s).raw.x;
      return this.view.logX ? [x.find((v) => v > 0), x[x.length - 1]] : [x[0], x[x.length - 1]];
    });
  }

  extent() {
    let low = Infinity, high = -Infinity;
    for (const series of this.visible()) {
      const {x, y} = this.prepared(series).raw;
      for (let i = 0; i < x.length; ++i) {
        if (y[i] === null || x[i] < this.x.low || x[i] > this.x.high || (this.logY && y[i] <= 0))
          continue;
        if (y[i] < low) low = y[i];
        if (y[i] > high) high = y[i];
      }
    }
    return [low, high];
  }

  drawMarks(context) {
    for (const series of this.visible()) {
      const {raw, line} = this.prepared(series);
      context.strokeStyle = context.fillStyle = series.colour();
      context.lineJoin = 'round';
      if (line !== raw) {
        context.globalAlpha = 0.28;
        context.lineWidth = 1;
        this.stroke(context, raw);
        context.globalAlpha = 1;
      }
      context.lineWidth = 1.6;
      context.setLineDash(series.dash || []);
      this.stroke(context, line);
      context.setLineDash([]);
      if (series.marks || raw.x.length === 1) this.drawDots(context, raw);
    }
  }

  stroke(context, {x, y}) {
    context.beginPath();
    let pen = false;
    for (let i = 0; i < x.length; ++i) {
      const good = y[i] !== null && (!this.logY || y[i] > 0) && (!this.view.logX || x[i] > 0);
      if (good && pen) context.lineTo(this.x.at(x[i]), this.y.at(y[i]));
      if (good && !pen) context.moveTo(this.x.at(x[i]), this.y.at(y[i]));
      pen = good;
    }
    context.stroke();
  }

  drawDots(context, {x, y}) {
    if (x.length > 80) return;
    for (let i = 0; i < x.length; ++i) {
      if (y[i] === null || (this.logY && y[i] <= 0)) continue;
      context.beginPath();
      context.arc(this.x.at(x[i]), this.y.at(y[i]), 2.4, 0, 7);
      context.fill();
    }
  }

  readout(x) {
    const rows = [], dots = [];
    let title = null, at = x;
    for (const series of this.visible()) {
      const {raw, line} = this.prepared(series);
      const i = nearestIndex(line.x, x);
      if (line.y[i] === null || x > line.x[line.x.length - 1] * 1.02) continue;
      let text = this.options.format(line.y[i]);
      if (line !== raw) {
        const own = raw.y[nearestIndex(raw.x, x)];
        if (own !== null) text += ` (${this.options.format(own)})`;
      }
      if (title === null) at = line.x[i];
      title = title || this.view.axis.title(line.x[i]);
      rows.push([series.colour(), series.label, text]);
      if (!this.logY || line.y[i] > 0) dots.push([line.x[i], line.y[i], series.colour()]);
    }
    return rows.length ? {x: at, title, rows, dots} : null;
  }
}

// parts: [{name, colour(), values}], all at `steps` of one run.
class StackChart extends Plot {
  constructor(parent, view, options, run, steps, parts) {
    super(parent, view, options);
    Object.assign(this, {run, steps, parts});
    for (const part of parts) this.addToggle(part.name, part.name, part.colour, 'box');
  }

  draw() {
    this.card.hidden = this.view.hiddenRuns.has(this.run);
    if (!this.card.hidden) super.draw();
  }

  visible() {
    return this.parts.filter((part) => !this.hidden.has(part.name));
  }
  places() {
    return this.steps.map((step) => this.view.axis.toX(this.run, step));
  }
  xs() {
    return this.places().filter((x) => !this.view.logX || x > 0);
  }

  sums() {
    return this.steps.map(
        (step, i) => this.visible().reduce((sum, part) => sum + (part.values[i] || 0), 0));
  }

  extent() {
    const xs = this.places();
    const inside = this.sums().filter((sum, i) => xs[i] >= this.x.low && xs[i] <= this.x.high);
    return inside.length ? [0, Math.max(...inside)] : [1, 0];
  }

  drawMarks(context) {
    const xs = this.places().map((x) => this.x.at(x));
    let below = this.steps.map(() => 0);
    for (const part of this.visible()) {
      const above = below.map((sum, i) => sum + (part.values[i] || 0));
      context.fillStyle = part.colour();
      context.beginPath();
      xs.forEach((x, i) => context.lineTo(x, this.y.at(above[i])));
      for (let i = xs.length - 1; i >= 0; --i) context.lineTo(xs[i], this.y.at(below[i]));
      context.fill();
      below = above;
    }
  }

  readout(x) {
    const xs = this.places();
    const i = nearestIndex(xs, x);
    if (x > xs[xs.length - 1] * 1.02) return null;
    const total = this.sums()[i];
    const share = (value) =>
        `${this.options.format(value)}  ${formatPercent(total > 0 ? value / total : 0)}`;
    const rows = this.visible().slice().reverse().map(
        (part) => [part.colour(), part.name, share(part.values[i] || 0)]);
    rows.push([null, 'together', this.options.format(total)]);
    return {x: xs[i], title: this.view.axis.title(xs[i]), rows, dots: []};
  }
}

// options: rows, columns (labels), values[row][column], tone(value) -> 0 to 1,
// readout(row, column) -> {title, rows}, text(value) for large cells, columnTicks, breaks (numbers
// of the rows and columns before which there is a gap), height (of many rows together)
class HeatMap {
  constructor(parent, title, note, options) {
    Object.assign(this, options);
    this.canvas = element('canvas');
    this.overlay = element('canvas');
    this.plot = element('div', {className: 'plot', tabIndex: 0}, this.canvas, this.overlay);
    this.plot.setAttribute('role', 'img');
    this.plot.setAttribute('aria-label', `${title} ${note}`);
    const rowHeight =
        Math.max(2.5, Math.min(this.text ? 22 : 17, (this.height || 200) / this.rows.length));
    this.plot.style.height = Math.round(rowHeight * this.rows.length) + 18 + 'px';
    const head = element('h4', {}, title + ' ', element('span', {}, note));
    parent.append(element('div', {className: 'map'}, head, this.plot));
    this.plot.addEventListener('pointermove', (event) => this.point(event));
    this.plot.addEventListener('pointerleave', () => {
      tooltip.hide();
      this.mark(null);
    });
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  left(context) {
    const widest = Math.max(...this.rows.map((row) => context.measureText(row).width));
    return Math.min(110, Math.ceil(widest) + 7);
  }

  // Whole device pixels, so that no seams show between the cells.
  cell(row, column) {
    const ratio = devicePixelRatio || 1;
    const snap = (v) => Math.round(v * ratio) / ratio;
    const [x0, y0, width, height] = this.area;
    const x = snap(x0 + width * column / this.columns.length);
    const y = snap(y0 + height * row / this.rows.length);
    return [
      x, y, snap(x0 + width * (column + 1) / this.columns.length) - x,
      snap(y0 + height * (row + 1) / this.rows.length) - y
    ];
  }

  draw() {
    const width = this.plot.clientWidth, height = this.plot.clientHeight;
    if (width < 40) return;
    const context = prepareCanvas(this.canvas, width, height);
    prepareCanvas(this.overlay, width, height);
    const left = this.left(context);
    this.size = [width, height];
    this.area = [left, 0, width - left - 1, height - 18];
    this.values.forEach((row, r) => row.forEach((value, c) => {
      const [x, y, w, h] = this.cell(r, c);
      context.fillStyle = value === null ? cssColour('grid') : heatColour(this.tone(value));
      context.fillRect(x, y, w, h);
    }));
    this.drawBreaks(context);
    this.drawLabels(context);
    if (this.text) this.drawTexts(context);
  }

  drawBreaks(context) {
    const [left, top, width, height] = this.area;
    const gap = Math.max(2, Math.min(3, 0.3 * height / this.rows.length));
    context.fillStyle = cssColour('page');
    for (const line of this.breaks || []) {
      const [x, y] = this.cell(line, line);
      context.fillRect(x - gap / 2, top, gap, height);
      context.fillRect(left, y - gap / 2, width, gap);
    }
  }

  drawLabels(context) {
    const [left, , width, height] = this.area;
    context.fillStyle = cssColour('soft');
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    let free = -1;
    this.rows.forEach((label, r) => {
      const y = (r + 0.5) * height / this.rows.length;
      if (y - 6 < free) return;
      context.fillText(label, left - 5, y, left - 5);
      free = y + 6;
    });
    context.textBaseline = 'alphabetic';
    context.textAlign = 'center';
    free = 0;
    for (const [column, label] of this.columnTicks()) {
      const half = context.measureText(label).width / 2;
      const middle = left + width * column / this.columns.length;
      const x = Math.max(left + half, Math.min(middle, left + width - half));
      if (x - half < free) continue;
      context.fillText(label, x, height + 14);
      free = x + half + 8;
    }
  }

  drawTexts(context) {
    const [, , w, h] = this.cell(0, 0);
    if (w < 30 || h < 13) return;
    context.textBaseline = 'middle';
    this.values.forEach((row, r) => row.forEach((value, c) => {
      if (value === null) return;
      const [x, y, cw, ch] = this.cell(r, c);
      const strong = this.tone(value) > 0.5;
      context.fillStyle = strong === isDark() ? '#10181c' : '#f4f8f6';
      context.fillText(this.text(value), x + cw / 2, y + ch / 2 + 0.5);
    }));
  }

  point(event) {
    if (!this.area) return;
    const box = this.plot.getBoundingClientRect();
    const [left, top, width, height] = this.area;
    const column = Math.floor((event.clientX - box.left - left) / width * this.columns.length);
    const row = Math.floor((event.clientY - box.top - top) / height * this.rows.length);
    const inside =
        row >= 0 && row < this.rows.length && column >= 0 && column < this.columns.length;
    this.mark(inside ? [row, column] : null);
    if (!inside) return tooltip.hide();
    const read = this.readout(row, column);
    return tooltip.show(event.clientX, event.clientY, read.title, read.rows);
  }

  mark(place) {
    if (!this.size) return;
    const context = this.overlay.getContext('2d');
    context.clearRect(0, 0, ...this.size);
    if (!place) return;
    const [x, y, w, h] = this.cell(...place);
    context.strokeStyle = cssColour('ink');
    context.lineWidth = 1.5;
    context.strokeRect(x - 0.5, y - 0.5, Math.max(w, 2) + 1, Math.max(h, 2) + 1);
  }
}

// A strip of the map's colours between two labels; with a notch at `notch` (0 to 1), if that is
// given.
function drawScale(parent, from, to, note, notch) {
  const canvas = element('canvas');
  parent.replaceChildren(from, canvas, to, element('span', {}, note));
  return () => {
    const context = prepareCanvas(canvas, 180, 10);
    for (let i = 0; i < 180; ++i) {
      context.fillStyle = heatColour(i / 179);
      context.fillRect(i, 0, 1.5, 10);
    }
    if (notch === undefined) return;
    context.fillStyle = cssColour('ink');
    context.fillRect(180 * notch - 0.75, 0, 1.5, 10);
  };
}
