// The section "Communication": bytes and times of the exchanges of token rows, and the timeline of
// one step.
'use strict';

const kRankGap = 10;     // pixels between the lanes of two ranks
const kBarMargin = 1.5;  // pixels beside a bar at which it is still pointed at

// The lanes of a rank from the top; tracks of other names follow.
const kTracks = ['compute', 'wait', 'rows under way'];

// What a bar shows: [whether it is such a bar, legend, colour]. The first that fits counts.
const kBarKinds = [
  [(name, track) => track === 'wait', 'waiting', 'run-1'],
  [(name) => name.startsWith('forward'), 'forward', 'part-1'],
  [(name) => name.startsWith('backward'), 'backward', 'part-2'],
  [(name) => name.startsWith('experts'), 'experts', 'part-5'],
  [(name) => name.startsWith('optimizer'), 'optimizer', 'part-3'],
  [(name) => name.startsWith('dispatch'), 'dispatch and its gradients', 'run-5'],
  [(name) => name.startsWith('combine'), 'combine and its gradients', 'part-0'],
  [() => true, 'other', 'faint'],
];

function formatBytes(value) {
  return formatCount(value) + (value < 999.5 ? '\u202fB' : 'B');
}

// The bars of a lane, earliest first. A bar within another becomes its lower half.
function nestBars(bars) {
  let end = -Infinity;
  for (const bar of bars) {
    const inside = bar.end <= end;
    bar.top = inside ? 0.45 : 0;
    bar.height = 1 - bar.top;
    end = Math.max(end, bar.end);
  }
}

// Bars that overlap share the height of the lane: at most four at a time.
function stackBars(bars) {
  const ends = [];
  const rows = bars.map((bar) => {
    let row = ends.findIndex((end) => end <= bar.begin);
    if (row < 0) row = ends.length < 4 ? ends.length : ends.indexOf(Math.min(...ends));
    ends[row] = Math.max(ends[row] || 0, bar.end);
    return row;
  });
  bars.forEach((bar, i) => {
    bar.top = rows[i] / ends.length;
    bar.height = 1 / ends.length;
  });
}

// Lanes of bars for each rank, over the time of one step: x axis and zoom are the chart's own.
class TimelineChart extends Plot {
  constructor(parent, options, trace) {
    const view =
        new View({name: 'time', format: formatSeconds, title: (x) => 'after ' + formatSeconds(x)});
    super(parent, view, options);
    this.tracks = [...kTracks, ...trace.tracks.filter((track) => !kTracks.includes(track))];
    this.names = trace.ranks.map((rank) => rank.name);
    this.bars = trace.ranks.map((rank) => this.readBars(trace, rank.bars));
    this.end = Math.max(1e-6, ...this.bars.flat().map((bar) => bar.end));
    this.pointed = 0;  // rank

    this.lane = this.names.length > 8 ? 6 : 10;
    this.pitch = this.lane * this.tracks.length + kRankGap;
    const height = kMarginTop + this.pitch * this.names.length + kMarginBottom;
    this.plot.style.height = height + 'px';

    const reset = element('button', {type: 'button', hidden: true}, 'Reset zoom');
    reset.addEventListener('click', () => view.setRange(null));
    view.onRange = (range) => {
      reset.hidden = !range;
    };
    this.card.firstChild.append(reset);
    const all = this.bars.flat();
    for (const [, key, colour] of kBarKinds) {
      if (all.some((bar) => bar.key === key)) {
        this.addToggle(key, key, () => cssColour(colour), 'box');
      }
    }
  }

  readBars(trace, {n, t, b, d}) {
    let begin = 0;
    const bars = n.map((_, i) => {
      begin += b[i];
      const name = trace.names[n[i]].replaceAll('_', ' '), track = trace.tracks[t[i]];
      const [, key, colour] = kBarKinds.find(([fits]) => fits(name, track));
      return {name, track, key, colour, begin: begin / 1e6, end: (begin + d[i]) / 1e6};
    });
    for (const track of this.tracks) {
      const lane = bars.filter((bar) => bar.track === track);
      if (track === 'compute')
        nestBars(lane);
      else
        stackBars(lane);
    }
    return bars;
  }

  xs() {
    return [0, this.end];
  }
  // In lanes, downwards.
  yRange() {
    return [this.pitch * this.names.length, 0];
  }

