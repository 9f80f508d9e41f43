/** New job: three fields first, all others folded; what the job costs and what its rows look like beside them. */

import * as api from "../api.js";
import { copyAs, literal } from "../calls.js";
import { button, copyable, facts, fill, h, quantity, section } from "../elements.js";
import { bytes, count, duration, metric, plural } from "../format.js";
import { legend, renderedRows } from "../rows.js";
import { at, complainer, formOf, put } from "../schema-form.js";
import { dropTarget, picker } from "../upload.js";
import { check } from "./files.js";

const DRAFT = "new-job";
const SETTLED_MS = 400;
const PREVIEWED_ROWS = 2;

/** @param {import("../app.js").Page} page */
export async function show({ root, query, signal, open }) {
  const [catalog, files, models] = await Promise.all([
    api.get("/v1/fine_tuning/catalog", {}, signal),
    api.get("/v1/files", { purpose: "fine-tune", limit: 100 }, signal),
    api.get("/v1/models", {}, signal),
  ]);
  const form = jobForm({ catalog, files: files.data, models: models.data, signal, onChange: changed });
  const aside = h("aside.view", { "aria-label": "Estimate and preview" });
  const problem = h("p.problem", { role: "alert" });
  let timer = 0, latest = null;

  const save = () => sessionStorage.setItem(DRAFT, JSON.stringify(form.body({ lenient: true })));

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
    if (!body?.training_file || !body.model) return fill(aside, h("p.muted", {}, "Choose a file and a base model to see what the job costs and what its rows look like."));
    aside.setAttribute("aria-busy", "true");
    await besides(aside, body, form, current);
    if (!current.aborted) aside.removeAttribute("aria-busy");
  }

  async function create() {
    form.complain(null);
    problem.textContent = "";
    const body = form.body();
    if (!body) return;
    try {
      const job = await api.post("/v1/fine_tuning/jobs", body);
      sessionStorage.removeItem(DRAFT);
      await open(`/jobs/${job.id}`);
    } catch (error) {
      if (!form.complain(error, { focus: true })) problem.textContent = error.message;
    }
  }

  const submit = button("Create job", create, { kind: "primary" });
  const element = h("form.job", { novalidate: true }, form.elements, h("div.submit", {}, submit, copyAs(() => call(form.body({ lenient: true }))), problem));
  element.addEventListener("submit", (event) => { event.preventDefault(); submit.click(); });
  fill(root, h("div.head", {}, h("h1", {}, "New job")), h("div.form-and-aside", {}, element, aside));
  dropTarget(root, signal, form.drop);
  form.write(await beginning(query, signal));
  save();
  clearTimeout(timer);
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  await refresh();
}

/** What the form begins with: another job's settings, the address, or what was typed here before. */
async function beginning(query, signal) {
  const from = query.get("from");
  if (from) return api.get(`/v1/fine_tuning/jobs/${encodeURIComponent(from)}/recipe`, {}, signal);
  const named = { training_file: query.get("file"), model: query.get("model") };
  const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "{}");
  return { ...draft, ...Object.fromEntries(Object.entries(named).filter(([, value]) => value)) };
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
      fill(rows, section("First rows", null, legend(), renderedRows(preview.rows)));
    }),
  ]);
  if (signal.aborted) return;
  const [failed] = results.filter(({ status }) => status === "rejected").map(({ reason }) => reason);
  if (results[0].status === "rejected") {
    form.complain(failed);
    fill(cost, h("p.notice", { dataset: { tone: "bad" } }, failed.message));
  }
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

/** Where the resolved value of each "auto" stands in an estimate. */
const RESOLVED = {
  n_epochs: (estimate) => estimate.n_epochs,
  batch_size: (estimate) => estimate.batch_size,
  "training.learning_rate": (estimate) => estimate.learning_rate && metric(estimate.learning_rate),
  "training.max_length": (estimate) => estimate.max_length,
  "training.precision": (estimate) => estimate.workers[0]?.precision,
  "training.gradient_checkpointing": (estimate) => estimate.workers[0]?.gradient_checkpointing,
  "training.micro_batch_tokens": (estimate) => estimate.workers[0]?.micro_batch_tokens,
};

