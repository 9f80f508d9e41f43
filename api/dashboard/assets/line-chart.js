/** Line charts over steps, drawn by uPlot. Charts of one group share their x-axis, its width and their crosshair. */

import { fill, h } from "./elements.js";
import * as format from "./format.js";

const HEIGHT = 168, GAP = 6, LINE = 14, LONGEST = -8.88e-8;
const NARROWEST_TICK = 56, MOST_TICKS = 5;
export const FONT = "12px system-ui, sans-serif";
export const uPlot = await load();

/** The charts of each group: how to draw them again, and the room at their right for the longest text of all. */
const groups = new Map();

/** uPlot is a classic script, which defines a global name. */
function load() {
  return new Promise((resolve, reject) => {
    const script = h("script", { src: new URL("uplot.iife.min.js", import.meta.url).href });
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => reject(new Error("The charts' script could not be loaded: reload the page."));
    document.head.append(script);
  });
}

/**
 * @typedef {object} Series
 * @property {string} label
 * @property {string} [tone] name of a color in design.css; default: accent
 * @property {boolean} [dashed]
 * @property {boolean} [dots] a dot at each point, for values that are measured now and then
 * @property {boolean} [smooth] whether the group's smoothing applies
 */

/**
 * @param {object} options
 * @param {string} options.title
 * @param {string} [options.unit]
 * @param {string} [options.href] address of an explanation
 * @param {Series[]} options.series
 * @param {string} options.group
 * @param {(value: number) => string} [options.show] writes a value
 * @param {(range: [number, number]|null) => void} [options.onZoom] gets the steps that are shown; null: all
 */
