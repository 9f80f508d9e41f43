/** What scripts add to a page of the documentation: copy buttons, the keyboard, and who is signed in. */

import { connection } from "./api.js";
import { copy, h } from "./elements.js";
import { start } from "./keys.js";
import { tools } from "./tools.js";

for (const block of document.querySelectorAll("article pre")) {
  const button = h("button.quiet", { type: "button", onclick: () => copy(block.textContent.trimEnd(), button) }, "Copy");
  block.tabIndex = 0; // it may scroll
  block.replaceWith(h("div.code", {}, button, block.cloneNode(true)));
}
const pages = document.getElementById("pages");
pages.scrollTop = (pages.querySelector("[aria-current]")?.offsetTop ?? 0) - pages.clientHeight / 3;
start();
connection.addEventListener("signed-out", () => document.querySelector("details.account")?.remove());
await tools(document.getElementById("tools"));
