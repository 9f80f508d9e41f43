/** One pipeline: its stages as a graph, from those that need no other on the left to those that end last. */

import * as api from "../api.js";
import { copyAs } from "../calls.js";
import { arrange, button, confirm, copyable, fill, h, modelLink, refill, status, when, writes } from "../elements.js";
import * as format from "../format.js";

const POLL_S = 4;
const ENDED = ["succeeded", "failed", "cancelled"];

/** @param {import("../app.js").Page} page */
export async function show({ root, id, signal, setTitle }) {
  const path = `/v1/fine_tuning/pipelines/${id}`;
  const headline = h("div"), actions = h("div.actions"), graph = stageGraph(signal);
  const call = copyAs(() => ({ method: "GET", path, cli: `attune pipelines get ${id}` }));
  const cancel = writes(button("Cancel …", async () => {
    if (await confirm(`Cancel ${id}?`, "Each stage that has not ended is cancelled and cannot be resumed. Finished stages keep their models.", "Cancel pipeline")) {
      await api.post(`${path}/cancel`);
      await load();
    }
  }, { kind: "danger" }));
  let first = true;
  await api.poll(POLL_S, signal, load).catch((error) => { if (first) throw error; });

  async function load() {
    const pipeline = await api.get(path, {}, signal);
    const { suffix, status: state, model, created_at: created, stages } = pipeline;
    if (first) root.append(h("div.head", {}, headline, actions), graph.element);
    first = false;
    setTitle(`Pipeline ${suffix ?? id}`);
    refill(headline, h("h1", {}, suffix ?? copyable(id)), h("p.muted", {}, status(state), ` · ${format.plural(stages.length, "stage")} from ${model} · created `, when(created)));
    arrange(actions, ENDED.includes(state) ? [call] : [cancel, call]);
    graph.update(stages);
  }
}

/** How many stages must end before this one: its column. */
function depth(stage, byName) {
  return Math.max(0, ...stage.needs.map((name) => 1 + depth(byName.get(name), byName)));
}

function stageGraph(signal) {
  const columns = h("ol.graph"), lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  lines.setAttribute("aria-hidden", "true");
  const element = h("div.pipeline", {}, lines, columns);
  const observer = new ResizeObserver(() => connect());
  observer.observe(element);
  signal.addEventListener("abort", () => observer.disconnect(), { once: true });
  const cards = new Map();
  let shown = [];

  function connect() {
    const { left, top } = element.getBoundingClientRect();
    const box = (name) => columns.querySelector(`[data-stage="${CSS.escape(name)}"]`).getBoundingClientRect();
    lines.replaceChildren(...shown.flatMap(({ name, needs }) => needs.map((need) => {
      const [from, to] = [box(need), box(name)];
      const [x1, y1, x2, y2] = [from.right - left, from.top - top + 20, to.left - left, to.top - top + 20];
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", `M${x1} ${y1} C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`);
      return path;
    })));
  }

  return {
    element,
    update(stages) {
      shown = stages;
      if (!cards.size) place(stages);
      for (const stage of stages) refill(cards.get(stage.name), contentOf(stage));
      connect();
    },
  };

  function place(stages) {
    const byName = new Map(stages.map((stage) => [stage.name, stage]));
    for (const { name } of stages) cards.set(name, h("article.stage", { dataset: { stage: name } }));
    const depths = stages.map((stage) => depth(stage, byName));
    const all = [...new Set(depths)].sort((one, other) => one - other);
    fill(columns, all.map((column) => h("li", {}, stages.filter((_, index) => depths[index] === column).map(({ name }) => cards.get(name)))));
  }
}

function contentOf(stage) {
  const { name, job_id: job, method, technique, needs, progress, error, fine_tuned_model: model } = stage;
  const running = stage.status === "running" && progress?.total_steps;
  return [
    h("h2", {}, h("a", { href: `/jobs/${job}` }, name)), status(stage.status),
    h("p.muted.small", {}, `${format.term(method)}, ${format.term(technique)}`, needs.length > 0 && h("span.needs", {}, ` · after ${needs.join(", ")}`)),
    running && h("p.small", {}, `Step ${format.exact(progress.step)} of ${format.exact(progress.total_steps)}`),
    running && h("progress", { value: progress.step, max: progress.total_steps, "aria-label": `Progress of ${name}` }),
    error && h("p.small.bad", {}, error.message),
    model && h("p.small", {}, modelLink(model)),
  ];
}
