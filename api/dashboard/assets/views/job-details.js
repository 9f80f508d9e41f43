/** The parts of a job below its curves, and what stands above them: verdict and actions. */

import * as api from "../api.js";
import { copyAs } from "../calls.js";
import { button, confirm, fill, h, toast } from "../elements.js";
import * as format from "../format.js";
import { FINAL, attemptList, checkpointList, eventList, logText } from "./job-history.js";
import { LOWER_IS_BETTER, cost, evaluation, settings } from "./job-results.js";

const PHASES = {
  loading: "Loading the base model", training: "Training", evaluating: "Evaluating", comparing: "Comparing with the base model",
  exporting: "Exporting the model", verifying: "Checking the published files", storing: "Storing the model", saving: "Saving its state",
};

/** Pause, resume, cancel, rerun, clone, and the calls that do the same. Each answers at once, then asks the server. */
export function actions(page, path, refresh) {
  const element = h("div.actions");
  const act = async (verb) => {
    await api.post(`${path}/${verb}`);
    await refresh();
  };
  const pause = button("Pause", () => act("pause"), { title: "Stop after the current step and keep its state" });
  const resume = button("Resume", () => act("resume"), { kind: "primary" });
  const cancel = button("Cancel …", async () => {
    const sure = await confirm(`Cancel ${page.id}?`, "Its training ends at once and cannot be resumed. Checkpoints that are stored remain.", "Cancel job");
    if (sure) await act("cancel");
  }, { kind: "danger" });
  const rerun = button("Rerun", async () => {
    const recipe = await api.get(`${path}/recipe`);
    const job = await api.post("/v1/fine_tuning/jobs", recipe);
    toast("Created the same job again");
    await page.open(`/jobs/${job.id}`);
  }, { title: "Create the same job again, with the same files and seed" });
  const form = document.querySelector("nav a[data-view=new]");
  const clone = form && h("a.button", { href: `${form.href}?from=${page.id}`, title: "Change this job's settings in a new one" }, "Clone");
  const call = copyAs(() => ({
    method: "GET", path, python: `job = client.fine_tuning.jobs.retrieve("${page.id}")`, cli: `attune jobs get ${page.id}`,
  }));
  return {
    element,
    update({ status }) {
      const ended = FINAL.includes(status);
      const offered = [["queued", "running"].includes(status) && pause, status === "paused" && resume, !ended && cancel, ended && rerun, clone, call].filter(Boolean);
      if (element.children.length === offered.length && offered.every((item, index) => element.children[index] === item)) return;
      fill(element, offered);
      page.offerKeys({
        ...(pause.isConnected ? { p: ["Pause the job", () => pause.click()] } : {}),
        ...(resume.isConnected ? { p: ["Resume the job", () => resume.click()] } : {}),
        ...(ended ? { r: ["Rerun the job", () => rerun.click()] } : {}),
      });
    },
  };
}

/** One line for the eye: how far it is, why it waits, what failed, or how much better the model became. */
export function verdict(job) {
  const { status, progress, error, queue, evaluation, estimated_finish: expected } = job;
  if (error) return h("div.notice", { role: "alert", dataset: { tone: "bad" } }, h("p", {}, error.message), h("p.muted.small", {}, h("code", {}, error.code), error.param && ` · field ${error.param}`));
  if (status === "succeeded" && evaluation) return h("p.verdict", {}, gain(evaluation));
  if (queue) return waiting(queue);
  if (status === "queued") return h("p.verdict.muted", {}, "Waiting for a free worker");
  if (status === "validating_files") return h("p.verdict.muted", {}, "Reading and checking the rows of its files");
  if (!progress?.total_steps || FINAL.includes(status)) return null;
  const phase = status === "paused" ? "Paused" : PHASES[progress.phase] ?? format.sentence(progress.phase);
  const parts = [phase, `step ${format.exact(progress.step)} of ${format.exact(progress.total_steps)}`, status === "running" && expected * 1000 > Date.now() && format.left(expected)];
  return h("div.verdict", {}, h("p", {}, parts.filter(Boolean).join(" · ")),
    h("progress", { value: progress.step, max: progress.total_steps, "aria-label": "Training steps" }));
}

/** Why a job waits, and when it will probably start and finish. */
function waiting({ position, reason, expected_start: start, expected_finish: finish }) {
  const times = [start && `starts in ${until(start)}`, finish && `finishes in ${until(finish)}`].filter(Boolean);
  return h("div.verdict", {}, h("p", {}, reason.charAt(0).toUpperCase() + reason.slice(1), position && h("span.muted", {}, ` · number ${position} in the queue`)),
    times.length > 0 && h("p.muted.small", {}, `Probably ${times.join(", ")}`));
}

/** The time from now to a range of times; its end may be unknown. */
function until({ earliest, latest }) {
  const now = Date.now() / 1000, from = Math.max(1, earliest - now);
  return latest === null ? `${format.duration(Math.round(from))} or more` : format.durations(from, Math.max(1, latest - now));
}

function gain({ base, tuned, rows, drawn_from: source, base_model: name }) {
  const metric = "loss" in base ? "loss" : Object.keys(base)[0];
  const change = tuned[metric] - base[metric];
  const better = LOWER_IS_BETTER.test(metric) ? change < 0 : change > 0;
  const words = change === 0 ? "As good as" : better ? "Better than" : "Worse than";
  return [h("strong", { class: better ? "good" : change ? "bad" : null }, `${words} ${name}`),
    `: ${format.sentence(metric).toLowerCase()} ${format.metric(tuned[metric])}, was ${format.metric(base[metric])}`,
    h("span.muted", {}, `, on ${format.plural(rows, `${source} row`)}`)];
}

/** The sections below the curves, and what keeps them current. */
export function details(page, path) {
  const holders = { evaluation: h("div"), settings: h("div"), cost: h("div") };
  const checkpoints = checkpointList(page, path), events = eventList(page, path), log = logText(page, path);
  const attempts = attemptList(page, path);
  let drawn = "", state = "";
  return {
    elements: [holders.evaluation, checkpoints.element, holders.settings, holders.cost, attempts.element, events.element, log.element],
    onBest: checkpoints.onBest,
    onAttempt: attempts.onLast,
    addEvent(event) {
      events.add(event);
      if (/heckpoint/.test(event.message)) checkpoints.load();
    },
    update(job) {
      const now = JSON.stringify([job.evaluation, job.method, job.training, job.technique, job.estimate]);
      if (now !== drawn) {
        fill(holders.evaluation, job.evaluation && evaluation(job.evaluation));
        fill(holders.settings, settings(job));
        fill(holders.cost, cost(job.estimate));
        drawn = now;
      }
      for (const holder of Object.values(holders)) holder.hidden = !holder.firstChild;
      if (job.status !== state) attempts.load();
      state = job.status;
      log.update(job);
    },
  };
}
