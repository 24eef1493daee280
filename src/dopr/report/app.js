
// ---- the page ----------------------------------------------------------------------------------

const DATA = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);
const state = {
  axis: null, metric: null, log: false, hidden: new Set(), trainAxis: 'step',
  visitRun: 0, order: 'first', compRun: 0, page: 0, rows: [],
};
const PAGE_ROWS = 10;
const RAMP_BINS = 10;
const UNKNOWN = '#8c8c8c';

// Vermilion through grey to blue: told apart in the common forms of colour blindness.
function ramp(t) {
  const stops = [[213, 94, 0], [190, 186, 180], [0, 114, 178]];
  const at = Math.min(1, Math.max(0, t)) * 2;
  const [a, b] = at <= 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
  const f = at <= 1 ? at : at - 1;
  return `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * f)).join(',')})`;
}

const strategyIndex = (name) => DATA.strategies.indexOf(name);
const coloured = (series) => series
  .filter((s) => !state.hidden.has(s.name))
  .map((s) => ({ ...s, colour: strategyIndex(s.name) }));
const metricName = (metric) => (DATA.k === null ? metric : metric.replace('@k', `@${DATA.k}`));

function tabs(host, choices, current, pick) {
  host.replaceChildren();
  for (const [value, text] of choices) {
    const button = html('button', '', text, host);
    button.type = 'button';
    button.setAttribute('aria-pressed', String(value === current));
    button.addEventListener('click', () => {
      for (const other of host.children) other.setAttribute('aria-pressed', String(other === button));
      pick(value);
    });
  }
}

function options(select, choices) {
  select.replaceChildren();
  for (const [value, text] of choices) {
    const option = html('option', '', text, select);
    option.value = String(value);
  }
}

function legend(host) {
  host.replaceChildren();
  if (DATA.strategies.length < 2) return;
  DATA.strategies.forEach((name, i) => {
    const button = html('button', '', null, host);
    button.type = 'button';
    button.title = `Show or hide ${name}`;
    button.setAttribute('aria-pressed', String(!state.hidden.has(name)));
    const sample = svg('svg', { width: 26, height: 10, 'aria-hidden': 'true' }, button);
    svg('path', { class: 'line', d: 'M2 5H24', 'stroke-dasharray': dash(i) }, sample).style.stroke = colour(i);
    button.append(name);
    button.addEventListener('click', () => {
      if (state.hidden.has(name)) state.hidden.delete(name); else state.hidden.add(name);
      drawLegends();
      drawAccuracy();
      drawTraining();
    });
  });
}

function drawLegends() {
  for (const id of ['legend', 'train-legend']) if (byId(id)) legend(byId(id));
}

// ---- accuracy ----------------------------------------------------------------------------------

function setUpAccuracy() {
  const metrics = Object.keys(DATA.accuracy);
  if (!metrics.length) return;
  [state.metric] = metrics;
  options(byId('metric'), metrics.map((m) => [m, metricName(m)]));
  byId('metric-label').hidden = metrics.length < 2;
  byId('metric').addEventListener('change', (event) => { state.metric = event.target.value; setAxis(); });
  byId('log-x').addEventListener('change', (event) => { state.log = event.target.checked; drawAccuracy(); });
  setAxis();
}

function setAxis() {
  const axes = Object.keys(DATA.accuracy[state.metric]);
  if (!axes.includes(state.axis)) [state.axis] = axes;
  tabs(byId('axis-tabs'), axes.map((a) => [a, DATA.axes[a]]), state.axis, (value) => {
    state.axis = value;
    drawAccuracy();
  });
  drawAccuracy();
}

function drawAccuracy() {
  if (!state.metric) return;
  const named = DATA.target.metric;
  const applies = !named || named === state.metric || (named !== 'pass@k' && state.metric === 'avg@k');
  const { value } = DATA.target;
  lineChart(byId('accuracy-chart'), {
    series: coloured(DATA.accuracy[state.metric][state.axis]),
    height: 380,
    xTitle: DATA.axes[state.axis],
    xLog: state.log,
    xWhole: state.axis !== 'wall_s',
    yTitle: metricName(state.metric),
    hline: applies ? { value, text: `target ${show(value)}` } : null,
    label: `${metricName(state.metric)} against ${DATA.axes[state.axis]}`,
  });
}

