/** What a run came to: counts by criterion, then its items, failures first; beside another run, the items that differ. */

import * as api from "../api.js";
import { copyAs } from "../calls.js";
import { marked } from "../diff.js";
import { arrange, button, confirm, facts, fill, h, quantity, refill, section, toast, writes } from "../elements.js";
import { answerOf, ENDED, graded, questionOf, referenceOf, runPath, runTitle, share } from "../evals.js";
import { count, exact, metric, plural } from "../format.js";
import { table } from "../table.js";

const SHOWN = 20;
const COMPARED = 2_000;
/** Tabs of a run's items: [value of the API's filter, label, its count in the run]. */
const TABS = [["fail", "Failed", "failed"], ["error", "Errors", "errored"], ["pass", "Passed", "passed"]];

/**
 * Fill an element with a run. It is drawn again while the run is unfinished, until `signal` is aborted.
 * @param {HTMLElement} element
 * @param {{found: any, chosen: {run: string, with: string|null, show: string|null}, signal: AbortSignal, choose: (show: string) => void}} options
 */
export async function show(element, { found, chosen, signal, choose }) {
  const path = (id) => `/v1/evals/${found.id}/runs/${id}`;
  const head = headOf(), items = itemsOf({ found, chosen, signal, choose });
  let drawn = "";
  fill(element, head.element, items.element);
  await api.poll(2, signal, async () => {
    if (drawn && JSON.parse(drawn).every(({ status }) => ENDED.includes(status))) return;
    const runs = await Promise.all([chosen.run, chosen.with].filter(Boolean).map((id) => api.get(path(id), {}, signal)));
    if (JSON.stringify(runs) === drawn || signal.aborted) return;
    await items.update(runs);
    drawn = JSON.stringify(runs);
    head.update(runs);
  });
}

/** The run's name and actions, its facts, and its counts by criterion. */
function headOf() {
  const title = h("h2"), actions = h("div.actions"), about = h("dl.facts"), results = h("div");
  let list = null;
  return {
    element: h("div.view", {}, h("section", {}, h("header.group", {}, title, actions), about), results),
    update([run, other]) {
      const tokens = run.per_model_usage.reduce((sum, { total_tokens: used }) => sum + used, 0);
      title.textContent = other ? `${runTitle(run)} beside ${runTitle(other)}` : runTitle(run);
      refill(actions, actionsOf(run, other));
      refill(about, ...facts([["Model", run.model || null], ["Tokens", tokens ? quantity(tokens) : null], ["Rows", rowsOf(run)]]).children);
      if (!run.per_testing_criteria_results.length) return;
      list ??= criteriaTable(run, other);
      list.update(criteria(run, other));
      if (!results.firstChild) results.append(list.element);
    },
  };
}

const actionsOf = (run, other) => [
  copyAs(() => ({ method: "POST", path: runPath(run).replace(/\/[^/]*$/, ""), body: { name: run.name, data_source: run.data_source }, cli: other ? `attune evals compare ${run.eval_id} ${run.id} ${other.id}` : `attune evals show ${run.eval_id} ${run.id}` })),
  !ENDED.includes(run.status) && writes(button("Cancel …", async () => {
    if (await confirm(`Cancel ${runTitle(run)}?`, "Its results until now are kept.", "Cancel run")) await api.post(`${runPath(run)}/cancel`);
  }, { kind: "danger" })),
];

function rowsOf({ data_source: { type, source } }) {
  return [source.type === "file_id" ? h("a", { href: `/files/${source.id}` }, h("code", { title: source.id }, `${source.id.slice(0, 14)}…`)) : plural(source.content.length, "row"), type === "jsonl" && " with answers"];
}

/** A row for each criterion and one for all, as shares; of two runs also the change. */
function criteriaTable(run, other) {
  return table({
    caption: "Results by criterion", key: (row) => row.testing_criteria,
    columns: [
      { title: "Criterion", cell: ({ testing_criteria: name }) => name },
      { title: other ? runTitle(run) : "Passed", cell: share, figures: true },
      ...(other ? [
        { title: runTitle(other), cell: ({ beside }) => (beside ? share(beside) : "–"), figures: true },
        { title: "Difference", cell: (row) => difference(row, row.beside), figures: true },
      ] : [
        { title: "Failed", cell: ({ failed }) => exact(failed), figures: true },
        { title: "Errors", cell: ({ errored }) => exact(errored), figures: true, wide: true },
        { title: "", cell: (row) => h("progress", { value: row.passed, max: graded(row) || 1, "aria-label": `Passed by ${row.testing_criteria}` }), wide: true },
      ]),
    ],
  });
}

/** The counts of each criterion and of all; of two runs with those of the second beside them. */
function criteria(run, other) {
  const all = (of) => [...of.per_testing_criteria_results, { testing_criteria: "All criteria", ...of.result_counts }];
  const others = new Map(other && all(other).map((each) => [each.testing_criteria, each]));
  return all(run).map((row) => ({ ...row, beside: others.get(row.testing_criteria) }));
}

/** By how many percentage points the first run is better than the second. */
function difference(counts, before) {
  if (!before || !graded(counts) || !graded(before)) return h("span.muted", {}, "–");
  const points = 100 * (counts.passed / graded(counts) - before.passed / graded(before));
  if (!points) return h("span.muted", {}, "0");
  return h("span", { class: points > 0 ? "good" : "bad" }, `${points > 0 ? "+" : "−"}${Math.abs(points) < 1 ? metric(Math.abs(points)) : Math.round(Math.abs(points))} points`);
}

