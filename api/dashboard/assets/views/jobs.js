/** Jobs: the live list. Its filters are in the address. */

import * as api from "../api.js";
import { button, command, complain, empty, h, quantity, refill, status, toast, when, worded, writes } from "../elements.js";
import * as format from "../format.js";
import { FINAL, jobFilters } from "../job-filters.js";
import { table } from "../table.js";

const PATH = "/v1/fine_tuning/jobs", PAGE = 100, POLL_S = 4;
/** Of so many polls, one asks for the older jobs, too. */
const OLDER_EACH = 3;
/** Most jobs that the view Compare shows. */
const MOST_COMPARED = 6;

/** @param {import("../app.js").Page} page */
export async function show({ root, query, signal, setQuery, kept, keep }) {
  const chosen = new Set();
  /** @type {Map<string, any>} */
  let known = new Map();
  let more = false, newest = 0;

  const list = table({
    caption: "Fine-tuning jobs, newest first", href: (job) => `/jobs/${job.id}`, columns: columns(choice),
  });
  const nothing = h("div");
  const next = button(`Show ${PAGE} more`, async () => {
    await loadMore();
    keep({ rows: known.size });
  });
  next.hidden = true;
  const compare = h("a.button", { hidden: true });
  const filters = jobFilters(query, (changes) => {
    setQuery(changes);
    known = new Map();
    keep({ rows: 0 });
    load().catch(complain(signal));
  });
  root.append(
    h("div.head", {}, h("h1", {}, "Jobs"), h("div.actions", {}, compare, newJob())),
    filters.element, list.element, nothing, h("div", {}, next));

  let wanted = kept.rows ?? 0; // those that were shown when the reader left
  let polls = 0;
  await api.poll(POLL_S, signal, async () => {
    await load();
    filters.offer();
    for (; more && known.size < wanted;) await loadMore();
    wanted = 0;
    polls += 1;
    if (polls % OLDER_EACH === 0) await loadOlder();
  });

  function loadMore() {
    return load([...known.keys()].at(-1));
  }

  /** Load the newest jobs, or those after one. Jobs that are missing between those that came do not match any more. */
  async function load(after) {
    const asked = filters.state;
    const page = await api.get(PATH, { ...filters.query(), limit: PAGE, after }, signal);
    if (asked !== filters.state) return;
    if (!after) {
      newest = page.data.length;
      const oldest = page.has_more ? page.data.at(-1).created_at : 0;  // others of that second may be on the next page
      for (const job of known.values()) if (job.created_at > oldest) known.delete(job.id);
    }
    if (after || known.size === 0) more = page.has_more;
    const came = new Set(page.data.map(({ id }) => id)), before = [...known.values()].filter(({ id }) => !came.has(id));
    known = new Map((after ? [...before, ...page.data] : [...page.data, ...before]).map((job) => [job.id, job]));
    draw();
  }

  /** Load the unfinished jobs below the newest page again: in a long queue, those that run are the oldest. */
  async function loadOlder() {
    const asked = filters.state;
    for (let from = newest; ;) {
      const rows = [...known.values()];
      const next = rows.findIndex(({ status: state }, index) => index >= from && !FINAL.includes(state));
      if (next < 1) return;
      const page = await api.get(PATH, { ...filters.query(), limit: PAGE, after: rows[next - 1].id }, signal);
      if (asked !== filters.state) return;
      const came = new Map(page.data.map((job) => [job.id, job])), oldest = page.has_more ? page.data.at(-1).created_at : 0;
      for (const { id, created_at: created } of rows.slice(next)) {
        if (came.has(id)) known.set(id, came.get(id));
        else if (created > oldest) known.delete(id);
      }
      draw();
      from = next + rows.filter(({ id }) => came.has(id)).length;
      if (from === next) return;
    }
  }

  function draw() {
    list.update([...known.values()]);
    list.element.hidden = !known.size;
    next.hidden = !more;
    refill(nothing, known.size ? null : without(filters));
  }

  /** The box that chooses a job for a comparison. */
  function choice(job) {
    return h("input", { type: "checkbox", "aria-label": `Compare ${job.id}`, checked: chosen.has(job.id), onchange: ({ target: box }) => {
      if (box.checked && chosen.size === MOST_COMPARED) {
        box.checked = false;
        toast(`${MOST_COMPARED} jobs can be compared at once.`);
      }
      chosen[box.checked ? "add" : "delete"](job.id);
      compare.hidden = chosen.size < 2;
      compare.textContent = `Compare ${format.plural(chosen.size, "job")}`;
      compare.href = `/compare?jobs=${[...chosen].join(",")}`;
    } });
  }
}

const columns = (choice) => [
  { title: "Job", cell: (job) => h("div.chosen", {}, choice(job), h("div", {}, name(job))) },
  { title: "Status", cell: state },
  { title: "Base model", cell: (job) => job.model, wide: true },
  { title: "Method", cell: (job) => [format.term(job.method.type), h("span.sub", {}, format.term(job.technique.type))], wide: true },
  { title: "Trained tokens", cell: (job) => quantity(job.trained_tokens), figures: true, wide: true },
  { title: "Time", cell: (job) => time(job), figures: true, wide: true },
  { title: "Created", cell: (job) => when(job.created_at), figures: true, wide: true },
];

function name(job) {
  const given = job.user_provided_suffix ?? job.pipeline?.stage;
  return [h("a", { href: `/jobs/${job.id}` }, given ?? h("code", {}, job.id)), given && h("span.sub.wide", {}, h("code", {}, job.id))];
}

/** The status with what it needs to be understood: the step, the place in the queue, the error. */
function state(job) {
  const { progress, queue, error } = job;
  const running = job.status === "running" && progress?.total_steps;
  const position = queue?.position ? `Number ${queue.position} in the queue` : queue?.reason;
  const note = running ? `Step ${format.exact(progress.step)} of ${format.exact(progress.total_steps)}` : error?.code ?? worded(position);
  return [status(job.pause_requested ? "pausing" : job.status), note && h("span.sub", {}, note),
    running && h("progress", { value: progress.step, max: progress.total_steps, "aria-label": "Progress" })];
}

function time({ status: state, started_at: started, finished_at: finished, expected_finish: expected }) {
  if (finished && started) return format.duration(finished - started);
  const words = expected ? (state === "running" ? `${format.until(expected)} left` : `ends in ${format.until(expected)}`) : "–";
  return h("span.muted", {}, words);
}

/** The button to the form, if this server has the form. */
function newJob() {
  const link = document.querySelector("nav a[data-view=new]");
  return link && writes(h("a.button.primary", { href: link.href }, "New job"));
}

function without(filters) {
  if (filters.state) return empty("No job matches.", h("button", { type: "button", onclick: filters.clear }, "Clear the filters"));
  return empty("No jobs yet. A job trains a base model on the rows of a file.", newJob(), command("attune jobs create rows.jsonl --model MODEL --watch"));
}
