/** A table whose rows are updated in place, so that nothing jumps while one reads. */

import { arrange, h, refill } from "./elements.js";
import { plural } from "./format.js";

/**
 * @typedef {object} Column
 * @property {string} title
 * @property {(row: any) => any} cell what the cell contains
 * @property {boolean} [figures] right-aligned, with figures of one width
 * @property {boolean} [wide] left out on narrow screens
 */

/**
 * @param {object} options
 * @param {string} options.caption what the table lists, for screen readers
 * @param {Column[]} options.columns the first identifies the row
 * @param {(row: any) => string} [options.href] the address that a row opens
 * @param {(row: any) => string} [options.key]
 * @returns {{element: HTMLElement, update: (rows: any[]) => void}}
 */
export function table({ caption, columns, href, key = (row) => row.id }) {
  const body = h("tbody");
  const fresh = h("button.fresh", { type: "button", hidden: true });
  const element = h("div.table", {}, fresh, h("table", {},
    h("caption.unseen", {}, caption),
    h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: classes(column) }, column.title)))),
    body));
  /** @type {Map<string, {row: HTMLElement, cells: HTMLElement[], data: any, shown: string}>} */
  const drawn = new Map();

  function draw(row) {
    const cells = columns.map((column, index) => h(index ? "td" : "th", { class: classes(column), scope: index ? null : "row" }));
    const element = h("tr", { dataset: { key: key(row) }, tabindex: href ? -1 : null });
    element.append(...cells);
    if (href) {
      element.dataset.href = href(row);
      element.addEventListener("click", (event) => {
        const chosen = event.target.closest("a, button, input, label") || String(getSelection());
        if (!chosen) element.querySelector("a")?.dispatchEvent(new MouseEvent("click", event));
      });
    }
    return { row: element, cells, data: null, shown: "" };
  }

  function show(row) {
    const entry = drawn.get(key(row)) ?? draw(row);
    const shown = entry.data === row ? entry.shown : JSON.stringify(row);
    if (entry.shown !== shown) columns.forEach((column, index) => refill(entry.cells[index], column.cell(row)));
    Object.assign(entry, { shown, data: row });
    drawn.set(key(row), entry);
    return entry.row;
  }

  function update(rows) {
    const newest = rows.findIndex((row) => drawn.has(key(row)));
    const reading = element.getBoundingClientRect().top < 0 || body.contains(document.activeElement);
    const held = newest > 0 && reading ? rows.slice(0, newest) : [];
    fresh.hidden = !held.length;
    fresh.textContent = `${plural(held.length, "new row")} above`;
    fresh.onclick = () => { document.activeElement?.blur(); scrollTo({ top: 0 }); place(rows); fresh.hidden = true; };
    place(rows.slice(held.length));
  }

  function place(rows) {
    arrange(body, rows.map(show));
    for (const [name, { row }] of drawn) if (row.parentNode !== body) drawn.delete(name);
  }

  return { element, update };
}

const classes = (column) => [column.figures && "figures", column.wide && "wide"].filter(Boolean).join(" ") || null;
