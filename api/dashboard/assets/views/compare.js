/** Compare: the curves, results and settings of several jobs, which the address names. */

import * as api from "../api.js";
import { chart, chartControls } from "../line-chart.js";
import { Series, hasValues, heading, measurements } from "../training-curves.js";
import { command, empty, fill, h, section, status } from "../elements.js";
import * as format from "../format.js";
import { table } from "../table.js";

const MOST = 6, POINTS = 500, POLL_S = 10;
const KINDS = { train: "", valid: "Validation: " };

/** @param {import("../app.js").Page} page */
export async function show(page) {
  const { root, query, signal, setTitle } = page;
  const ids = (query.get("jobs") ?? "").split(",").filter(Boolean).slice(0, MOST);
  setTitle("Compare");
  root.append(h("div.head", {}, h("h1", {}, ids.length ? `Compare ${format.plural(ids.length, "job")}` : "Compare jobs")));
  if (!ids.length) {
    root.append(empty("Choose jobs in the list, then Compare.", h("a.button", { href: "/jobs" }, "Jobs"), command("attune jobs compare JOB_ID JOB_ID")));
    return;
  }
  const loaded = distinct(await Promise.all(ids.map((id) => load(id, signal))));
  const curves = overlaid(page, loaded);
  const results = h("div"), settings = h("div");
  const everything = h("input", { type: "checkbox", onchange: () => drawTables() });
  root.append(results, curves.element, section("Settings", h("label.inline", {}, everything, "Show equal settings"), settings));
  drawTables();
  curves.draw();
  if (loaded.every(({ job }) => job.finished_at)) return;
  await api.poll(POLL_S, signal, async () => {
    for (const [index, { job, name }] of loaded.entries()) if (!job.finished_at) loaded[index] = { ...await load(job.id, signal), name };
    drawTables();
    curves.draw();
  });

  function drawTables() {
    fill(results, resultsOf(loaded));
    fill(settings, settingsTable(loaded, everything.checked));
  }
}

async function load(id, signal) {
  const path = `/v1/fine_tuning/jobs/${id}`;
  const [job, metrics] = await Promise.all([api.get(path, {}, signal), api.get(`${path}/metrics`, { max_points: POINTS }, signal)]);
  const series = new Series();
  series.add(metrics.data);
  return { job, series, name: job.user_provided_suffix ?? job.pipeline?.stage ?? job.id.slice(-6) };
}

/** The same jobs; those that share a name have the end of their id in it. */
function distinct(loaded) {
  const shared = ({ name }) => loaded.filter((other) => other.name === name).length > 1;
  return loaded.map((entry) => (shared(entry) ? { ...entry, name: `${entry.name} ${entry.job.id.slice(-6)}` } : entry));
}

const swatch = (index) => h("span.swatch", { "aria-hidden": "true", dataset: { series: index + 1 } });

/** One row for each job: its state and how the model became. */
function resultsOf(loaded) {
  const list = table({
    caption: "Compared jobs", href: ({ job }) => `/jobs/${job.id}`, key: ({ job }) => job.id,
    columns: [
      { title: "Job", cell: ({ job, name, index }) => [swatch(index), h("a", { href: `/jobs/${job.id}` }, name), h("span.sub.wide", {}, h("code", {}, job.id))] },
      { title: "Status", cell: ({ job }) => status(job.status) },
      { title: "Method", cell: ({ job }) => `${format.term(job.method.type)}, ${format.term(job.technique.type)}`, wide: true },
      { title: "Train loss", cell: ({ series }) => format.metric(lastOf(series.values("loss", "train"))), figures: true, wide: true },
      { title: "Validation loss", cell: ({ series }) => format.metric(lastOf(series.values("loss", "valid"))), figures: true },
      { title: "Lowest", cell: ({ series }) => format.metric(lowestOf(series.values("loss", "valid"))), figures: true, wide: true },
      { title: "Time", cell: ({ job }) => (job.finished_at && job.started_at ? format.duration(job.finished_at - job.started_at) : "–"), figures: true, wide: true },
    ],
  });
  list.update(loaded.map((entry, index) => ({ ...entry, index })));
  return list.element;
}

