/** What came of a job: base against tuned, its settings as they were resolved, and its cost. */

import { marked } from "../diff.js";
import { facts, h, section } from "../elements.js";
import * as format from "../format.js";
import { table } from "../table.js";

const UP = 1, DOWN = -1;
/** Where a metric of an evaluation goes if the model improves. `rewards_chosen` and `rewards_rejected` tell nothing alone: see their margin. */
const DIRECTIONS = {
  loss: DOWN, nll_loss: DOWN, mean_absolute_error: DOWN, rewards_undesirable: DOWN,
  reward: UP, accuracy: UP, mean_token_accuracy: UP, preference_accuracy: UP, f1_macro: UP, f1_micro: UP, r2: UP,
  rewards_accuracy: UP, rewards_margin: UP, rewards_desirable: UP,
};

/** Whether a metric's change is "better" or "worse"; "" if it does not change, or its direction says nothing. */
export const judged = (name, base, tuned) => ({ [UP]: "better", [DOWN]: "worse" })[Math.sign(tuned - base) * (DIRECTIONS[name] ?? 0)] ?? "";

export const TONES = { better: "good", worse: "bad" };

/** Base against tuned: the metrics, then answers side by side. */
export function evaluation({ base, tuned, rows, drawn_from: source, base_model: name, samples }) {
  const metrics = table({
    caption: "Metrics of the base model and of the tuned model", key: (row) => row.name,
    columns: [
      { title: "Metric", cell: (row) => format.sentence(row.name) },
      { title: `Base (${name})`, cell: (row) => format.metric(row.base), figures: true },
      { title: "Tuned", cell: (row) => format.metric(row.tuned), figures: true },
      { title: "Change", cell: change, figures: true },
    ],
  });
  metrics.update(Object.keys(base).map((metric) => ({ name: metric, base: base[metric], tuned: tuned[metric] })));
  const note = source === "training" ? "These rows were trained on: a gain does not prove that the model generalizes." : null;
  return section("Base against tuned", h("span.muted", {}, `${format.plural(rows, `${source} row`)}`),
    note && h("p.notice", {}, note), metrics.element, samples.map(answers));
}

function change({ name, base, tuned }) {
  if (base === null || tuned === null || base === tuned) return h("span.muted", {}, "–");
  const verdict = judged(name, base, tuned);
  return h("span", { class: TONES[verdict] }, `${tuned > base ? "+" : "−"}${format.metric(Math.abs(tuned - base))} ${verdict}`);
}

function answers(sample) {
  const [base, tuned] = marked(sample.base, sample.tuned);
  const column = (title, text, reward) => h("div", {}, h("h3.muted", {}, title, reward !== null && reward !== undefined && ` · reward ${format.metric(reward)}`), h("p.answer", {}, text.length ? text : h("span.muted", {}, "(empty)")));
  return h("article.sample", {},
    h("p.answer", {}, sample.prompt),
    sample.reference !== null && h("p.answer.reference", {}, h("span.muted", {}, "Reference: "), sample.reference),
    h("div.columns", {}, column("Base", base, sample.base_reward), column("Tuned", tuned, sample.tuned_reward)));
}

/** The options as the job resolved them: first those that were chosen, folded those that are as always. */
export function settings({ method, technique, training, resources, export: exported }) {
  const { hyperparameters, ...options } = method[method.type];
  const group = (title, values) => h("div", {}, h("h3.muted", {}, title), facts(Object.entries(values)
    .filter(([name]) => name !== "type").map(([name, value]) => [format.sentence(name), written(value)])));
  return section("Settings", null, h("details.fold", {}, h("summary", {}, summary(training, hyperparameters)),
    h("div.view.indented", {},
      group(`Method: ${format.term(method.type)}`, { ...hyperparameters, ...options }), group(`Technique: ${format.term(technique.type)}`, technique),
      group("Training", training), group("Resources and export", { ...resources, ...exported }))));
}

/** `max_steps` may end the training before its epochs. */
const summary = ({ learning_rate: rate, max_length: length, total_steps: steps, max_steps: most }, { n_epochs: epochs, batch_size: batch }) => [
  steps && `${format.exact(steps)} steps`, epochs && !(steps && steps === most) && (epochs === "auto" ? "epochs auto" : `${epochs} ${epochs === 1 ? "epoch" : "epochs"}`), batch && `batch ${batch}`,
  rate && `learning rate ${written(rate)}`, length && `length ${written(length)}`,
].filter(Boolean).join(" · ");

/** A value in words: an object as facts of its own, which keep the names of the API. */
function written(value) {
  if (value === null) return "none";
  if (typeof value === "number") return Number.isInteger(value) ? format.exact(value) : format.metric(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "object") return String(value).includes("\n") ? h("pre", { tabindex: 0 }, value) : String(value);
  if (!Object.keys(value).length) return "none";
  if (!Array.isArray(value)) return facts(Object.entries(value).map(([name, inner]) => [name, inner === null ? null : written(inner)]));
  return value.every((each) => typeof each !== "object") ? value.join(", ") : value.map(written);
}

/** Predicted beside actual. */
export function cost(estimate) {
  if (!estimate) return null;
  const { predicted, actual } = estimate;
  const rows = [
    ["Whole attempt", predicted.seconds, actual?.seconds, format.duration],
    ["Training", predicted.training_s, actual?.training_s, format.duration],
    ["Peak memory", predicted.memory?.total, actual?.peak_bytes, format.bytes],
    ["Trained weights", predicted.trained_parameters, undefined, format.count],
  ].map(([name, before, after, show]) => ({ name, before, after, show }));
  const list = table({
    caption: "Predicted and actual cost", key: (row) => row.name,
    columns: [
      { title: "Cost", cell: (row) => row.name },
      { title: "Predicted", cell: (row) => (row.before === undefined ? "–" : row.show(row.before)), figures: true },
      actual && { title: "Actual", cell: (row) => (row.after === undefined || row.after === null ? h("span.muted", {}, "–") : row.show(row.after)), figures: true },
      actual && { title: "Ratio", cell: (row) => (row.before && row.after ? `× ${format.metric(Number((row.after / row.before).toPrecision(2)))}` : h("span.muted", {}, "–")), figures: true },
    ].filter(Boolean),
  });
  list.update(rows);
  return section(actual ? "Predicted and actual cost" : "Predicted cost", null, list.element);
}
