/** The frame of all views: addresses, navigation, sign-in, theme and the state of the connection. */

import * as api from "./api.js";
import { failure, fill, h } from "./elements.js";

/**
 * What a view gets. It fills `root`, and stops what it started when `signal` is aborted.
 * @typedef {object} Page
 * @property {HTMLElement} root
 * @property {string|null} id the object in the address, as in `/jobs/ID`
 * @property {URLSearchParams} query
 * @property {AbortSignal} signal
 * @property {(text: string) => void} setTitle
 * @property {(changes: Object<string, string|null>) => void} setQuery changes the address without opening it
 * @property {{rows?: number}} kept what the view kept when it was left, if the reader came back to it
 * @property {(changes: {rows?: number}) => void} keep
 * @property {(href: string) => Promise<void>} open
 * @property {(keys: Object<string, [string, () => void]>) => void} offerKeys keys that change something, so not for sessions that may only read
 */

const main = document.getElementById("main");
const links = [...document.querySelectorAll("nav a[data-view]")];
const loadKeys = () => import("./keys.js");
let left = new AbortController();

/** Return the view's module and the id of an address; null if the address is not the dashboard's. */
function resolve(pathname) {
  const [, name, ...rest] = pathname.split("/");
  const link = links.find((link) => link.dataset.view === (name || links[0].dataset.view));
  if (!link || (rest.join("/") && !link.dataset.item)) return null;
  const id = rest.join("/") ? decoded(rest.join("/")) : null; // `/jobs/` is the list
  return { link, id, module: id === null ? link.dataset.view : link.dataset.item };
}

/** A part of an address as text. One with a broken escape, such as `100%`, stays as it is. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Show the view of the current address. */
async function show() {
  left.abort();
  left = new AbortController();
  const { signal } = left;
  const { link, id, module } = resolve(location.pathname) ?? {};
  for (const other of links) other.removeAttribute("aria-current");
  link?.setAttribute("aria-current", "page");
  link?.parentElement.scrollTo({ left: link.offsetLeft - link.parentElement.offsetLeft - 48 }); // on narrow screens
  const root = h("div.view");
  fill(main, root);
  setTitle(link?.textContent ?? "Not found");
  try {
    const view = await import(`./views/${module}.js`);
    scrollBack(root, signal);
    const own = { setTitle: whileShown(setTitle), setQuery: whileShown(setQuery), keep: whileShown(keep), offerKeys };
    await view.show({ root, id, query: new URLSearchParams(location.search), signal, kept: history.state ?? {}, open, ...own });
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === undefined) console.error(error);
    // After an upgrade the modules have another address, which a new page knows.
    const retry = error instanceof TypeError && /module/i.test(error.message) ? () => location.reload() : show;
    fill(root, failure(error, retry));
  }

  /** The title and the address are the next view's once this one is left. */
  function whileShown(change) {
    return (...values) => { if (!signal.aborted) change(...values); };
  }

  function offerKeys(offered) {
    Promise.all([loadKeys(), api.session()]).then(([{ offer }, { scope }]) => signal.aborted || scope === "read" || offer(offered, signal), () => {});
  }
}

function setTitle(text) {
  document.title = `${text} · Attune`;
}

function setQuery(changes) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) value ? url.searchParams.set(name, value) : url.searchParams.delete(name);
  history.replaceState(history.state, "", url);
}

/** Keep values with this entry of the history, for a reader who comes back to it. */
function keep(changes) {
  history.replaceState({ ...history.state, ...changes }, "");
}

/** Scroll to where the reader was, as soon as the view is long enough again; not after the reader has scrolled. */
function scrollBack(root, signal) {
  const { top = 0 } = history.state ?? {};
  const height = () => document.documentElement.scrollHeight - innerHeight;
  const grown = new ResizeObserver(() => { if (height() >= top) { scrollTo(0, top); end(); } });
  const end = () => { grown.disconnect(); returning = null; };
  returning = end;
  grown.observe(root);
  for (const event of ["wheel", "touchmove", "keydown"]) addEventListener(event, end, { once: true, signal });
  signal.addEventListener("abort", () => grown.disconnect(), { once: true });
}

let returning = null, scrolled = 0;
history.scrollRestoration = "manual";
addEventListener("scroll", () => {
  clearTimeout(scrolled);
  if (!returning) scrolled = setTimeout(() => keep({ top: scrollY }), 100);
}, { passive: true });

async function open(href) {
  clearTimeout(scrolled);
  keep({ top: scrollY });
  history.pushState(null, "", href);
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
  await show();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  const plain = !event.defaultPrevented && event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || link.origin !== location.origin || link.hasAttribute("download") || link.target || link.hash) return;
  if (!resolve(link.pathname)) return;
  event.preventDefault();
  open(link.href);
});
addEventListener("popstate", () => { clearTimeout(scrolled); show(); });

const bar = document.getElementById("connection");
api.connection.addEventListener("lost", () => fill(bar, "The server cannot be reached. Trying again …").hidden = false);
api.connection.addEventListener("restored", () => { bar.hidden = true; });
let asking = null; // all requests of a page may find at once that the session has ended
api.connection.addEventListener("signed-out", () => {
  asking ??= askForKey().finally(() => { asking = null; });
});

async function askForKey() {
  left.abort();
  const form = await import("./sign-in.js");
  await form.askForKey(main);
  showTools();
  show();
}

/** Who is signed in, the theme and the keys, at the right of the navigation. */
async function showTools() {
  const { tools } = await import("./tools.js");
  await tools(document.getElementById("tools"));
}

/** Resolve when the first view shows something. The rest of the page waits for it: browsers open few connections. */
function firstSight() {
  return new Promise((resolve) => {
    const observer = new MutationObserver(() => {
      if (!main.querySelector(".view > *, form")) return;
      observer.disconnect();
      resolve();
    });
    observer.observe(main, { childList: true, subtree: true });
  });
}

if (location.pathname === "/sign-in") {
  const { followLink } = await import("./sign-in.js");
  await followLink(main);
}
const seen = firstSight();
show();
await seen;
(await loadKeys()).start();
await showTools();
