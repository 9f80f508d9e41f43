/** The keyboard: `/` search, `j k` rows, `enter` open, `g j` and others for views, `⌘K` the list of all, `?` help. */

import { h } from "./elements.js";

/** @type {Map<string, {label: string, run: () => void}>} of the view that is shown */
let own = new Map();
let prefix = "";

/** Offer keys while a view is shown: `{ p: ["Pause", pause] }`. `signal`: the view's. */
export function offer(keys, signal) {
  own = new Map(Object.entries(keys).map(([key, [label, run]]) => [key, { label, run }]));
  signal.addEventListener("abort", () => { own = new Map(); }, { once: true });
}

const views = () => [...document.querySelectorAll("nav a[data-view]")].filter((link) => !link.hidden);

export function start() {
  document.addEventListener("keydown", (event) => {
    if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      palette();
    } else if (!event.metaKey && !event.ctrlKey && !event.altKey && !isTyping(event.target) && press(event.key)) {
      event.preventDefault();
    }
  });
}

const isTyping = (target) => target.closest?.("input:not([type=checkbox], [type=radio], [type=range]), textarea, select, [contenteditable], dialog");

/** Run what a key stands for. Return whether it stands for anything. */
function press(key) {
  const pressed = prefix + key;
  prefix = "";
  const view = views().find((link) => pressed === `g${link.dataset.key}`);
  if (view) return view.click(), true;
  if (own.has(pressed)) return own.get(pressed).run(), true;
  switch (pressed) {
    case "g": prefix = "g"; setTimeout(() => { prefix = ""; }, 1500); return true;
    case "/": document.querySelector("main input[type=search]")?.focus(); return true;
    case "?": return help(), true;
    case "j": return move(1);
    case "k": return move(-1);
    case "Enter": return openRow();
    case "Escape": document.activeElement?.blur(); return true;
    default: return false;
  }
}

function move(step) {
  const rows = [...document.querySelectorAll("main tr[data-href]")];
  if (!rows.length) return false;
  const at = rows.indexOf(document.activeElement.closest?.("tr"));
  const row = rows[Math.min(rows.length - 1, Math.max(0, at + step))];
  row.focus();
  row.scrollIntoView({ block: "nearest" });
  return true;
}

function openRow() {
  const row = document.activeElement;
  if (!row?.matches("tr[data-href]")) return false;
  row.querySelector("a").click();
  return true;
}

function modal(label, ...children) {
  document.querySelector("dialog.keys")?.close();
  const dialog = h("dialog.keys", { "aria-label": label }, children);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

export function help() {
  const lines = [
    ["/", "Search"], ["j  k", "Next and previous row"], ["Enter", "Open the row"], ["⌘K  Ctrl K", "Go to a view or an id"],
    ...views().filter((link) => link.dataset.key).map((link) => [`g ${link.dataset.key}`, link.textContent]),
    ...[...own].map(([key, { label }]) => [key, label]),
    ["?", "This list"],
  ];
  modal("Keyboard", h("h2", {}, "Keyboard"), h("dl.facts", {}, lines.map(([key, label]) =>
    h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, label)))));
}

const PREFIXES = { "ftjob-": "/jobs/", "ftpipe-": "/pipelines/", "file-": "/files/", "batch_": "/batches/", "eval_": "/evals/", "webhook_": "/webhooks/", "ft:": "/models/" };

/** The list of views and of this view's actions, filtered as one types; an id opens its object. */
function palette() {
  const input = h("input", { type: "text", placeholder: "Go to a view, or paste an id", "aria-label": "Go to", autofocus: true });
  const list = h("ul", { role: "listbox", "aria-label": "Matches" });
  const dialog = modal("Go to", input, list);
  let matches = [], chosen = 0;
  function show() {
    const words = input.value.trim().toLowerCase();
    const id = Object.keys(PREFIXES).find((start) => words.startsWith(start));
    matches = [
      ...(id ? [{ label: `Open ${input.value.trim()}`, run: () => go(PREFIXES[id] + encodeURIComponent(input.value.trim())) }] : []),
      ...views().map((link) => ({ label: link.textContent, run: () => link.click() })),
      ...own.values(),
    ].filter(({ label }) => id || label.toLowerCase().includes(words));
    list.replaceChildren(...matches.map(({ label }, index) => h("li", {
      role: "option", "aria-selected": String(index === chosen), onclick: () => choose(index),
    }, label)));
  }
  function choose(index) {
    dialog.close();
    matches[index]?.run();
  }
  input.addEventListener("input", () => { chosen = 0; show(); });
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); chosen = Math.min(matches.length - 1, Math.max(0, chosen + step)); show(); }
    if (event.key === "Enter") { event.preventDefault(); choose(chosen); }
  });
  show();
}

function go(href) {
  document.body.append(h("a", { href, hidden: true }));
  document.body.lastChild.click();
  document.body.lastChild.remove();
}
