/** Pipelines: the live list, each with its stages in a row. */

import * as api from "../api.js";
import { button, command, empty, fill, h, status, when } from "../elements.js";
import { table } from "../table.js";

const PATH = "/v1/fine_tuning/pipelines", STEP = 50, POLL_S = 5;

/** @param {import("../app.js").Page} page */
export async function show({ root, signal, kept, keep }) {
  let limit = kept.rows ?? STEP;
  const list = table({
    caption: "Pipelines, newest first", href: ({ id }) => `/pipelines/${id}`,
    columns: [
      { title: "Pipeline", cell: ({ id, suffix }) => [h("a", { href: `/pipelines/${id}` }, suffix ?? id), suffix && h("span.sub", {}, h("code", {}, id))] },
      { title: "Status", cell: (pipeline) => status(pipeline.status) },
      { title: "Stages", cell: ({ stages }) => h("span.stages", {}, stages.map((stage) => h("span", {}, status(stage.status, [...shape(stage.status)]), " ", stage.name))), wide: true },
      { title: "Base model", cell: ({ model }) => model, wide: true },
      { title: "Created", cell: (pipeline) => when(pipeline.created_at), figures: true },
    ],
  });
  const nothing = h("div");
  const more = button("Show more", () => { limit += STEP; keep({ rows: limit }); return refresh(); });
  more.hidden = true;

  async function refresh() {
    const { data, hasMore } = await api.first(PATH, {}, limit, signal);
    list.update(data);
    list.element.hidden = !data.length;
    more.hidden = !hasMore;
    fill(nothing, !data.length && empty("No pipelines yet. A pipeline trains several jobs, each of which may begin from the model of another.", command("attune pipelines create pipeline.json")));
  }

  root.append(h("div.head", {}, h("h1", {}, "Pipelines")), list.element, nothing, h("div", {}, more));
  await api.poll(POLL_S, signal, refresh);
}

/** The shape and tone of a status; its word is read aloud only, since the stage's name follows. */
function shape(name) {
  const full = status(name);
  return [full.querySelector(".shape").textContent, h("span.unseen", {}, full.lastChild.textContent), full.dataset.tone];
}
