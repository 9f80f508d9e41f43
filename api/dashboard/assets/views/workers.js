/** Workers: what runs where. */

import * as api from "../api.js";
import { command, copyable, empty, fill, h, quantity, refill, status, when } from "../elements.js";
import { bytes, duration, plural } from "../format.js";
import { table } from "../table.js";

const STATUSES = {
  idle: ["○", "Idle", "wait"], busy: ["●", "Busy", "active"], paused: ["◐", "Paused", "held"],
  stopped: ["⊘", "Stopped", "wait"], lost: ["✕", "Lost", "bad"],
};
const DUTIES = {
  prepare: "prepares files", train: "trains", sample: "samples from models", batch: "sends the requests of batches", evaluate: "grades evals", deliver: "delivers webhooks, metrics and models",
};
/** Those whose slots are jobs. */
const JOBS = ["prepare", "train"];

/** @param {import("../app.js").Page} page */
export async function show({ root, signal }) {
  const list = table({
    caption: "Worker processes",
    columns: [
      { title: "Worker", cell: (worker) => [worker.host, h("span.sub", {}, worker.stages.map((stage) => DUTIES[stage] ?? stage).join(", "), h("span.wide", {}, " · ", copyable(worker.id, worker.id.slice(-12))))] },
      { title: "Status", cell: (worker) => [status(worker.status, STATUSES[worker.status]), worker.paused_reason && h("span.sub", {}, worker.paused_reason)] },
      { title: "Runs", cell: runs },
      { title: "Slots", cell: slots, figures: true },
      { title: "Device", cell: (worker) => worker.device ?? h("span.muted", {}, "–"), wide: true },
      { title: "GPUs", cell: (worker) => (worker.gpus ? [quantity(worker.gpus), worker.gpu_memory_bytes && h("span.sub", {}, bytes(worker.gpu_memory_bytes), " each")] : h("span.muted", {}, "none")), figures: true, wide: true },
      { title: "Memory", cell: (worker) => bytes(worker.memory_bytes), figures: true, wide: true },
      { title: "Last beat", cell: (worker) => beat(worker), figures: true, wide: true },
    ],
  });
  const summary = h("p.muted"), notices = h("div"), none = h("div");
  await api.poll(5, signal, async () => {
    const { data } = await api.get("/v1/workers", {}, signal);
    const alive = data.filter((worker) => worker.alive);
    const missing = JOBS.filter((stage) => !alive.some(({ stages }) => stages.includes(stage)));
    const places = alive.filter(({ stages }) => stages.some((stage) => JOBS.includes(stage))).reduce((sum, { slots }) => sum + slots, 0);
    summary.textContent = [`${plural(alive.length, "live worker")}, ${plural(places, "slot")} for jobs`,
      ...missing.map((stage) => `no live ${stage} worker, so jobs wait`)].join("; ");
    list.update(data);
    list.element.hidden = !data.length;
    refill(notices, missing.map((stage) => h("div.notice", { dataset: { tone: "bad" } },
      h("p", {}, `No live worker takes the stage “${stage}”. Start one:`), command(`attune worker --stage ${stage}`))));
    refill(none, !data.length && empty("No worker has ever reported. ", command("attune worker")));
    if (!root.hasChildNodes()) fill(root, h("div.head", {}, h("h1", {}, "Workers"), summary), notices, list.element, none);
  });
}

function slots({ stages, busy, answering, slots: all }) {
  if (stages.includes("deliver")) return h("span.muted", {}, "–");
  return `${answering ?? busy.filter(({ kind }) => kind !== "scan").length} of ${all}`;
}

function runs(worker) {
  if (worker.answering) return plural(worker.answering, "request");
  if (!worker.busy.length) return h("span.muted", {}, "–");
  return worker.busy.map(({ kind, job_id: job, since }) => h("div.anywhere", {},
    kind === "scan" ? "checks an uploaded file" : job ? h("a", { href: `/jobs/${job}` }, h("code.short", {}, job)) : `a job of another project (${kind})`,
    since && h("span.muted.whole", {}, ` for ${duration(Math.max(1, Date.now() / 1000 - since))}`)));
}

/** Beats come every 5 or 15 s; a recent one needs no time of day. */
function beat({ last_beat_at: at, alive }) {
  const age = Math.max(0, Date.now() / 1000 - at);
  return alive ? h("time", { title: new Date(at * 1000).toISOString() }, `${duration(Math.round(age))} ago`) : when(at);
}
