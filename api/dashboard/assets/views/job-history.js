/** What happened to a job: its checkpoints, attempts, events and log. */

import * as api from "../api.js";
import { button, fill, h, menu, modelLink, section, toast, when } from "../elements.js";
import * as format from "../format.js";
import { table } from "../table.js";

export const FINAL = ["succeeded", "failed", "cancelled"];

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
    const shown = format.sentence(title).replace(/\d{4}-\S+T\S+\d/, (iso) => format.clock(Date.parse(iso) / 1000));
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
