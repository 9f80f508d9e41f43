/** The curves of a job's training, from its metrics: which exist, in which order, and what each shows. */

import { sentence } from "./format.js";

const NAMES = {
  loss: ["Loss"], learning_rate: ["Learning rate"], grad_norm: ["Gradient norm"], tokens_per_second: ["Speed", "tokens/s"],
  mean_token_accuracy: ["Token accuracy"], kl: ["KL divergence"], rewards_margin: ["Reward margin"],
};
const LAST = ["learning_rate", "grad_norm", "tokens_per_second"];
const COUNTS = new Set(["step", "total_steps", "epoch", "tokens"]);

/** Most points that a job's series keep: a chart has fewer pixels, and a page may be open all night. */
const MOST = 2000, STRETCHES = 500;

/** `train_loss` and `full_valid_loss` both measure `loss`. */
const measured = (name) => name.replace(/^(train|valid|full_valid)_/, "");

/**
 * A job's series by step. A step that was trained again replaces its earlier values.
 * @typedef {{step: number}} Point
 */
export class Series {
  /** By step. @type {Point[]} */
  points = [];
  /** The measurements that are numbers. Others are lists, such as a confusion matrix. @type {Set<string>} */
  names = new Set();

  /** @param {Point[]} points */
  add(points) {
    for (const point of points) {
      const before = this.points.findLastIndex(({ step }) => step <= point.step); // mostly the last one
      const again = this.points[before]?.step === point.step;
      this.points.splice(again ? before : before + 1, again ? 1 : 0, point);
      for (const [name, value] of Object.entries(point)) if (typeof value === "number" && !COUNTS.has(name)) this.names.add(measured(name));
    }
    if (this.points.length > MOST) this.points = thinned(this.points);
  }

  get steps() {
    return this.points.map(({ step }) => step);
  }

  /** The values of training, or of validation: of all validation rows where they were measured, else of some. */
  values(name, kind) {
    const names = kind === "valid" ? [`full_valid_${name}`, `valid_${name}`] : [`train_${name}`, name];
    return this.points.map((point) => point[names[0]] ?? point[names[1]] ?? null);
  }

  /** The point with the lowest validation loss among those that measured `name` on validation rows; undefined if none did. */
  best(name) {
    const [found] = this.points.filter((point) => validated(point, name) !== null)
      .sort((one, other) => (validated(one, "loss") ?? Infinity) - (validated(other, "loss") ?? Infinity));
    return found;
  }
}

/** A measurement of validation rows at a point, or null. */
export const validated = (point, name) => point[`full_valid_${name}`] ?? point[`valid_${name}`] ?? null;

/** Of equal stretches of steps the points with the lowest and the highest loss, and the best evaluation; also the first and the last point. */
function thinned(points) {
  const [first, last] = [points[0], points.at(-1)], kept = new Set([first, last]);
  const stretches = Map.groupBy(points, ({ step }) => Math.floor(STRETCHES * (step - first.step) / (last.step - first.step + 1)));
  for (const stretch of stretches.values()) {
    const least = (measure) => stretch.reduce((best, point) => (measure(point) < measure(best) ? point : best));
    kept.add(least((point) => point.train_loss)).add(least((point) => -point.train_loss)).add(least((point) => validated(point, "loss") ?? Infinity));
  }
  return points.filter((point) => kept.has(point));
}

/** The measurements of these names, the most important first. */
export function measurements(names) {
  const found = new Set(names);
  const own = [...found].filter((name) => name !== "loss" && !LAST.includes(name)).sort();
  return [...(found.has("loss") ? ["loss"] : []), ...own, ...LAST.filter((name) => found.has(name))];
}

/** The section of docs/metrics.md that explains the measurements of a method. */
const EXPLAINED = {
  supervised: "supervised", classification: "classification", dpo: "dpo", kto: "kto", orpo: "orpo-and-simpo", simpo: "orpo-and-simpo",
  reward: "reward-models", ppo: "ppo-and-reinforcement", reinforcement: "ppo-and-reinforcement",
};

/** The title of a measurement's chart, its unit, and the address of its explanation. */
export function heading(name, method) {
  const [title, unit = ""] = NAMES[name] ?? [sentence(name)];
  const section = LAST.includes(name) || !EXPLAINED[method] ? "every-method" : EXPLAINED[method];
  return { title, unit, href: `/docs/metrics#${section}-${name}` };
}

export const hasValues = (column) => column.some((value) => value !== null && value !== undefined);
