/** The curves of a job's training, from its metrics: which exist, in which order, and what each shows. */

import { sentence } from "./format.js";

const NAMES = {
  loss: ["Loss"], learning_rate: ["Learning rate"], grad_norm: ["Gradient norm"], tokens_per_second: ["Speed", "tokens/s"],
  mean_token_accuracy: ["Token accuracy"], kl: ["KL divergence"], rewards_margins: ["Reward margin"],
};
const LAST = ["learning_rate", "grad_norm", "tokens_per_second"];
const COUNTS = new Set(["step", "total_steps", "epoch", "tokens"]);

/** `train_loss` and `full_valid_loss` both measure `loss`. */
const measured = (name) => name.replace(/^(train|valid|full_valid)_/, "");

/**
 * A job's series by step. A step that was trained again replaces its earlier values.
 * @typedef {{step: number}} Point
 */
export class Series {
  /** @type {Map<number, Point>} */
  #points = new Map();
  #sorted = null;

  /** @param {Point[]} points */
  add(points) {
    for (const point of points) this.#points.set(point.step, point);
    this.#sorted = null;
  }

  /** All points, by step. */
  get points() {
    return (this.#sorted ??= [...this.#points.values()].sort((one, other) => one.step - other.step));
  }

  get steps() {
    return this.points.map(({ step }) => step);
  }

  /** The values of training, or of validation: of all validation rows where they were measured, else of some. */
  values(name, kind) {
    const names = kind === "valid" ? [`full_valid_${name}`, `valid_${name}`] : [`train_${name}`, name];
    return this.points.map((point) => point[names[0]] ?? point[names[1]] ?? null);
  }
}

/** The measurements that these points contain, the most important first. */
export function measurements(points) {
  const found = new Set();
  for (const point of points) for (const name of Object.keys(point)) if (!COUNTS.has(name)) found.add(measured(name));
  const own = [...found].filter((name) => name !== "loss" && !LAST.includes(name)).sort();
  return [...(found.has("loss") ? ["loss"] : []), ...own, ...LAST.filter((name) => found.has(name))];
}

/** The title of a measurement's chart, and its unit. */
export function heading(name) {
  const [title, unit = ""] = NAMES[name] ?? [sentence(name)];
  return { title, unit };
}

export const hasValues = (column) => column.some((value) => value !== null && value !== undefined);
