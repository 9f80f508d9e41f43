/** Evals: what answers are graded by. */

import * as api from "../api.js";
import { button, command, copyable, empty, fill, h, when } from "../elements.js";
import { EVALS } from "../evals.js";
import { table } from "../table.js";

const STEP = 50;

/** @param {import("../app.js").Page} page */
export async function show({ root, signal, kept, keep }) {
  let limit = kept.rows ?? STEP;
  const list = table({
    caption: "Evals, newest first", href: ({ id }) => `/evals/${id}`,
    columns: [
      { title: "Eval", cell: ({ id, name }) => [h("a", { href: `/evals/${id}` }, name || id), name && h("span.sub", {}, copyable(id))] },
      { title: "Criteria", cell: ({ testing_criteria: criteria }) => criteria.map(({ name }) => name).join(", ") },
      { title: "Created", cell: (row) => when(row.created_at), figures: true, wide: true },
    ],
  });
  const nothing = empty("No eval yet. An eval is a schema of items and the criteria that grade the answers to them.", command("attune evals create eval.json"));
  const body = h("div");
  const more = button("Show more", () => { limit += STEP; keep({ rows: limit }); return refresh(); });
  more.hidden = true;

  async function refresh() {
    const { data, hasMore } = await api.first(EVALS, { order: "desc" }, limit, signal);
    list.update(data);
    more.hidden = !hasMore;
    const shown = data.length ? list.element : nothing;
    if (body.firstChild !== shown) fill(body, shown);
  }

  fill(root, h("div.head", {}, h("h1", {}, "Evals")), body, h("div", {}, more));
  await api.poll(10, signal, refresh);
}