/** The form's elements, and how its body is read, written and complained about. */
function jobForm({ catalog, files, models, signal, onChange }) {
  const file = fileField(files, signal, chosen);
  const model = modelField(models);
  const method = methodField(catalog, files, () => file.value());
  const technique = choiceField("Technique", catalog.techniques, "lora");
  const [methodOptions, techniqueOptions] = [h("div.fields"), h("div.fields")];
  let ofMethod = [], ofTechnique = [], shownMethod = null, shownTechnique = null;

  const { training, export: exported, ...others } = catalog.job.properties;
  for (const name of ["model", "training_file"]) delete others[name];
  const part = (properties, path = "") => formOf({ properties }, catalog.job.$defs, path);
  const [ofTraining, ofExport, ofOthers] = [part({ training }), part({ export: exported }), part(others)];
  const rest = [...ofTraining.fields, ...ofExport.fields, ...ofOthers.fields];
  const known = h("datalist", { id: "known-files" }, files.map(({ id, filename }) => h("option", { value: id }, filename)));
  rest.find(({ path }) => path === "validation_file").control.setAttribute("list", known.id);
  const all = () => [file, model, method, technique, ...ofMethod, ...ofTechnique, ...rest];

  function chosen(row) {
    method.narrow(row?.scan?.format ?? null);
    setMethod();
    onChange();
  }
  function setMethod() {
    if (method.value() === shownMethod) return; // its fields keep what was typed
    shownMethod = method.value();
    const { schema } = catalog.methods.find(({ type }) => type === shownMethod);
    const made = formOf(schema, schema.$defs, "method");
    ofMethod = made.fields;
    fill(methodOptions, made.elements);
  }
  function setTechnique() {
    if (technique.value() === shownTechnique) return;
    shownTechnique = technique.value();
    const { schema } = catalog.techniques.find(({ type }) => type === shownTechnique);
    const made = formOf(schema, schema.$defs, "technique");
    ofTechnique = made.fields;
    fill(techniqueOptions, made.elements);
  }
  setMethod();
  setTechnique();
  method.element.addEventListener("change", setMethod);
  technique.control.addEventListener("change", setTechnique);

  const elements = [
    file.element, model.element, method.element,
    fold("Options of the method", methodOptions),
    fold("Technique", technique.element, techniqueOptions),
    fold("Training", h("div.fields", {}, ofTraining.elements)),
    fold("Export", h("div.fields", {}, ofExport.elements)),
    fold("Validation file, name, seed and more", h("div.fields", {}, ofOthers.elements, known)),
  ];
  const listener = h("div.fields.first", {}, elements);
  listener.addEventListener("input", onChange);

  /** Return the body; null if a field holds no JSON. `lenient`: leave such a field out. */
  function body({ lenient = false } = {}) {
    const sent = { model: model.value(), training_file: file.value(), method: { type: method.value() } };
    if (technique.touched || technique.value() !== "lora" || ofTechnique.some((field) => field.read() !== undefined)) sent.technique = { type: technique.value() };
    for (const field of [...ofMethod, ...ofTechnique, ...rest]) {
      try {
        const value = field.read();
        if (value !== undefined) put(sent, field.path, value);
      } catch (error) {
        if (lenient) continue;
        reveal(field, `This is no JSON: ${error.message}`, true);
        return null;
      }
    }
    return sent;
  }

  function write(given) {
    if (given.training_file) file.write(given.training_file);
    if (given.model) model.write(given.model);
    if (given.method?.type) method.write(given.method.type);
    if (given.technique?.type) technique.write(given.technique.type);
    setMethod();
    setTechnique();
    for (const field of [...ofMethod, ...ofTechnique, ...rest]) {
      const value = at(given, field.path);
      if (value !== undefined && value !== null && value !== "auto") field.write(value);
    }
  }

  /** Put an error at its field and return whether there is one; null clears all. */
  function complain(error, { focus = false } = {}) {
    if (error === null) {
      for (const field of all()) field.complain("");
      return true;
    }
    const param = error.param ?? "";
    const field = all().find(({ path }) => path === param) ?? all().find(({ path }) => param.startsWith(`${path}.`) || (param && path.startsWith(`${param}.`)))
      ?? all().find(({ path }) => param && path.endsWith(`.${param}`));
    if (!field) return false;
    reveal(field, error.message, focus);
    return true;
  }

  function hint(estimate) {
    for (const field of [...ofMethod, ...rest]) {
      const [, find] = Object.entries(RESOLVED).find(([name]) => field.path === name || field.path.endsWith(`hyperparameters.${name}`)) ?? [];
      if (find) field.hint(find(estimate) ?? null);
    }
  }

  return { elements: listener, body, write, complain, hint, drop: file.send };
}

