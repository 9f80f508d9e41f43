/**
 * Fields of a form from a JSON Schema. A field that is left empty is not sent, so that its default, or "auto", applies;
 * what that is stands in it in grey.
 */

import { button, fill, h, worded } from "./elements.js";
import { sentence } from "./format.js";

/**
 * @typedef {object} Field
 * @property {string} path as in the API's errors, such as `training.max_length`
 * @property {HTMLElement} element
 * @property {HTMLElement} control
 * @property {boolean} [required]
 * @property {any} [fallback] the default
 * @property {boolean} [nulls] whether null is a value beside the default
 * @property {() => any} read the value to send; undefined if the field is empty. Raise SyntaxError for broken JSON
 * @property {(value: any) => void} write
 * @property {(text: string|null) => void} hint what "auto" is resolved to
 * @property {(message: string) => void} complain
 * @property {Field[]} [inner] the fields of the chosen alternative, which are read after it
 */

/**
 * Return the fields of an object, those of objects inside it included.
 * @param {any} schema with `properties`
 * @param {any} definitions the `$defs` that it refers to
 * @param {string} path
 * @returns {{elements: HTMLElement[], fields: Field[]}}
 */
export function formOf(schema, definitions, path) {
  const elements = [], fields = [];
  for (const [name, raw] of Object.entries(schema.properties ?? {})) {
    const own = resolved(raw, definitions);
    if ("const" in own) continue; // a `type`, which is chosen elsewhere
    const at = path ? `${path}.${name}` : name;
    if (own.properties) {
      const inner = own.nullable ? optional(name, own, definitions, at) : formOf(own, definitions, at);
      fields.push(...inner.fields);
      elements.push(...inner.elements);
      continue;
    }
    const make = own.discriminator ? variant : namedOf(own) ? several : field;
    const made = make(name, own, definitions, at, schema.required?.includes(name));
    fields.push(made);
    elements.push(made.element);
  }
  return { elements, fields };
}

/** An object that may be left out: a box to check, which shows its fields. */
function optional(name, schema, definitions, path) {
  const { elements, fields } = formOf(schema, definitions, path);
  const box = h("input", { type: "checkbox", "aria-label": sentence(name) });
  const inner = h("div.fields", { hidden: true }, elements);
  const problem = h("p.problem", { role: "alert" });
  const set = (checked) => { box.checked = checked; inner.hidden = !checked; };
  box.addEventListener("change", () => set(box.checked));
  const whole = {
    path, control: box, hint: () => {}, complain: complainer(box, problem),
    element: h("div.field.wide-field", {}, h("label.inline", {}, box, h("strong", {}, sentence(name))), problem, h("p.help", {}, help(schema)), inner),
    read: () => (box.checked ? {} : undefined),
    write: () => set(true),
  };
  const guarded = fields.map((field) => ({ ...field, read: () => (box.checked ? field.read() : undefined) }));
  return { elements: [whole.element], fields: [whole, ...guarded] };
}

/** An object of one of several types: a choice of the type, and the fields of the chosen one. */
function variant(name, schema, definitions, path, required) {
  const { mapping, propertyName } = schema.discriminator;
  const id = `field-${number += 1}`;
  const control = h("select", { id, "aria-describedby": `${id}-help ${id}-problem` }, h("option", { value: "" }, required ? "choose" : "none"),
    Object.keys(mapping).map((type) => h("option", { value: type }, type)));
  const inner = h("div.fields"), problem = h("p.problem", { id: `${id}-problem`, role: "alert" }), about = h("p.help", { id: `${id}-help` });
  const whole = {
    path, control, required, inner: [], hint: () => {}, complain: complainer(control, problem),
    element: h("div.field.wide-field", {}, h("label", { for: id }, sentence(name), required && h("span.muted", {}, " required")), control, problem, about, inner),
    read: () => (control.value ? { [propertyName]: control.value } : undefined),
    write(value) {
      control.value = value[propertyName] ?? "";
      choose();
      for (const field of whole.inner) {
        const given = at(value, field.path.slice(whole.path.length + 1));
        if (given !== undefined && given !== null) field.write(given);
      }
    },
  };
  function choose() {
    const chosen = mapping[control.value] && resolved({ $ref: mapping[control.value] }, definitions);
    const { elements, fields } = chosen ? formOf(chosen, definitions, whole.path) : { elements: [], fields: [] };
    whole.inner = fields;
    inner.replaceChildren(...elements);
    about.replaceChildren(...help(chosen ? definitions[mapping[control.value].split("/").at(-1)] : schema));
  }
  control.addEventListener("input", choose); // before the form's own listener
  choose();
  return whole;
}

/** The schema of the objects that a schema allows under names of the reader's choice; undefined if it allows none. */
const namedOf = ({ oneOf = [] }) => oneOf.find((member) => member.additionalProperties?.discriminator)?.additionalProperties;

