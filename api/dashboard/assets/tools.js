/** The tools at the right of the navigation: project and key, sign-out, theme, keyboard. */

import { connection, remove, session as signedIn } from "./api.js";
import { fill, h, toast } from "./elements.js";
import { help } from "./keys.js";

/** Show the tools. Without a session there is no project to name. */
export async function tools(element) {
  const session = await signedIn().catch(() => null);
  document.documentElement.dataset.scope = session?.scope ?? "";
  fill(element, session && account(session),
    h("button.quiet", { type: "button", title: "Keyboard (?)", "aria-label": "Keyboard", onclick: help }, "?"),
    h("button.quiet", { type: "button", title: "Light or dark", "aria-label": "Light or dark", onclick: switchTheme }, "◐"));
}

function account({ project, key, scope }) {
  const menu = h("div.menu", {},
    h("p", {}, "Project ", h("strong", {}, project)),
    h("p.muted", {}, `Key ${key.name} (${key.prefix}…), ${scope === "read" ? "read only" : scope}`),
    h("button", { type: "button", onclick: signOut }, "Sign out"));
  const details = h("details.account", {}, h("summary", {}, project), menu);
  details.addEventListener("focusout", (event) => { if (!details.contains(event.relatedTarget)) details.open = false; });
  return details;
}

async function signOut() {
  try {
    await remove("/session");
  } catch (error) {
    const reason = error.status ? error.message : "the server cannot be reached.";
    if (error.status !== 401) return toast(`You are still signed in: ${reason}`, "bad"); // 401: the session has ended
  }
  connection.dispatchEvent(new Event("signed-out"));
}

/** The server reads the cookie, so that the page has its theme before its first paint. */
function switchTheme() {
  const root = document.documentElement;
  const now = root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  root.dataset.theme = next;
  document.cookie = `theme=${next}; path=/; max-age=31536000; samesite=lax`;
  document.dispatchEvent(new Event("themechange"));
}
