/** A model: where it comes from, its files, its card, and a chat with it beside its base model. */

import * as api from "../api.js";
import { copyAs } from "../calls.js";
import { chat } from "../chat.js";
import { button, confirm, copyable, empty, facts, fill, h, modelAddress, quantity, section, when, writes } from "../elements.js";
import { bytes, plural, term } from "../format.js";
import { table } from "../table.js";
import { isTuned } from "./models.js";

const CARD = "README.md";
const LONGEST_SEARCH = 128;

/** @param {import("../app.js").Page} page */
export async function show({ root, id, signal, setTitle, open, offerKeys }) {
  setTitle(id);
  const path = `/v1/models/${encodeURIComponent(id)}`;
  const model = await api.get(path, {}, signal);
  const answers = model.facts.output === undefined ? model.facts.kind !== "encoder" : model.facts.output === "tokens";
  const parts = { lineage: h("div"), files: h("div"), card: h("div") };
  const talk = answers && chat({ models: isTuned(model) ? [["Base", model.facts.base_model], ["Tuned", id]] : [["Base", id]], signal });
  fill(root, head(model, path, open), about(model), parts.lineage, talk && writes(section("Chat", null, talk.element)),
    parts.files, parts.card);
  offerKeys({ n: ["New job with this model", () => open(`/new?model=${encodeURIComponent(id)}`)] });
  const job = model.facts.fine_tuning_job_id ? await api.get(`/v1/fine_tuning/jobs/${model.facts.fine_tuning_job_id}`, {}, signal).catch(() => null) : null;
  const system = talk && job && await systemMessage(job.training_file, signal).catch(() => null);
  if (system) talk.suggest(system);
  const [chain, [files, listed]] = await Promise.all([lineage(model, job, signal), artifacts(path, formsOf(model, job), signal)]);
  fill(parts.lineage, chain);
  fill(parts.files, files);
  if (listed.some(({ name }) => name === CARD)) fill(parts.card, await card(path, signal));
}

function head(model, path, open) {
  const removal = button("Delete", async () => {
    const users = await startedFrom(model.id);
    const depends = users.length > 0 && ` These jobs began from it: ${users.join(", ")}. It is only deleted if none of them needs it any more.`;
    const consequence = h("span", {}, "Its checkpoints are deleted with it. Its job, metrics and training file stay.", depends);
    if (!await confirm(`Delete model ${model.id}?`, consequence, "Delete model")) return;
    await api.remove(path);
    await open("/models");
  }, { kind: "danger" });
  return h("div.head", {}, h("h1.model-id", {}, copyable(model.id)), h("div.actions", {},
    copyAs(() => ({ method: "GET", path, python: `client.models.retrieve("${model.id}")` })),
    isTuned(model) && writes(removal),
    writes(h("a.button.primary", { href: `/new?model=${encodeURIComponent(model.id)}` }, isTuned(model) ? "Train further" : "New job"))));
}

/** The jobs that began from a model or from one of its checkpoints, as names or ids. */
async function startedFrom(id) {
  const { data } = await api.get("/v1/fine_tuning/jobs", { search: id.slice(-LONGEST_SEARCH), limit: 100 });
  return data.filter(({ parent }) => parent === id || parent?.startsWith(`${id}:ckpt-step-`)).map((job) => job.fine_tuned_model ?? job.id);
}

function about(model) {
  const { facts: known } = model;
  if (!isTuned(model)) {
    return facts([
      ["Kind", known.kind === "encoder" ? "encoder" : "language model"], ["Architecture", known.model_type],
      ["Parameters", quantity(known.parameters)], ["Context", quantity(known.context_window, "tokens")], ["Chat template", known.chat_template ? "yes" : "no"],
      ["Stored as", known.dtype], ["License", known.license], ["Source", known.source], ["Revision", known.revision], ["Added", when(model.created)],
    ]);
  }
  return facts([
    ["Base model", h("a", { href: modelAddress(known.base_model) }, known.base_model)],
    ["Job", h("a", { href: `/jobs/${known.fine_tuning_job_id}`, title: known.fine_tuning_job_id }, h("code", {}, `${known.fine_tuning_job_id.slice(0, 14)}…`))],
    ["Method", known.method && term(known.method)], ["Technique", known.technique && term(known.technique)],
    ["Answers with", { tokens: "text", labels: "scores of labels", reward: "a reward" }[known.output] ?? known.output], ["Created", when(model.created)],
  ]);
}

