/** Health: what works, what does not, and what to do about it; the checks of `attune doctor` that need no machine. */

import * as api from "../api.js";
import { command, fill, h, section, status } from "../elements.js";
import { clock, duration, plural } from "../format.js";
import { table } from "../table.js";

const STATES = { ok: ["✓", "Good", "good"], warning: ["◐", "Look at it", "held"], problem: ["✕", "Problem", "bad"] };
const ORDER = ["problem", "warning", "ok"];
const CLOCK_S = 5;
const DAY_S = 86_400, JOBS = 20;

/** @typedef {{component: string, state: "ok"|"warning"|"problem", detail: any, remedy?: any}} Check */

/** @param {import("../app.js").Page} page */
export async function show({ root, signal }) {
  const list = table({
    caption: "Components", key: ({ component }) => component,
    columns: [
      { title: "Component", cell: ({ component }) => component },
      { title: "State", cell: ({ state }) => status(state, STATES[state]) },
      { title: "Finding", cell: ({ detail, remedy }) => h("div.anywhere", {}, detail, remedy && h("span.sub", {}, remedy)) },
    ],
  });
  const verdict = h("p");
  await api.poll(10, signal, async () => {
    const checks = (await Promise.all([server(signal), stores(signal), workers(signal), baseModels(signal), jobs(signal), budgets(signal)])).flat();
    checks.sort((one, other) => ORDER.indexOf(one.state) - ORDER.indexOf(other.state));
    const worst = checks[0].state;
    fill(verdict, status(worst, [STATES[worst][0], { ok: "Everything works", warning: "Something needs a look", problem: "Something does not work" }[worst], STATES[worst][2]]));
    list.update(checks);
    if (!root.hasChildNodes()) {
      fill(root, h("div.head", {}, h("h1", {}, "Health"), verdict), list.element,
        section("On the server's machine", null, h("div.filters", {}, h("p.muted", {}, "This command also checks disk, libraries, GPUs, broker and schema:"), command("attune doctor"))));
    }
  });
}

/** The server's answer, its delay, and its clock. @returns {Promise<Check[]>} */
async function server(signal) {
  const begun = performance.now();
  const response = await api.request("/healthz", { signal }).catch((error) => error);
  if (!(response instanceof Response)) return [{ component: "Server", state: "problem", detail: response.message }];
  const checks = [{ component: "Server", state: "ok", detail: `Answers in ${Math.round(performance.now() - begun)} ms` }];
  const date = response.headers.get("date");
  const ahead = date ? (Date.now() - Date.parse(date)) / 1000 : 0;
  if (Math.abs(ahead) > CLOCK_S) {
    checks.push({ component: "Clock", state: "warning", detail: `This device is ${duration(Math.abs(ahead))} ${ahead > 0 ? "ahead of" : "behind"} the server`, remedy: "Synchronize both clocks: times on these pages are off by as much." });
  }
  return checks;
}

async function stores(signal) {
  const error = await api.request("/readyz", { signal }).then(() => null, (reason) => reason);
  return error
    ? [{ component: "Database and storage", state: "problem", detail: error.message, remedy: "On the server's machine, “attune doctor” names the part that fails." }]
    : [{ component: "Database and storage", state: "ok", detail: "Both answer" }];
}

/** A check whose data cannot be read is a problem itself. */
const checked = (component, load) => async (signal) => {
  try {
    return await load(signal);
  } catch (error) {
    if (signal.aborted) throw error;
    return [{ component, state: "problem", detail: error.message }];
  }
};

const WAITS = { prepare: "jobs wait", train: "jobs wait", sample: "chats are refused and batches wait", batch: "batches wait", evaluate: "runs of evals wait", deliver: "webhooks and metrics wait" };

