/** The form of a new job: how its fields become the body of a request, and where estimates and errors stand in it. */

import { fill, h } from "./elements.js";
import { metric } from "./format.js";
import { choiceField, fileField, methodField, modelField } from "./job-fields.js";
import { at, flattened, formOf, put } from "./schema-form.js";

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

/**
 * @param {object} options
 * @param {any} options.catalog
 * @param {any[]} options.files
 * @param {any[]} options.models
 * @param {AbortSignal} options.signal
 * @param {() => void} options.onChange
 */
export function jobForm({ catalog, files, models, signal, onChange }) {
  const file = fileField(files, signal, (chosen) => {
    method.narrow(chosen?.scan?.format ?? null);
    changed();
  });
  const model = modelField(models), method = methodField(catalog), technique = choiceField("Technique", catalog.techniques, "lora");
  const ofMethod = optionsOf(catalog.methods, "method"), ofTechnique = optionsOf(catalog.techniques, "technique");
  const rest = restOf(catalog, files);
  const form = {
    file, model, method, technique,
    get options() { return [...ofMethod.fields, ...ofTechnique.fields, ...rest.fields].flatMap(flattened); },
    get all() { return [file, model, method, technique, ...form.options]; },
  };
  const show = () => { ofMethod.show(method.value()); ofTechnique.show(technique.value()); };
  function changed() {
    show();
    onChange();
  }
  show();
  const element = h("div.fields.first", {}, file.element, model.element, method.element,
    fold("Options of the method", ofMethod.element), fold("Technique", technique.element, ofTechnique.element), rest.elements);
  element.addEventListener("input", changed);
  return {
    elements: element,
    drop: file.send,
    body: (how) => bodyOf(form, how),
    complain: (error, how) => complain(form, error, how),
    hint: (estimate) => hint(form, estimate),
    /** Fill the form. Return whether an option was filled, which its default would not; its fold is opened. */
    write(given) {
      if (given.training_file) file.write(given.training_file);
      if (given.model) model.write(given.model);
      if (given.method?.type) method.write(given.method.type);
      const usual = technique.value();
      if (given.technique?.type) technique.write(given.technique.type);
      show();
      const filled = form.options.filter((field) => differs(at(given, field.path), field));
      for (const field of filled) field.write(at(given, field.path));
      if (technique.value() !== usual) filled.push(technique);
      filled.forEach(unfold);
      return filled.length > 0;
    },
  };
}

/** Whether a given value changes anything where the field's default would apply. Without a default, an empty list or object does not. */
function differs(value, { fallback, nulls = false }) {
  if (value === null) return nulls;
  if (value === undefined || value === "auto") return false;
  if (fallback === undefined && typeof value === "object") return Object.keys(value).length > 0;
  return JSON.stringify(value) !== JSON.stringify(fallback);
}

/** The options of an entry of the catalogue. They are made anew only when another entry is chosen, to keep what was typed. */
function optionsOf(entries, path) {
  const options = { element: h("div.fields"), fields: [], type: null, show };
  function show(type) {
    if (type === options.type) return;
    const { schema } = entries.find((entry) => entry.type === type);
    const { elements, fields } = formOf(schema, schema.$defs, path);
    Object.assign(options, { type, fields });
    fill(options.element, elements);
  }
  return options;
}

/** The fields that every job has. */
function restOf(catalog, files) {
  const { training, export: exported, model: _, training_file: __, ...others } = catalog.job.properties;
  const parts = [["Training", { training }], ["Export", { export: exported }], ["Validation file, name, seed and more", others]]
    .map(([title, properties]) => ({ title, ...formOf({ properties }, catalog.job.$defs, "") }));
  const fields = parts.flatMap((part) => part.fields);
  const known = h("datalist", { id: "known-files" }, files.map(({ id, filename }) => h("option", { value: id }, filename)));
  fields.find(({ path }) => path === "validation_file").control.setAttribute("list", known.id);
  return { fields, elements: [...parts.map(({ title, elements }) => fold(title, h("div.fields", {}, elements))), known] };
}

const fold = (title, ...content) => h("details.fold", {}, h("summary", {}, title), content);

/** Return the body; null if a field holds no JSON. `lenient`: leave such a field out. `focus`: move to it. */
function bodyOf({ file, model, method, technique, options }, { lenient = false, focus = false } = {}) {
  const sent = { model: model.value(), training_file: file.value(), method: { type: method.value() } };
  // With an empty object, the API's error names the field that is missing, not the object.
  if (options.some(({ path, required }) => required && path.startsWith("method."))) sent.method[method.value()] = {};
  const given = [];
  for (const field of options) {
    try {
      given.push([field.path, field.read()]);
    } catch (error) {
      if (lenient) continue;
      reveal(field, `This is no JSON: ${error.message}`, focus);
      return null;
    }
  }
  const filled = given.filter(([, value]) => value !== undefined);
  // Without a technique, a fine-tuned model is trained further with its own.
  if (technique.touched || filled.some(([path]) => path.startsWith("technique."))) sent.technique = { type: technique.value() };
  for (const [path, value] of filled) put(sent, path, value);
  return sent;
}

/** Put an error at its field and return whether there is one; null clears all. */
function complain({ all }, error, { focus = false } = {}) {
  if (error === null) {
    for (const field of all) field.complain("");
    return true;
  }
  const field = error.param && fieldOf(all, error.param);
  if (field) reveal(field, error.message, focus);
  return Boolean(field);
}

/** The field that an error's `param` names: itself, the innermost that contains it, or the first inside it. */
function fieldOf(all, param) {
  const innermost = all.toSorted((one, other) => other.path.length - one.path.length);
  return innermost.find(({ path }) => path === param) ?? innermost.find(({ path }) => param.startsWith(`${path}.`))
    ?? all.find(({ path }) => path.startsWith(`${param}.`) || path.endsWith(`.${param}`));
}

function reveal(field, message, focus) {
  field.complain(message);
  if (!focus) return; // nothing moves while one types
  unfold(field);
  field.element.scrollIntoView({ block: "center" });
  field.control.focus({ preventScroll: true });
}

/** Open the folds around a field. */
function unfold(field) {
  for (let fold = field.element.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
}

/** Show in grey what each "auto" is resolved to. */
function hint({ options }, estimate) {
  for (const field of options) {
    const [, find] = Object.entries(RESOLVED).find(([name]) => field.path === name || field.path.endsWith(`hyperparameters.${name}`)) ?? [];
    if (find) field.hint(find(estimate) ?? null);
  }
}
