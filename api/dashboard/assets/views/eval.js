/** An eval: its criteria, its runs, and what one of them came to, alone or beside another. */

import * as api from "../api.js";
import { copyAs } from "../calls.js";
import { button, confirm, copyable, empty, fill, h, section, toast, when, writes } from "../elements.js";
import { EVALS, rule, runState, runTitle, share } from "../evals.js";
import { exact, plural } from "../format.js";
import { table } from "../table.js";

const STEP = 20;

/** @param {import("../app.js").Page} page */
export async function show({ root, id, query, signal, setTitle, setQuery, kept, keep, open }) {
  const path = `${EVALS}/${encodeURIComponent(id)}`;
  const found = await api.get(path, {}, signal);
  const chosen = { run: query.get("run"), with: query.get("with"), show: query.get("show") };
  const result = h("div.view"), results = await import("./eval-run.js");
  let limit = kept.rows ?? STEP, known = [], left = new AbortController();
  setTitle(found.name || "Eval");

  const runs = runsTable(id, chosen, choose);
  const more = h("button", { type: "button", hidden: true, onclick: () => { limit += STEP; keep({ rows: limit }); refresh(); } }, "Show more");
  const nothing = empty("No run yet. A run asks a model the questions of a file and grades its answers.", h("div", {}, newRun()));
  const list = h("div");

  function choose(changes) {
    Object.assign(chosen, changes);
    setQuery(chosen);
    draw();
    showResult().catch((error) => signal.aborted || toast(error.message, "bad"));
  }
  /** The choice is part of each row, so that the table draws it again. */
  const draw = () => runs.update(known.map((run) => ({ ...run, chosen: run.id === chosen.run, beside: run.id === chosen.with })));

  async function showResult() {
    left.abort();
    left = new AbortController();
    const current = AbortSignal.any([signal, left.signal]);
    await results.show(result, { found, chosen, signal: current, choose: (state) => { chosen.show = state; setQuery(chosen); } });
  }
  async function refresh() {
    const { data, hasMore } = await api.first(`${path}/runs`, { order: "desc" }, limit, signal);
    known = data;
    more.hidden = !hasMore;
    draw();
    const shown = data.length ? runs.element : nothing;
    if (list.firstChild !== shown) fill(list, shown);
    if (data.length && !chosen.run) choose({ run: data[0].id });
  }
  function newRun() {
    return button("New run", async () => {
      const { askForRun } = await import("../eval-form.js");
      const run = await askForRun(found, known[0] ?? null, signal);
      if (!run) return;
      await refresh();
      choose({ run: run.id, with: null, show: null });
    }, { kind: "primary" });
  }
  async function remove() {
    if (!await confirm(`Delete ${found.name || id}?`, "All its runs and their results are deleted, too.", "Delete eval")) return;
    await api.remove(path);
    await open("/evals");
  }

  fill(root, h("div.head", {}, h("div", {}, h("h1", {}, found.name || "Eval"), h("p.muted", {}, copyable(id))), h("div.actions", {},
    copyAs(() => ({ method: "GET", path, python: `client.evals.retrieve("${id}")`, cli: `attune evals show ${id}` })),
    writes(button("Delete", remove, { kind: "danger" })), writes(newRun()))),
  criteriaOf(found), section("Runs", null, list, more), result);
  if (chosen.run) showResult().catch((error) => signal.aborted || toast(error.message, "bad"));
  await api.poll(3, signal, refresh);
}

/** The runs, of which one is shown and another may be chosen beside it. */
function runsTable(id, chosen, choose) {
  const pick = (run) => h("a", { href: `/evals/${id}?run=${run.id}`, "aria-current": run.id === chosen.run ? "true" : null, onclick: (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    choose({ run: run.id, with: chosen.with === run.id ? null : chosen.with });
  } }, runTitle(run));
  function compareBox(run) {
    if (run.id === chosen.run) return h("span.muted", { title: "The run that is shown" }, "–");
    return h("input", { type: "checkbox", "aria-label": `Compare with ${runTitle(run)}`, checked: run.id === chosen.with, onchange: (event) => choose({ with: event.target.checked ? run.id : null, show: null }) });
  }
  return table({
    caption: "Runs, newest first",
    columns: [
      { title: "Run", cell: (run) => [pick(run), run.name && run.model && h("span.sub", {}, run.model), h("span.sub.wide", {}, copyable(run.id))] },
      { title: "Status", cell: runState },
      { title: "Passed", cell: (run) => share(run.result_counts), figures: true },
      { title: "Items", cell: (run) => exact(run.result_counts.total), figures: true, wide: true },
      { title: "Errors", cell: ({ result_counts: { errored } }) => (errored ? h("span.bad", {}, exact(errored)) : h("span.muted", {}, "0")), figures: true, wide: true },
      { title: "Created", cell: (run) => when(run.created_at), figures: true, wide: true },
      { title: "Compare", cell: compareBox, figures: true },
    ],
  });
}

/** The criteria in a line each; the whole definition below a fold. */
function criteriaOf(found) {
  const { testing_criteria: criteria, data_source_config: config } = found;
  return h("details.fold", {}, h("summary", {}, plural(criteria.length, "criterion").replace("criterions", "criteria"), ": ", criteria.map(({ name }) => name).join(", ")),
    h("dl.facts.indented", {}, criteria.map((criterion) => h("div", {}, h("dt", {}, criterion.name), h("dd", {}, rule(criterion))))),
    h("pre", { tabindex: "0" }, JSON.stringify({ data_source_config: config, testing_criteria: criteria }, null, 2)));
}