  drawYAxis(context, right) {
    context.fillStyle = cssColour('soft');
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    this.names.forEach((name, rank) => {
      const y = this.y.at((rank + 0.5) * this.pitch);
      context.fillText(name, kMarginLeft - 6, y, kMarginLeft - 8);
    });
    context.strokeStyle = cssColour('grid');
    context.lineWidth = 1;
    context.beginPath();
    for (let rank = 1; rank < this.names.length; ++rank) {
      const y = Math.round(this.y.at(rank * this.pitch)) + 0.5;
      context.moveTo(kMarginLeft, y);
      context.lineTo(right, y);
    }
    context.stroke();
  }

  drawMarks(context) {
    const colours = new Map(kBarKinds.map(([, , name]) => [name, cssColour(name)]));
    this.bars.forEach((bars, rank) => {
      for (const bar of bars) {
        if (this.hidden.has(bar.key)) continue;
        const x = this.x.at(bar.begin), lane = this.tracks.indexOf(bar.track) + bar.top;
        const y = this.y.at(rank * this.pitch + kRankGap / 2 + lane * this.lane);
        context.fillStyle = colours.get(bar.colour);
        context.fillRect(x, y, Math.max(0.7, this.x.at(bar.end) - x), this.lane * bar.height - 1);
      }
    });
  }

  point(pixel, clientX, clientY) {
    const y = this.y.back(clientY - this.plot.getBoundingClientRect().top);
    this.pointed = Math.max(0, Math.min(this.names.length - 1, Math.floor(y / this.pitch)));
    super.point(pixel, clientX, clientY);
  }

  // What the rank that is pointed at does at x.
  readout(x) {
    const margin = Math.abs(this.x.back(kBarMargin) - this.x.back(0));
    const bars = this.bars[this.pointed].filter(
        (bar) => !this.hidden.has(bar.key) && bar.begin - margin <= x && x <= bar.end + margin);
    const order = (bar) => this.tracks.indexOf(bar.track);
    const rows = bars.sort((a, b) => order(a) - order(b))
                     .slice(0, 12)
                     .map(
                         (bar) =>
                             [cssColour(bar.colour),
                              bar.track === 'compute' ? bar.name : `${bar.track}: ${bar.name}`,
                              formatSeconds(bar.end - bar.begin)]);
    return {x, title: `${this.names[this.pointed]}, ${this.view.axis.title(x)}`, rows, dots: []};
  }
}

