/** A file: what is wrong with its rows, how long they are, and how the model sees them. */

import * as api from "../api.js";
import { copyAs } from "../calls.js";
import { button, confirm, copyable, empty, facts, fill, h, quantity, section, when, writes } from "../elements.js";
import { check, findings } from "../findings.js";
import { bytes, plural, term } from "../format.js";
import { createBatch, firstPart } from "../requests.js";
import { legend, renderedRows } from "../rows.js";

const ROWS = 5;

/** @param {import("../app.js").Page} page */
export async function show({ root, id, query, signal, setTitle, setQuery, open, offerKeys }) {
  const path = `/v1/files/${encodeURIComponent(id)}`;
  const [checked, seen] = [h("div"), h("div.view")];
  let shown = "";

  async function refresh() {
    if (shown === "done" || shown === "failed") return;
    const file = await api.get(path, {}, signal);
    const state = file.scan?.status ?? "done";
    if (state === shown) return;
    setTitle(file.filename);
    fill(root, head(file, path, open), about(file), file.scan && checked, state === "done" && file.scan && seen);
    if (file.scan) await showRows(file);
    shown = state; // the next poll tries again what failed until here
  }

  async function showRows(file) {
    const report = await api.get(`${path}/report`, {}, signal), { status: state } = file.scan;
    if (state !== "done" || report.findings.length) fill(checked, section(summary(report), null, findings(report)));
    if (state !== "done") return;
    const catalog = await api.get("/v1/fine_tuning/catalog", {}, signal);
    modelsEye(seen, { file, report, catalog, query, signal, setQuery });
  }

  offerKeys({ n: ["New job with this file", () => open(`/new?file=${encodeURIComponent(id)}`)] });
  await api.poll(2, signal, refresh);
}

function head(file, path, open) {
  const isRows = file.purpose === "fine-tune";
  return h("div.head", {}, h("h1", {}, file.filename), check(file), h("div.actions", {},
    copyAs(() => ({ method: "GET", path, python: `client.files.retrieve("${file.id}")`, cli: `attune files get ${file.id}` })),
    h("a.button", { href: `${path}/content`, download: file.filename }, "Download"),
    writes(button("Delete", async () => {
      if (!await confirm(`Delete ${file.filename}?`, "Jobs that have ended keep their models and results. A file that a job still needs is not deleted.", "Delete file")) return;
      await api.remove(path);
      await open("/files");
    }, { kind: "danger" })),
    file.purpose === "batch" && writes(button("Create batch", async () => open(`/batches/${(await createBatch(file.id, await firstPart(file.id))).id}`), { kind: "primary" })),
    isRows && file.scan?.status !== "failed" && writes(h("a.button.primary", { href: `/new?file=${file.id}` }, "New job"))));
}

const about = (file) => facts([
  ["Id", copyable(file.id)],
  ["Rows", file.scan?.status === "done" ? quantity(file.scan.rows) : null],
  ["Format", file.scan?.format ?? null],
  ["Container", file.scan?.container ?? null],
  ["Size", h("span", { title: plural(file.bytes, "byte") }, bytes(file.bytes))],
  ["SHA-256", file.sha256 && copyable(file.sha256, `${file.sha256.slice(0, 12)}…`)],
  ["Created", when(file.created_at)],
  ["Expires", file.expires_at && when(file.expires_at)],
]);

function summary({ status, errors, warnings }) {
  if (status !== "done" || !(errors + warnings)) return "Check of the rows";
  return [errors && plural(errors, "error"), warnings && plural(warnings, "warning")].filter(Boolean).join(", ");
}

