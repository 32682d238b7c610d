// Draws the charts of a report with uPlot: axes, hover values, bands, marks, smoothing, a logarithmic scale.
"use strict";
(() => {
const COLOURS = ["--c0", "--c1", "--c2", "--c3"], DASHES = [[], [6, 3], [2, 3], [9, 3, 2, 3]];
const WHOLE = Array.from({ length: 10 }, (_, i) => [1, 2, 5].map((n) => n * 10 ** i)).flat(); // between ticks of whole numbers
const HEIGHTS = { lines: 230, bars: 190 };
const figures = [...document.querySelectorAll("figure.chart")];
const plots = new Map(); // figure -> uPlot
const controls = document.querySelector(".chart-controls");
let smoothing = 0, log = false;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace("e+", "e");
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

// An exponential moving average, corrected for its start; what is missing stays missing.
function smoothed(values) {
  if (!smoothing) return values;
  let mean = 0, weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = smoothing * mean + (1 - smoothing) * value;
    weight = smoothing * weight + 1 - smoothing;
    return mean / weight;
  });
}

// The columns of all series over the x that any of them has.
function table(spec) {
  const xs = [...new Set(spec.series.flatMap((one) => one.x))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const column = (one, name) => {
    const values = new Array(xs.length).fill(null), given = spec.kind === "lines" ? smoothed(one[name]) : one[name];
    one.x.forEach((x, i) => (values[place.get(x)] = given[i]));
    return values;
  };
  const columns = [xs];
  const shown = spec.kind === "bars" ? ["y"] : ["y", "low", "high"]; // the interval of a bar is drawn on it
  for (const one of spec.series) for (const name of shown) if (one[name]) columns.push(column(one, name));
  return columns;
}

function lineSeries(spec, one, i, columns) {
  const colour = css(COLOURS[i % COLOURS.length]), scale = one.right ? "z" : "y", alone = one.x.length === 1;
  const value = (_, v) => number(v);
  const made = [{ label: one.label, scale, value, stroke: colour, width: 1.8, dash: DASHES[i % DASHES.length], spanGaps: true, points: { show: alone || one.x.length < 12, size: 6, fill: colour } }];
  const bands = [];
  if (one.low) {
    for (const label of ["least", "most"]) made.push({ label: `${one.label}, ${label}`, scale, value, stroke: colour, width: 0.6, spanGaps: true, points: { show: false } });
    bands.push({ series: [columns + 2, columns + 1], fill: colour + "38" });
  }
  return [made, bands];
}

function barSeries(spec, one) {
  const colour = css("--bar");
  return [[{ label: one.label, scale: "y", value: (_, v, __, i) => number(v) + (one.low && i !== null ? ` (${number(one.low[i])} to ${number(one.high[i])})` : ""), stroke: colour, fill: colour, width: 0, paths: uPlot.paths.bars({ size: [0.9, 120] }), points: { show: false } }], []];
}

// Ends of a scale: with room, with what the chart asks for, and never of no length.
function ends(spec, logarithmic) {
  return (_, low, high) => {
    if (low === null) return [0, 1];
    if (logarithmic) return low === high ? [low / 2, high * 2] : [low, high];
    for (const one of spec.kind === "bars" ? spec.series : []) {
      low = Math.min(low, ...(one.low ?? []));
      high = Math.max(high, ...(one.high ?? []));
    }
    if (spec.most !== null && spec.most !== undefined) return [Math.min(spec.least, low), Math.max(spec.most, high)];
    const room = 0.06 * (high - low || Math.abs(high) || 1), labels = 2.5 * room * spec.marks.length; // of the marks, at the top
    return [spec.least === null ? low - room : Math.min(spec.least, low), high + room + labels];
  };
}

function xEnds(spec, xs) {
  const at = [...(spec.ends ?? [xs[0], xs.at(-1)]), ...spec.marks.map((mark) => mark.x)];
  const low = Math.min(...at), high = Math.max(...at), room = spec.kind === "bars" || low === high ? 0.02 * (high - low) || 0.5 : 0;
  return [low - room, high + room];
}

function drawMarks(spec) {
  return (u) => {
    const { ctx, bbox } = u, ratio = uPlot.pxRatio;
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    spec.marks.forEach((mark, i) => {
      const x = u.valToPos(mark.x, "x", true);
      if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) return;
      ctx.strokeStyle = ctx.fillStyle = css(i % 2 ? "--good" : "--bad");
      ctx.setLineDash([4 * ratio, 3 * ratio]);
      ctx.lineWidth = 1.5 * ratio;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const left = x + ctx.measureText(mark.label).width + 8 * ratio > bbox.left + bbox.width;
      ctx.textAlign = left ? "right" : "left";
      ctx.fillText(mark.label, x + (left ? -4 : 4) * ratio, bbox.top + (2 + 13 * i) * ratio);
    });
    ctx.restore();
  };
}