// page: what report.js has for all sections.
function makeCommunication({runs, several, view, repaints, makeSeries, runColour, addCurveChart}) {
  const byId = (id) => document.getElementById(id);
  const curvesOf = (run) => (run.exchange || {curves: {}}).curves;

  // A line for each kind [curve, legend, colour, dash, shape of its key] that a run has.
  function addLines(parent, kinds, options, {hasCurve, isNoisy}) {
    const series = [];
    runs.forEach((run, i) => {
      for (const [name, key, colour, dash, shape] of kinds) {
        const curve = curvesOf(run)[name];
        if (!curve || !hasCurve(curve)) continue;
        const own = several ? runColour(i) : () => cssColour(colour);
        series.push(makeSeries(i, key, curve, {
          label: several ? `${run.name} ${key}` : key,
          colour: own,
          keyColour: several ? () => cssColour('soft') : own,
          dash,
          shape,
          noisy: isNoisy(name)
        }));
      }
    });
    if (series.length) new LineChart(parent, view, options, series);
  }

  // What was sent between nodes as a line, the rest as dashes.
  function addBytes(parent) {
    const kinds = [
      ['inter_bytes', 'between nodes', 'run-0', null, ''],
      ['flat_inter_bytes', 'flat: a row for each assignment', 'run-1', [6, 3], 'dashes'],
      ['least_inter_bytes', 'fewest possible', 'run-2', [2, 3], 'dots'],
      ['intra_bytes', 'within nodes', 'run-5', [10, 3], 'dashes long'],
    ];
    const options = {
      title: 'Rows sent',
      unit: 'bytes a step',
      format: formatCount,
      log: true,
      zero: true,
      tall: true,
      toggle: true
    };
    const hasCurve = (curve) => curve.v.some((value) => value !== 0);
    addLines(parent, kinds, options, {hasCurve, isNoisy: () => true});
  }

  // What stayed as a line, what was expected of the sequences' places as dashes.
  function addLocality(parent) {
    const kinds = [
      ['on_node', 'stayed', 'run-0', null, ''],
      ['expected_on_node', 'expected', 'run-2', [6, 3], 'dashes'],
      ['unplaced_on_node', 'expected of sequences as they come', 'run-1', [2, 3], 'dots'],
    ];
    const options = {
      title: 'Ways that stay on the node',
      unit: 'share of assignments',
      format: formatPercent,
      zero: true,
      toggle: true
    };
    addLines(
        parent, kinds, options, {hasCurve: () => true, isNoisy: (name) => name === 'on_node'});
  }

  function addCharts() {
    const parent = byId('communication-charts');
    addBytes(parent);
    addLocality(parent);
    const add = (name, title, unit) => addCurveChart(
        parent, name, {title, unit, format: formatPercent, zero: true}, {noisy: true}, curvesOf);
    add('exposed_of_step', 'Waiting for rows', 'share of a step');
    add('exposed_of_flight', 'Exposed', 'share of the time in flight');
  }

  // "3", or "0-7" where neighbours share a line.
  function rankLabels({ranks, merged, bytes}) {
    return bytes.map((_, line) => {
      const first = line * merged, last = Math.min(ranks, first + merged) - 1;
      return last > first ? `${first}\u2013${last}` : String(first);
    });
  }

  function addRankMap(parent, run, top, maps) {
    const {step, merged, bytes, node} = run.exchange.matrix;
    const labels = rankLabels(run.exchange.matrix);
    const nodeOf = (line) => node[line * merged];
    const breaks =
        labels.map((_, line) => line)
            .filter((line) => line > 0 && node.length && nodeOf(line) !== nodeOf(line - 1));
    const place = (line) => 'rank ' + labels[line] + (node.length ? `, node ${nodeOf(line)}` : '');
    const [unit, size] = top >= 1e9 ? ['GB', 1e9] : top >= 1e6 ? ['MB', 1e6] : ['kB', 1e3];
    const total = bytes.flat().reduce((sum, value) => sum + value, 0);
    const title = several ? run.name : formatBytes(total);
    maps.push(new HeatMap(parent, title, `step ${formatInteger(step)}, in ${unit}`, {
      rows: labels,
      columns: labels,
      values: bytes,
      breaks,
      height: 320,
      tone: (value) => value / top,
      columnTicks: () => labels.map((label, line) => [line + 0.5, label]),
      text: (value) => String(+(value / size).toPrecision(value >= 100 * size ? 3 : 2)),
      readout: (from, to) => ({
        title: `${place(from)} \u2192 ${place(to)}`,
        rows: [
          [null, 'sent', formatBytes(bytes[from][to])],
          [null, 'share of all', formatPercent(total > 0 ? bytes[from][to] / total : 0)]
        ]
      }),
    }));
  }

  function addRankMaps() {
    const shown = runs.filter((run) => run.exchange && run.exchange.matrix);
    byId('rank-maps').parentNode.hidden = !shown.length;
    if (!shown.length) return;
    const top = Math.max(1, ...shown.flatMap((run) => run.exchange.matrix.bytes).flat());
    repaints.push(drawScale(
        byId('rank-scale'), '0', formatBytes(top),
        'rows send, columns receive; gaps lie between nodes'));
    const grid = element('div', {className: 'maps'}), maps = [];
    byId('rank-maps').append(grid);
    for (const run of shown) addRankMap(grid, run, top, maps);
    repaints.push(() => maps.forEach((map) => map.draw()));
  }

  function addTimeline(parent, run) {
    const {trace} = run;
    const step = trace.step === null ? 'One step' : 'Step ' + formatInteger(trace.step);
    const chart = new TimelineChart(
        parent, {
          title: step + ' on each rank',
          unit: (several ? run.name + '; ' : '') + 'lanes: compute, waiting, rows under way'
        },
        trace);
    repaints.push(() => chart.draw());
    const notes = [];
    const shown = trace.ranks.length;
    if (trace.num_ranks > shown) notes.push(`The first ${shown} of ${trace.num_ranks} ranks.`);
    if (trace.num_dropped > 0) {
      notes.push(
          `${formatInteger(trace.num_dropped)} bars of at most ` +
          `${formatSeconds(trace.dropped_us / 1e6)} are left out here.`);
    }
    notes.push(
        'Each rank\u2019s time starts with its own first bar. All bars at any zoom: open ' +
        'trace.json of the run folder at ui.perfetto.dev (\u201cOpen trace file\u201d) or in ' +
        'chrome://tracing.');
    chart.card.append(element('p', {className: 'fine'}, notes.join(' ')));
  }

  if (byId('communication')) {
    addCharts();
    addRankMaps();
  }
  if (byId('timelines')) {
    byId('timelines').append(element('h3', {}, 'Timeline of a step'));
    for (const run of runs.filter((one) => one.trace)) addTimeline(byId('timelines'), run);
  }
}
