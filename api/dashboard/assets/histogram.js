/** A histogram of lengths, drawn by uPlot. */

import { color, FONT, uPlot } from "./line-chart.js";
import { fill, h } from "./elements.js";
import { count, plural } from "./format.js";

const HEIGHT = 168;

/**
 * Return the histogram as an element; null without any row.
 * @param {object} options
 * @param {string} options.title
 * @param {{width: number, rows: number[]}} options.lengths bin i begins at i · width
 * @param {number|null} [options.limit] a length to mark: rows beyond it are cut
 * @param {AbortSignal} options.signal
 */
export function histogram({ title, lengths: { width, rows }, limit = null, signal }) {
  const range = (index) => (width === 1 ? plural(index, "token") : `${count(index * width)} to ${count((index + 1) * width - 1)} tokens`);
  const filled = rows.findIndex((number) => number > 0);
  if (filled < 0) return null;
  if (rows.every((number, index) => index === filled || !number)) return h("p", {}, `All rows have ${range(filled)}.`);
  const reading = h("output.reading");
  const plot = h("div.plot", { role: "img", "aria-label": `${title}: ${summary(width, rows)}` });
  const element = h("figure.chart", {}, h("figcaption", {}, h("span", {}, title, h("span.muted", {}, " tokens")), reading), plot);
  let drawn = null;

  function draw() {
    drawn?.destroy();
    plot.replaceChildren();
    if (!plot.clientWidth) return;
    const [grey, line, accent] = ["--grey", "--line", "--accent"].map((name) => color(plot, name));
    const axis = { stroke: grey, font: FONT, grid: { stroke: line, width: 1 }, ticks: { show: false } };
    const first = Math.max(0, filled - 1);
    drawn = new uPlot({
      width: plot.clientWidth, height: HEIGHT, padding: [10, 12, 0, 0], legend: { show: false },
      scales: { x: { time: false, range: [first * width, rows.length * width] }, y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
      axes: [
        { ...axis, grid: { show: false }, size: 24, space: 80, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? count(tick) : "")) },
        { ...axis, size: 52, space: 36, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? count(tick) : "")) },
      ],
      series: [{}, { fill: accent, stroke: accent, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.9, Infinity], align: 0 }) }],
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      hooks: {
        draw: [(u) => mark(u, limit, grey)],
        setCursor: [(u) => fill(reading, u.cursor.idx >= 0 && u.cursor.left >= 0 ? `${range(u.cursor.idx)}  ${plural(rows[u.cursor.idx], "row")}` : "")],
      },
    }, [rows.map((_, index) => (index + 0.5) * width), rows], plot);
  }

  const observer = new ResizeObserver(draw);
  observer.observe(plot);
  document.addEventListener("themechange", draw, { signal });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, { signal });
  signal.addEventListener("abort", () => { observer.disconnect(); drawn?.destroy(); }, { once: true });
  return element;
}

function mark(u, limit, ink) {
  if (limit === null || limit > u.scales.x.max) return;
  const { ctx } = u, ratio = devicePixelRatio, left = u.valToPos(limit, "x", true);
  ctx.save();
  ctx.fillStyle = ink;
  ctx.fillRect(left, u.bbox.top, ratio, u.bbox.height);
  ctx.font = `${12 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = left > u.bbox.left + u.bbox.width / 2 ? "right" : "left";
  ctx.fillText(` cut at ${count(limit)} `, left, u.bbox.top + 10 * ratio);
  ctx.restore();
}

function summary(width, rows) {
  const most = rows.indexOf(Math.max(...rows));
  return `most rows have ${count(most * width)} to ${count((most + 1) * width - 1)} tokens`;
}
