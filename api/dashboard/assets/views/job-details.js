/** The parts of a job below its curves: verdict, actions, evaluation, settings, checkpoints, events, log. */

import * as api from "../api.js";
import { copyAs } from "../calls.js";
import { marked } from "../diff.js";
import { button, confirm, copyable, facts, fill, h, section, toast, when } from "../elements.js";
import * as format from "../format.js";
import { table } from "../table.js";

const FINAL = ["succeeded", "failed", "cancelled"];
const PHASES = {
  loading: "Loading the base model", training: "Training", evaluating: "Evaluating", comparing: "Comparing with the base model",
  exporting: "Exporting the model", verifying: "Checking the published files", storing: "Storing the model",
};

/** Pause, resume, cancel, rerun, clone, and the calls that do the same. Each answers at once, then asks the server. */
export function actions(page, path, refresh) {
  const element = h("div.actions");
  const act = async (verb) => {
    await api.post(`${path}/${verb}`);
    await refresh();
  };
  const pause = button("Pause", () => act("pause"), { title: "Stop after the current step and keep its state" });
  const resume = button("Resume", () => act("resume"), { kind: "primary" });
  const cancel = button("Cancel …", async () => {
    const sure = await confirm(`Cancel ${page.id}?`, "Its training ends at once and cannot be resumed. Checkpoints that are stored remain.", "Cancel job");
    if (sure) await act("cancel");
  }, { kind: "danger" });
  const rerun = button("Rerun", async () => {
    const recipe = await api.get(`${path}/recipe`);
    const job = await api.post("/v1/fine_tuning/jobs", recipe);
    toast("Created the same job again");
    await page.open(`/jobs/${job.id}`);
  }, { title: "Create the same job again, with the same files and seed" });
  const form = document.querySelector("nav a[data-view=new]");
  const clone = form && h("a.button", { href: `${form.href}?from=${page.id}`, title: "Change this job's settings in a new one" }, "Clone");
  const call = copyAs(() => ({
    method: "GET", path, python: `job = client.fine_tuning.jobs.retrieve("${page.id}")`, cli: `attune jobs get ${page.id}`,
  }));
  return {
    element,
    update({ status }) {
      const ended = FINAL.includes(status);
      const offered = [["queued", "running"].includes(status) && pause, status === "paused" && resume, !ended && cancel, ended && rerun, clone, call].filter(Boolean);
      if (offered.some((item, index) => element.children[index] !== item) || element.children.length !== offered.length) fill(element, offered);
      page.offerKeys({
        ...(pause.isConnected ? { p: ["Pause the job", () => pause.click()] } : {}),
        ...(resume.isConnected ? { p: ["Resume the job", () => resume.click()] } : {}),
        ...(ended ? { r: ["Rerun the job", () => rerun.click()] } : {}),
      });
    },
  };
}

/** One line for the eye: how far it is, why it waits, what failed, or how much better the model became. */
export function verdict(job) {
  const { status, progress, error, queue, evaluation } = job;
  if (error) return h("div.notice", { role: "alert", dataset: { tone: "bad" } }, h("p", {}, error.message), h("p.muted.small", {}, h("code", {}, error.code), error.param && ` · field ${error.param}`));
  if (status === "succeeded" && evaluation) return h("p.verdict", {}, gain(evaluation));
  if (queue && !FINAL.includes(status)) return h("p.verdict", {}, queue.reason, queue.position && ` · number ${queue.position} in the queue`);
  if (status === "queued") return h("p.verdict.muted", {}, "Waiting for a free worker");
  if (status === "validating_files") return h("p.verdict.muted", {}, "Reading and checking the rows of its files");
  if (!progress?.total_steps || FINAL.includes(status)) return null;
  const phase = status === "paused" ? "Paused" : PHASES[progress.phase] ?? format.sentence(progress.phase);
  const parts = [phase, `step ${format.count(progress.step)} of ${format.count(progress.total_steps)}`, left(job)];
  return h("div.verdict", {}, h("p", {}, parts.filter(Boolean).join(" · ")),
    h("progress", { value: progress.step, max: progress.total_steps, "aria-label": "Training steps" }));
}

