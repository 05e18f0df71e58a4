// Charts on canvas: lines, stacked areas, heat maps. Knows nothing of runs beyond their number.
'use strict';

const kMarginLeft = 50, kMarginRight = 10, kMarginTop = 8, kMarginBottom = 22;

// Mako (seaborn): a sequential map of even perceptual steps, from dark to light.
const kMako =
    ['#0b0405', '#2b1c35', '#413d7b', '#37659e', '#348fa7', '#40b7ad', '#8ad9b1', '#def5e5'];

function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
}

function isDark() {
  return getComputedStyle(document.documentElement).colorScheme === 'dark';
}

// 0 is near the page's own colour, 1 far from it, in both themes.
function heatColour(t) {
  const at = Math.min(1, Math.max(0, t));
  const place = (isDark() ? at : 1 - at) * (kMako.length - 1);
  const low = Math.min(kMako.length - 2, Math.floor(place));
  const part = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  const mixed = [0, 1, 2].map(
      (i) => Math.round(
          part(kMako[low], i) + (place - low) * (part(kMako[low + 1], i) - part(kMako[low], i))));
  return `rgb(${mixed.join(',')})`;
}

// ---- numbers for people

function formatCount(value) {
  if (value === null || !isFinite(value)) return '\u2013';
  const size = Math.abs(value);
  for (const [unit, name] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) {
    if (size >= 0.9995 * unit) return +(value / unit).toPrecision(3) + '\u202f' + name;
  }
  return String(+value.toPrecision(3));
}

function formatNumber(value) {
  if (value === null || !isFinite(value)) return '\u2013';
  const size = Math.abs(value);
  if (size >= 1e4) return formatCount(value);
  if (size !== 0 && size < 1e-3) {
    const [digits, power] = value.toExponential(2).split('e-');
    return `${+ digits}e\u2212${power}`;
  }
  return String(+value.toPrecision(4));
}

function formatPercent(value) {
  if (value === null || !isFinite(value)) return '\u2013';
  return +(100 * value).toPrecision(3) + '\u202f%';
}

function formatSeconds(value) {
  if (value === null || !isFinite(value)) return '\u2013';
  if (value === 0) return '0';
  if (value < 1) return +(1000 * value).toPrecision(3) + '\u202fms';
  if (value < 60) return +value.toPrecision(3) + '\u202fs';
  const whole = Math.round(value);
  const two = (n) => String(n).padStart(2, '0');
  const parts = whole < 3600 ? [Math.floor(whole / 60), 'm', whole % 60, 's'] :
                               [Math.floor(whole / 3600), 'h', Math.floor(whole % 3600 / 60), 'm'];
  return parts[0] + parts[1] + (parts[2] ? two(parts[2]) + parts[3] : '');
}

function formatInteger(value) {
  return Math.round(value).toLocaleString('en-US');
}

// ---- scales

function linearTicks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  const power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    ticks.push(i * step);
  return ticks;
}

// Time is counted in sixties.
function timeTicks(low, high, count) {
  const steps =
      [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];
  const step = steps.find((s) => s >= (high - low) / count);
  if (!step || high - low < 2) return linearTicks(low, high, count);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; ++i) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  const factors = decades * 3 <= count + 2 ? [1, 2, 5] : decades * 2 <= count + 2 ? [1, 3] : [1];
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); ++e) {
    for (const m of factors) {
      const tick = m * Math.pow(10, e);
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks.length >= 3 ? ticks : linearTicks(low, high, count);
}

// value -> pixel, and back
function makeScale(low, high, from, to, log) {
  const f = log ? Math.log : (v) => v;
  const g = log ? Math.exp : (v) => v;
  const span = f(high) - f(low) || 1;
  return {
    low,
    high,
    log,
    at: (value) => from + (f(value) - f(low)) / span * (to - from),
    back: (pixel) => g(f(low) + (pixel - from) / (to - from) * span),
  };
}

// ---- page elements

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function makeToggle(label, colour, shape, onChange) {
  const swatch = element('span', {className: 'swatch ' + shape});
  const paint = () => {
    swatch.style.background = colour();
  };
  const button = element('button', {type: 'button', className: 'toggle'}, swatch, label);
  button.setAttribute('aria-pressed', 'true');
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(on));
    onChange(on);
  });
  paint();
  return {button, paint};
}

