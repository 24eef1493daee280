'use strict';
// Small SVG charts. Everything that comes from data is set by textContent or as a number.

const NS = document.getElementById('ns').namespaceURI;
const DASHES = ['', '7 4', '2 4', '9 3 2 3'];
const PALETTE = 8;
const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 4 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

const colour = (i) => `var(--c${i % PALETTE})`;
const dash = (i) => DASHES[Math.floor(i / PALETTE) % DASHES.length];

function svg(tag, attributes, parent, text) {
  const node = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function html(tag, className, text, parent) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined && text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function show(value) {
  if (value === null || value === undefined) return '–';
  return plain.format(Math.abs(value) >= 100 ? Math.round(value) : value);
}

function axisNumber(value) {
  return Math.abs(value) >= 10000 ? compact.format(value) : plain.format(value);
}

// ---- tooltip -----------------------------------------------------------------------------------

function tip(event, title, rows) {
  const box = document.getElementById('tip');
  box.replaceChildren();
  html('strong', '', title, box);
  for (const row of rows) {
    const line = html('div', '', null, box);
    if (row.colour) html('span', 'swatch', null, line).style.background = row.colour;
    line.append(row.text);
  }
  box.hidden = false;
  const left = event.clientX + 14 + box.offsetWidth < innerWidth
    ? event.clientX + 14 : Math.max(4, event.clientX - box.offsetWidth - 14);
  box.style.left = `${left}px`;
  box.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 4))}px`;
}

function hideTip() { document.getElementById('tip').hidden = true; }

// ---- scales ------------------------------------------------------------------------------------

function niceStep(span, wanted) {
  const raw = span / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(raw));
  const unit = [1, 2, 2.5, 5, 10].find((u) => u * power >= raw * 0.999);
  return unit * power;
}

function linearTicks(low, high, wanted, whole) {
  let step = niceStep(high - low || 1, wanted);
  if (whole) step = Math.max(1, Math.ceil(step));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks(low, high, wanted) {
  for (const units of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) {
      for (const u of units) {
        const value = u * 10 ** e;
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
      }
    }
    if (ticks.length <= wanted + 2 || units.length === 1) return ticks;
  }
  return [];
}

function frame(host, spec) {
  const width = Math.max(240, host.clientWidth || 700);
  const height = spec.height;
  const box = { left: 58, right: width - 14, top: 14, bottom: height - (spec.xTitle ? 46 : 26) };
  host.replaceChildren();
  const root = svg('svg', {
    viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': spec.label,
  }, host);
  const [x0, x1] = spec.xRange;
  const [y0, y1] = spec.yRange;
  const fx = spec.xLog ? (v) => Math.log10(Math.max(v, x0)) : (v) => v;
  const spanX = fx(x1) - fx(x0) || 1;
  const spanY = y1 - y0 || 1;
  const px = (v) => box.left + ((fx(v) - fx(x0)) / spanX) * (box.right - box.left);
  const py = (v) => box.bottom - ((v - y0) / spanY) * (box.bottom - box.top);
  const unpx = (p) => {
    const t = fx(x0) + ((p - box.left) / (box.right - box.left)) * spanX;
    return spec.xLog ? 10 ** t : t;
  };
  const wantedX = Math.max(2, Math.floor((box.right - box.left) / 70));
  const wantedY = Math.max(2, Math.floor((box.bottom - box.top) / 50));
  for (const value of linearTicks(y0, y1, wantedY, spec.yWhole)) {
    const y = py(value);
    svg('line', { class: 'gridline', x1: box.left, x2: box.right, y1: y, y2: y }, root);
    svg('text', { x: box.left - 7, y: y + 4, 'text-anchor': 'end' }, root, axisNumber(value));
  }
  const ticks = spec.xLog ? logTicks(x0, x1, wantedX) : linearTicks(x0, x1, wantedX, spec.xWhole);
  for (const value of ticks) {
    const x = px(value);
    svg('line', { class: 'axis', x1: x, x2: x, y1: box.bottom, y2: box.bottom + 4 }, root);
    const anchor = x > box.right - 16 ? 'end' : 'middle';
    svg('text', { x: anchor === 'end' ? Math.min(x + 12, width - 1) : x, y: box.bottom + 18, 'text-anchor': anchor },
      root, axisNumber(value));
  }
  svg('line', { class: 'axis', x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }, root);
  if (spec.xTitle) {
    svg('text', { x: (box.left + box.right) / 2, y: height - 6, 'text-anchor': 'middle' }, root, spec.xTitle);
  }
  if (spec.yTitle) {
    const y = (box.top + box.bottom) / 2;
    svg('text', { x: 11, y, 'text-anchor': 'middle', transform: `rotate(-90 11 ${y})` }, root, spec.yTitle);
  }
  return { root, box, px, py, unpx, width };
}

function onHover(chart, handler) {
  const { root, box } = chart;
  const pad = svg('rect', {
    x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, fill: 'transparent',
  }, root);
  const guide = svg('line', { class: 'guide', y1: box.top, y2: box.bottom, visibility: 'hidden' }, root);
  guide.style.pointerEvents = 'none';
  const leave = () => { guide.setAttribute('visibility', 'hidden'); hideTip(); };
  const move = (event) => {
    const bounds = root.getBoundingClientRect();
    const scale = chart.width / bounds.width;
    const at = handler((event.clientX - bounds.left) * scale, (event.clientY - bounds.top) * scale, event);
    if (at === null) { leave(); return; }
    if (at === undefined) return;
    guide.setAttribute('x1', at);
    guide.setAttribute('x2', at);
    guide.setAttribute('visibility', 'visible');
  };
  pad.addEventListener('pointermove', move);
  pad.addEventListener('pointerdown', move);
  pad.addEventListener('pointerleave', leave);
}

// Index of the last x at or before `at`; -1 if there is none.
function lastBefore(xs, at) {
  let low = 0;
  let high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= at) low = middle + 1; else high = middle;
  }
  return low - 1;
}

// ---- charts ------------------------------------------------------------------------------------

function extent(series, keys, also) {
  const values = also.filter((v) => v !== null && v !== undefined);
  for (const s of series) for (const key of keys) for (const v of s[key] || []) if (v !== null) values.push(v);
  if (!values.length) return [0, 1];
  return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
}

// Lines with bands. series: [{name, colour (number), x, y, lo?, hi?, live?, n?}].
function lineChart(host, spec) {
  const { series } = spec;
  const hline = spec.hline && spec.hline.value !== null && spec.hline.value !== undefined ? spec.hline : null;
  let [xMin, xMax] = extent(series, ['x'], []);
  const positive = series.flatMap((s) => s.x.filter((v) => v > 0));
  if (spec.xLog && positive.length) xMin = positive.reduce((a, b) => Math.min(a, b));
  else if (!spec.xLog) xMin = Math.min(0, xMin);
  if (xMax <= xMin) xMax = xMin + 1;
  let [yMin, yMax] = extent(series, ['y', 'lo', 'hi'], hline ? [hline.value] : []);
  const pad = (yMax - yMin) * 0.06 || Math.abs(yMax) * 0.1 || 0.5;
  yMin = yMin >= 0 && (yMin - pad < 0 || spec.fromZero) ? 0 : yMin - pad;
  yMax += pad;
  const chart = frame(host, { ...spec, xRange: [xMin, xMax], yRange: [yMin, yMax] });
  const { root, box, px, py, unpx } = chart;
  for (const s of series) {
    const at = s.x.map((_, i) => i).filter((i) => s.y[i] !== null);
    if (s.lo && s.hi && at.some((i) => s.lo[i] !== s.hi[i])) {
      const edge = at.filter((i) => s.lo[i] !== null && s.hi[i] !== null);
      const upper = edge.map((i) => `${px(s.x[i]).toFixed(1)} ${py(s.hi[i]).toFixed(1)}`);
      const lower = edge.reverse().map((i) => `${px(s.x[i]).toFixed(1)} ${py(s.lo[i]).toFixed(1)}`);
      svg('path', { class: 'band', d: `M${[...upper, ...lower].join('L')}Z` }, root).style.fill = colour(s.colour);
    }
  }
  for (const s of series) {
    const at = s.x.map((_, i) => i).filter((i) => s.y[i] !== null);
    const d = at.map((i) => `${px(s.x[i]).toFixed(1)} ${py(s.y[i]).toFixed(1)}`).join('L');
    const line = svg('path', { class: 'line', d: `M${d}`, 'stroke-dasharray': dash(s.colour) }, root);
    line.style.stroke = colour(s.colour);
    if (at.length === 1 || (at.length <= 40 && !spec.bare)) {
      for (const i of at) {
        svg('circle', { cx: px(s.x[i]).toFixed(1), cy: py(s.y[i]).toFixed(1), r: at.length === 1 ? 4 : 2.4 }, root)
          .style.fill = colour(s.colour);
      }
    }
  }
  if (hline) {
    const y = py(hline.value);
    svg('line', { class: 'target', x1: box.left, x2: box.right, y1: y, y2: y }, root);
    svg('text', { class: 'target-label', x: box.left + 6, y: y - 6 }, root, hline.text);
  }
  onHover(chart, (mx, my, event) => {
    const value = unpx(mx);
    const rows = [];
    for (const s of series) {
      const i = lastBefore(s.x, value);
      if (i < 0 || s.y[i] === null) continue;
      let text = `${s.name}: ${show(s.y[i])}`;
      if (s.lo && s.lo[i] !== null && s.hi[i] !== null && s.lo[i] !== s.hi[i]) text += ` (${show(s.lo[i])} to ${show(s.hi[i])})`;
      if (s.n > 1) text += value > s.x[s.x.length - 1] ? ', ended' : `, ${s.live[i]} of ${s.n} seeds this far`;
      rows.push({ colour: colour(s.colour), text });
    }
    if (!rows.length) return null;
    tip(event, `${spec.xName || spec.xTitle} ${show(spec.xWhole ? Math.round(value) : value)}`, rows);
    return mx;
  });
}

// Stacked areas. series: [{name, colour (CSS), y}], all on the same x.
function areaChart(host, spec) {
  const { x, series } = spec;
  const totals = x.map((_, i) => series.reduce((sum, s) => sum + s.y[i], 0));
  const xMax = x[x.length - 1] > 0 ? x[x.length - 1] : 1;
  const chart = frame(host, {
    ...spec, xRange: [Math.min(x[0], xMax - 1), xMax], yRange: [0, Math.max(1, ...totals) * 1.04],
  });
  const { root, px, py, unpx } = chart;
  const floor = x.map(() => 0);
  for (const s of series) {
    const lower = x.map((v, i) => `${px(v).toFixed(1)} ${py(floor[i]).toFixed(1)}`).reverse();
    s.y.forEach((v, i) => { floor[i] += v; });
    const upper = x.map((v, i) => `${px(v).toFixed(1)} ${py(floor[i]).toFixed(1)}`);
    svg('path', { d: `M${[...upper, ...lower].join('L')}Z` }, root).style.fill = s.colour;
  }
  onHover(chart, (mx, my, event) => {
    const i = lastBefore(x, unpx(mx));
    if (i < 0) return null;
    const rows = series.map((s) => ({ colour: s.colour, text: `${s.name}: ${show(s.y[i])}` })).reverse();
    tip(event, `Step ${show(x[i])}`, rows);
    return px(x[i]);
  });
}

// Marks of a step by row grid, coloured by value. One path a colour keeps thousands of marks light.
function markChart(host, spec) {
  const { x, row, value, rows } = spec;
  const [xMin, xMax] = extent([{ x }], ['x'], []);
  const chart = frame(host, {
    ...spec, xRange: [xMin, Math.max(xMax, xMin + 1)], yRange: [-0.5, Math.max(rows - 0.5, 0.5)],
  });
  const { root, box, px, py } = chart;
  const w = Math.min(9, Math.max(2.2, (box.right - box.left) / Math.max(1, xMax - xMin + 1)));
  const h = Math.min(9, Math.max(2.2, (box.bottom - box.top) / rows));
  const paths = new Map();
  x.forEach((v, i) => {
    const key = spec.bin(value[i]);
    if (!paths.has(key)) paths.set(key, []);
    paths.get(key).push(`M${(px(v) - w / 2).toFixed(1)} ${(py(row[i]) - h / 2).toFixed(1)}h${w.toFixed(1)}v${h.toFixed(1)}h-${w.toFixed(1)}z`);
  });
  for (const [key, marks] of paths) svg('path', { d: marks.join(''), fill: spec.fill(key) }, root);
  onHover(chart, (mx, my, event) => {
    let best = -1;
    let bestDistance = 14 ** 2;
    for (let i = 0; i < x.length; i += 1) {
      const distance = (px(x[i]) - mx) ** 2 + (py(row[i]) - my) ** 2;
      if (distance < bestDistance) { best = i; bestDistance = distance; }
    }
    if (best < 0) return null;
    spec.onPoint(best, event);
    return px(x[best]);
  });
}

function sparkline(values, low, high, index) {
  const width = 150;
  const height = 26;
  const root = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `from ${values[0]} to ${values[values.length - 1]}` });
  const px = (i) => 3 + (values.length > 1 ? i / (values.length - 1) : 0.5) * (width - 6);
  const py = (v) => height - 3 - ((v - low) / (high - low || 1)) * (height - 6);
  const d = values.map((v, i) => `${px(i).toFixed(1)} ${py(v).toFixed(1)}`).join('L');
  svg('path', { class: 'line', d: `M${d}` }, root).style.stroke = colour(index);
  const last = values.length - 1;
  svg('circle', { cx: px(last), cy: py(values[last]), r: 2.6 }, root).style.fill = colour(index);
  return root;
}
