/** Health: what works, what does not, and what to do about it; the checks of `attune doctor` that need no shell. */

import * as api from "../api.js";
import { command, fill, h, section, status, worded } from "../elements.js";
import { duration, plural, sentence } from "../format.js";
import { table } from "../table.js";

const STATES = { ok: ["✓", "Good", "good"], warning: ["◐", "Look at it", "held"], problem: ["✕", "Problem", "bad"] };
const ORDER = ["problem", "warning", "ok"];
const CLOCK_S = 5;
const STORES = "Database and storage";
const DAY_S = 86_400, JOBS = 20;
/** Codes of errors that the service is to blame for, as in docs/monitoring/alerts.yml, and not the job's files or settings. */
const OWN_FAULTS = ["internal_error", "worker_lost", "hung", "poison", "disk_full", "out_of_memory"];

/** @typedef {{component: string, state: "ok"|"warning"|"problem", detail: any, remedy?: any}} Check */

/** @param {import("../app.js").Page} page */
export async function show({ root, signal }) {
  const list = table({
    caption: "Components", key: ({ component }) => component,
    columns: [
      { title: "Component", cell: ({ component }) => component },
      { title: "State", cell: ({ state }) => status(state, STATES[state]) },
      { title: "Finding", cell: ({ detail, remedy }) => h("div.anywhere", {}, worded(detail), remedy && h("span.sub", {}, worded(remedy))) },
    ],
  });
  list.element.classList.add("stacked", "listed");
  const verdict = h("p");
  const { scope } = await api.session().catch((error) => { if (error.status === 401) throw error; return {}; }); // the database may be away
  await api.poll(10, signal, async () => {
    const checks = (await Promise.all([server, stores, service, jobs, budgets].map((part) => part(signal)))).flat()
      .filter(({ component, state }) => !(component === STORES && state === "ok" && scope === "operator")); // whose checks name both
    checks.sort((one, other) => ORDER.indexOf(one.state) - ORDER.indexOf(other.state));
    const worst = checks[0].state;
    fill(verdict, status(worst, [STATES[worst][0], { ok: "Everything works", warning: "Something needs a look", problem: "Something does not work" }[worst], STATES[worst][2]]));
    list.update(checks);
    if (!root.hasChildNodes()) {
      fill(root, h("div.head", {}, h("h1", {}, "Health"), verdict), list.element,
        section("On the server's machine", null, h("div.filters", {}, h("p.muted", {}, scope === "operator" ? "This command also checks libraries and GPUs:" : "This command, or an operator's key on this page, also checks broker, schema and disk:"), command("attune doctor"))));
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

/** A check whose data cannot be read is a problem itself. */
const checked = (component, load) => async (signal) => {
  try {
    return await load(signal);
  } catch (error) {
    if (signal.aborted) throw error;
    return [{ component, state: "problem", detail: error.message }];
  }
};

/** The server's own checks: of the workers and base models for every key, and of all components for an operator's. */
const service = checked("Service", async (signal) => {
  const { data } = await api.get("/v1/health", {}, signal);
  return data.map(({ component, status: state, detail, remedy }) => ({ component: sentence(component), state, detail, remedy }));
});

/** Whether the database and the storage answer. */
async function stores(signal) {
  const error = await api.request("/readyz", { signal }).then(() => null, (reason) => reason);
  return error
    ? [{ component: STORES, state: "problem", detail: error.message, remedy: "An operator's key, or “attune doctor” on the server's machine, shows which part fails." }]
    : [{ component: STORES, state: "ok", detail: "Both answer" }];
}

/** `3 jobs`, or `20 or more jobs` if the list may be longer. */
const atMost = (some, noun) => (some.length < JOBS ? plural(some.length, noun) : `${JOBS} or more ${noun}s`);

const jobs = checked("Jobs", async (signal) => {
  const list = async (state) => (await api.get("/v1/fine_tuning/jobs", { status: state, limit: JOBS }, signal)).data;
  const [queued, validating, ended] = await Promise.all(["queued", "validating_files", "failed"].map(list));
  const now = Date.now() / 1000;
  const waiting = [...queued, ...validating].sort((one, other) => one.created_at - other.created_at);
  const failed = ended.filter((job) => now - job.finished_at < DAY_S);
  const broken = failed.filter((job) => OWN_FAULTS.includes(job.error?.code));
  const shown = broken[0] ?? failed[0];
  const [oldest] = waiting, all = Math.max(queued.length, validating.length) < JOBS;
  return [
    { component: "Waiting jobs", state: "ok", detail: oldest ? [`${atMost(waiting, "job")} of this project waiting, ${all ? "the oldest" : "one"} created ${duration(now - oldest.created_at)} ago: `, h("a", { href: `/jobs/${oldest.id}` }, oldest.id)] : "No job of this project waits" },
    failed.length
      ? { component: "Failed jobs", state: broken.length ? "warning" : "ok", detail: [`${atMost(failed, "job")} in the last 24 hours${broken.length ? `, ${broken.length} of them by the service's fault` : ", by their files or settings"}: `, h("a", { href: `/jobs/${shown.id}` }, shown.id)], remedy: broken[0]?.error.message }
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