const present = (column) => column.filter((value) => value !== null && value !== undefined);
const lastOf = (column) => present(column).at(-1);
const lowestOf = (column) => (present(column).length ? Math.min(...present(column)) : undefined);

/** A chart for each measurement, of training and of validation, with a line for each job that has it. */
function overlaid(page, loaded) {
  const charts = new Map(), grid = h("div.charts");
  const controls = chartControls(page, () => requestAnimationFrame(draw));
  page.signal.addEventListener("abort", () => { for (const drawn of charts.values()) drawn.destroy(); }, { once: true });

  function draw() {
    const steps = [...new Set(loaded.flatMap(({ series }) => series.steps))].sort((one, other) => one - other);
    const names = measurements(loaded.flatMap(({ series }) => [...series.names]));
    for (const name of names) for (const [kind, prefix] of Object.entries(KINDS)) {
      const columns = loaded.map(({ series }) => aligned(steps, series.steps, series.values(name, kind)));
      if (!columns.some(hasValues)) continue;
      const key = kind + name;
      if (!charts.has(key)) make(key, name, prefix, kind === "valid");
      const { smoothing, log, range } = controls.settings;
      charts.get(key).update(steps, columns, { smoothing, log: log && name.includes("loss") }, range);
    }
  }

  function make(key, name, prefix, dots) {
    const { title, unit, href } = heading(name, loaded[0].job.method.type);
    const drawn = chart({
      title: prefix ? prefix + title.toLowerCase() : title, unit, href, group: "compare", onZoom: controls.zoom,
      series: loaded.map((entry, index) => ({ label: entry.name, tone: `series-${index + 1}`, dots, smooth: !dots })),
    });
    charts.set(key, drawn);
    grid.append(drawn.element);
  }

  return { draw, element: section("Curves", controls.elements, grid) };
}

/** The values of one job at the steps of all. */
function aligned(steps, own, values) {
  const byStep = new Map(own.map((step, index) => [step, values[index]]));
  return steps.map((step) => byStep.get(step) ?? null);
}

/** One row for each setting, one column for each job; the settings in which they differ come first and are marked. */
function settingsTable(loaded, everything) {
  const flat = loaded.map(({ job }) => flattened(settingsOfJob(job)));
  const names = [...new Set(flat.flatMap((one) => Object.keys(one)))];
  const rows = names.map((name) => ({ name, values: flat.map((one) => one[name] ?? "–") }));
  const differs = ({ values }) => new Set(values).size > 1;
  const shown = everything ? [...rows.filter(differs), ...rows.filter((row) => !differs(row))] : rows.filter(differs);
  if (!shown.length) return h("p.muted", {}, "All settings are equal.");
  const list = table({
    caption: "Settings of the compared jobs", key: (row) => row.name,
    columns: [
      { title: "Setting", cell: (row) => h("code", { class: differs(row) ? null : "muted" }, row.name) },
      ...loaded.map(({ name }, index) => ({ title: name, cell: (row) => h("span", { class: differs(row) ? null : "muted" }, writtenAll(row.values)[index]), figures: true })),
    ],
  });
  list.update(shown);
  list.element.classList.add("stacked");
  return list.element;
}

function settingsOfJob({ model, training_file, validation_file, seed, method, technique, training, resources }) {
  const { hyperparameters, ...options } = method[method.type];
  return { model, training_file, validation_file, seed, method: method.type, hyperparameters, [method.type]: options, technique, training, resources };
}

function flattened(value, prefix = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return { [prefix]: typeof value === "number" ? value : written(value) };
  return Object.assign({}, ...Object.entries(value).map(([name, inner]) => flattened(inner, prefix ? `${prefix}.${name}` : name)));
}

const written = (value) => (value === null ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value));

/** The values of a setting, rounded unless that makes values equal which differ. */
function writtenAll(values) {
  const rounded = values.map((value) => (typeof value === "number" && !Number.isInteger(value) ? format.metric(value) : String(value)));
  return new Set(rounded).size === new Set(values).size ? rounded : values.map(String);
}