// ---- chosen prompts ----------------------------------------------------------------------------

function setUpPrompts() {
  const runs = DATA.runs.map((run, i) => [i, run.label]);
  options(byId('visit-run'), runs);
  const first = DATA.runs.findIndex((run) => run.visits);
  state.visitRun = Math.max(0, first);
  byId('visit-run').value = String(state.visitRun);
  byId('visit-run').addEventListener('change', (event) => { state.visitRun = Number(event.target.value); drawPrompts(); });
  byId('visit-order').addEventListener('change', (event) => { state.order = event.target.value; drawPrompts(); });
  drawPrompts();
}

function rowsInOrder(visits) {
  const order = visits.prompts.map((_, i) => i);
  if (state.order === 'final') {
    const known = (i) => (visits.final[i] === null ? -Infinity : visits.final[i]);
    order.sort((a, b) => known(a) - known(b) || a - b);
  }
  const rank = new Array(order.length);
  order.forEach((prompt, place) => { rank[prompt] = place; });
  return visits.prompt.map((prompt) => rank[prompt]);
}

function drawRamp(low, high, anyUnknown) {
  const host = byId('ramp');
  host.replaceChildren();
  html('span', '', `mean reward of the visit: ${show(low)}`, host);
  const bar = svg('svg', { width: 12 * (RAMP_BINS + 1), height: 12, 'aria-hidden': 'true' }, host);
  for (let i = 0; i <= RAMP_BINS; i += 1) svg('rect', { x: 12 * i, y: 0, width: 12, height: 12, fill: ramp(i / RAMP_BINS) }, bar);
  html('span', '', show(high), host);
  if (anyUnknown) html('span', '', '· dark grey: not logged', host);
}

function drawPrompts() {
  const run = DATA.runs[state.visitRun];
  const visits = run ? run.visits : null;
  byId('visit-empty').hidden = Boolean(visits);
  byId('visit-body').hidden = !visits;
  byId('top-body').hidden = !visits;
  byId('moved-figure').hidden = !visits || !visits.moved.step.length;
  if (visits) {
    const [low, high] = visits.range;
    drawRamp(low, high, visits.success.includes(null));
    markChart(byId('visit-chart'), {
      x: visits.step, row: rowsInOrder(visits), value: visits.success, rows: visits.prompts.length,
      height: Math.min(460, Math.max(160, 90 + visits.prompts.length * 4)),
      xTitle: 'Step', xWhole: true, yWhole: true,
      yTitle: state.order === 'first' ? 'Prompt, by first choice' : 'Prompt, by final success',
      bin: (v) => (v === null ? -1 : Math.round(((v - low) / (high - low || 1)) * RAMP_BINS)),
      fill: (bin) => (bin < 0 ? '#5a5a5a' : ramp(bin / RAMP_BINS)),
      label: 'Prompts chosen at each step, coloured by mean reward',
      onPoint: (i, event) => tip(event, DATA.ids[visits.prompts[visits.prompt[i]]], [
        { text: `step ${show(visits.step[i])}` },
        { text: `mean reward ${show(visits.success[i])}` },
      ]),
    });
    const cut = visits.shown < visits.total ? ` Shown are ${show(visits.shown)} of them, at evenly spaced steps.` : '';
    byId('visit-note').textContent = `${show(visits.total)} visits to ${show(visits.distinct)} prompts.${cut} A row is a prompt: reading it from left to right shows how its mean reward moved.`;
    drawTop(run, visits);
  }
  const rates = Object.entries(run ? run.rates : {});
  byId('rates-figure').hidden = !rates.length;
  drawSmall(run, visits, rates);
}

