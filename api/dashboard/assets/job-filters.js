/** The filters of the list of jobs. They are in the address, so that Back and a link keep them. */

import * as api from "./api.js";
import { PAIR, fill, h, jobsWith } from "./elements.js";
import * as format from "./format.js";

export const FINAL = ["succeeded", "failed", "cancelled"];
const STATUSES = ["validating_files", "queued", "running", "paused", ...FINAL];
const DAYS = { 1: "Last 24 hours", 7: "Last 7 days", 30: "Last 30 days" };
const FIELDS = ["status", "method", "model", "search", "days"];

/**
 * @param {URLSearchParams} query of the address
 * @param {(changes: Object<string, string|null>) => void} onChange gets what changes in the address
 * @returns `element`; `state`, a text that changes with the filters, empty without any; `query()` for the API;
 *   `offer()`, which loads the names of methods and models; `clear()`
 */
export function jobFilters(query, onChange) {
  const given = new Map([...query].filter(([name, value]) => value && (FIELDS.includes(name) || PAIR.test(name))));
  const search = h("input", { type: "search", placeholder: "Search ids and models", "aria-label": "Search jobs", maxlength: 128, value: given.get("search") });
  const selects = {
    status: select("Status", "All statuses", STATUSES.map((name) => [name, format.sentence(name)])),
    method: select("Method", "All methods", []),
    model: select("Model", "All models", []),
    days: select("Created", "Any time", Object.entries(DAYS)),
  };
  const pair = h("input", { type: "text", placeholder: "Metadata: team=maps", "aria-label": "Metadata, as key=value" });
  const pairs = h("div.pairs");
  const element = h("div.filters", {}, search, Object.values(selects), pair, pairs);
  let typed = null, offered = false;

  search.addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(() => change({ search: search.value.trim() }), 200); });
  for (const [name, control] of Object.entries(selects)) control.addEventListener("change", () => change({ [name]: control.value }));
  pair.addEventListener("input", () => pair.setCustomValidity(""));
  pair.addEventListener("change", add);
  draw();

  function change(changes) {
    for (const [name, value] of Object.entries(changes)) value ? given.set(name, value) : given.delete(name);
    draw();
    onChange(changes);
  }

  function add() {
    const [, key, value] = pair.value.trim().match(/^([^=]+?)\s*=\s*(.+)$/) ?? [];
    if (!pair.value.trim()) return;
    if (!value || !jobsWith(key, value)) {
      pair.setCustomValidity("Write a key and its value, such as team=maps.");
      pair.reportValidity();
      return;
    }
    pair.value = "";
    change({ [`metadata[${key}]`]: value });
  }

  function draw() {
    for (const [name, control] of Object.entries(selects)) choose(control, given.get(name) ?? "", name === "method" ? format.term : String);
    fill(pairs, [...given].filter(([name]) => PAIR.test(name)).map(([name, value]) => {
      const text = `${name.match(PAIR)[1]} = ${value}`;
      return h("span.pair", {}, text, h("button.quiet", { type: "button", "aria-label": `Remove the filter ${text}`, onclick: () => change({ [name]: null }) }, "✕"));
    }));
  }

  return {
    element,
    get state() {
      return JSON.stringify([...given]).replace("[]", "");
    },
    query() {
      const { days, ...others } = Object.fromEntries(given);
      return { ...others, created_after: days && Math.floor(Date.now() / 1000) - 86400 * days };
    },
    /** Load the names that can be chosen, once. Names that are in the address can be chosen before. */
    offer() {
      if (offered) return;
      offered = true;
      api.get("/v1/fine_tuning/catalog").then(({ methods, base_models: models }) => {
        selects.method.append(...missing(selects.method, methods.map(({ type }) => [type, format.term(type)])));
        selects.model.append(...missing(selects.model, models.map(({ id }) => [id, id])));
      }, () => { offered = false; });
    },
    clear() {
      search.value = "";
      change(Object.fromEntries([...given.keys()].map((name) => [name, null])));
    },
  };
}

function select(label, all, options) {
  const control = h("select", { "aria-label": label }, h("option", { value: "" }, all));
  control.append(...options.map(option));
  return control;
}

const option = ([value, text]) => h("option", { value }, text);
const missing = (control, options) => options.filter(([value]) => ![...control.options].some((known) => known.value === value)).map(option);

function choose(control, value, written) {
  control.append(...missing(control, [[value, written(value)]]));
  control.value = value;
}
