/** What is wrong with a file: one line for each kind of problem, with its first rows below. */

import { codeLink, h, status } from "./elements.js";
import { count, exact, plural } from "./format.js";

const LINES_SHOWN = 12;

/** @param {any} report a file's report */
export function findings(report) {
  if (report.status === "pending") return status("pending", ["○", "The rows wait for their check. A worker of the prepare stage does it.", "wait"]);
  const broken = report.error && h("p.finding", { dataset: { severity: "error" } }, h("span.shape", { "aria-hidden": "true" }, "✕"), report.error);
  if (!report.findings.length) return broken ?? status("good", ["✓", `No problems in ${plural(report.rows, "row")}`, "good"]);
  return [broken, h("ul.findings", {}, report.findings.map((group, index) => kind(group, report, index === 0)))];
}

function kind(group, report, open) {
  const error = group.severity === "error";
  const unit = report.container === "jsonl" ? "line" : "row";
  return h("li", {}, h("details.kind", { open: open && error }, h("summary", {},
    h("span.shape", { dataset: { tone: error ? "bad" : "held" }, "aria-hidden": "true" }, error ? "✕" : "◐"),
    h("span", {}, h("span.unseen", {}, `${group.severity}: `), title(group)),
    h("span.muted.lines", {}, lines(group, unit))),
  h("p.muted.small.about-kind", {}, codeLink(group.code)),
  h("ol.examples", {}, group.examples.map((example) => h("li", {},
    h("span.line-number", {}, example.line === null ? "file" : exact(example.line)),
    h("div", {}, group.examples.length > 1 && group.count > 1 && h("p", {}, example.message), example.text && row(example)))))));
}

const row = ({ text, cut }) => h("pre.source", { tabindex: "0" }, text, cut && h("span.cut", {}, "the row continues"));

/** One problem in its own words; several by their kind. */
const title = ({ count: number, code, examples }) =>
  (number === 1 && examples[0] ? examples[0].message : `${count(number)} × ${code.replaceAll("_", " ")}`);

function lines({ lines: numbers, count: number }, unit) {
  if (!numbers.length) return "whole file";
  const shown = numbers.slice(0, LINES_SHOWN).map((number) => exact(number)).join(", ");
  const more = number > Math.min(numbers.length, LINES_SHOWN) ? ", …" : "";
  return `${unit}${number === 1 ? "" : "s"} ${shown}${more}`;
}

/** The state of a file's check in a word and a shape, with the number of its problems. */
export function check({ scan }) {
  if (!scan) return h("span.muted", {}, "–");
  if (scan.status === "pending") return status("pending", ["○", "Waiting for its check", "wait"]);
  if (scan.status === "failed") return status("failed", ["✕", "Cannot be read", "bad"]);
  const problems = Object.values(scan.finding_counts).reduce((sum, number) => sum + number, 0);
  if (!problems) return status("good", ["✓", "No problems", "good"]);
  const wrong = scan.findings.some(({ severity }) => severity === "error");
  return wrong ? status("errors", ["✕", plural(problems, "problem"), "bad"]) : status("warnings", ["◐", plural(problems, "warning"), "held"]);
}
