// Which chart shows what: reads the data of the page and builds its sections.
'use strict';

(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const runs = data.runs;
  const several = runs.length > 1;
  const kNumRunColours = 6;
  const byId = (id) => document.getElementById(id);
  const runColour = (i) => () => cssColour('run-' + i % kNumRunColours);
  const runDash = (i) => (i >= kNumRunColours ? [6, 3] : null);
  const repaints =
      [];  // what has to be drawn again when the theme changes, beside the view's charts

  function undoDifferences(list) {
    let sum = 0;
    return list.map((difference) => (sum += difference));
  }

  for (const run of runs) {
    run.axis.steps = undoDifferences(run.axis.s);
    const curves = [run.curves, run.moe_mean, ...run.moe.map((layer) => layer.curves)];
    if (run.exchange) curves.push(run.exchange.curves);
    for (const curve of curves.flatMap(Object.values)) {
      curve.steps = undoDifferences(curve.s);
      if (curve.ms) curve.meanSteps = undoDifferences(curve.ms);
    }
    for (const layer of run.moe) layer.steps = undoDifferences(layer.s);
    if (run.stack.s) run.stack.steps = undoDifferences(run.stack.s);
  }

  // ---- x axes

  // What has been reached at a step, between the points that the data gives; 0 at step 0.
  function reached(run, key, step) {
    const {steps} = run.axis, values = run.axis[key];
    if (!values) return NaN;
    let i = 0;
    while (i < steps.length - 1 && steps[i] < step) ++i;
    const x0 = i > 0 ? steps[i - 1] : 0, y0 = i > 0 ? values[i - 1] : 0;
    return steps[i] > x0 ? y0 + (step - x0) / (steps[i] - x0) * (values[i] - y0) : values[i];
  }

  const axes = [{
    name: 'steps',
    toX: (run, step) => step,
    format: formatCount,
    title: (x) => 'step ' + formatInteger(x)
  }];
  if (runs.every((run) => run.axis.tokens)) {
    axes.push({
      name: 'tokens',
      toX: (run, step) => reached(runs[run], 'tokens', step),
      format: formatCount,
      title: (x) => formatCount(x) + ' tokens'
    });
  }
  if (runs.every((run) => run.axis.time)) {
    axes.push({
      name: 'time',
      toX: (run, step) => reached(runs[run], 'time', step),
      format: formatSeconds,
      title: (x) => 'after ' + formatSeconds(x),
      ticks: timeTicks
    });
  }
  const view = new View(axes[0]);

  // ---- toolbar

  function makeRunToggles() {
    const box = element('div', {className: 'toggles'});
    runs.forEach((run, i) => {
      const toggle = makeToggle(run.name, runColour(i), '', (on) => {
        if (on)
          view.hiddenRuns.delete(i);
        else
          view.hiddenRuns.add(i);
        view.redraw();
      });
      box.append(toggle.button);
      repaints.push(toggle.paint);
    });
    return box;
  }

  function makeToolbar() {
    const bar = byId('toolbar');
    if (several) bar.append(makeRunToggles());
    const select = element('select', {}, ...axes.map((axis) => element('option', {}, axis.name)));
    select.addEventListener('change', () => {
      view.axis = axes[select.selectedIndex];
      view.setRange(null);
    });
    const log = element('input', {type: 'checkbox'});
    log.addEventListener('change', () => {
      view.logX = log.checked;
      view.setRange(null);
    });
    const widths = [0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08];
    const slider =
        element('input', {type: 'range', min: 0, max: widths.length - 1, step: 1, value: 3});
    const amount = element('output');
    const apply = () => {
      view.smoothing = widths[slider.value];
      amount.textContent = view.smoothing ? formatPercent(view.smoothing) : 'off';
      view.redraw();
    };
    slider.addEventListener('input', apply);
    const reset = element('button', {type: 'button', hidden: true}, 'Reset zoom');
    reset.addEventListener('click', () => view.setRange(null));
    view.onRange = (range) => {
      reset.hidden = !range;
    };
    bar.append(
        element('label', {}, 'x axis', select), element('label', {}, log, 'log x'),
        element(
            'label', {title: 'width of the smoothing window, of the x range'}, 'smoothing', slider,
            amount),
        reset);
    apply();
  }

  // ---- curves

  function makeSeries(i, key, curve, more) {
    return {
      run: i,
      key,
      label: runs[i].name,
      colour: runColour(i),
      dash: runDash(i),
      steps: curve.steps,
      values: curve.v,
      meanSteps: curve.meanSteps,
      meanValues: curve.mv,
      ...more
    };
  }

  function exponential(curve) {
    const exp = (v) => (v === null ? null : Math.exp(v));
    return {...curve, v: curve.v.map(exp), mv: curve.mv && curve.mv.map(exp)};
  }

  // Training as a line, validation as a dashed line with dots.
  function lossSeries(change) {
    const series = [];
    const soft = () => cssColour('soft');
    runs.forEach((run, i) => {
      const name = several ? run.name + ' ' : '';
      const {loss, valid_loss: valid} = run.curves;
      if (loss) {
        series.push(makeSeries(
            i, 'train', change(loss), {label: name + 'train', noisy: true, keyColour: soft}));
      }
      if (valid) {
        series.push(makeSeries(i, 'validation', change(valid), {
          label: name + 'validation',
          marks: true,
          dash: [4, 3],
          keyColour: soft,
          colour: several ? runColour(i) : () => cssColour('run-1')
        }));
      }
    });
    if (!several)
      for (const one of series) one.keyColour = one.colour;
    return series;
  }

  function addCurveChart(parent, name, options, more, curvesOf = (run) => run.curves) {
    const series =
        runs.map((run, i) => curvesOf(run)[name] && makeSeries(i, name, curvesOf(run)[name], more))
            .filter(Boolean);
    const flat = series.every((one) => one.values.every((value) => value === 0));
    if (series.length && !flat) new LineChart(parent, view, options, series);
  }

  function makeTraining() {
    const parent = byId('training-charts');
    new LineChart(
        parent, view, {
          title: 'Loss',
          unit: 'nats per token',
          format: formatNumber,
          log: true,
          tall: true,
          toggle: true
        },
        lossSeries((curve) => curve));
    new LineChart(
        parent, view,
        {title: 'Perplexity', format: formatNumber, log: true, startLog: true, toggle: true},
        lossSeries(exponential));
    addCurveChart(
        parent, 'lr', {title: 'Learning rate', format: formatNumber, log: true, zero: true});
    addCurveChart(
        parent, 'grad_norm', {
          title: 'Gradient norm',
          unit: 'before clipping',
          format: formatNumber,
          log: true,
          startLog: true
        },
        {noisy: true});
    addCurveChart(
        parent, 'aux_loss',
        {title: 'Router losses', unit: 'sum over layers', format: formatNumber, log: true},
        {noisy: true});
    addCurveChart(
        parent, 'valid_accuracy',
        {title: 'Accuracy of tokens', unit: 'validation', format: formatPercent}, {marks: true});
  }

  function makeTime() {
    const parent = byId('time-charts');
    addCurveChart(
        parent, 'tokens_per_s', {title: 'Tokens/s', format: formatCount, zero: true},
        {noisy: true});
    addCurveChart(
        parent, 'flops_share',
        {title: 'Share of the matmul peak', format: formatPercent, zero: true}, {noisy: true});
    addCurveChart(
        parent, 'rss_bytes',
        {title: 'Resident memory', unit: 'bytes', format: formatCount, zero: true});
    const names = ['data', 'forward', 'backward', 'optimizer', 'other', 'reduce'];
    runs.forEach((run, i) => {
      if (!run.stack.s) return;
      const parts =
          names
              .map(
                  (name, p) =>
                      ({name, colour: () => cssColour('part-' + p), values: run.stack[name]}))
              .filter((part) => part.values);
      new StackChart(
          parent, view,
          {title: 'Step time', unit: several ? run.name : '', format: formatSeconds, zero: true}, i,
          run.stack.steps, parts);
    });
  }

  // ---- experts

  // Heat maps show multiples of an even share, up to this one, on a scale of square roots: it sets
  // apart what lies around 1.
  const kMostLoad = 4;
  const scaleEnd = (most, top) => (most > top ? '\u2265\u202f' : '') + +top.toFixed(1) + '\u00d7';

  const expertCurves = [
    ['load_cv', {title: 'Load variation', unit: 'std / mean', format: formatNumber, zero: true}],
    ['entropy', {title: 'Router entropy', unit: 'nats', format: formatNumber}],
    [
      'dropped_share',
      {title: 'Dropped share', unit: 'of assignments', format: formatPercent, zero: true}
    ],
    ['dead_experts', {title: 'Dead experts', format: formatNumber, zero: true}],
    [
      'unrouted_share', {title: 'Unrouted tokens', unit: 'share', format: formatPercent, zero: true}
    ],
    ['top_weight', {title: 'Largest router weight', unit: 'mean', format: formatNumber}],
    ['experts_per_token', {title: 'Experts of a token', unit: 'mean', format: formatNumber}],
    ['balance_loss', {title: 'Balance loss', format: formatNumber, log: true}],
    ['z_loss', {title: 'Router z-loss', format: formatNumber, log: true}],
    ['locality_loss', {title: 'Locality loss', format: formatNumber, zero: true}],
    [
      'balance_gradient_norm',
      {title: 'Pull of the balance loss', unit: 'gradient norm', format: formatNumber, log: true}
    ],
    [
      'z_gradient_norm',
      {title: 'Pull of the z-loss', unit: 'gradient norm', format: formatNumber, log: true}
    ],
    [
      'locality_gradient_norm',
      {title: 'Pull of the locality loss', unit: 'gradient norm', format: formatNumber, log: true}
    ],
    ['capacity', {title: 'Capacity of an expert', unit: 'tokens', format: formatCount, zero: true}],
    [
      'capacity_bound',
      {title: 'Lower bound of capacity', unit: 'tokens', format: formatCount, log: true}
    ],
    [
      'calinski_harabasz', {
        title: 'Tokens clustered by expert',
        unit: 'Calinski\u2013Harabasz',
        format: formatNumber,
        zero: true
      }
    ],
    [
      'on_node',
      {title: 'Ways that stay on the node', unit: 'share', format: formatPercent, zero: true}
    ],
    ['cosine', {title: 'Tokens and gate', unit: 'mean cosine', format: formatNumber, zero: true}],
  ];

  // Few layers get the palette's colours, many a shade by depth.
  function layerColour(place, count) {
    if (count <= kNumRunColours) return runColour(place);
    return () => heatColour(0.25 + 0.7 * place / (count - 1));
  }

  // Lines of one run by layer; of several, the mean over the layers of each.
  function expertSeries(name, chosen) {
    if (chosen === null) {
      return runs.map((run, i) => run.moe_mean[name] && makeSeries(i, name, run.moe_mean[name]))
          .filter(Boolean);
    }
    const layers = runs[chosen].moe;
    return layers
        .map(
            (layer, place) => layer.curves[name] &&
                makeSeries(chosen, 'layer ' + layer.layer, layer.curves[name], {
                                label: 'layer ' + layer.layer,
                                colour: layerColour(place, layers.length),
                                dash: null
                              }))
        .filter(Boolean);
  }

  function drawExpertCharts(chosen) {
    const parent = byId('expert-charts');
    view.charts = view.charts.filter((chart) => chart.card.parentNode !== parent);
    parent.replaceChildren();
    const zeros = [];
    for (const [name, options] of expertCurves) {
      const series = expertSeries(name, chosen);
      if (!series.length) continue;
      if (series.every((one) => one.values.every((value) => value === 0))) {
        zeros.push(options.title.toLowerCase());
        continue;
      }
      new LineChart(parent, view, {...options, toggle: chosen !== null}, series);
    }
    if (zeros.length) {
      parent.after(byId('expert-zeros') || element('p', {className: 'fine', id: 'expert-zeros'}));
      byId('expert-zeros').textContent = 'Zero throughout: ' + zeros.join(', ') + '.';
    } else if (byId('expert-zeros')) {
      byId('expert-zeros').remove();
    }
    view.redraw();
  }

  function stepTicks(steps) {
    const count = steps.length;
    return [0, 0.25, 0.5, 0.75, 1].map((part) => {
      const column = Math.min(count - 1, Math.round(part * (count - 1)));
      return [column + 0.5, formatCount(steps[column])];
    });
  }

  function addLoadMap(parent, run, layer, top, maps) {
    const rows = layer.load.map((_, expert) => String(expert));
    const firstOf = (column) => (column > 0 ? layer.steps[column - 1] + 1 : 0);
    maps.push(new HeatMap(parent, 'Layer ' + layer.layer, `${rows.length} experts`, {
      rows,
      columns: layer.steps,
      values: layer.load,
      tone: (value) => Math.sqrt(value / 100 / top),
      columnTicks: () => stepTicks(layer.steps),
      readout: (row, column) => {
        const value = layer.load[row][column];
        return {
          title: `Expert ${row}, layer ${layer.layer}`,
          rows: [
            [
              null, 'steps',
              `${formatInteger(firstOf(column))}\u2013${formatInteger(layer.steps[column])}`
            ],
            [
              null, 'load',
              value === null ? 'no expert' : (value / 100).toFixed(2) + '\u00d7 even share'
            ]
          ]
        };
      },
    }));
  }

  // One grid of maps for each run that has any.
  function makeMaps(parent, hasMap, addMap) {
    const maps = [];
    runs.forEach((run, i) => {
      const layers = run.moe.filter(hasMap);
      if (!layers.length) return;
      if (several) {
        const swatch = element('span', {className: 'swatch run-' + i % kNumRunColours});
        parent.append(element('h4', {}, swatch, run.name));
      }
      const grid = element('div', {className: 'maps'});
      parent.append(grid);
      for (const layer of layers) addMap(grid, run, layer, maps);
    });
    repaints.push(() => maps.forEach((map) => map.draw()));
    return maps;
  }

  function makeExperts() {
    if (!runs.some((run) => run.moe.length)) {
      byId('experts').replaceChildren(
          element('h2', {}, 'Experts'),
          element('p', {className: 'fine'}, 'No MoE layer was reported.'));
      return;
    }
    const choices =
        runs.map((run, i) => [run.name + ' by layer', i]).filter(([, i]) => runs[i].moe.length);
    if (several) choices.unshift(['all runs, mean over layers', null]);
    const buttons = choices.map(([label, chosen], place) => {
      const button = element('button', {type: 'button'}, label);
      button.setAttribute('aria-pressed', String(place === 0));
      button.addEventListener('click', () => {
        for (const other of buttons) other.setAttribute('aria-pressed', String(other === button));
        drawExpertCharts(chosen);
      });
      return button;
    });
    if (several) byId('expert-choice').append(...buttons);
    drawExpertCharts(choices[0][1]);

    let most = 0;
    for (const layer of runs.flatMap((run) => run.moe)) {
      for (const row of layer.load)
        for (const value of row) most = Math.max(most, (value || 0) / 100);
    }
    const top = Math.min(kMostLoad, Math.max(2, most));
    repaints.push(drawScale(
        byId('load-scale'), '0', scaleEnd(most, top),
        'an even share of the tokens (notch: 1\u00d7); rows are experts, columns steps',
        Math.sqrt(1 / top)));
    makeMaps(
        byId('load-maps'), (layer) => layer.load.length,
        (grid, run, layer, maps) => addLoadMap(grid, run, layer, top, maps));
  }

  // ---- domains

  function addDomainMap(parent, run, layer, top, maps) {
    const counts = layer.domain.rows;
    const totals = counts.map((row) => row.reduce((sum, n) => sum + n, 0));
    const values = counts.map((row, d) => row.map((n) => (totals[d] > 0 ? n / totals[d] : null)));
    const rows = counts.map((_, d) => run.domains[d] || 'domain ' + d);
    const columns = counts[0].map((_, expert) => String(expert));
    maps.push(
        new HeatMap(parent, 'Layer ' + layer.layer, 'step ' + formatInteger(layer.domain.step), {
          rows,
          columns,
          values,
          tone: (value) => Math.sqrt(value * columns.length / top),
          columnTicks: () => columns.map((label, column) => [column + 0.5, label]),
          text: (value) => String(Math.round(100 * value)),
          readout: (d, expert) => ({
            title: `${rows[d]} \u2192 expert ${expert}`,
            rows: [
              [null, 'share of the domain', formatPercent(values[d][expert])],
              [null, 'even share', formatPercent(1 / columns.length)],
              [null, 'assignments', formatInteger(counts[d][expert])]
            ]
          }),
        }));
  }

  function makeDomains() {
    const hasMap = (layer) =>
        layer.domain && layer.domain.rows.length && layer.domain.rows[0].length;
    const layers = runs.flatMap((run) => run.moe.filter(hasMap));
    if (!layers.length) return;
    byId('domain-section').hidden = false;
    let most = 0;
    for (const row of layers.flatMap((layer) => layer.domain.rows)) {
      const total = row.reduce((sum, n) => sum + n, 0);
      if (total > 0) most = Math.max(most, Math.max(...row) / total * row.length);
    }
    const top = Math.min(kMostLoad, Math.max(2, most));
    repaints.push(drawScale(
        byId('domain-scale'), '0', scaleEnd(most, top),
        'an even share (notch: 1\u00d7); numbers are percent of the domain\'s assignments',
        Math.sqrt(1 / top)));
    makeMaps(
        byId('domain-maps'), hasMap,
        (grid, run, layer, maps) => addDomainMap(grid, run, layer, top, maps));
  }

  // ---- theme

  function repaint() {
    for (const paint of repaints) paint();
    view.redraw();
    byId('theme').textContent = isDark() ? 'Light' : 'Dark';
  }

  function makeTheme() {
    const root = document.documentElement;
    byId('theme').addEventListener('click', () => {
      root.dataset.theme = isDark() ? 'light' : 'dark';
      repaint();
    });
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);
    let before;
    addEventListener('beforeprint', () => {
      before = root.dataset.theme;
      root.dataset.theme = 'light';
      for (const paint of repaints) paint();
      for (const chart of view.charts) chart.draw();
    });
    addEventListener('afterprint', () => {
      if (before)
        root.dataset.theme = before;
      else
        delete root.dataset.theme;
      repaint();
    });
  }

  for (const part of document.querySelectorAll('.needs-script')) {
    part.hidden = part.id === 'domain-section';
  }
  makeToolbar();
  makeTraining();
  makeTime();
  makeCommunication({runs, several, view, repaints, makeSeries, runColour, addCurveChart});
  makeExperts();
  makeDomains();
  makeTheme();
  repaint();
})();