/** The system message of a file's first row. Raise if its begin is no row of messages, or the file is gone. */
async function systemMessage(file, signal) {
  const begin = await api.request(`/v1/files/${file}/content`, { headers: { range: "bytes=0-65535" }, signal });
  const [row] = (await begin.text()).split("\n");
  const { messages, input } = JSON.parse(row);
  const [first] = messages ?? input.messages;
  return first.role === "system" && typeof first.content === "string" ? first.content : null;
}

/** The models that this one was trained from, oldest first. */
async function lineage(model, firstJob, signal) {
  const chain = [model.id];
  let job = firstJob;
  while (job && chain.length < 20) {
    chain.unshift(job.parent ?? job.base_model);
    const parent = job.parent && await api.get(`/v1/models/${encodeURIComponent(job.parent)}`, {}, signal).catch(() => null);
    job = parent?.facts.fine_tuning_job_id && await api.get(`/v1/fine_tuning/jobs/${parent.facts.fine_tuning_job_id}`, {}, signal).catch(() => null);
  }
  if (chain.length < 3) return null; // the facts have the base model
  return section("Lineage", null, h("ol.lineage", {}, chain.map((id) => h("li", {}, id === model.id ? h("strong", {}, id) : h("a", { href: modelAddress(id) }, id)))));
}

/** The forms in which the model can be downloaded, as [format, label]. Checkpoints have their adapter only. */
function formsOf(model, job) {
  if (!isTuned(model)) return [["adapter", "base model"]];
  const finished = job?.fine_tuned_model === model.id;
  return [
    ["adapter", model.facts.technique === "full" ? "whole model" : "adapter"],
    finished && job.export.merged !== false && model.facts.technique !== "full" && ["merged", "merged weights"],
    finished && job.export.gguf && ["gguf", "GGUF"],
  ].filter(Boolean);
}

/** Return the section of the model's files, and the files themselves. */
async function artifacts(path, forms, signal) {
  const found = await Promise.all(forms.map(([format]) => api.get(`${path}/artifacts`, { format }, signal).catch((error) => ({ data: [], reason: error.message }))));
  const seen = new Set();
  const rows = found.flatMap(({ data }, index) => data.map((file) => ({ ...file, form: forms[index][1] }))).filter(({ name }) => !seen.has(name) && seen.add(name));
  if (!rows.length) return [section("Files", null, empty(found[0].reason ?? "This model has no files.")), []];
  const list = table({
    caption: "Files of the model",
    key: (file) => file.name,
    columns: [
      { title: "File", cell: (file) => h("a", { href: `${path}/artifacts/${file.name.split("/").map(encodeURIComponent).join("/")}`, download: file.name.split("/").at(-1) }, file.name) },
      { title: "Form", cell: (file) => file.form, wide: true },
      { title: "Size", cell: (file) => h("span", { title: plural(file.bytes, "byte") }, bytes(file.bytes)), figures: true },
      { title: "SHA-256", cell: (file) => copyable(file.sha256, `${file.sha256.slice(0, 12)}…`), figures: true, wide: true },
    ],
  });
  list.update(rows);
  const total = rows.reduce((sum, file) => sum + file.bytes, 0);
  return [section(`Files, ${bytes(total)}`, null, list.element), rows];
}

async function card(path, signal) {
  const [{ rendered }, response] = await Promise.all([import("../markdown.js"), api.request(`${path}/artifacts/${CARD}`, { signal })]);
  return h("details.fold", {}, h("summary", {}, "Model card"), h("article.card", {}, rendered(await response.text())));
}