/** Time left as a range, since it is a prediction: a third more or less. */
function left({ status, estimated_finish: expected, expected_finish: range }) {
  const now = Date.now() / 1000;
  if (status !== "running" || !(expected > now)) return null;
  const [low, high] = range ? [range.earliest - now, range.latest - now] : [0.8 * (expected - now), 1.3 * (expected - now)];
  return `${format.durations(Math.max(1, low), high)} left`;
}

const LOWER_IS_BETTER = /loss|perplexity|kl|error/;

function gain({ base, tuned, rows, drawn_from: source, base_model: name }) {
  const metric = "loss" in base ? "loss" : Object.keys(base)[0];
  const change = tuned[metric] - base[metric];
  const better = LOWER_IS_BETTER.test(metric) ? change < 0 : change > 0;
  const words = change === 0 ? "As good as" : better ? "Better than" : "Worse than";
  return [h("strong", { class: better ? "good" : change ? "bad" : null }, `${words} ${name}`),
    `: ${format.sentence(metric).toLowerCase()} ${format.metric(tuned[metric])}, was ${format.metric(base[metric])}`,
    h("span.muted", {}, `, on ${format.plural(rows, `${source} row`)}`)];
}

/** The sections below the curves, and what keeps them current. */
export function details(page, path) {
  const holders = { evaluation: h("div"), settings: h("div"), cost: h("div") };
  const checkpoints = checkpointList(page, path), events = eventList(page, path), log = logText(page, path);
  let drawn = "";
  return {
    elements: [holders.evaluation, checkpoints.element, holders.settings, holders.cost, events.element, log.element],
    onBest: checkpoints.onBest,
    addEvent(event) {
      events.add(event);
      if (/heckpoint/.test(event.message)) checkpoints.load();
    },
    update(job) {
      const now = JSON.stringify([job.evaluation, job.method, job.training, job.technique, job.estimate]);
      if (now !== drawn) {
        fill(holders.evaluation, job.evaluation && evaluation(job.evaluation));
        fill(holders.settings, settings(job));
        fill(holders.cost, cost(job.estimate));
        drawn = now;
      }
      for (const holder of Object.values(holders)) holder.hidden = !holder.firstChild;
      log.update(job);
    },
  };
}

/** Base against tuned: the metrics, then answers side by side. */
function evaluation({ base, tuned, rows, drawn_from: source, base_model: name, samples }) {
  const metrics = table({
    caption: "Metrics of the base model and of the tuned model", key: (row) => row.name,
    columns: [
      { title: "Metric", cell: (row) => format.sentence(row.name) },
      { title: `Base (${name})`, cell: (row) => format.metric(row.base), figures: true },
      { title: "Tuned", cell: (row) => format.metric(row.tuned), figures: true },
      { title: "Change", cell: change, figures: true },
    ],
  });
  metrics.update(Object.keys(base).map((metric) => ({ name: metric, base: base[metric], tuned: tuned[metric] })));
  const note = source === "training" ? "These rows were trained on: a gain does not prove that the model generalizes." : null;
  return section("Base against tuned", h("span.muted", {}, `${format.plural(rows, `${source} row`)}`),
    note && h("p.notice", {}, note), metrics.element, samples.map(answers));
}

function change({ name, base, tuned }) {
  if (base === null || tuned === null || base === tuned) return h("span.muted", {}, "–");
  const better = LOWER_IS_BETTER.test(name) ? tuned < base : tuned > base;
  const known = /loss|perplexity|accuracy|reward|margin|f1|score/.test(name);
  const sign = tuned > base ? "+" : "−";
  return h("span", { class: known ? (better ? "good" : "bad") : null }, `${sign}${format.metric(Math.abs(tuned - base))}`, known && (better ? " better" : " worse"));
}

