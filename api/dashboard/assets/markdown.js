/** Markdown of model cards as elements: the parts that cards use. All text stays text; links open nothing but web pages. */

import { h } from "./elements.js";

/** @param {string} text @returns {HTMLElement[]} without the metadata before the text */
export function rendered(text) {
  const lines = text.replace(/^---\n.*?\n---\n/s, "").split("\n");
  const elements = [];
  while (lines.length) {
    const element = block(lines);
    if (element) elements.push(element);
  }
  return elements;
}

/** Take the lines of the next block and return its element; null for a blank line. */
function block(lines) {
  const line = lines.shift();
  const fence = /^(`{3,})/.exec(line)?.[1];
  if (fence) {
    const content = take(lines, (next) => !next.startsWith(fence));
    lines.shift();
    return h("pre.source", { tabindex: "0" }, content.join("\n"));
  }
  const heading = /^(#{1,6}) (.*)/.exec(line);
  if (heading) return h(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2])); // below the page's own
  if (line.startsWith("    ")) return h("pre.source", { tabindex: "0" }, [line, ...take(lines, (next) => next.startsWith("    "))].map((each) => each.slice(4)).join("\n"));
  if (line.startsWith("|")) return table([line, ...take(lines, (next) => next.startsWith("|"))]);
  if (/^[-*] /.test(line)) return h("ul", {}, [line, ...take(lines, (next) => /^[-*] /.test(next))].map((item) => h("li", {}, inline(item.slice(2)))));
  if (!line.trim()) return null;
  return h("p", {}, inline([line, ...take(lines, (next) => next.trim() && !/^(`{3}|#|\||[-*] )/.test(next))].join(" ")));
}

function take(lines, belongs) {
  const end = lines.findIndex((line) => !belongs(line));
  return lines.splice(0, end < 0 ? lines.length : end);
}

function table([head, , ...rows]) {
  const cells = (row) => row.slice(1, row.lastIndexOf("|")).split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  return h("div.table", { tabindex: "0" }, h("table", {}, h("thead", {}, h("tr", {}, cells(head).map((cell) => h("th", { scope: "col" }, inline(cell))))),
    h("tbody", {}, rows.map((row) => h("tr", {}, cells(row).map((cell) => h("td", {}, inline(cell))))))));
}

const INLINE = /(`+)(.+?)\1(?!`)|\*\*(.+?)\*\*|\[([^\]]+)\]\((https?:[^)\s]+)\)/g;

/** Code, bold text and links of a line. */
function inline(text) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, , code, bold, label, href] = match;
    parts.push(text.slice(at, match.index), code ? h("code", {}, code.trim()) : bold ? h("strong", {}, bold) : h("a", { href, rel: "noreferrer" }, label));
    at = match.index + whole.length;
  }
  return [...parts, text.slice(at)];
}