const tooltip = {
  // rows: [[colour or null, label, value]]
  show(x, y, title, rows) {
    const box = document.getElementById('tooltip');
    const grid = element('div', {className: 'rows' + (rows.length > 12 ? ' double' : '')});
    for (const [colour, label, value] of rows) {
      const name = element('span', {}, label);
      if (colour) {
        const swatch = element('span', {className: 'swatch'});
        swatch.style.background = colour;
        name.prepend(swatch);
      }
      grid.append(name, element('span', {}, value));
    }
    box.replaceChildren(element('b', {}, title), grid);
    box.hidden = false;
    const left = x + 16 + box.offsetWidth > innerWidth ? x - 16 - box.offsetWidth : x + 16;
    box.style.left = Math.max(4, Math.min(left, innerWidth - box.offsetWidth - 4)) + 'px';
    box.style.top = Math.max(4, Math.min(y + 14, innerHeight - box.offsetHeight - 4)) + 'px';
  },
  hide() {
    document.getElementById('tooltip').hidden = true;
  },
};

// A canvas as fine as the screen; drawing is in CSS pixels.
function prepareCanvas(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.font = '11px ' + getComputedStyle(document.body).fontFamily;
  return context;
}

// Index of the value nearest to x in ascending xs.
function nearestIndex(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x)
      low = middle;
    else
      high = middle;
  }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

// A Gaussian mean in x around each point. At the start, where curves are steep, the window shrinks
// to what both sides have; at the end it is one-sided, so that the last value is not mere noise.
function smooth(xs, ys, width) {
  if (!(width > 0)) return ys;
  let begin = 0;
  return ys.map((own, i) => {
    if (own === null) return null;
    const radius = Math.min(3 * width, xs[i] - xs[0]);
    while (xs[begin] < xs[i] - radius) ++begin;
    let sum = 0, weights = 0;
    for (let j = begin; j < xs.length && xs[j] <= xs[i] + radius; ++j) {
      if (ys[j] === null) continue;
      const weight = Math.exp(-0.5 * Math.pow((xs[j] - xs[i]) / width, 2));
      sum += weight * ys[j];
      weights += weight;
    }
    return sum / weights;
  });
}

// ---- charts

// What the charts of a page share. axis: {name, toX(run, step), format, ticks}.
class View {
  constructor(axis) {
    this.axis = axis;
    this.logX = false;
    this.smoothing = 0;  // of the whole x range
    this.range = null;   // [low, high] of the zoom
    this.hiddenRuns = new Set();
    this.charts = [];
    this.pending = false;
  }
  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      for (const chart of this.charts) chart.draw();
    });
  }
  setRange(range) {
    this.range = range;
    this.onRange(range);
    this.redraw();
  }
  setCursor(x) {
    for (const chart of this.charts) chart.drawCursor(x);
  }
}