function answers(sample) {
  const [base, tuned] = marked(sample.base, sample.tuned);
  const column = (title, text, reward) => h("div", {}, h("h3.muted", {}, title, reward !== null && reward !== undefined && ` · reward ${format.metric(reward)}`), h("p.answer", {}, text.length ? text : h("span.muted", {}, "(empty)")));
  return h("article.sample", {},
    h("p.answer", {}, sample.prompt),
    sample.reference !== null && h("p.answer.reference", {}, h("span.muted", {}, "Reference: "), sample.reference),
    h("div.columns", {}, column("Base", base, sample.base_reward), column("Tuned", tuned, sample.tuned_reward)));
}

/** The options as the job resolved them: first those that were chosen, folded those that are as always. */
function settings({ method, technique, training, resources, export: exported }) {
  const { hyperparameters, ...options } = method[method.type];
  const group = (title, values) => h("div", {}, h("h3.muted", {}, title), facts(Object.entries(values)
    .filter(([name]) => name !== "type").map(([name, value]) => [format.sentence(name), written(value)])));
  return section("Settings", null, h("details.fold", {}, h("summary", {}, summary(training, hyperparameters)),
    h("div.view.indented", {},
      group(`Method: ${format.term(method.type)}`, { ...hyperparameters, ...options }), group(`Technique: ${format.term(technique.type)}`, technique),
      group("Training", training), group("Resources and export", { ...resources, ...exported }))));
}

const summary = ({ learning_rate: rate, max_length: length, total_steps: steps }, { n_epochs: epochs, batch_size: batch }) => [
  steps && `${format.count(steps)} steps`, epochs && `${epochs} ${epochs === 1 ? "epoch" : "epochs"}`, batch && `batch ${batch}`,
  rate && `learning rate ${written(rate)}`, length && `length ${written(length)}`,
].filter(Boolean).join(" · ");

function written(value) {
  if (value === null) return "none";
  if (typeof value === "number") return Number.isInteger(value) ? format.count(value) : format.metric(value);
  if (typeof value === "object") return Object.keys(value).length ? h("code", {}, JSON.stringify(value)) : "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return String(value);
}

/** Predicted beside actual. */
function cost(estimate) {
  if (!estimate) return null;
  const { predicted, actual } = estimate;
  const rows = [
    ["Time in all", predicted.seconds, actual?.seconds, format.duration],
    ["Training", predicted.training_s, actual?.training_s, format.duration],
    ["Peak memory", predicted.memory?.total, actual?.peak_bytes, format.bytes],
    ["Trained weights", predicted.trained_parameters, undefined, format.count],
  ].map(([name, before, after, show]) => ({ name, before, after, show }));
  const list = table({
    caption: "Predicted and actual cost", key: (row) => row.name,
    columns: [
      { title: "Cost", cell: (row) => row.name },
      { title: "Predicted", cell: (row) => (row.before === undefined ? "–" : row.show(row.before)), figures: true },
      actual && { title: "Actual", cell: (row) => (row.after === undefined || row.after === null ? h("span.muted", {}, "–") : row.show(row.after)), figures: true },
      actual && { title: "Ratio", cell: (row) => (row.before && row.after ? `× ${format.metric(Number((row.after / row.before).toPrecision(2)))}` : h("span.muted", {}, "–")), figures: true },
    ].filter(Boolean),
  });
  list.update(rows);
  return section(actual ? "Predicted and actual cost" : "Predicted cost", null, list.element);
}

const lossOf = ({ metrics }) => metrics.full_valid_loss ?? metrics.valid_loss ?? null;

