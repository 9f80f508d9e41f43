/** Two texts word by word: what only one of them has is marked. */

import { h } from "./elements.js";

const LONGEST = 600;

/**
 * Return both texts as elements, with `<ins>` around the words that the other lacks.
 * @param {string} one
 * @param {string} other
 * @returns {[Node[], Node[]]}
 */
export function marked(one, other) {
  const [left, right] = [words(one), words(other)];
  if (left.length > LONGEST || right.length > LONGEST) return [[one], [other]];
  const common = commonWords(left, right);
  if (!common.some(([index]) => left[index].trim())) return [[one], [other]]; // all of it differs
  return [runs(left, common.map(([index]) => index)), runs(right, common.map(([, index]) => index))];
}

const words = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];

/** The longest common subsequence, as pairs of indices. */
function commonWords(left, right) {
  const lengths = Array.from({ length: left.length + 1 }, () => new Uint16Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      lengths[i][j] = left[i] === right[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < left.length && j < right.length;) {
    if (left[i] === right[j]) pairs.push([i++, j++]);
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i += 1;
    else j += 1;
  }
  return pairs;
}

/** The words as text, those whose index is not shared within `<ins>`. */
function runs(list, shared) {
  const kept = new Set(shared), nodes = [];
  for (let start = 0; start < list.length;) {
    let end = start;
    while (end < list.length && kept.has(end) === kept.has(start)) end += 1;
    const text = list.slice(start, end).join("");
    nodes.push(kept.has(start) ? text : h("ins", {}, text));
    start = end;
  }
  return nodes;
}
