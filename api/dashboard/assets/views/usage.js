/** Usage: what was used this month or before, by day, key or model, and how much of each budget is left. */

import * as api from "../api.js";
import { complain, empty, fill, h, quantity, section, when } from "../elements.js";
import { bytes, count, duration, percent } from "../format.js";
import { table } from "../table.js";

const GROUPS = [["day", "By day"], ["key", "By key"], ["model", "By model"]];
const OF_ALL = ["project", "All projects"];
const MONTHS_BACK = 6;

/** @param {import("../app.js").Page} page */
export async function show({ root, query, signal, setQuery }) {
  let group = query.get("by") ?? "day";
  let month = query.get("month") ?? monthsUntilNow()[0];
  const { scope } = await api.session();
  const groups = scope === "operator" ? [...GROUPS, OF_ALL] : GROUPS;
  const buttons = groups.map(([name, label]) => h("button", { type: "button", "aria-pressed": String(name === group), onclick: () => choose({ group: name }) }, label));
  const months = h("select", { "aria-label": "Month" }, [...new Set([...monthsUntilNow(), month])].map((value) => h("option", { value, selected: value === month }, nameOf(value))));
  months.addEventListener("change", () => choose({ month: months.value }));
  const [limits, lines] = [h("div"), h("div")];
  const csv = h("a.button", { download: true }, "CSV");

  function choose(change) {
    ({ group, month } = { group, month, ...change });
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(groups[index][0] === group)));
    setQuery({ by: group === "day" ? null : group, month: month === monthsUntilNow()[0] ? null : month });
    refresh().catch(complain(signal));
  }

  async function refresh() {
    const range = { ...rangeOf(month), group_by: group }, [wanted, of] = [month, group];
    csv.href = api.withQuery("/v1/usage", { ...range, format: "csv" });
    csv.download = `usage-${month}-by-${group}.csv`;
    const usage = await api.get("/v1/usage", range, signal);
    if (wanted !== month || of !== group) return; // another choice was made meanwhile
    fill(limits, budgets(usage.budgets));
    const list = linesOf(usage.data, group);
    fill(lines, list ?? empty(`Nothing was used in ${nameOf(month)}. Jobs and chats are counted here once they end.`));
  }

  fill(root, h("div.head", {}, h("h1", {}, "Usage"), h("div.filters", { role: "group", "aria-label": "Group by" }, buttons), months, h("div.actions", {}, csv)), limits, lines);
  await api.poll(30, signal, refresh);
}

/** This month and those before it, as `2026-11`. Months are counted in UTC, as the API counts days. */
function monthsUntilNow() {
  const now = new Date();
  return Array.from({ length: MONTHS_BACK }, (_, back) => new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - back)).toISOString().slice(0, 7));
}

const nameOf = (month) => new Date(`${month}-01T00:00:00Z`).toLocaleDateString("en-GB", { month: "long", year: "numeric", timeZone: "UTC" });

function rangeOf(month) {
  const [year, number] = month.split("-").map(Number);
  return { start_time: Date.UTC(year, number - 1) / 1000, end_time: Date.UTC(year, number) / 1000 };
}

const WRITTEN = { trained_tokens: ["Trained tokens", count], device_seconds: ["Device time", duration], stored_bytes: ["Stored", bytes] };

function budgets(all) {
  return section("This month with running jobs, and its budgets", null, h("dl.budgets", {}, all.map(({ name, used, limit, resets_at: resets }) => {
    const [label, write] = WRITTEN[name];
    return h("div", {}, h("dt", {}, label), h("dd", {},
      h("span", {}, h("span.figure", {}, write(used)), h("span.muted", {}, limit === null ? " no limit" : ` of ${write(limit)}, ${percent(used / Math.max(1, limit))}`)),
      limit !== null && h("progress", { max: limit, value: Math.min(used, limit), "aria-label": `${label} used` }),
      limit !== null && resets && h("span.sub", {}, "resets ", when(resets))));
  })));
}

function linesOf(data, group) {
  const used = data.filter((line) => line.trained_tokens || line.cpu_seconds || line.gpu_seconds || line.prompt_tokens || line.completion_tokens || line.stored_bytes);
  if (!used.length) return null;
  const most = Math.max(...used.map((line) => line.trained_tokens), 1);
  const device = (line) => line.gpu_seconds + line.cpu_seconds;
  const total = (name) => used.reduce((sum, line) => sum + line[name], 0);
  const onGpus = total("gpu_seconds") > 0;
  const of = {
    day: ["Day (UTC)", (line) => new Date(line.start_time * 1000).toISOString().slice(0, 10)],
    key: ["Key", (line) => line.key_name ?? line.key_id ?? h("span.muted", {}, "none: stored bytes, or a key that is gone")],
    project: ["Project", (line) => line.project_name ?? line.project_id],
    model: ["Model", (line) => (line.model ? h("a", { href: `/models/${encodeURIComponent(line.model)}` }, line.model) : h("span.muted", {}, "none: stored bytes"))],
  }[group];
  const list = table({
    caption: "Usage",
    key: (line) => `${line.start_time} ${line.project_id} ${line.key_id} ${line.model}`,
    columns: [
      { title: of[0], cell: of[1] },
      { title: "Trained tokens", cell: (line) => quantity(line.trained_tokens), figures: true },
      { title: "", cell: (line) => h("progress", { max: most, value: line.trained_tokens, "aria-label": "Share of the largest line" }), wide: true },
      { title: "Device time", cell: (line) => [time(device(line)), onGpus && h("span.sub", {}, `GPU ${duration(line.gpu_seconds)}`)], figures: true },
      { title: "Prompt tokens", cell: (line) => quantity(line.prompt_tokens), figures: true, wide: true },
      { title: "Answered tokens", cell: (line) => quantity(line.completion_tokens), figures: true, wide: true },
      { title: "Stored", cell: (line) => (line.stored_bytes ? bytes(line.stored_bytes) : h("span.muted", {}, "–")), figures: true, wide: group !== "project" },
    ],
  });
  if (group === "project") used.sort((one, other) => device(other) - device(one) || other.trained_tokens - one.trained_tokens);
  list.update(group === "day" ? used.toSorted((one, other) => other.start_time - one.start_time) : used);
  return list.element;
}

const time = (seconds) => (seconds ? h("span", { title: `${seconds.toFixed(1)} s` }, duration(seconds)) : h("span.muted", {}, "–"));
