/** Elements: a short way to build them, and those that every view shares. */

import * as format from "./format.js";

/**
 * Return an element. `h("a.quiet", { href: "/jobs", onclick: run }, "Jobs")` has that class, attribute and listener.
 * Children are elements, texts, or arrays of them; null and false are left out.
 * @param {string} name tag, with classes after dots
 * @param {Object<string, any>} [attributes] true sets an attribute without a value; null and false leave it out
 * @returns {HTMLElement}
 */
export function h(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "dataset") Object.assign(element.dataset, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...present(children));
  return element;
}

/** Replace all children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...present(children));
  return element;
}

/** Make the elements the children of a parent, in this order. Those that are in place keep their focus and selection. */
export function arrange(parent, elements) {
  const kept = new Set(elements);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  elements.forEach((element, index) => { if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null); });
}

/** How a child of `refill` looked when it was new. @type {WeakMap<Node, string>} */
const looks = new WeakMap();

/** Replace the children that would look different. The others keep their focus, their selection and their open menus. */
export function refill(element, ...children) {
  const fresh = [...fill(h("div"), ...children).childNodes];
  fresh.forEach((child, index) => {
    const old = element.childNodes[index], look = child.outerHTML ?? child.data;
    if (old && looks.get(old) === look) return;
    looks.set(child, look);
    if (old) old.replaceWith(child);
    else element.append(child);
  });
  while (element.childNodes.length > fresh.length) element.lastChild.remove();
  return element;
}

const present = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** The API's words, in which `code` between backticks becomes an element. Elements stay as they are. */
export const worded = (words) => (typeof words === "string" ? words.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part)) : words);

/** Each status has a word and a shape, so that color is never needed to tell them apart. */
const STATUSES = {
  validating_files: ["○", "Validating files", "wait"],
  queued: ["○", "Queued", "wait"],
  running: ["●", "Running", "active"],
  pausing: ["◐", "Pausing", "held"],
  paused: ["◐", "Paused", "held"],
  succeeded: ["✓", "Succeeded", "good"],
  failed: ["✕", "Failed", "bad"],
  cancelled: ["⊘", "Cancelled", "wait"],
  validating: ["○", "Validating", "wait"],
  in_progress: ["●", "In progress", "active"],
  finalizing: ["●", "Writing the files", "active"],
  completed: ["✓", "Completed", "good"],
  expired: ["✕", "Expired", "bad"],
  cancelling: ["⊘", "Cancelling", "wait"],
  canceled: ["⊘", "Canceled", "wait"],
};

/** A status in words. Other objects' statuses (`processed`, `error`) give their own `[shape, word, tone]`. */
export function status(name, [shape, word, tone] = STATUSES[name] ?? ["○", format.sentence(name), "wait"]) {
  return h("span.status", { dataset: { tone } }, h("span.shape", { "aria-hidden": "true" }, shape), word);
}

/** A time in the reader's zone, with UTC in its title; a dash if there is none. `seconds`: Unix time. */
export function when(seconds) {
  if (seconds === null || seconds === undefined) return h("span.muted", {}, "–");
  const iso = new Date(seconds * 1000).toISOString();
  return h("time", { datetime: iso, title: format.utc(seconds) }, format.clock(seconds));
}

/** A number for people, with the exact one in its title. */
export function quantity(value, unit = "") {
  if (value === null || value === undefined) return h("span.muted", {}, "–");
  return h("span.number", { title: format.exact(value, unit) }, format.count(value), unit && ` ${unit}`);
}

/** An id or another short text in monospace, which a click copies. */
export function copyable(text, shown = text) {
  return h("button.copyable", { type: "button", title: `Copy ${text}`, onclick: (event) => copy(text, event.currentTarget) }, shown);
}

export const modelAddress = (id) => `/models/${encodeURIComponent(id)}`;

