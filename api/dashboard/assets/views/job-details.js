/** The parts of a job below its curves, and what stands above them: verdict and actions. */

import * as api from "../api.js";
import { copyAs } from "../calls.js";
import { button, codeLink, confirm, fill, h, modelAddress, worded, writes } from "../elements.js";
import * as format from "../format.js";
import { classes } from "./job-classes.js";
import { FINAL, attemptList, checkpointList, eventList, logText } from "./job-history.js";
import { TONES, cost, evaluation, judged, settings } from "./job-results.js";

const PHASES = {
  loading: "Loading the base model", training: "Training", evaluating: "Evaluating", comparing: "Comparing with the base model",
  exporting: "Exporting the model", verifying: "Checking the published files", storing: "Storing the model", saving: "Saving its state",
};

const PAUSING = "Pausing: saves its state first";

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
  const rerun = button("Rerun …", async () => {
    if (!await confirm(`Run ${page.id} again?`, "A new job trains with the same files, settings and seed.", "Create job", { loses: false })) return;
    const recipe = await api.get(`${path}/recipe`);
    const job = await api.post("/v1/fine_tuning/jobs", recipe);
    await page.open(`/jobs/${job.id}`);
  }, { title: "Create the same job again, with the same files and seed" });
  const askedPause = async () => {
    if (await confirm(`Pause ${page.id}?`, "It stops after the current step and keeps its state.", "Pause job", { loses: false })) pause.click();
  };
  [pause, resume, cancel, rerun].forEach(writes);
  const form = document.querySelector("nav a[data-view=new]");
  const clone = form && writes(h("a.button", { href: `${form.href}?from=${page.id}`, title: "Change this job's settings in a new one" }, "Clone"));
  const call = copyAs(() => ({
    method: "GET", path, python: `job = client.fine_tuning.jobs.retrieve("${page.id}")`, cli: `attune jobs get ${page.id}`,
  }));
  return {
    element,
    update({ status, pause_requested: pausing }) {
      const ended = FINAL.includes(status);
      const offered = [["queued", "running"].includes(status) && !pausing && pause, status === "paused" && resume, !ended && cancel, ended && rerun, clone, call].filter(Boolean);
      if (element.children.length === offered.length && offered.every((item, index) => element.children[index] === item)) return;
      fill(element, offered);
      page.offerKeys({
        ...(pause.isConnected ? { p: ["Pause the job", askedPause] } : {}),
        ...(resume.isConnected ? { p: ["Resume the job", () => resume.click()] } : {}),
        ...(ended ? { r: ["Rerun the job", () => rerun.click()] } : {}),
      });
    },
  };
}

/** One line for the eye: how far it is, why it waits, what failed, or how much better the model became. */
export function verdict(job) {
  const { status, progress, error, queue, expected_finish: expected, pause_requested: pausing } = job;
  if (error) return h("div.notice", { role: "alert", dataset: { tone: "bad" } }, h("p", {}, worded(error.message)), h("p.muted.small", {}, codeLink(error.code), error.param && [" · ", blamed(job)]));
  if (status === "succeeded") return outcome(job);
  if (queue) return waiting(queue);
  if (status === "queued") return h("p.verdict.muted", {}, "Waiting for a free worker");
  if (status === "validating_files") return h("p.verdict.muted", {}, "Reading and checking the rows of its files");
  if (!progress?.total_steps) return pausing ? h("p.verdict.muted", {}, PAUSING) : null;
  if (FINAL.includes(status)) return null;
  const phase = pausing ? PAUSING : status === "paused" ? "Paused" : PHASES[progress.phase] ?? format.sentence(progress.phase);
  const parts = [phase, `step ${format.exact(progress.step)} of ${format.exact(progress.total_steps)}`, status === "running" && !pausing && expected && `${format.until(expected)} left`];
  return h("div.verdict", {}, h("p", {}, parts.filter(Boolean).join(" · ")),
    h("progress", { value: progress.step, max: progress.total_steps, "aria-label": "Training steps" }));
}

/** The field that an error names; a file as a link to its findings. */
function blamed({ error: { param }, [param]: file }) {
  const link = ["training_file", "validation_file"].includes(param) && file && h("a", { href: `/files/${file}` }, h("code", {}, file));
  return link ? [`${format.sentence(param).toLowerCase()} `, link] : `field ${param}`;
}

/** Why a job waits, and when it will probably start and finish. */
function waiting({ position, reason, expected_start: start, expected_finish: finish }) {
  const times = [start && `starts in ${format.until(start)}`, finish && `finishes in ${format.until(finish)}`].filter(Boolean);
  return h("div.verdict", {}, h("p", {}, worded(format.capitalized(reason)), position && h("span.muted", {}, ` · number ${position} in the queue`)),
    times.length > 0 && h("p.muted.small", {}, `Probably ${times.join(", ")}`));
}

/** How much better the model became, and the way to it. */
function outcome({ evaluation: compared, fine_tuned_model: model, method }) {
  const answers = !["classification", "reward"].includes(method.type);
  const words = compared && gain(compared);
  return h("div.verdict.outcome", {}, words && h("p", {}, words),
    model && h("a.button.primary", { href: modelAddress(model) }, answers ? "Chat" : "Open model"));
}

/** How much better the model became, in the metric that tells it: of methods with a reward, the loss says nothing. Null if a value is not finite. */
function gain({ base, tuned, rows, drawn_from: source, base_model: name }) {
  const metric = "reward" in base ? "reward" : "loss";
  if (typeof base[metric] !== "number" || typeof tuned[metric] !== "number") return null;
  const verdict = judged(metric, base[metric], tuned[metric]);
  return [h("strong", { class: TONES[verdict] }, verdict ? `${format.sentence(verdict)} than ${name}` : `As good as ${name}`),
    `: ${format.sentence(metric).toLowerCase()} ${format.metric(tuned[metric])}, was ${format.metric(base[metric])}`,
    h("span.muted", {}, `, on ${format.plural(rows, `${source} row`)}`)];
}

/** The sections below the curves, and what keeps them current. `evaluated`: whether the job names evals. */
export function details(page, path, evaluated) {
  const holders = { evaluation: h("div"), classes: h("div"), settings: h("div"), cost: h("div") };
  const checkpoints = checkpointList(page, path, evaluated), events = eventList(page, path), log = logText(page, path);
  const attempts = attemptList(page, path);
  let drawn = "", state = "", best = null, scores = null;
  return {
    elements: [holders.evaluation, holders.classes, checkpoints.element, holders.settings, holders.cost, attempts.element, events.element, log.element],
    onBest: checkpoints.onBest,
    onAttempt: attempts.onLast,
    addEvent(event) {
      events.add(event);
      if (/heckpoint/.test(event.message)) checkpoints.load();
    },
    showClasses(point, names) {
      if (!point || point === best) return;
      best = point;
      fill(holders.classes, classes(point, names));
      holders.classes.hidden = !holders.classes.firstChild;
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
      const scored = JSON.stringify(job.evals);
      if (scores !== null && scored !== scores) checkpoints.load();
      scores = scored;
      state = job.status;
      log.update(job);
    },
  };
}