export function chart({ title, unit = "", href, series, group, show = format.metric, onZoom = () => {} }) {
  const reading = h("output.reading");
  const plot = h("div.plot", { role: "img" });
  const element = h("figure.chart", {}, h("figcaption", {}, h("span", {}, href ? h("a.plain", { href, title: "What it means" }, title) : title, unit && h("span.muted", {}, ` ${unit}`)), reading), plot);
  const state = { x: [], columns: [], smoothing: 0, log: false, marks: [], range: null };
  let drawn = null;
  if (!groups.has(group)) groups.set(group, { room: 0, redraws: new Set() });
  const peers = groups.get(group);
  peers.redraws.add(redraw);

  const observer = new ResizeObserver(() => {
    if (drawn && plot.clientWidth) drawn.setSize({ width: plot.clientWidth, height: HEIGHT });
    else redraw();
  });
  observer.observe(plot);
  document.addEventListener("themechange", redraw);
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  darkness.addEventListener("change", redraw);

  function redraw() {
    drawn?.destroy();
    drawn = null;
    if (!state.x.length || !plot.clientWidth) return;
    if (state.x.length === 1) fill(plot, single(series, state.columns, show));
    else {
      plot.replaceChildren();
      drawn = new uPlot(options(), data(), plot);
      if (state.range) setRange(state.range);
    }
    plot.setAttribute("aria-label", summary());
  }

  function setRange(range) {
    state.range = range;
    const [min, max] = range ?? [state.x[0], state.x.at(-1)];
    drawn?.setScale("x", { min, max });
  }

  /** Note which steps are shown, after the reader has changed that. */
  function zoomed({ scales: { x: { min, max } }, data: [steps] }, scale) {
    if (scale !== "x") return;
    const range = min > steps[0] || max < steps.at(-1) ? [Math.round(min), Math.round(max)] : null;
    if (String(range) === String(state.range)) return;
    state.range = range;
    plot.setAttribute("aria-label", summary());
    onZoom(range);
  }

  /** Both the smoothed curve and, faint behind it, the measured one. */
  function data() {
    const positive = (column) => (state.log ? column.map((value) => (value > 0 ? value : null)) : column);
    const measured = state.columns.map(positive);
    const smoothed = measured.map((column, index) => (series[index].smooth && state.smoothing ? smoothen(column, state.smoothing) : column));
    return [state.x, ...measured, ...smoothed];
  }

  function options() {
    const ink = color(plot, "--ink"), grey = color(plot, "--grey"), line = color(plot, "--line");
    const axis = { stroke: grey, font: FONT, grid: { stroke: line, width: 1 }, ticks: { show: false } };
    const stroke = ({ tone = "accent" }) => color(plot, `--${tone}`);
    const dash = ({ dashed }) => (dashed ? [5, 4] : undefined);
    return {
      width: plot.clientWidth, height: HEIGHT, padding: [14, room(), 0, 0], legend: { show: false },
      scales: { x: { time: false }, y: { distr: state.log ? 3 : 1 } },
      axes: [
        { ...axis, size: 24, space: (_u, _axis, _min, _max, width) => Math.max(NARROWEST_TICK, width / MOST_TICKS), values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? (tick < 1e6 ? format.exact(tick) : format.count(tick)) : "")) },
        { ...axis, size: 52, space: 36, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : show(tick))) },
      ],
      series: [
        {},
        ...series.map((one) => ({ stroke: stroke(one), width: 1, alpha: one.smooth && state.smoothing ? 0.25 : 0, spanGaps: true, points: { show: false } })),
        ...series.map((one) => ({ stroke: stroke(one), width: 1.5, dash: dash(one), spanGaps: true, points: { show: one.dots || undefined, size: 5, fill: stroke(one) } })),
      ],
      cursor: { sync: { key: group, setSeries: false }, y: false, points: { size: 6 }, drag: { x: true, y: false } },
      hooks: { draw: [(u) => label(u, series, ink, grey, show), (u) => mark(u, state.marks, grey, line)], setCursor: [read], setScale: [zoomed] },
    };
  }

  /** Room for the longest text at a line's end, also for one that later values need. */
  function labelWidth() {
    const context = document.createElement("canvas").getContext("2d");
    context.font = FONT;
    const texts = series.flatMap((one, index) => [state.columns[index], [LONGEST]].map((column) => endText(one, column, series.length, show)));
    return 2 * GAP + Math.ceil(Math.max(...texts.map((text) => context.measureText(text).width)));
  }

  /** The same room in all charts of the group, so that a step is at the same place in those below each other. */
  function room() {
    const own = labelWidth();
    if (own > peers.room) {
      peers.room = own;
      const others = [...peers.redraws].filter((other) => other !== redraw);
      requestAnimationFrame(() => { for (const other of others) if (peers.redraws.has(other)) other(); });
    }
    return peers.room;
  }

  function read(u) {
    const index = u.cursor.idx;
    const at = index === null || index === undefined ? null : u.data[0][index];
    reading.replaceChildren(...(at === null ? [] : [`step ${format.exact(at)}  `, ...series.map((one, number) => {
      const value = final(state.columns[number].slice(0, index + 1)); // between evaluations that of the last one
      return value === undefined ? "" : `${series.length > 1 ? `${one.label} ` : ""}${show(value)}  `;
    })]));
  }

  function summary() {
    const last = series.map((one, index) => `${one.label} ${show(final(state.columns[index]))}`).join(", ");
    const [first, end] = state.range ?? [state.x[0], state.x.at(-1)];
    return `${title}, steps ${first} to ${end}; last ${last}`;
  }

  return {
    element,
    /**
     * @param {number[]} x steps
     * @param {(number|null)[][]} columns of each series, null where there is no value
     * @param {{smoothing?: number, log?: boolean, marks?: {x: number, label: string}[]}} [changes]
     * @param {[number, number]|null} [range] the steps to show; null: all
     */
    update(x, columns, changes = {}, range = null) {
      const same = drawn && x.length > 1 && Object.entries(changes).every(([name, value]) => JSON.stringify(state[name]) === JSON.stringify(value));
      Object.assign(state, { x, columns, ...changes });
      const moved = String(range) !== String(state.range);
      if (!same) {
        state.range = range;
        return redraw();
      }
      drawn.setData(data(), !range);
      if (moved) setRange(range);
      else if (range) drawn.redraw(); // setData without a new range draws nothing
      plot.setAttribute("aria-label", summary());
    },
    destroy() {
      observer.disconnect();
      document.removeEventListener("themechange", redraw);
      darkness.removeEventListener("change", redraw);
      peers.redraws.delete(redraw);
      if (!peers.redraws.size) groups.delete(group);
      drawn?.destroy();
    },
  };
}

