/** Rows as the model sees them: tokens that carry loss are tinted, and the place where a row is cut is marked. */

import { h } from "./elements.js";
import { count, plural } from "./format.js";

const ROLES = { text: "", prompt: "Prompt", chosen: "Preferred answer", rejected: "Rejected answer" };

/** What the model does with the rows, and what the tint means. */
export function legend(rows) {
  const sequences = rows.flatMap((row) => row.sequences);
  if (sequences.some((sequence) => sequence.supervised_tokens)) {
    return h("p.muted.small.legend", {}, h("mark.loss", {}, "tinted"), " text carries loss: the model learns to write it. It only reads the rest.");
  }
  const prompts = sequences.some(({ role }) => role === "prompt");
  return h("p.muted.small.legend", {}, prompts ? "The model writes the answers to these prompts itself, and learns from their rewards." : "The model reads all of the text, and learns what belongs to it.");
}

/** @param {any[]} rows of a preview */
export function renderedRows(rows) {
  return h("ol.rows", {}, rows.map((row) => h("li", {}, head(row),
    row.findings.map((finding) => problem(finding)),
    h("div.sequences", {}, row.sequences.map((sequence) => h("div", {},
      ROLES[sequence.role] && h("h4", {}, `${ROLES[sequence.role]} · ${sizes(sequence)}`),
      h("div.rendered", { tabindex: "0", role: "group", "aria-label": `Row ${row.row}${ROLES[sequence.role] && `, ${ROLES[sequence.role].toLowerCase()}`}` }, text(sequence))))))));
}

function head(row) {
  const only = row.sequences.length === 1 && !ROLES[row.sequences[0].role] ? [sizes(row.sequences[0])] : [];
  const label = row.label === null || row.label === undefined ? [] : [`label ${JSON.stringify(row.label)}`];
  const dropped = row.dropped ? ["left out of training"] : [];
  return h("h3", {}, `Row ${row.row}`, h("span.muted", {}, ` ${["", ...only, ...label, ...dropped].join(" · ")}`));
}

const sizes = ({ length, supervised_tokens: supervised }) =>
  `${plural(length, "token")}${supervised ? `, ${count(supervised)} with loss` : ""}`;

export const problem = ({ severity, message }) =>
  h("p.finding", { dataset: { severity } }, h("span.shape", { "aria-hidden": "true" }, severity === "error" ? "✕" : "◐"),
    h("span.unseen", {}, `${severity}: `), message);

/** The text in runs: with loss or not, before the cut or after it. */
function text(sequence) {
  const runs = [];
  pieces(sequence).forEach((piece, index) => {
    const cut = sequence.cut_at !== null && index >= sequence.cut_at;
    const loss = !cut && sequence.loss_weights[index] !== 0;
    const last = runs.at(-1);
    if (last && last.cut === cut && last.loss === loss) last.text += piece;
    else runs.push({ cut, loss, text: piece });
  });
  const shown = sequence.token_texts.length;
  return [
    runs.map((run, index) => [
      run.cut && !runs[index - 1]?.cut && h("span.cut", {}, `cut after ${plural(sequence.cut_at, "token")}`),
      run.cut ? h("del", {}, run.text) : run.loss ? h("mark.loss", {}, run.text) : run.text,
    ]),
    shown < sequence.length && h("span.cut", {}, `${count(sequence.length - shown)} more tokens are not shown`),
  ];
}

/**
 * The text of each token, taken from the whole text. Tokens decoded alone lose a leading space in some tokenizers, and a
 * character that spans several tokens is � in each of them.
 */
function pieces({ token_texts: texts, text: whole }) {
  const found = [];
  let at = 0, open = 0;
  for (const token of texts) {
    const clean = token && !token.includes("\ufffd");
    const begin = clean ? whole.indexOf(token, at) : -1;
    if (begin < 0 || begin - at > 8 * (open + 1)) {
      found.push("");
      open += 1;
      continue;
    }
    if (open) found[found.length - open] += whole.slice(at, begin);
    found.push(open ? token : whole.slice(at, begin + token.length));
    [at, open] = [begin + token.length, 0];
  }
  if (open) found[found.length - open] += whole.slice(at);
  return found;
}