// Axes, cross-hair, zoom. A chart of this kind adds: xs() -> [values], extent(x scale),
// drawMarks(), readout(x) -> {x, rows, dots}.
class Plot {
  // options: title, unit, format, log (may be switched), startLog, zero (y starts there), tall
  constructor(parent, view, options) {
    Object.assign(this, {view, options, hidden: new Set(), logY: !!options.startLog, toggles: []});
    this.base = element('canvas');
    this.overlay = element('canvas');
    this.plot = element('div', {className: 'plot', tabIndex: 0}, this.base, this.overlay);
    this.plot.setAttribute('role', 'img');
    this.plot.setAttribute('aria-label', options.title);
    const head = element(
        'div', {className: 'card-head'}, element('h4', {}, options.title),
        element('span', {className: 'unit'}, options.unit || ''));
    if (options.log) head.append(this.makeLogButton());
    this.legend = element('div', {className: 'toggles'});
    this.card = element(
        'div', {className: 'card' + (options.tall ? ' tall' : '')}, head, this.legend, this.plot);
    parent.append(this.card);
    this.listen();
    view.charts.push(this);
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  makeLogButton() {
    const button = element('button', {type: 'button', title: 'logarithmic scale'}, 'log');
    button.setAttribute('aria-pressed', String(this.logY));
    button.addEventListener('click', () => {
      this.logY = !this.logY;
      button.setAttribute('aria-pressed', String(this.logY));
      this.draw();
    });
    return button;
  }

  addToggle(key, label, colour, shape) {
    const toggle = makeToggle(label, colour, shape, (on) => {
      if (on)
        this.hidden.delete(key);
      else
        this.hidden.add(key);
      this.draw();
    });
    this.legend.append(toggle.button);
    this.toggles.push(toggle);
  }

  draw() {
    const width = this.plot.clientWidth, height = this.plot.clientHeight;
    if (width < 40 || !this.card.isConnected) return;
    for (const toggle of this.toggles) toggle.paint();
    const context = prepareCanvas(this.base, width, height);
    this.size = [width, height];
    const right = width - kMarginRight, bottom = height - kMarginBottom;
    const [x0, x1] = this.xRange();
    this.x = makeScale(x0, x1, kMarginLeft, right, this.view.logX);
    const [y0, y1] = this.yRange();
    this.y = makeScale(y0, y1, bottom, kMarginTop, this.logY);
    this.drawYAxis(context, right);
    this.drawXAxis(context, right, bottom);
    context.save();
    context.beginPath();
    context.rect(kMarginLeft, kMarginTop - 4, right - kMarginLeft + 4, bottom - kMarginTop + 5);
    context.clip();
    this.drawMarks(context);
    context.restore();
    prepareCanvas(this.overlay, width, height);
  }

  xRange() {
    if (this.view.range) return this.view.range;
    const xs = this.xs().filter((x) => isFinite(x) && (!this.view.logX || x > 0));
    if (!xs.length) return [this.view.logX ? 1 : 0, this.view.logX ? 10 : 1];
    const low = Math.min(...xs), high = Math.max(...xs);
    if (!this.view.logX && low > 0 && low < 0.05 * high) return [0, high];
    return high > low ? [low, high] : [low * 0.9, low * 1.1 + 1e-9];
  }

  yRange() {
    let [low, high] = this.extent();
    if (!(low <= high)) return this.logY ? [0.1, 1] : [0, 1];
    if (this.logY) {
      if (high / low < 1.05) return [low / 1.05, high * 1.05];
      const pad = Math.pow(high / low, 0.04);
      return [low / pad, high * pad];
    }
    if (this.options.zero) low = Math.min(0, low);
    if (high === low)
      return high === 0 ? [0, 1] : [low - Math.abs(low) * 0.1, high + Math.abs(high) * 0.1];
    const pad = (high - low) * 0.05;
    return [this.options.zero && low === 0 ? 0 : low - pad, high + pad];
  }

  drawYAxis(context, right) {
    const yCount = Math.max(3, this.size[1] / 42);
    const yTicks = (this.logY ? logTicks : linearTicks)(this.y.low, this.y.high, yCount);
    context.strokeStyle = cssColour('grid');
    context.lineWidth = 1;
    context.beginPath();
    for (const tick of yTicks) {
      const y = Math.round(this.y.at(tick)) + 0.5;
      context.moveTo(kMarginLeft, y);
      context.lineTo(right, y);
    }
    context.stroke();
    context.fillStyle = cssColour('soft');
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    for (const tick of yTicks)
      context.fillText(this.options.format(tick), kMarginLeft - 6, this.y.at(tick));
  }

  drawXAxis(context, right, bottom) {
    const width = this.size[0];
    const xTicks = this.x.log ?
        logTicks(this.x.low, this.x.high, 6) :
        (this.view.axis.ticks || linearTicks)(this.x.low, this.x.high, Math.max(3, width / 75));
    context.fillStyle = cssColour('soft');
    context.textBaseline = 'alphabetic';
    let free = 0;  // where the last label ended
    for (const tick of xTicks) {
      const text = this.view.axis.format(tick);
      const half = context.measureText(text).width / 2;
      const x = Math.min(this.x.at(tick), width - half - 1);
      if (x - half < free) continue;
      context.textAlign = 'center';
      context.fillText(text, x, bottom + 15);
      free = x + half + 8;
    }
    context.strokeStyle = cssColour('line');
    context.strokeRect(kMarginLeft + 0.5, bottom + 0.5, right - kMarginLeft, 0);
  }

  listen() {
    const position = (event) => event.clientX - this.plot.getBoundingClientRect().left;
    this.plot.addEventListener('pointermove', (event) => {
      if (this.x) this.point(position(event), event.clientX, event.clientY);
    });
    this.plot.addEventListener('pointerdown', (event) => {
      if (event.pointerType === 'mouse') this.dragFrom = position(event);
    });
    this.plot.addEventListener('pointerup', (event) => this.endDrag(position(event)));
    this.plot.addEventListener('dblclick', () => this.view.setRange(null));
    this.plot.addEventListener('pointerleave', () => this.leave());
    this.plot.addEventListener('blur', () => this.leave());
    this.plot.addEventListener('keydown', (event) => this.pressKey(event));
  }

  endDrag(to) {
    const from = this.dragFrom;
    this.dragFrom = undefined;
    if (from === undefined || Math.abs(to - from) < 6) return;
    this.view.setRange([this.x.back(Math.min(from, to)), this.x.back(Math.max(from, to))]);
  }

  leave() {
    this.dragFrom = undefined;
    tooltip.hide();
    this.view.setCursor(null);
  }

  pressKey(event) {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!move || !this.x) return;
    event.preventDefault();
    const inner = this.size[0] - kMarginLeft - kMarginRight;
    const old = this.keyAt === undefined ? kMarginLeft + inner : this.keyAt;
    this.keyAt = Math.max(kMarginLeft, Math.min(kMarginLeft + inner, old + move * inner / 60));
    const box = this.plot.getBoundingClientRect();
    this.point(this.keyAt, box.left + this.keyAt, box.top + 30);
  }

