/** One job: is it all right, and is the model better? */

import * as api from "../api.js";
import { chart, chartControls } from "../line-chart.js";
import { Series, hasValues, heading, measurements } from "../training-curves.js";
import { copyable, fill, h, jobsWith, modelLink, section, status, when } from "../elements.js";
import * as format from "../format.js";

const POINTS = 1000, POLL_S = 5;
/** Milliseconds of a frame that charts may take, and between two drawings of them. */
const FRAME_MS = 12, PAUSE_MS = 200;
const FINAL = ["succeeded", "failed", "cancelled"];
/** Whether nothing of a job changes any more: its evals run after it. */
const settled = ({ status: state, evals }) => FINAL.includes(state) && !evals.some(({ run_id: run, score }) => run && score === null);

/** @param {import("../app.js").Page} page */
export async function show(page) {
  const { root, id, signal, setTitle } = page;
  const path = `/v1/fine_tuning/jobs/${id}`;
  const [first, metrics] = await Promise.all([api.get(path, {}, signal), api.get(`${path}/metrics`, { max_points: POINTS }, signal)]);
  setTitle(`Job ${first.user_provided_suffix ?? id}`);
  const title = h("div"), verdict = h("div"), details = h("div.view"), aside = h("aside", { "aria-label": "About the job" });
  const curves = drawnCurves(page, first.method.type), controls = h("div");
  root.append(h("div.group-of-head", {}, h("div.head", {}, title, controls), verdict), h("div.beside", {}, curves.element, details, aside));
  curves.add(metrics.data);

  const more = await import("./job-details.js");
  const shown = more.details(page, path, first.evals.length > 0);
  details.append(...shown.elements);
  const refresh = async () => {
    const job = await api.get(path, {}, signal);
    update(job);
    return job;
  };
  const bar = more.actions(page, path, refresh), once = changed();
  let newest = first, worker = null;
  controls.replaceWith(bar.element);
  update(first);
  shown.onBest((step) => curves.mark(step));
  shown.onAttempt((attempt) => { worker = attempt.worker; update(newest); });
  curves.onClasses((point) => shown.showClasses(point, newest.labels));

  function update(job) {
    newest = job;
    bar.update(job);
    if (once("title", [job.status, job.pause_requested, job.user_provided_suffix])) fill(title, headline(job));
    if (once("verdict", [job.status, job.pause_requested, job.progress, job.queue, job.evaluation, job.expected_finish, Math.floor(Date.now() / 15000)])) fill(verdict, more.verdict(job));
    if (once("about", { ...job, worker, progress: null, queue: null, estimated_finish: null, expected_finish: null })) fill(aside, about(job, worker));
    curves.ended(FINAL.includes(job.status));
    shown.update(job);
  }

  const last = await api.get(`${path}/events`, { limit: 100 }, signal);
  curves.add(last.data.filter(({ type }) => type === "metrics").map(({ data }) => data));
  if (settled(first)) return;
  const followed = FINAL.includes(first.status) || api.follow(`${path}/events`, { after: last.data[0]?.id, signal, onEvent(event) {
    if (event.type === "metrics") curves.add([event.data]);
    else {
      shown.addEvent(event);
      refresh().catch(() => {}); // the next poll shows what is wrong
    }
  } });
  await Promise.all([followed, api.poll(POLL_S, signal, refresh)]);
}

const headline = (job) => [
  h("h1", {}, job.user_provided_suffix ?? job.id),
  h("p.muted", {}, status(job.pause_requested ? "pausing" : job.status), ` · ${format.term(job.method.type)}, ${format.term(job.technique.type)}, from ${job.model}`),
];

/** Return a function that returns whether a part has changed since it was asked, so that nothing is redrawn in vain. */
function changed() {
  const shown = new Map();
  return (part, value) => {
    const text = JSON.stringify(value);
    if (shown.get(part) === text) return false;
    shown.set(part, text);
    return true;
  };
}

const frame = () => new Promise(requestAnimationFrame);