const workers = checked("Workers", async (signal) => {
  const { data } = await api.get("/v1/workers", {}, signal);
  const alive = data.filter((worker) => worker.alive);
  // A server may have no others; those that are lost are missed.
  const others = ["sample", "batch", "evaluate", "deliver"].filter((stage) => data.some(({ stages, status: state }) => stages.includes(stage) && state !== "stopped"));
  return ["prepare", "train", ...others].map((stage) => {
    const component = `Workers that ${{ batch: "answer batches" }[stage] ?? stage}`;
    const able = alive.filter(({ stages }) => stages.includes(stage));
    const paused = able.filter((worker) => worker.status === "paused");
    const lost = data.filter((worker) => worker.status === "lost" && worker.stages.includes(stage));
    if (!able.length) return { component, state: "problem", detail: `None is live, so ${WAITS[stage]}`, remedy: `Start one: attune worker --stage ${stage}` };
    if (paused.length) return { component, state: "warning", detail: `${paused.length} of ${able.length} paused: ${paused[0].paused_reason}`, remedy: h("a", { href: "/workers" }, "Workers") };
    if (lost.length) return { component, state: "warning", detail: `${plural(able.length, "live worker")}, ${lost.length} lost; the last one beat ${clock(Math.max(...lost.map((worker) => worker.last_beat_at)))}`, remedy: h("a", { href: "/workers" }, "Workers") };
    return { component, state: "ok", detail: `${plural(able.length, "live worker")}, ${plural(able.reduce((sum, { slots }) => sum + slots, 0), "slot")}` };
  });
});

const baseModels = checked("Base models", async (signal) => {
  const { data } = await api.get("/v1/models", {}, signal);
  const bases = data.filter(({ owned_by: owner }) => owner === "operator").length;
  return bases
    ? [{ component: "Base models", state: "ok", detail: plural(bases, "base model") }]
    : [{ component: "Base models", state: "warning", detail: "None, so no job can be created", remedy: "On the server's machine: attune models add NAME SOURCE" }];
});

/** `3 jobs`, or `20 or more jobs` if the list may be longer. */
const atMost = (some, noun) => (some.length < JOBS ? plural(some.length, noun) : `${JOBS} or more ${noun}s`);

const jobs = checked("Jobs", async (signal) => {
  const list = async (state) => (await api.get("/v1/fine_tuning/jobs", { status: state, limit: JOBS }, signal)).data;
  const [queued, validating, ended] = await Promise.all(["queued", "validating_files", "failed"].map(list));
  const now = Date.now() / 1000;
  const waiting = [...queued, ...validating].sort((one, other) => one.created_at - other.created_at);
  const failed = ended.filter((job) => now - job.finished_at < DAY_S);
  const [oldest] = waiting;
  return [
    { component: "Queue", state: "ok", detail: oldest ? [`${atMost(waiting, "job")} of this project waiting, the oldest for ${duration(now - oldest.created_at)}: `, h("a", { href: `/jobs/${oldest.id}` }, oldest.id)] : "No job of this project waits" },
    failed.length
      ? { component: "Failed jobs", state: "warning", detail: [`${atMost(failed, "job")} in the last 24 hours; the last: `, h("a", { href: `/jobs/${failed[0].id}` }, failed[0].id)], remedy: failed[0].error?.message }
      : { component: "Failed jobs", state: "ok", detail: "None in the last 24 hours" },
  ];
});

const budgets = checked("Budgets", async (signal) => {
  const { budgets: all } = await api.get("/v1/usage", {}, signal);
  const spent = all.filter(({ used, limit }) => limit !== null && used >= limit);
  const nearly = all.filter(({ used, limit }) => limit !== null && used >= 0.9 * limit && used < limit);
  const names = (some) => some.map(({ name }) => name.replaceAll("_", " ")).join(", ");
  const remedy = h("a", { href: "/usage" }, "Usage");
  if (spent.length) return [{ component: "Budgets", state: "problem", detail: `Used up: ${names(spent)}. New jobs are refused.`, remedy }];
  if (nearly.length) return [{ component: "Budgets", state: "warning", detail: `More than 90 % used: ${names(nearly)}`, remedy }];
  return [{ component: "Budgets", state: "ok", detail: all.some(({ limit }) => limit !== null) ? "Within their limits" : "No limits are set" }];
});