/** Objects of several types, each under a name of the reader's choice. */
function several(name, schema, definitions, path, required) {
  const list = h("div.fields"), problem = h("p.problem", { role: "alert" }), entries = new Map(), words = sentence(name).toLowerCase();
  const changed = () => list.dispatchEvent(new Event("input", { bubbles: true }));
  const add = button(`Add to ${words}`, () => { insert("").focus(); changed(); });

  function insert(given) {
    const title = h("input", { type: "text", autocomplete: "off", spellcheck: "false", value: given, "aria-label": `Name in ${words}` });
    const entry = variant("type", namedOf(schema), definitions, `${path}.${given}`, true);
    const remove = button("Remove", () => { entries.delete(entry); element.remove(); changed(); });
    const element = h("div.field.wide-field", {}, h("div.pick", {}, title, remove), entry.element);
    title.addEventListener("input", () => move(entry, `${path}.${title.value.trim()}`));
    entries.set(entry, element);
    list.append(element);
    return { entry, focus: () => title.focus() };
  }
  return {
    path, control: add, required, hint: () => {}, complain: complainer(add, problem), read: () => undefined,
    get inner() { return [...entries.keys()]; },
    element: h("div.field.wide-field", {}, h("p.label", {}, sentence(name), required && h("span.muted", {}, " required")), problem, h("p.help", {}, help(schema)), list, h("div", {}, add)),
    write(value) {
      entries.clear();
      fill(list);
      const one = typeof value.type === "string";
      for (const [given, object] of one ? [[value.name ?? value.type, value]] : Object.entries(value)) insert(given).entry.write(object);
    },
  };
}

/** A field and those in it. */
export const flattened = (field) => [field, ...(field.inner ?? []).flatMap(flattened)];

/** Give a field another path, and the fields in it. */
function move(field, path) {
  const before = field.path.length;
  for (const each of flattened(field)) each.path = path + each.path.slice(before);
}

/** A schema without references and without the alternatives "auto" and null, which become flags. */
function resolved(schema, definitions) {
  const own = { ...schema };
  if (own.$ref) {
    Object.assign(own, resolved(definitions[own.$ref.split("/").at(-1)], definitions), { description: schema.description });
    delete own.$ref;
  }
  const members = own.anyOf ?? own.oneOf;
  if (!members || own.discriminator) return own;
  const rest = members.filter((member) => member.const !== "auto" && member.type !== "null");
  const flags = { auto: members.some((member) => member.const === "auto"), nullable: members.some((member) => member.type === "null") };
  delete own.anyOf;
  delete own.oneOf;
  return rest.length === 1
    ? { ...resolved(rest[0], definitions), ...flags, description: own.description ?? rest[0].description, default: own.default }
    : { ...own, ...flags, mixed: true, oneOf: rest };
}

let number = 0;
/** Characters from which a text has room for several lines. */
const LONG = 10_000;
/** What stands in a field for null, where null is not its default. */
const NONE = "none";