/** Counts, lengths and first rows under a base model and a method that the reader chooses. */
function modelsEye(element, { file, report, catalog, query, signal, setQuery }) {
  const format = catalog.formats.find(({ type }) => type === report.format);
  const isEncoder = ({ kind }) => kind === "encoder"; // encoders only learn classification
  const models = catalog.base_models.toSorted((one, other) => isEncoder(one) - isEncoder(other));
  if (!models.length) return fill(element, section("As the model sees it", null, empty("Tokens depend on a base model, and this server has none yet.")));
  const reading = catalog.methods.filter(({ type }) => !format || format.methods.includes(type));
  const methods = reading.filter(({ schema }) => !schema.required?.length);
  if (!methods.length) {
    const names = reading.map(({ type }) => term(type)).join(" and ");
    return fill(element, section("As the model sees it", null, empty(`These rows are for ${names}, which need more settings.`, writes(h("a.button", { href: `/new?file=${file.id}` }, "New job")))));
  }
  const model = select("Base model", models.map(({ id }) => [id, id]), query.get("model"));
  const method = select("Method", methods.map(({ type }) => [type, type]), query.get("method"));
  const length = h("input", { type: "number", min: 8, step: 1, placeholder: "auto", "aria-label": "Maximum length in tokens", value: query.get("max_length") });
  const [numbers, rows] = [h("div.view"), h("div.view")];
  let latest = null;

  async function refresh() {
    latest?.abort();
    latest = new AbortController();
    const current = AbortSignal.any([signal, latest.signal]);
    const training = length.value ? { max_length: Number(length.value) } : {};
    const body = { model: model.value, training_file: file.id, method: { type: method.value }, training };
    setQuery({ model: model.value === models[0].id ? null : model.value, method: method.value === methods[0]?.type ? null : method.value, max_length: length.value || null });
    for (const part of [numbers, rows]) part.setAttribute("aria-busy", "true");
    await Promise.all([
      settle(numbers, current, async () => counts(await post("/v1/fine_tuning/estimates", body, current), signal)),
      settle(rows, current, async () => firstRows(await post("/v1/fine_tuning/previews", { ...body, rows: ROWS }, current))),
    ]);
    if (rows.textContent === numbers.textContent) fill(rows); // one error is enough
  }

  for (const control of [model, method, length]) control.addEventListener("change", refresh);
  fill(element, section("As the model sees it", [
    labelled("Base model", model), labelled("Method", method), labelled("Cut at", length),
  ], numbers), rows);
  refresh();
}

const post = async (path, body, signal) => (await api.request(path, { method: "POST", body, signal })).json();

async function settle(element, signal, load) {
  try {
    const content = await load();
    if (!signal.aborted) fill(element, await content);
  } catch (error) {
    if (!signal.aborted) fill(element, h("p.notice", { dataset: { tone: "bad" } }, error.message));
  } finally {
    if (!signal.aborted) element.removeAttribute("aria-busy");
  }
}

async function counts(estimate, signal) {
  const { train } = estimate;
  const reasons = estimate.reasons.map(({ message }) => h("p.notice", { dataset: { tone: "bad" } }, message));
  if (!train) return reasons;
  const { histogram } = await import("../histogram.js");
  const sampled = train.sampled_rows < train.rows;
  return [
    !train.kept_rows && reasons,
    facts([
      ["Tokens", quantity(train.tokens)], ["With loss", quantity(train.supervised_tokens)], ["Longest row", quantity(train.longest, "tokens")],
      ["Rows used", quantity(train.kept_rows)], ["Rows cut", train.truncated_rows ? quantity(train.truncated_rows) : null],
      ["Rows left out", train.dropped_rows ? quantity(train.dropped_rows) : null],
      ["Counted", sampled ? `from ${plural(train.sampled_rows, "row")} of the file` : null],
    ]),
    histogram({ title: "Rows by length", lengths: train.lengths, limit: estimate.max_length < train.longest ? estimate.max_length : null, signal }),
  ];
}

const firstRows = (preview) => [
  h("header.group", {}, h("h2", {}, "First rows"), legend(preview.rows)),
  preview.findings.map(({ message }) => h("p.notice", {}, message)),
  renderedRows(preview.rows),
];

const labelled = (text, control) => h("label.inline", {}, text, control);

function select(label, options, chosen) {
  return h("select", { "aria-label": label }, options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
}
