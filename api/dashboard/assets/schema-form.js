/**
 * Fields of a form from a JSON Schema. A field that is left empty is not sent, so that its default, or "auto", applies;
 * what that is stands in it in grey.
 */

import { h } from "./elements.js";
import { sentence } from "./format.js";

/**
 * @typedef {object} Field
 * @property {string} path as in the API's errors, such as `training.max_length`
 * @property {HTMLElement} element
 * @property {HTMLElement} control
 * @property {boolean} [required]
 * @property {() => any} read the value to send; undefined if the field is empty. Raise SyntaxError for broken JSON
 * @property {(value: any) => void} write
 * @property {(text: string|null) => void} hint what "auto" is resolved to
 * @property {(message: string) => void} complain
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
    const made = field(name, own, definitions, at, schema.required?.includes(name));
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
    : { ...own, ...flags, mixed: true };
}

let number = 0;

function field(name, schema, definitions, path, required) {
  const id = `field-${number += 1}`;
  const fallback = schema.auto ? "auto" : schema.default === null || schema.default === undefined ? "" : String(schema.default);
  const { control, read, write, hint } = controlOf(schema, definitions, fallback);
  const problem = h("p.problem", { id: `${id}-problem`, role: "alert" });
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-help ${id}-problem`);
  const element = h("div.field", {},
    h("label", { for: id }, sentence(name), required && h("span.muted", {}, " required")), control, problem,
    h("p.help", { id: `${id}-help` }, help(schema)));
  return { path, element, control, required, read, write, hint, complain: complainer(control, problem) };
}

export function complainer(control, problem) {
  return (message) => {
    problem.textContent = message;
    control.toggleAttribute("aria-invalid", Boolean(message));
  };
}

function controlOf(schema, definitions, fallback) {
  if (schema.enum || schema.type === "boolean") return choice(schema.enum ?? ["true", "false"], fallback, schema.type === "boolean");
  if (schema.type === "integer" || schema.type === "number") return text(fallback, asNumber, { inputmode: "decimal" });
  if (schema.type === "string") return text(fallback, (value) => value);
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
  return code(`${description.replaceAll("\n", " ")} ${bounds}`.trim());
}

/** `code` in a description becomes an element. */
const code = (words) => words.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));

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
