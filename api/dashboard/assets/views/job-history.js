/** What happened to a job: its checkpoints, attempts, events and log. */

import * as api from "../api.js";
import { arrange, button, h, menu, modelLink, section, toast, when } from "../elements.js";
import * as format from "../format.js";
import { table } from "../table.js";

export const FINAL = ["succeeded", "failed", "cancelled"];

/** Milliseconds between two readings of the log of a running job. */
const FOLLOW_MS = 5000;

const lossOf = ({ metrics }) => metrics.full_valid_loss ?? metrics.valid_loss ?? null;

/** Checkpoints, newest first, the best one marked. `evaluated`: whether the job runs evals on its models. */
export function checkpointList({ signal }, path, evaluated) {
  let report = () => {}, best = null;
  const list = table({
    caption: "Checkpoints, newest first",
    columns: [
      { title: "Step", cell: (row) => [format.exact(row.step_number), row.id === best && h("span.good", {}, "  best")] },
      { title: "Model", cell: (row) => modelLink(row.fine_tuned_model_checkpoint) },
      { title: "Validation loss", cell: (row) => format.metric(lossOf(row)), figures: true },
      ...(evaluated ? [{ title: "Evals", cell: (row) => row.evals.map(passed), figures: true }] : []),
      { title: "Train loss", cell: (row) => format.metric(row.metrics.train_loss), figures: true, wide: true },
      { title: "Created", cell: (row) => when(row.created_at), figures: true, wide: true },
      { title: "Files", cell: (row) => menu("Download", () => artifacts(row.fine_tuned_model_checkpoint, signal)), figures: true, wide: true },
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

/** The share of an eval's items that a checkpoint passed, as a link to the run. */
function passed({ eval_id: id, run_id: run, score, best }) {
  return h("div", {}, best && h("span.good", {}, "best  "), h("a", { href: `/evals/${id}?run=${run}` }, score === null ? "Results" : format.percent(score)));
}

/** Links to the files of a checkpoint. */
async function artifacts(model, signal) {
  const path = `/v1/models/${model}/artifacts`;
  const { data } = await api.get(path, {}, signal);
  return data.map(({ name, bytes }) => h("a.file", { href: `${path}/${name}`, download: true }, name, h("span.muted", {}, format.bytes(bytes))));
}

/** What happened, newest first; without the metrics of each step, which are the curves. */
export function eventList({ signal }, path) {
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

const STAGES = { prepare: "Preparing", train: "Training" };

/** Where and when the job was prepared and trained. One of each, without a fault, is nothing to report. */
export function attemptList({ signal }, path) {
  let report = () => {};
  const list = table({
    caption: "Attempts, oldest first", key: (row) => String(row.number),
    columns: [
      { title: "Attempt", cell: (row) => `${row.number}. ${STAGES[row.stage]}` },
      { title: "Outcome", cell: (row) => [row.outcome ? format.sentence(row.outcome) : "Running", row.explanation && h("span.sub", {}, row.explanation)] },
      { title: "Worker", cell: (row) => h("code", {}, row.worker), wide: true },
      { title: "Started", cell: (row) => when(row.started_at), figures: true },
      { title: "Time", cell: (row) => (row.ended_at ? format.duration(row.ended_at - row.started_at) : "–"), figures: true, wide: true },
    ],
  });
  const element = section("Attempts", null, list.element);
  element.hidden = true;
  async function load() {
    const { data } = await api.get(`${path}/attempts`, {}, signal);
    element.hidden = data.length <= 2 && !data.some((row) => row.explanation);
    list.update(data);
    if (data.length) report(data.at(-1));
  }
  return { element, load: () => load().catch(ignoreAbort), onLast(action) { report = action; } };
}

/** The trainers' log, one fold for each attempt. It is loaded when it is opened, and followed only from its end. */
export function logText({ signal }, path) {
  const attempts = h("div.log"), details = h("details.fold", {}, h("summary", {}, "Show the trainers' log"), attempts);
  const download = h("a.button", { href: `${path}/log`, download: "log.txt" }, "Download");
  const none = h("p.muted", {}, "No attempt has begun.");
  const folds = [];
  let live = true, timer = null;

  async function load() {
    clearTimeout(timer);
    try {
      const text = await (await api.request(`${path}/log`, { signal })).text();
      show(text.split(/^=== /m).filter(Boolean));
    } finally {
      // After an error, too: the next attempt may reach the server.
      if (live && details.open && details.isConnected && !signal.aborted) timer = setTimeout(() => load().catch(() => {}), FOLLOW_MS);
    }
  }

  function show(parts) {
    while (folds.length < parts.length) folds.push(logOfAttempt(folds.length === parts.length - 1));
    arrange(attempts, parts.length ? folds.map(({ element }) => element) : [none]);
    parts.forEach((part, index) => folds[index].update(part));
  }

  details.addEventListener("toggle", () => details.open && load().catch((error) => signal.aborted || toast(error.message, "bad")));
  return {
    element: section("Log", download, details),
    update(job) {
      live = !FINAL.includes(job.status);
      if (job.status === "failed" && !details.dataset.shown) { details.dataset.shown = ""; details.open = true; }
    },
  };
}

/** The log of one attempt below its title. What is read keeps its place and its selection while more comes. */
function logOfAttempt(open) {
  const title = h("summary"), text = h("pre", { tabindex: 0 }), bare = h("p.muted"), fold = h("details.fold", { open }, title, text);
  return {
    element: h("div", {}, bare, fold),
    update(part) {
      const [first, ...lines] = part.split("\n"), content = lines.join("\n").trimEnd(), before = text.textContent;
      title.textContent = format.capitalized(first).replace(/\d{4}-\S+T\S+\d/, (iso) => format.clock(Date.parse(iso) / 1000));
      bare.textContent = title.textContent;
      [bare.hidden, fold.hidden] = [Boolean(content), !content];
      if (content === before) return;
      const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 8;
      if (content.startsWith(before)) text.append(content.slice(before.length));
      else text.textContent = content;
      if (atEnd) text.scrollTop = text.scrollHeight;
    },
  };
}

function ignoreAbort(error) {
  if (error.name !== "AbortError") toast(error.message, "bad");
}