  point(pixel, clientX, clientY) {
    const inner = Math.max(kMarginLeft, Math.min(this.size[0] - kMarginRight, pixel));
    const read = this.readout(this.x.back(inner));
    if (!read) return;
    this.view.setCursor(read.x);
    if (this.dragFrom !== undefined) this.drawSelection(pixel);
    tooltip.show(clientX, clientY, read.title, read.rows);
  }

  drawSelection(pixel) {
    const context = this.overlay.getContext('2d');
    context.globalAlpha = 0.15;
    context.fillStyle = cssColour('accent');
    context.fillRect(
        this.dragFrom, kMarginTop, pixel - this.dragFrom,
        this.size[1] - kMarginBottom - kMarginTop);
    context.globalAlpha = 1;
  }

  drawCursor(x) {
    if (!this.x) return;
    const context = this.overlay.getContext('2d');
    context.clearRect(0, 0, ...this.size);
    if (x === null || x < this.x.low || x > this.x.high) return;
    const pixel = Math.round(this.x.at(x)) + 0.5;
    context.strokeStyle = cssColour('faint');
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(pixel, kMarginTop);
    context.lineTo(pixel, this.size[1] - kMarginBottom);
    context.stroke();
    const read = this.readout(x);
    for (const [dotX, dotY, colour] of read ? read.dots : []) {
      context.fillStyle = colour;
      context.beginPath();
      context.arc(this.x.at(dotX), this.y.at(dotY), 3, 0, 7);
      context.fill();
    }
  }
}