/** Exponential moving average; `weight`: 0 to 1, of the past. It is corrected for its start, and skips gaps. */
export function smoothen(column, weight) {
  let sum = 0, total = 0;
  return column.map((value) => {
    if (value === null || value === undefined) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

/** A canvas needs the color itself, not the name of a property. */
export function color(element, property) {
  const probe = h("span");
  probe.style.color = `var(${property})`;
  element.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

const final = (column) => column.findLast((value) => value !== null && value !== undefined);

const endText = ({ label }, column, number, show) => `${show(final(column))}${number > 1 ? ` ${label}` : ""}`;

/** A curve of one point is a number. */
const single = (series, columns, show) => series.map((one, index) =>
  h("p.single", {}, h("span.number", {}, show(columns[index][0])), series.length > 1 && h("span.muted", {}, ` ${one.label}`)));

/** Write each series' name and last value at the end of its line, so that no legend is needed. */
function label(u, series, ink, grey, show) {
  const ratio = devicePixelRatio, places = [];
  for (let number = 0; number < series.length; number += 1) {
    const column = u.data[1 + series.length + number];
    const index = column.findLastIndex((value) => value !== null && value !== undefined);
    if (index < 0) continue;
    places.push({ y: u.valToPos(column[index], "y"), text: endText(series[number], column, series.length, show), number });
  }
  places.sort((one, other) => one.y - other.y);
  spread(places, u.bbox.height / ratio);
  const { ctx } = u;
  ctx.save();
  ctx.font = `${12 * ratio}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  for (const { y, text, number } of places) {
    ctx.fillStyle = series.length > 1 ? u.series[1 + series.length + number].stroke() : ink;
    ctx.fillText(text, u.bbox.left + u.bbox.width + GAP * ratio, u.bbox.top + y * ratio);
  }
  ctx.fillStyle = grey;
  ctx.textAlign = "right";
  ctx.fillText("step", u.bbox.left - 2 * GAP * ratio, u.bbox.top + u.bbox.height + 16 * ratio);
  ctx.restore();
}

/** Move texts apart that would cover each other, and keep them within the plot's height. They are sorted by height. */
function spread(places, height) {
  places.forEach((place, index) => { if (index) place.y = Math.max(place.y, places[index - 1].y + LINE); });
  places.toReversed().forEach((place, index, all) => { place.y = Math.min(place.y, index ? all[index - 1].y - LINE : height - 2); });
}

/** Draw a vertical line at steps of note, such as the best checkpoint. */
function mark(u, marks, grey, line) {
  const { ctx } = u, ratio = devicePixelRatio;
  ctx.save();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  for (const { x, label } of marks) {
    const left = u.valToPos(x, "x", true);
    if (left < u.bbox.left || left > u.bbox.left + u.bbox.width) continue;
    ctx.fillStyle = line;
    ctx.fillRect(left, u.bbox.top, ratio, u.bbox.height);
    ctx.fillStyle = grey;
    ctx.fillText(label, left, u.bbox.top - 3 * ratio);
  }
  ctx.restore();
}

/**
 * Smoothing and logarithmic scale, for all charts of a view, and the steps that they show.
 * @param {import("./app.js").Page} page whose address keeps the values
 * @param {() => void} change called after a change of `settings`
 * @returns {{elements: HTMLElement[], settings: {smoothing: number, log: boolean, range: [number, number]|null}, zoom: (range: [number, number]|null) => void}}
 */
export function chartControls({ query, setQuery }, change) {
  const settings = settingsOf(query);
  const smoothing = h("input", { type: "range", min: 0, max: 0.95, step: 0.05, value: settings.smoothing });
  const log = h("input", { type: "checkbox", checked: settings.log });
  const apply = () => {
    Object.assign(settings, { smoothing: Number(smoothing.value), log: log.checked });
    setQuery({ smoothing: settings.smoothing ? String(settings.smoothing) : null, scale: settings.log ? "log" : null, steps: settings.range?.join("-") ?? null });
    change();
  };
  smoothing.addEventListener("input", apply);
  log.addEventListener("change", apply);
  return {
    settings, elements: [h("label.inline", {}, "Smoothing", smoothing), h("label.inline", {}, log, "Log scale")],
    zoom(range) { settings.range = range; apply(); },
  };
}

/** Smoothing, scale and the steps that are shown: what the address says of charts. */
const settingsOf = (query) => ({
  smoothing: Number(query.get("smoothing") ?? 0), log: query.get("scale") === "log",
  range: /^\d+-\d+$/.test(query.get("steps") ?? "") ? query.get("steps").split("-").map(Number) : null,
});