/** What the job is made of, as one column of names and values. */
function about(job, worker) {
  const link = (href, text) => h("a", { href }, text);
  const rows = [
    ["Job", copyable(job.id)],
    ["Fine-tuned model", job.fine_tuned_model && modelLink(job.fine_tuned_model)],
    ["Result files", job.fine_tuned_model && results(job)],
    ["Base model", copyable(job.base_model)],
    ["Begins from", job.parent && modelLink(job.parent)],
    ["Pipeline", job.pipeline && link(`/pipelines/${job.pipeline.id}`, job.pipeline.stage)],
    ["Training file", file(job.training_file)],
    ["Validation file", job.validation_file && file(job.validation_file)],
    ["Evals", job.evals.length ? job.evals.map(evaluated) : null],
    [/:prepare/.test(worker) ? "Prepared by" : "Trained by", worker && ranOn(worker)],
    ["Created", when(job.created_at)],
    ["Started", job.started_at && when(job.started_at)],
    ["Finished", job.finished_at && when(job.finished_at)],
    ["Start to end", job.finished_at && job.started_at && format.duration(job.finished_at - job.started_at)],
    ["Trained tokens", job.trained_tokens && h("span", { title: format.exact(job.trained_tokens) }, format.count(job.trained_tokens))],
    ["Seed", String(job.seed)],
    ["Priority", job.priority ? String(job.priority) : null],
    ...Object.entries(job.metadata ?? {}).map(([key, value]) => [key, jobsWith(key, value) ? link(jobsWith(key, value), value) : value]),
  ].filter(([, value]) => value !== null && value !== undefined && value !== false);
  return h("dl.facts.column", {}, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** The host that runs or last ran the job, and the worker on it. */
function ranOn(worker) {
  const [host, ...name] = worker.split(":");
  return [host, " · ", copyable(worker, name.join(":") || worker)];
}

/** A run of an eval on the model, or on a checkpoint. It begins when the job succeeds. */
function evaluated({ eval_id: id, run_id: run, model, score, best }) {
  const [, step] = model?.match(/:ckpt-step-(\d+)$/) ?? [];
  const words = !run ? h("span.muted", {}, "After the training") : score === null ? "Results" : format.percent(score);
  return h("div", {}, h("a", { href: `/evals/${id}${run ? `?run=${run}` : ""}` }, words),
    step && ` step ${format.exact(step)}`, best && h("span.good", {}, " best"), " ", copyable(id, `${id.slice(0, 12)}…`));
}

/** What the job made, to download. */
const results = ({ id, technique, result_files: [metrics] }) => [
  h("a", { href: `/v1/fine_tuning/jobs/${id}/adapter`, download: true }, technique.type === "full" ? "Model" : "Adapter"),
  metrics && [" · ", h("a", { href: `/v1/files/${metrics}/content`, download: true }, "Metrics")],
];

/** A file's id, as a link if this server shows files. */
function file(id) {
  return document.querySelector("nav a[data-view=files][data-item]") ? h("a", { href: `/files/${id}` }, h("code", {}, id)) : copyable(id);
}

/** The charts of all measurements; each is made when its first value comes. */
function drawnCurves(page, method) {
  const series = new Series(), charts = new Map();
  const grid = h("div.charts"), waiting = h("p.muted", {}, "Curves appear with the first step.");
  const controls = chartControls(page, () => { hurry(); draw(); });
  let marks = [], stale = false, drawing = false, report = () => {}, hurry = () => {};
  page.signal.addEventListener("abort", () => { for (const { drawn } of charts.values()) drawn.destroy(); }, { once: true });

  /** Draw all charts, in each frame as many as fit into it. Then wait: steps may come faster than anybody reads them. */
  async function draw() {
    stale = true;
    if (drawing) return;
    drawing = true;
    while (stale && !page.signal.aborted) {
      stale = false;
      let ends = await frame() + FRAME_MS;
      waiting.hidden = series.points.length > 0;
      for (const control of controls.elements) control.hidden = !waiting.hidden;
      for (const name of measurements(series.names)) {
        if (performance.now() > ends) ends = await frame() + FRAME_MS;
        if (page.signal.aborted) return;
        show(name);
      }
      report(series.best("f1_by_class"));
      await new Promise((resolve) => { hurry = resolve; setTimeout(resolve, PAUSE_MS); });
    }
    drawing = false;
  }

  function show(name) {
    const columns = [series.values(name, "train"), series.values(name, "valid")];
    const validated = hasValues(columns[1]);
    if (charts.get(name)?.validated !== validated) make(name, validated, charts.get(name));
    const { smoothing, log, range } = controls.settings;
    charts.get(name).drawn.update(series.steps, validated ? columns : [columns[0]], { smoothing, marks: validated ? marks : [], log: log && name.includes("loss") }, range);
  }

  function make(name, validated, known) {
    const train = { label: validated ? "train" : heading(name).title, smooth: true };
    const valid = { label: "validation", tone: "ink", dashed: true, dots: true };
    const drawn = chart({ ...heading(name, method), group: `job-${page.id}`, series: validated ? [train, valid] : [train], onZoom: controls.zoom });
    if (known) {
      known.drawn.element.replaceWith(drawn.element);
      known.drawn.destroy();
    } else grid.append(drawn.element);
    charts.set(name, { drawn, validated });
  }

  const element = section("Curves", controls.elements, waiting, grid);
  return {
    element,
    /** A job that ended before its first step has no curves. */
    ended(isEnded) {
      element.hidden = isEnded && !series.points.length;
    },
    add(points) {
      series.add(points);
      draw();
    },
    /** Call a function with the best step that measured a classifier's classes, each time it may have changed. */
    onClasses(action) {
      report = action;
      draw();
    },
    mark(step) {
      marks = step === null ? [] : [{ x: step, label: "best" }];
      draw();
    },
  };
}