// The intervals of bars: a line from end to end, with a cap at each.
function drawIntervals(spec) {
  return (u) => {
    const { ctx } = u, ratio = uPlot.pxRatio;
    ctx.save();
    for (const one of spec.series) {
      one.low?.forEach((low, i) => {
        const x = u.valToPos(one.x[i], "x", true), ends = [low, one.high[i]].map((v) => u.valToPos(v, "y", true));
        ctx.beginPath();
        ctx.moveTo(x, ends[0]);
        ctx.lineTo(x, ends[1]);
        for (const y of ends) {
          ctx.moveTo(x - 5 * ratio, y);
          ctx.lineTo(x + 5 * ratio, y);
        }
        for (const [colour, width] of [["--card", 4], ["--ink", 1.5]]) {
          ctx.strokeStyle = css(colour);
          ctx.lineWidth = width * ratio;
          ctx.stroke();
        }
      });
    }
    ctx.restore();
  };
}

function axes(spec) {
  const ink = css("--soft"), line = css("--line"), font = "12px system-ui, sans-serif";
  const common = { stroke: ink, font, labelFont: font, ticks: { stroke: line, size: 5 }, labelGap: 2 };
  const units = spec.units.map((unit, i) => ({
    ...common, label: unit, labelSize: 18, size: (_, values) => Math.max(38, 12 + 7 * Math.max(0, ...(values ?? []).map((one) => (one ?? "").length))),
    scale: i ? "z" : "y", side: i ? 1 : 3, grid: { show: !i, stroke: line, width: 1 }, values: (_, splits) => splits.map((v) => (v === null ? "" : number(v))),
  }));
  const x = { ...common, label: spec.x, labelSize: 18, size: 34, grid: { show: false }, space: 64, values: (_, splits) => splits.map((v) => xTick(spec, v)) };
  if (spec.ticks || spec.series.every((one) => one.x.every(Number.isInteger))) x.incrs = WHOLE;
  return [x, ...units];
}

function xTick(spec, value) {
  if (spec.ticks) return Number.isInteger(value) ? spec.ticks[value] ?? "" : "";
  return number(value);
}

function draw(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent), box = figure.querySelector(".plot");
  plots.get(figure)?.destroy();
  const data = table(spec), bars = spec.kind === "bars";
  const logarithmic = log && !bars && data.slice(1).flat().every((v) => v === null || v > 0);
  const series = [{ label: spec.x, value: (u, v, _, i) => (v === null || v === undefined ? "–" : spec.labels?.[i] ?? number(v)) }], bands = [];
  spec.series.forEach((one, i) => {
    const [made, more] = bars ? barSeries(spec, one) : lineSeries(spec, one, i, series.length);
    series.push(...made);
    bands.push(...more);
  });
  const scale = { distr: logarithmic ? 3 : 1, range: ends(spec, logarithmic) };
  const plot = new uPlot({
    width: box.clientWidth, height: HEIGHTS[spec.kind], series, bands, axes: axes(spec), legend: { live: true },
    scales: { x: { time: false, range: (_, low, high) => (low === data[0][0] && high === data[0].at(-1) ? xEnds(spec, data[0]) : [low, high]) }, y: scale, z: scale },
    cursor: { y: false, points: { size: 7 } }, hooks: { draw: [drawMarks(spec), ...(bars ? [drawIntervals(spec)] : [])] },
  }, data, box);
  plots.set(figure, plot);
  figure.toggleAttribute("data-log-refused", log && !bars && !logarithmic);
}

function move(figure, event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], plot = plots.get(figure);
  if (!step || !plot || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const last = plot.data[0].length - 1, now = plot.cursor.idx;
  const at = now === null || now === undefined ? (step > 0 ? 0 : last) : Math.min(Math.max(now + step, 0), last);
  plot.setCursor({ left: plot.valToPos(plot.data[0][at], "x"), top: 10 });
}

const drawAll = () => figures.forEach(draw);
for (const figure of figures) figure.querySelector(".plot").addEventListener("keydown", (event) => move(figure, event));
if (controls) {
  controls.hidden = false;
  controls.addEventListener("input", () => {
    smoothing = Number(controls.elements.smoothing.value);
    log = controls.elements.log.checked;
    controls.querySelector("output").textContent = smoothing;
    figures.filter((figure) => figure.dataset.kind === "lines").forEach(draw);
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new ResizeObserver(() => figures.forEach((figure) => {
  const width = figure.querySelector(".plot").clientWidth, plot = plots.get(figure);
  if (plot && width && width !== plot.width) plot.setSize({ width, height: plot.height });
  else if (!plot && width) draw(figure);
})).observe(document.body);
document.querySelectorAll("details").forEach((one) => one.addEventListener("toggle", () => one.querySelectorAll("figure.chart").forEach(draw)));
drawAll();
})();
