/** New job: three fields first, all others folded; what the job costs and what its rows look like beside them. */

import * as api from "../api.js";
import { copyAs, literal } from "../calls.js";
import { button, facts, fill, h, quantity, section, writes } from "../elements.js";
import { dropTarget } from "../file-picker.js";
import { bytes, count, duration } from "../format.js";
import { jobForm } from "../job-form.js";
import { legend, renderedRows } from "../rows.js";

const DRAFT = "new-job";
const SETTLED_MS = 400;
const PREVIEWED_ROWS = 2;

/** @param {import("../app.js").Page} page */
export async function show({ root, query, signal, open }) {
  const keeps = !["from", "file", "model"].some((name) => query.has(name)); // what is typed at an address that names nothing
  const [catalog, files, models] = await Promise.all([
    api.get("/v1/fine_tuning/catalog", {}, signal),
    api.get("/v1/files", { purpose: "fine-tune", limit: 100 }, signal),
    api.get("/v1/models", {}, signal),
  ]);
  const form = jobForm({ catalog, files: files.data, models: models.data, signal, onChange: changed });
  const aside = h("aside.view", { "aria-label": "Estimate and preview" });
  const problem = h("p.problem", { role: "alert" });
  let timer = 0, latest = null;

  function save() {
    if (keeps && !signal.aborted) sessionStorage.setItem(DRAFT, JSON.stringify(form.body({ lenient: true })));
  }

  function changed() {
    problem.textContent = "";
    save();
    clearTimeout(timer);
    timer = setTimeout(refresh, SETTLED_MS);
  }

  async function refresh() {
    latest?.abort();
    latest = new AbortController();
    const current = AbortSignal.any([signal, latest.signal]);
    form.complain(null);
    const body = form.body();
    if (!body?.training_file || !body.model) {
      aside.removeAttribute("aria-busy");
      return fill(aside, h("p.muted", {}, body ? "Choose a file and a base model to see what the job costs and what its rows look like." : "A field holds no JSON: correct it to see what the job costs."));
    }
    aside.setAttribute("aria-busy", "true");
    await besides(aside, body, form, current);
    if (!current.aborted) aside.removeAttribute("aria-busy");
  }

  async function create() {
    form.complain(null);
    problem.textContent = "";
    const body = form.body({ focus: true });
    if (!body) return;
    try {
      const job = await api.post("/v1/fine_tuning/jobs", body);
      if (keeps) sessionStorage.removeItem(DRAFT);
      await open(`/jobs/${job.id}`);
    } catch (error) {
      if (!form.complain(error, { focus: true })) problem.textContent = error.message;
    }
  }

  const submit = writes(button("Create job", create, { kind: "primary" }));
  const again = button("Start over", () => { sessionStorage.removeItem(DRAFT); return open("/new"); }, { kind: "quiet" });
  const origin = h("p.muted");
  const element = h("form.job", { novalidate: true }, form.elements, h("div.submit", {}, submit, copyAs(() => call(form.body({ lenient: true }))), again, problem));
  element.addEventListener("submit", (event) => { event.preventDefault(); submit.click(); });
  fill(root, h("div.head", {}, h("div", {}, h("h1", {}, "New job"), origin)), h("div.form-and-aside", {}, element, aside));
  dropTarget(root, signal, form.drop);
  const filled = form.write(await beginning(query, keeps, signal));
  save();
  if (query.has("from")) fill(origin, "With the settings of ", h("a", { href: `/jobs/${query.get("from")}` }, h("code", {}, query.get("from"))));
  else if (filled) fill(origin, "With what was typed here before");
  clearTimeout(timer);
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  await refresh();
}

/** What the form begins with: another job's settings with a new seed, what the address names, or what was typed here before. */
async function beginning(query, keeps, signal) {
  const from = query.get("from");
  if (from) return { ...await api.get(`/v1/fine_tuning/jobs/${encodeURIComponent(from)}/recipe`, {}, signal), seed: undefined };
  return keeps ? JSON.parse(sessionStorage.getItem(DRAFT) ?? "{}") : { training_file: query.get("file"), model: query.get("model") };
}

const call = (body) => ({
  method: "POST", path: "/v1/fine_tuning/jobs", body,
  python: `job = client.post("/fine_tuning/jobs", cast_to=object, body=${literal(body)})\nprint(job["id"])`,
  cli: `attune jobs create --body - <<'JSON'\n${JSON.stringify(body, null, 2)}\nJSON`,
});

/** Fill the aside: the estimate first, because it is sooner there; then the rows. */
async function besides(aside, body, form, signal) {
  const [cost, rows] = [h("div"), h("div")];
  const send = async (path, extra = {}) => (await api.request(path, { method: "POST", body: { ...body, ...extra }, signal })).json();
  const results = await Promise.allSettled([
    send("/v1/fine_tuning/estimates").then((estimate) => {
      form.hint(estimate);
      for (const reason of estimate.reasons) form.complain(reason);
      fill(cost, section("Estimate", null, costs(estimate)));
      if (!signal.aborted) fill(aside, cost, rows);
    }),
    send("/v1/fine_tuning/previews", { rows: PREVIEWED_ROWS }).then((preview) => {
      fill(rows, section("First rows", null, legend(preview.rows), renderedRows(preview.rows)));
    }),
  ]);
  if (signal.aborted) return;
  const wrong = ({ message }) => h("p.notice", { dataset: { tone: "bad" } }, message);
  const [estimated, previewed] = results.map(({ reason }) => reason);
  if (estimated) {
    form.complain(estimated);
    fill(cost, wrong(estimated));
  }
  if (previewed && previewed.message !== estimated?.message) fill(rows, wrong(previewed));
  fill(aside, cost, rows);
}

function costs(estimate) {
  const [worker] = estimate.workers;
  const memory = estimate.memory && [bytes(estimate.memory.total), worker?.memory_available && h("span.muted", {}, ` of ${bytes(worker.memory_available)}`)];
  return [
    estimate.reasons.map(({ message }) => h("p.notice", { dataset: { tone: "bad" } }, message)),
    estimate.warnings.map((message) => h("p.notice", {}, message)),
    facts([
      ["Training time", estimate.seconds === null ? null : [duration(estimate.seconds), worker && !worker.measured && h("span.muted", {}, " rough guess")]],
      ["Memory", memory],
      ["Steps", estimate.total_steps && quantity(estimate.total_steps)],
      ["Trained tokens", estimate.trained_tokens && quantity(estimate.trained_tokens)],
      ["Trained weights", estimate.trained_parameters && quantity(estimate.trained_parameters)],
      ["Rows", estimate.train && [quantity(estimate.train.kept_rows), estimate.train.truncated_rows ? h("span.muted", {}, `, ${count(estimate.train.truncated_rows)} cut`) : null]],
    ]),
    estimate.workers.length === 0 && estimate.train && h("p.notice", {}, "No worker is registered, so time and memory are unknown. The job would wait for one."),
  ];
}
