/** "Copy as curl / Python / CLI": whatever the page does, a person can do in their own program. */

import { copy, h, menu } from "./elements.js";

/**
 * @typedef {object} Call
 * @property {string} method
 * @property {string} path with its query
 * @property {any} [body]
 * @property {string} [python] the same with OpenAI's client, whose name is `client`
 * @property {string} [cli] the same with the `attune` command
 */

/** A text as a shell reads it. */
export const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** @param {Call} call */
export function curl({ method, path, body }) {
  const lines = [`curl ${quoted(location.origin + path)}`, '-H "Authorization: Bearer $ATTUNE_API_KEY"'];
  if (method !== "GET") lines.splice(1, 0, `-X ${method}`);
  if (body !== undefined) lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body, null, 2))}`);
  return lines.join(" \\\n  ");
}

/** @param {Call} call */
export function python({ method, path, body, python: code }) {
  const argument = body === undefined ? "" : `, body=${literal(body)}`;
  const generic = `client.${method.toLowerCase()}(${JSON.stringify(path.replace(/^\/v1/, ""))}, cast_to=object${argument})`;
  return [
    "import os", "", "from openai import OpenAI", "",
    `client = OpenAI(base_url="${location.origin}/v1", api_key=os.environ["ATTUNE_API_KEY"])`, code ?? generic,
  ].join("\n");
}

/** A JSON value as Python writes it. */
export function literal(value, indent = "") {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const parts = Array.isArray(value)
    ? value.map((item) => literal(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, inner)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!parts.length) return open + close;
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${indent}${close}`;
}

/**
 * A menu that copies the call.
 * @param {() => Call} call called when the menu is opened, so that it shows the form as it is then
 */
export function copyAs(call) {
  const ways = { curl, Python: python, CLI: ({ cli }) => cli };
  return menu("Copy as", (close) => Object.entries(ways).filter(([name]) => name !== "CLI" || call().cli).map(([name, write]) =>
    h("button.quiet", { type: "button", onclick: async (event) => { await copy(write(call()), event.currentTarget); close(); } }, name)));
}