/** The items below their tabs, failures first until a tab is chosen. They are updated in place while the run goes on. */
function itemsOf({ found, chosen, signal, choose }) {
  const tabs = h("div.filters", { role: "group", "aria-label": "Items" }), list = h("div"), none = h("p.muted", {}, "None.");
  const partly = h("p.notice", {}, `The first ${count(COMPARED)} items are compared. The command compares all: attune evals compare`);
  const more = button("Show more", () => { limit += SHOWN; return load(); });
  const element = h("div.view", { hidden: true }, section("Items", tabs, partly, list, none, more));
  const buttons = new Map(), articles = new Map();
  let runs = [], pairs = [], differing = [], shown = null, limit = SHOWN, loads = 0;

  async function update(newest) {
    runs = newest;
    const [run, other] = runs;
    element.hidden = !graded(run.result_counts);
    if (element.hidden) return;
    if (other && (!pairs.length || runs.every(({ status }) => ENDED.includes(status)))) {
      pairs = await paired(runs, signal);
      differing = pairs.filter(([one, two]) => (one.status === "pass") !== (two.status === "pass"));
    }
    partly.hidden = !other || run.result_counts.total <= COMPARED;
    await showTabs([
      ...(other ? [["differ", "Differ", differing.length]] : []),
      ...TABS.map(([name, label, counted]) => [name, label, run.result_counts[counted]]),
    ]);
  }
  /** Put the counts on the tabs, and show the items of the chosen tab, or of the first that has items. */
  function showTabs(counted) {
    for (const [name, label, number] of counted) {
      if (!buttons.has(name)) buttons.set(name, h("button", { type: "button", onclick: () => { choose(name); select(name).catch((error) => signal.aborted || toast(error.message, "bad")); } }));
      buttons.get(name).textContent = `${label} ${count(number)}`;
    }
    arrange(tabs, [...buttons.values()]);
    const [first] = counted.find(([, , number]) => number) ?? counted[0];
    return select(buttons.has(chosen.show) ? chosen.show : first);
  }
  function select(name) {
    if (name !== shown) limit = SHOWN;
    shown = name;
    for (const [other, tab] of buttons) tab.setAttribute("aria-pressed", String(other === name));
    return load();
  }
  async function load() {
    const current = loads += 1;
    const { data, hasMore } = shown === "differ"
      ? { data: differing.slice(0, limit).map(([one]) => one), hasMore: differing.length > limit }
      : await api.first(`${runPath(runs[0])}/output_items`, { status: shown }, limit, signal);
    if (current !== loads) return; // another tab was chosen meanwhile
    const partner = new Map(pairs.map(([one, two]) => [one.id, two]));
    arrange(list, data.map((item) => article(item, partner.get(item.id))));
    none.hidden = data.length > 0;
    more.hidden = !hasMore;
  }
  function article(item, other) {
    const key = `${item.id} ${other?.id}`;
    if (!articles.has(key)) articles.set(key, other ? sideBySide(found, runs, item, other) : alone(found, item));
    return articles.get(key);
  }
  return { element, update };
}

/** The items of two runs, paired by their content; of equal ones, the first with the first. */
async function paired(runs, signal) {
  const [first, second] = await Promise.all(runs.map(async (run) => {
    const { data } = await api.first(`${runPath(run)}/output_items`, {}, COMPARED, signal);
    const seen = new Map();
    return new Map(data.map((item) => {
      const content = JSON.stringify(item.datasource_item), number = seen.get(content) ?? 0;
      seen.set(content, number + 1);
      return [`${number} ${content}`, item];
    }));
  }));
  return [...first].filter(([key]) => second.has(key)).map(([key, item]) => [item, second.get(key)]);
}

/** An answer beside its reference. */
function alone({ testing_criteria: criteria }, item) {
  const reference = referenceOf(criteria, item);
  const [answer, expected] = reference === null ? [answerOf(item)] : marked(answerOf(item), reference);
  return h("article.sample", {}, question(item, reference), h("div.columns", {},
    column("Answer", item, answer), reference !== null && column("Reference", null, expected)), grades(item));
}

/** The answers of two runs, with the reference above. */
function sideBySide({ testing_criteria: criteria }, runs, one, two) {
  const reference = referenceOf(criteria, one), answers = marked(answerOf(one), answerOf(two));
  return h("article.sample", {}, question(one, reference),
    reference !== null && h("p.answer.reference", {}, h("span.muted", {}, "Reference: "), reference),
    h("div.columns", {}, [one, two].map((item, index) => h("div", {}, column(runTitle(runs[index]), item, answers[index]), grades(item)))));
}

const question = (item, reference) => h("p.answer", {}, h("span.muted", { title: JSON.stringify(item.datasource_item) }, `${exact(item.datasource_item_id + 1)}  `), questionOf(item, reference));

function column(title, item, text) {
  const error = item?.sample.error.message;
  return h("div", {}, h("h3.muted", {}, title), h("p.answer", {}, error ? h("span.bad", {}, error) : text.length ? text : h("span.muted", {}, "(empty)")));
}

/** How each criterion graded the item. */
function grades({ results }) {
  return h("p.grades", {}, results.map(({ name, passed, score, error, sample }) => h("span", { title: sample ? JSON.stringify(sample) : null },
    h("span.status", { dataset: { tone: error ? "held" : passed ? "good" : "bad" } }, h("span.shape", { "aria-hidden": "true" }, error ? "◐" : passed ? "✓" : "✕"), h("span.unseen", {}, error ? "error " : passed ? "passed " : "failed "), name),
    h("span.muted", {}, error ? ` ${error.message}` : score === Number(passed) ? "" : ` ${metric(Number(score.toFixed(2)))}`))));
}
