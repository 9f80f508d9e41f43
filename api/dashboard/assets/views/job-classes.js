/** How well a classifier tells its classes apart, from the validation rows of one step. */

import { h, section } from "../elements.js";
import { exact, metric } from "../format.js";
import { table } from "../table.js";
import { validated } from "../training-curves.js";

const MOST = 64;

/**
 * A row for each class: its F1, which says nothing if it has no rows, how many of its rows are labelled right, and what the others were taken for. Null for too many classes.
 * @param {import("../training-curves.js").Point} point with `f1_by_class`; with `confusion` if each row has one label
 * @param {string[]|null} names of the classes
 */
export function classes(point, names) {
  const scores = validated(point, "f1_by_class"), confusion = validated(point, "confusion");
  if (scores.length > MOST) return null;
  const nameOf = (index) => names?.[index] ?? `Class ${index}`;
  const list = table({
    caption: "Classes", key: (row) => String(row.index),
    columns: [
      { title: "Class", cell: ({ index }) => nameOf(index) },
      { title: "F1", cell: ({ score, counts }) => metric(counts && !sum(counts) ? null : score), figures: true },
      ...(confusion ? [
        { title: "Rows", cell: ({ counts }) => exact(sum(counts)), figures: true },
        { title: "Right", cell: ({ counts, index }) => exact(counts[index]), figures: true },
        { title: "Taken for", cell: ({ counts, index }) => takenFor(counts, index, nameOf) },
      ] : []),
    ],
  });
  list.update(scores.map((score, index) => ({ index, score, counts: confusion?.[index] })));
  return section("Classes", h("span.muted", {}, `validation rows at step ${exact(point.step)}`), list.element);
}

const sum = (counts) => counts.reduce((total, count) => total + count, 0);

function takenFor(counts, own, nameOf) {
  const others = [...counts.entries()].filter(([index, count]) => count && index !== own).sort(([, one], [, other]) => other - one);
  return others.length ? others.map(([index, count]) => `${nameOf(index)} ${exact(count)}`).join(", ") : h("span.muted", {}, "–");
}