function field(name, schema, definitions, path, required) {
  const id = `field-${number += 1}`;
  const fallback = schema.auto ? "auto" : schema.default === null || schema.default === undefined ? "" : String(schema.default);
  const { control, ...own } = controlOf(schema, definitions, fallback);
  const nulls = Boolean(schema.nullable && fallback && !schema.auto);
  const read = () => (nulls && control.value.trim() === NONE ? null : own.read());
  const write = (value) => { if (nulls && value === null) control.value = NONE; else own.write(value); };
  if (required && control.options && !fallback) control.options[0].textContent = "choose";
  const problem = h("p.problem", { id: `${id}-problem`, role: "alert" });
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-help ${id}-problem`);
  const element = h("div.field", {},
    h("label", { for: id }, sentence(name), required && h("span.muted", {}, " required")), control, problem,
    h("p.help", { id: `${id}-help` }, help(schema), nulls && [" Write ", h("code", {}, NONE), " for null."]));
  return { path, element, control, required, fallback: schema.default, nulls, read, write, hint: own.hint, complain: complainer(control, problem) };
}

export function complainer(control, problem) {
  return (message) => {
    problem.textContent = message;
    if (message) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  };
}

function controlOf(schema, definitions, fallback) {
  if (schema.enum || schema.type === "boolean") return choice(schema.enum ?? ["true", "false"], fallback, schema.type === "boolean");
  if (schema.type === "integer" || schema.type === "number") return text(fallback, asNumber, { inputmode: "decimal" });
  if (schema.type === "string") return schema.maxLength >= LONG ? longText(fallback) : text(fallback, (value) => value);
  if (schema.type === "array" && resolved(schema.items ?? {}, definitions).type === "string") return texts(fallback);
  if (schema.mixed && schema.default !== undefined && typeof schema.default === "string") return text(fallback, (value) => (/^[[{]/.test(value) ? JSON.parse(value) : value));
  return json(schema, definitions);
}

/** A text that is no number is sent as it is: the API's error says what is wrong with it. */
const asNumber = (value) => (Number.isFinite(Number(value)) ? Number(value) : value);

function text(fallback, parse, attributes = {}) {
  const control = h("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: fallback, ...attributes });
  return {
    control,
    read: () => (control.value.trim() ? parse(control.value.trim()) : undefined),
    write: (value) => { control.value = typeof value === "object" ? JSON.stringify(value) : value; },
    hint: (resolved) => { control.placeholder = resolved === null ? fallback : `${fallback}: ${resolved}`; },
  };
}

/** A text of several lines, such as a script: kept as it is typed. */
function longText(fallback) {
  const control = h("textarea.code", { rows: 2, spellcheck: "false", placeholder: fallback });
  const grow = () => { control.rows = Math.min(16, Math.max(2, control.value.split("\n").length)); };
  control.addEventListener("input", grow);
  return { control, read: () => control.value || undefined, write: (value) => { control.value = value; grow(); }, hint: () => {} };
}

/** A list of texts, one in each line. It is JSON if a line could not hold one of them. */
function texts(fallback) {
  const control = h("textarea", { rows: 3, spellcheck: "false", placeholder: fallback || "one in each line" });
  const isJson = (value) => value.startsWith('["');
  return {
    control,
    read() {
      if (isJson(control.value)) return JSON.parse(control.value);
      const lines = control.value.split("\n").filter(Boolean);
      return lines.length ? lines : undefined;
    },
    write(value) {
      const fits = !isJson(value[0] ?? "") && value.every((text) => text && !/[\r\n]/.test(text));
      control.value = fits ? value.join("\n") : JSON.stringify(value);
    },
    hint: () => {},
  };
}

function choice(values, fallback, isBoolean) {
  const words = (value) => (isBoolean ? { true: "yes", false: "no" }[value] ?? value : value);
  const first = h("option", { value: "" }, words(fallback) || "none");
  const control = h("select", {}, first, values.filter((value) => String(value) !== fallback).map((value) => h("option", { value }, words(String(value)))));
  return {
    control,
    read: () => (control.value ? (isBoolean ? control.value === "true" : control.value) : undefined),
    write: (value) => { control.value = String(value) === fallback ? "" : String(value); },
    hint: (resolved) => { first.textContent = resolved === null ? words(fallback) || "none" : `${fallback}: ${words(String(resolved))}`; },
  };
}

/** An object or a list that has no fields of its own here. */
function json(schema, definitions) {
  const control = h("textarea.code", { rows: 3, spellcheck: "false", placeholder: JSON.stringify(example(schema, definitions)) });
  return {
    control,
    read: () => (control.value.trim() ? JSON.parse(control.value) : undefined),
    write: (value) => { control.value = JSON.stringify(value, null, 2); },
    hint: () => {},
  };
}

/** A value of the schema: of an object its required fields, of alternatives the first. */
function example(schema, definitions) {
  const own = resolved(schema, definitions);
  const [first] = own.oneOf ?? own.anyOf ?? [];
  if (first) return example(first, definitions);
  if (own.properties) {
    const shown = Object.entries(own.properties).filter(([name, one]) => one.const !== undefined || own.required?.includes(name));
    return Object.fromEntries(shown.map(([name, one]) => [name, example(one, definitions)]));
  }
  if (own.type === "array") return [example(own.items ?? {}, definitions)];
  if (own.type === "object") return { "…": example(own.additionalProperties ?? {}, definitions) };
  return own.const ?? own.enum?.[0] ?? own.minimum ?? "…";
}

/** The description, and the bounds that the API holds a value to. */
function help({ description = "", minimum, exclusiveMinimum, maximum, exclusiveMaximum }) {
  const low = minimum ?? exclusiveMinimum, high = maximum ?? exclusiveMaximum;
  const above = exclusiveMinimum === undefined ? "from" : "above", below = exclusiveMaximum === undefined ? "to" : "below";
  const bounds = low !== undefined && high !== undefined ? `${sentence(above)} ${low} ${below} ${high}.`
    : low !== undefined && low !== 0 ? `${exclusiveMinimum === undefined ? "At least" : "Above"} ${low}.` : "";
  return worded(`${description.replaceAll("\n", " ")} ${bounds}`.trim());
}

/** Put a value at a dotted path of an object. */
export function put(object, path, value) {
  const names = path.split(".");
  const last = names.pop();
  let inner = object;
  for (const name of names) inner = inner[name] ??= {};
  inner[last] = value;
}

/** Return the value at a dotted path, or undefined. */
export const at = (object, path) => path.split(".").reduce((inner, name) => inner?.[name], object);