/** The name of a filter by metadata, as the API and the address of the jobs write it. */
export const PAIR = /^metadata\[([^\]"\\]{1,64})\]$/;

/** The address of the jobs with a pair of metadata; null if the API cannot be asked for it. */
export function jobsWith(key, value) {
  const name = `metadata[${key}]`;
  return PAIR.test(name) && value ? `/jobs?${new URLSearchParams({ [name]: value })}` : null;
}

/** A model's id as a link to it, and a button that copies it. */
export const modelLink = (id) => [h("a.anywhere", { href: modelAddress(id) }, h("code", {}, id)), " ", h("span.muted", {}, copyable(id, "Copy"))];

/** An error's or a finding's code, as a link to its entry in the documentation. */
export const codeLink = (code) => h("a.anywhere", { href: `/docs/troubleshooting#${encodeURIComponent(code)}`, title: "Cause, and what to do" }, h("code", {}, code));

/** Copy a text, and say so for a moment at the element. */
export async function copy(text, element) {
  // Browsers offer the clipboard to secure origins only: HTTPS and this machine.
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false) || copySelected(text, element);
  if (!copied) return toast("The browser refused to copy. Select the text and copy it.", "bad");
  element.dataset.copied = "";
  toast("Copied");
  setTimeout(() => delete element.dataset.copied, 1200);
}

/** Copy without the clipboard's interface. Return whether the browser did. */
function copySelected(text, element) {
  const area = h("textarea.unseen", {}, text);
  (element.closest("dialog") ?? document.body).append(area); // outside of an open dialog nothing can be selected
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

/** Show a message at the edge of the page: for some seconds, or until it is closed if it is `bad`. */
export function toast(message, tone = "") {
  const holder = document.getElementById("toasts"), bad = tone === "bad";
  for (const other of [...holder.children]) if (other.firstChild.textContent === message) other.remove();
  const close = bad && h("button.quiet", { type: "button", "aria-label": "Close the message", onclick: () => element.remove() }, "✕");
  const element = h("div.toast", { dataset: { tone }, role: bad ? "alert" : null }, h("p", {}, worded(message)), close);
  holder.append(element);
  if (!bad) setTimeout(() => element.remove(), 2500);
}

/** Show an error as a toast, unless its view was left. */
export const complain = (signal) => (error) => signal.aborted || toast(error.message, "bad");

/** A list of names and values. Pairs whose value is null are left out. */
export function facts(pairs) {
  return h("dl.facts", {}, pairs.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** A group with a heading. `actions`: elements at the right of the heading. */
export function section(title, actions, ...children) {
  return h("section", {}, h("header.group", {}, h("h2", {}, title), actions && h("div.actions", {}, actions)), children);
}

/** What a view shows when there is nothing yet: a sentence, and what to do. */
export function empty(sentence, ...actions) {
  return h("div.empty", {}, h("p", {}, sentence), actions);
}

/** A command to type, which a click copies. */
export const command = (text) => h("div.command", {}, h("code", {}, text), h("button.quiet", {
  type: "button", onclick: (event) => copy(text, event.currentTarget),
}, "Copy"));

/** An error where its view would be: what is wrong in the API's words, and a button to try again. */
export function failure(error, retry) {
  return h("div.failure", { role: "alert" },
    h("p", {}, worded(error.message)),
    (error.code || error.requestId) && h("p.muted.small", {}, error.code && codeLink(error.code), error.code && error.requestId && " · ",
      error.requestId && ["Request ", copyable(error.requestId)]),
    retry && h("button", { type: "button", onclick: retry }, "Try again"));
}

/** A button that runs an action once at a time, at once shows that it runs, and shows its error as a toast. */
export function button(label, action, { kind = "", title = null } = {}) {
  const element = h("button", { type: "button", title, class: kind });
  element.append(label);
  element.addEventListener("click", async (event) => {
    element.setAttribute("aria-busy", "true");
    element.disabled = true;
    try {
      await action(event);
    } catch (error) {
      toast(error.message, "bad");
    } finally {
      element.disabled = false;
      element.removeAttribute("aria-busy");
    }
  });
  return element;
}

/** Mark an element that changes something. Sessions that may only read do not see it. */
export function writes(element) {
  element.classList.add("writes");
  return element;
}

/**
 * A button with a menu, which is built each time it is opened.
 * @param {string} label
 * @param {(close: () => void) => any} build returns the menu's elements, or a promise of them
 */
export function menu(label, build) {
  const list = h("div.menu"), element = h("details.drop", {}, h("summary", {}, label), list);
  const close = () => { element.open = false; };
  element.addEventListener("toggle", async () => {
    if (!element.open) return;
    try {
      fill(list, await build(close));
    } catch (error) {
      close();
      toast(error.message, "bad");
    }
  });
  element.addEventListener("focusout", (event) => element.contains(event.relatedTarget) || close());
  return element;
}

/**
 * Ask before something is lost or begun. Resolve with true if the person confirms.
 * @param {string} question names the thing: "Cancel ftjob-abc?"
 * @param {string|Node} consequence what depends on it
 * @param {string} verb the confirming button's label
 * @param {{loses?: boolean}} [options] `loses`: whether something is lost
 */
export function confirm(question, consequence, verb, { loses = true } = {}) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-label": question },
      h("form", { method: "dialog" },
        h("h2", {}, question), h("p", {}, consequence),
        h("div.actions", {}, h("button", { value: "" }, loses ? "Keep" : "Not now"), h("button", { value: "yes", class: loses ? "danger" : "primary" }, verb))));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