function drawSmall(run, visits, rates) {
  if (visits && visits.moved.step.length) {
    const [low, high] = visits.range;
    areaChart(byId('moved-chart'), {
      x: visits.moved.step, height: 240, xTitle: 'Step', xWhole: true, yWhole: true, yTitle: 'Prompts',
      series: [
        { name: `at ${show(low)}`, colour: ramp(0), y: visits.moved.none },
        { name: 'between', colour: ramp(0.5), y: visits.moved.some },
        { name: `at ${show(high)}`, colour: ramp(1), y: visits.moved.full },
      ],
      label: 'Number of prompts by their latest mean reward, over steps',
    });
    key('moved-chart', [[ramp(0), `mean reward ${show(low)}`], [ramp(0.5), 'between'], [ramp(1), `mean reward ${show(high)}`]]);
  }
  if (rates.length) {
    const series = rates.map(([name, s], i) => ({ name, colour: i, x: s.x, y: s.y }));
    lineChart(byId('rates-chart'), {
      series, height: 240, bare: true, xTitle: 'Step', xWhole: true, yTitle: 'Share', fromZero: true,
      label: 'Coverage and signal rate over steps',
    });
    key('rates-chart', series.map((s) => [colour(s.colour), s.name]));
  }
}

function key(hostId, entries) {
  const box = html('div', 'ramp', null, byId(hostId));
  for (const [fill, text] of entries) {
    const item = html('span', '', null, box);
    html('span', 'swatch', null, item).style.background = fill;
    item.append(text);
  }
}

function drawTop(run, visits) {
  const body = byId('top-rows');
  body.replaceChildren();
  for (const prompt of visits.top) {
    const row = html('tr', '', null, body);
    html('td', 'id', DATA.ids[prompt.id], row);
    for (const value of [prompt.visits, prompt.rollouts, prompt.tokens]) html('td', '', show(value), row);
    const last = html('td', '', null, row);
    const values = prompt.success;
    if (!values.length) { last.textContent = '–'; continue; }
    last.append(sparkline(values, visits.range[0], visits.range[1], Math.max(0, strategyIndex(run.strategy))));
    html('span', 'interval', ` ${show(values[0])} to ${show(values[values.length - 1])}`, last);
  }
}

// ---- completions -------------------------------------------------------------------------------

const tables = new Map();
function completionsOf(run) {
  if (!tables.has(run)) {
    const node = byId(`completions-${run}`);
    tables.set(run, node ? JSON.parse(node.textContent) : null);
  }
  return tables.get(run);
}

function setUpCompletions() {
  options(byId('comp-run'), DATA.runs.map((run, i) => [i, run.label]));
  state.compRun = Math.max(0, DATA.has_completions.indexOf(true));
  byId('comp-run').value = String(state.compRun);
  byId('comp-run').addEventListener('change', (event) => { state.compRun = Number(event.target.value); openRun(); });
  for (const id of ['comp-verdict', 'comp-step']) byId(id).addEventListener('change', filter);
  for (const id of ['comp-id', 'comp-text']) byId(id).addEventListener('input', filter);
  byId('comp-prev').addEventListener('click', () => { state.page -= 1; drawCompletions(); });
  byId('comp-next').addEventListener('click', () => { state.page += 1; drawCompletions(); });
  openRun();
}

function openRun() {
  const table = completionsOf(state.compRun);
  const steps = table ? [...new Set(table.rows.map((row) => row.s))] : [];
  options(byId('comp-step'), [['all', 'all'], ...steps.map((s) => [s, show(s)])]);
  filter();
}

function filter() {
  const table = completionsOf(state.compRun);
  const verdict = byId('comp-verdict').value;
  const step = byId('comp-step').value;
  const id = byId('comp-id').value.trim().toLowerCase();
  const text = byId('comp-text').value.trim().toLowerCase();
  state.rows = table ? table.rows.filter((row) => {
    if (verdict !== 'all' && row.v !== (verdict === 'right' ? 1 : 0)) return false;
    if (step !== 'all' && row.s !== Number(step)) return false;
    if (id && !(row.i !== null && DATA.ids[row.i].toLowerCase().includes(id))) return false;
    return !text || row.c.toLowerCase().includes(text)
      || (row.p !== null && table.prompts[row.p].toLowerCase().includes(text));
  }) : [];
  state.page = 0;
  drawCompletions();
}