function reveal(field, message, focus) {
  field.complain(message);
  if (!focus) return; // nothing moves while one types
  for (let fold = field.element.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  field.control.focus();
}

const fold = (title, ...content) => h("details.fold", {}, h("summary", {}, title), content);

/** The training file: one that is there, or one that is picked or dropped now. */
function fileField(files, signal, onChoose) {
  const known = new Map(files.map((file) => [file.id, file]));
  const control = h("select", { id: "training-file", "aria-describedby": "training-file-problem" });
  const about = h("div.help.about");
  const problem = h("p.problem", { id: "training-file-problem", role: "alert" });
  const upload = picker({ label: "Upload", signal, onFile: (file) => { known.set(file.id, file); list(file.id); follow(file.id); } });

  function list(chosen) {
    const options = [...known.values()].sort((one, other) => other.created_at - one.created_at);
    fill(control, h("option", { value: "" }, options.length ? "Choose a file" : "Upload or drop a file"),
      options.map((file) => h("option", { value: file.id, selected: file.id === chosen }, `${file.filename}${file.scan?.rows ? ` · ${plural(file.scan.rows, "row")}` : ""}`)));
    describe();
  }
  function describe() {
    const file = known.get(control.value);
    fill(about, file && [check(file), h("a", { href: `/files/${file.id}` }, "Look at its rows"), copyable(file.id)]);
    onChoose(file);
  }
  /** Wait for the file's check, which tells its format. */
  async function follow(id) {
    let file = known.get(id);
    while (!file.object || file.scan?.status === "pending") {
      if (file.object) await new Promise((resolve) => { setTimeout(resolve, 1500); });
      file = await api.get(`/v1/files/${id}`, {}, signal).catch(() => null);
      if (!file || signal.aborted) return; // the estimate says that there is no such file
      known.set(id, file);
      if (file.scan?.status !== "pending") list(control.value);
    }
  }
  control.addEventListener("change", () => { describe(); if (control.value) follow(control.value); });
  const element = h("div.field", {}, h("label", { for: "training-file" }, "Training file"),
    h("div.pick", {}, control, upload.button), upload.progress, problem, about);
  queueMicrotask(() => list(null));
  return {
    path: "training_file", element, control, send: upload.send, value: () => control.value || undefined, complain: complainer(control, problem),
    write(id) {
      if (!known.has(id)) known.set(id, { id, filename: id, created_at: 0 }); // older than those that are listed
      list(id);
      follow(id);
    },
  };
}

function modelField(models) {
  const tuned = models.filter(({ id }) => id.startsWith("ft:")), bases = models.filter(({ id }) => !id.startsWith("ft:"));
  const option = ({ id }) => h("option", { value: id }, id);
  const control = h("select", { id: "model", "aria-describedby": "model-problem model-help" },
    h("optgroup", { label: "Base models" }, bases.map(option)), tuned.length > 0 && h("optgroup", { label: "Fine-tuned models, to train further" }, tuned.map(option)));
  const problem = h("p.problem", { id: "model-problem", role: "alert" });
  const help = h("p.help", { id: "model-help" }, !models.length && ["No base model yet. The operator adds one: ", h("code", {}, "attune models add NAME SOURCE")]);
  return {
    path: "model", control, value: () => control.value || undefined, complain: complainer(control, problem),
    element: h("div.field", {}, h("label", { for: "model" }, "Base model"), control, problem, help),
    write(id) {
      if (!models.some((model) => model.id === id)) control.append(h("option", { value: id }, id));
      control.value = id;
    },
  };
}

/** The methods that are shown before the rows' format is known. */
const COMMON = ["supervised", "classification", "dpo"];

/** What to learn: the methods that can read the file's rows, the others under a fold. */
function methodField(catalog) {
  const problem = h("p.problem", { id: "method-problem", role: "alert" });
  const [suited, others] = [h("div.options"), h("div.options")];
  const more = h("details.fold", {}, h("summary"), others);
  const element = h("fieldset.field", { "aria-describedby": "method-problem" }, h("legend", {}, "What to learn"), suited, more, problem);
  const radios = new Map(catalog.methods.map(({ type, summary, formats }, index) => {
    const input = h("input", { type: "radio", name: "method", value: type });
    input.checked = index === 0;
    return [type, { input, label: h("label.option", {}, input, h("span", {}, h("strong", {}, type), " ", h("span.muted", {}, summary), h("span.sub", {}, `Rows: ${formats.join(", ")}`))) }];
  }));
  function narrow(format) {
    const fits = (entry) => (format === null ? COMMON.includes(entry.type) : entry.formats.includes(format));
    more.firstChild.textContent = format === null ? "More methods" : "Methods for other rows";
    fill(suited, catalog.methods.filter(fits).map(({ type }) => radios.get(type).label));
    fill(others, catalog.methods.filter((entry) => !fits(entry)).map(({ type }) => radios.get(type).label));
    more.hidden = !others.children.length;
    const chosen = catalog.methods.find(({ type }) => radios.get(type).input.checked);
    const first = catalog.methods.find(fits);
    if (format !== null && first && !fits(chosen)) radios.get(first.type).input.checked = true;
  }
  narrow(null);
  return {
    path: "method", element, narrow, complain: (message) => { problem.textContent = message; },
    get control() { return radios.get(this.value()).input; },
    value: () => [...radios].find(([, { input }]) => input.checked)[0],
    write(type) {
      if (!radios.has(type)) return;
      radios.get(type).input.checked = true;
      more.open = others.contains(radios.get(type).label);
    },
  };
}

/** A choice of a catalogue's entries, with the chosen one's summary below. */
function choiceField(label, entries, chosen) {
  const id = label.toLowerCase();
  const control = h("select", { id, "aria-describedby": `${id}-help ${id}-problem` }, entries.map(({ type }) => h("option", { value: type, selected: type === chosen }, type)));
  const problem = h("p.problem", { id: `${id}-problem`, role: "alert" });
  const help = h("p.help", { id: `${id}-help` });
  const describe = () => { help.textContent = entries.find(({ type }) => type === control.value).summary; };
  describe();
  const field = {
    path: id, control, touched: false, value: () => control.value, complain: complainer(control, problem),
    element: h("div.field", {}, h("label", { for: id }, label), control, problem, help),
    write(type) { control.value = type; field.touched = true; describe(); },
  };
  control.addEventListener("change", () => { field.touched = true; describe(); });
  return field;
}
