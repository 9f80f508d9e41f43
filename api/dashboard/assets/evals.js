/** Evals, their runs and their items, in the words of the page. */

import { h, status } from "./elements.js";
import { clock, exact, percent } from "./format.js";

export const EVALS = "/v1/evals";
export const ENDED = ["completed", "failed", "canceled"];

export const runPath = ({ eval_id: evalId, id }) => `${EVALS}/${evalId}/runs/${id}`;
export const runTitle = ({ name, model, created_at: created }) => name || model || `Run of ${clock(created)}`;

/** How many items of a run, or of one criterion, have a grade. */
export const graded = ({ passed, failed, errored }) => passed + failed + errored;

/** The part of the graded items that passed, with the numbers in its title; a dash before the first. */
export function share(counts) {
  const all = graded(counts);
  if (!all) return h("span.muted", {}, "–");
  return h("span.number", { title: `${exact(counts.passed)} of ${exact(all)} passed` }, percent(counts.passed / all));
}

/** The state of a run; of an unfinished one with its progress. */
export function runState({ status: name, result_counts: counts, error }) {
  return [status(name), error.message && h("span.sub", {}, error.message),
    name === "in_progress" && h("progress", { value: graded(counts), max: counts.total, "aria-label": "Progress" })];
}

/** The text that answers an item. */
export const answerOf = ({ sample: { output } }) => output.map(({ content }) => content ?? "").join("\n");

/** What the answer is compared with: the reference of the first criterion that has one, filled in from the item. */
export function referenceOf(criteria, item) {
  const template = criteria.find(({ reference }) => reference)?.reference;
  if (!template || template.includes("sample.")) return null;
  return template.replaceAll(/\{\{\s*item\.([^\s}]+)\s*\}\}/g, (_, path) => {
    const value = path.split(".").reduce((inner, name) => inner?.[name], item.datasource_item);
    return typeof value === "string" ? value : JSON.stringify(value) ?? "";
  });
}

/** What was asked: the last message to the model, or of a run that asks none the first text of the row. */
export function questionOf({ sample: { input }, datasource_item: item }, reference) {
  const first = Object.values(item).find((value) => typeof value === "string" && value !== reference);
  return input.at(-1)?.content ?? first ?? JSON.stringify(item);
}

/** What a criterion compares, in a few words. */
export function rule({ type, operation, evaluation_metric: metric, reference, pass_threshold: threshold, passing_labels: labels, model }) {
  return [
    { eq: "equals", ne: "differs from", like: "contains", ilike: "contains, in any case," }[operation] ?? metric?.replaceAll("_", " "),
    reference && h("code", {}, reference), model && `judged by ${model}`, labels && `passes as ${labels.join(" or ")}`,
    type === "python" && "a script", threshold !== null && threshold !== undefined && `from ${threshold}`,
  ].filter(Boolean).flatMap((part, index) => (index ? [" ", part] : [part]));
}