function completionNote(table) {
  if (!table) return 'This run saved no completions.';
  const parts = [];
  if (table.rows.length < table.total) {
    parts.push(`${show(table.rows.length)} of ${show(table.total)} saved completions are on this page, taken evenly over the steps, right and wrong alternating where a step has both; so their shares say nothing about accuracy.`);
  }
  if (table.cut) parts.push(`Texts longer than ${show(DATA.text_limit)} characters are shortened in the middle.`);
  parts.push(table.judges.length
    ? `Right means that ${table.judges.join(' + ')} is at least 1.`
    : 'No reward was saved with the completions.');
  return parts.join(' ');
}

function drawCompletions() {
  const table = completionsOf(state.compRun);
  byId('comp-note').textContent = completionNote(table);
  const pages = Math.max(1, Math.ceil(state.rows.length / PAGE_ROWS));
  state.page = Math.min(Math.max(0, state.page), pages - 1);
  const start = state.page * PAGE_ROWS;
  const list = byId('comp-list');
  list.replaceChildren();
  for (const row of state.rows.slice(start, start + PAGE_ROWS)) list.append(card(table, row));
  if (table && !state.rows.length) html('p', 'empty', 'No completion matches.', list);
  byId('comp-page').textContent = `${show(state.rows.length)} found, page ${state.page + 1} of ${pages}`;
  byId('comp-prev').disabled = state.page === 0;
  byId('comp-next').disabled = state.page >= pages - 1;
}

function card(table, row) {
  const box = html('article', 'card');
  const head = html('header', '', null, box);
  const verdict = row.v === null ? ['', 'unscored'] : row.v ? ['right', 'right'] : ['wrong', 'wrong'];
  html('span', `verdict ${verdict[0]}`, verdict[1], head);
  html('span', '', `step ${show(row.s)}`, head);
  if (row.i !== null) html('span', '', `prompt ${DATA.ids[row.i]}`, head);
  table.rewards.forEach((name, i) => html('span', '', `${name} ${show(row.r[i])}`, head));
  if (row.a !== null) html('span', '', `advantage ${show(row.a)}`, head);
  for (const [name, text] of row.x) html('span', 'quiet', `${name}: ${text}`, head);
  const texts = html('div', 'texts', null, box);
  for (const [title, text] of [['Prompt', row.p === null ? '' : table.prompts[row.p]], ['Completion', row.c]]) {
    const part = html('div', '', null, texts);
    html('h4', '', title, part);
    html('pre', '', text, part).dir = 'auto';
  }
  return box;
}

// ---- training curves ---------------------------------------------------------------------------

function setUpTraining() {
  const entries = Object.entries(DATA.training);
  if (!entries.length) return;
  const axes = [['step', 'Steps']];
  if (entries.some(([, e]) => e.rollouts.length)) axes.push(['rollouts', 'Rollouts']);
  if (axes.length > 1) { state.trainAxis = DATA.strategies.length > 1 ? 'rollouts' : 'step'; }
  tabs(byId('train-tabs'), axes, state.trainAxis, (value) => { state.trainAxis = value; drawTraining(); });
  const grid = byId('training-grid');
  entries.forEach(([, entry]) => {
    const figure = html('figure', '', null, grid);
    html('figcaption', '', entry.title, figure);
    html('div', 'chart', null, figure);
  });
  drawTraining();
}

function drawTraining() {
  const grid = byId('training-grid');
  if (!grid) return;
  Object.values(DATA.training).forEach((entry, i) => {
    const title = state.trainAxis === 'step' ? 'Step' : 'Rollouts';
    lineChart(grid.children[i].querySelector('.chart'), {
      series: coloured(entry[state.trainAxis]), height: 220, bare: true, xTitle: title, xWhole: true,
      label: `${entry.title} against ${title}`,
    });
  });
}

// ---- start -------------------------------------------------------------------------------------

function drawAll() { drawLegends(); drawAccuracy(); drawPrompts(); drawTraining(); }

for (const swatch of document.querySelectorAll('[data-series]')) {
  swatch.style.background = colour(Number(swatch.dataset.series));
}
drawLegends();
setUpAccuracy();
setUpPrompts();
setUpCompletions();
setUpTraining();

const main = document.querySelector('main');
let width = main.clientWidth;
new ResizeObserver(() => {
  if (main.clientWidth === width) return;
  width = main.clientWidth;
  drawAll();
}).observe(main);
document.body.dataset.ready = '1';