/** Checkpoints, newest first, the best one marked. */
function checkpointList({ signal }, path) {
  let report = () => {}, best = null;
  const list = table({
    caption: "Checkpoints, newest first",
    columns: [
      { title: "Step", cell: (row) => [format.count(row.step_number), row.id === best && h("span.good", {}, "  best")] },
      { title: "Model", cell: (row) => copyable(row.fine_tuned_model_checkpoint) },
      { title: "Validation loss", cell: (row) => format.metric(lossOf(row)), figures: true },
      { title: "Train loss", cell: (row) => format.metric(row.metrics.train_loss), figures: true, wide: true },
      { title: "Created", cell: (row) => when(row.created_at), figures: true, wide: true },
    ],
  });
  const element = section("Checkpoints", null, list.element);
  element.hidden = true;
  async function load() {
    const { data } = await api.get(`${path}/checkpoints`, { limit: 100 }, signal);
    const measured = data.filter((row) => lossOf(row) !== null).sort((one, other) => lossOf(one) - lossOf(other));
    best = measured[0]?.id ?? null;
    element.hidden = !data.length;
    list.update(data.map((row) => ({ ...row, best: row.id === best })));
    report(measured[0]?.step_number ?? null);
  }
  load().catch(ignoreAbort);
  return { element, load, onBest(action) { report = action; } };
}

/** What happened, newest first; without the metrics of each step, which are the curves. */
function eventList({ signal }, path) {
  const list = h("ol.events"), seen = new Set();
  let last = null;
  const older = button("Show older", () => load(50));
  older.hidden = true;
  const line = (event) => h("li", { dataset: { tone: event.level } },
    h("time", { title: format.utc(event.created_at), datetime: new Date(event.created_at * 1000).toISOString() }, format.timeOfDay(event.created_at)), h("span", {}, event.message));
  const fresh = (event) => !seen.has(event.id) && seen.add(event.id);
  async function load(limit) {
    const page = await api.get(`${path}/events`, { type: "message", limit, after: last }, signal);
    list.append(...page.data.filter(fresh).map(line));
    last = page.data.at(-1)?.id ?? last;
    older.hidden = !page.has_more;
  }
  load(12).catch(ignoreAbort);
  return { element: section("Events", null, list, older), add: (event) => fresh(event) && list.prepend(line(event)) };
}

/** The trainers' log, one fold for each attempt. It is loaded when it is opened, and followed only from its end. */
function logText({ signal }, path) {
  const attempts = h("div.log"), details = h("details.fold", {}, h("summary", {}, "Show the trainers' log"), attempts);
  const download = h("a.button", { href: `${path}/log`, download: "log.txt" }, "Download");
  let live = true, timer = null;

  async function load() {
    clearTimeout(timer);
    const text = await (await api.request(`${path}/log`, { signal })).text();
    const parts = text.split(/^=== /m).filter(Boolean);
    const opened = attempts.querySelector("pre:last-of-type");
    const following = !opened || opened.scrollTop + opened.clientHeight >= opened.scrollHeight - 8;
    fill(attempts, parts.map((part, index) => fold(part, index === parts.length - 1)), !parts.length && h("p.muted", {}, "No attempt has begun."));
    const last = attempts.querySelector("details:last-of-type pre");
    if (last && following) last.scrollTop = last.scrollHeight;
    if (live && details.open && !signal.aborted) timer = setTimeout(() => load().catch(ignoreAbort), 5000);
  }

  const fold = (part, isLast) => {
    const [title, ...lines] = part.split("\n"), text = lines.join("\n").trimEnd();
    const shown = format.sentence(title).replace(/\S+T\S+?(?=: )/, (iso) => format.clock(Date.parse(iso) / 1000));
    if (!text) return h("p.muted", {}, shown);
    return h("details.fold", { open: isLast }, h("summary", {}, shown), h("pre", { tabindex: 0 }, text));
  };
  details.addEventListener("toggle", () => details.open && load().catch((error) => signal.aborted || toast(error.message, "bad")));
  return {
    element: section("Log", download, details),
    update(job) {
      live = !FINAL.includes(job.status);
      if (job.status === "failed" && !details.dataset.shown) { details.dataset.shown = ""; details.open = true; }
    },
  };
}

function ignoreAbort(error) {
  if (error.name !== "AbortError") toast(error.message, "bad");
}
