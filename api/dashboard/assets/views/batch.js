/** A batch: how far it is, what is wrong with its file, its first answers, and its files. */

import * as api from "../api.js";
import { copyAs, literal } from "../calls.js";
import { button, confirm, copyable, facts, fill, h, quantity, refill, section, status, when, writes } from "../elements.js";
import { exact, plural, sentence } from "../format.js";
import { BATCHES, batchOf, firstPart, getBatch, objects } from "../requests.js";
import { table } from "../table.js";

const ENDED = ["completed", "failed", "expired", "cancelled"];
const SHOWN = 10;

/** @param {import("../app.js").Page} page */
export async function show({ root, id, signal, setTitle }) {
  const [state, actions, progress, about] = [h("p.muted"), h("div.actions"), h("div"), h("dl.facts")];
  const [wrong, answers] = [h("div"), h("div.view")];
  let shown = "";
  setTitle(`Batch ${id}`);

  async function refresh() {
    if (ENDED.includes(shown)) return;
    const batch = await getBatch(id, signal);
    refill(state, status(batch.status), progressText(batch));
    refill(actions, actionsOf(batch, refresh));
    refill(progress, progressOf(batch));
    refill(about, ...factsOf(batch).children);
    if (!root.hasChildNodes()) fill(root, h("div.head", {}, h("div", {}, h("h1", {}, "Batch ", copyable(id)), state), actions), h("div.view", {}, progress, about), wrong, answers);
    if (batch.status === shown) return;
    if (batch.errors) fill(wrong, errorsOf(batch.errors.data));
    if (ENDED.includes(batch.status)) fill(answers, ...(await resultsOf(batch, signal)));
    shown = batch.status; // the next poll tries again what failed until here
  }

  await api.poll(2, signal, refresh);
}

function actionsOf(batch, refresh) {
  const { id, status: state, output_file_id: output, error_file_id: failed } = batch;
  const file = (fileId, label, name) => fileId && h("a.button", { href: `/v1/files/${fileId}/content`, download: `${id}_${name}.jsonl` }, label);
  return [
    copyAs(() => callOf(batch)),
    file(output, "Download answers", "output"), file(failed, "Download errors", "errors"),
    !ENDED.includes(state) && state !== "cancelling" && writes(button("Cancel …", async () => {
      if (!await confirm(`Cancel ${id}?`, "What is answered until now is kept in its files. The other requests are not answered.", "Cancel batch")) return;
      await api.post(`${BATCHES}/${id}/cancel`);
      await refresh();
    }, { kind: "danger" })),
  ];
}

const callOf = (batch) => {
  const body = { ...batchOf(batch.input_file_id, ""), endpoint: batch.endpoint };
  return {
    method: "POST", path: BATCHES, body,
    python: `batch = client.batches.create(**${literal(body)})\nprint(batch.id)`,
    cli: `attune batches create ${batch.input_file_id} --watch`,
  };
};

function progressText({ request_counts: { total, completed, failed } }) {
  if (!total) return "";
  return ` · ${exact(completed)} of ${plural(total, "request")} answered${failed ? `, ${exact(failed)} failed` : ""}`;
}

const progressOf = ({ status: state, request_counts: { total, completed, failed } }) =>
  state === "in_progress" && h("progress", { value: completed + failed, max: total, "aria-label": "Progress" });

function factsOf(batch) {
  const { usage } = batch, ended = ENDED.find((name) => batch[`${name}_at`]);
  return facts([
    ["Model", batch.model], ["Endpoint", h("code", {}, batch.endpoint)],
    ["Requests", h("a", { href: `/files/${batch.input_file_id}` }, h("code", { title: batch.input_file_id }, `${batch.input_file_id.slice(0, 14)}…`))],
    ["Tokens read", quantity(usage.input_tokens)], ["Tokens written", quantity(usage.output_tokens)],
    ["Created", when(batch.created_at)], ended ? [sentence(ended), when(batch[`${ended}_at`])] : ["Expires", when(batch.expires_at)],
    ...Object.entries(batch.metadata ?? {}),
  ]);
}

/** What is wrong with the input file, line by line. */
function errorsOf(errors) {
  const list = table({
    caption: "Errors of the file", key: (error) => `${error.line} ${error.code} ${error.message}`,
    columns: [
      { title: "Line", cell: ({ line }) => (line === null ? "file" : exact(line)) },
      { title: "Problem", cell: ({ message, code }) => [message, h("span.sub", {}, h("code", {}, code))] },
    ],
  });
  list.update(errors);
  return section(plural(errors.length, "error"), null, list.element);
}

/** The first errors, because they need a look, and the first answers. */
async function resultsOf({ error_file_id: failed, output_file_id: output }, signal) {
  const parts = [["Error", failed, problemIn], ["Answer", output, answerIn]].filter(([, file]) => file);
  return Promise.all(parts.map(async ([title, file, read]) => {
    const lines = objects(await firstPart(file, signal)).slice(0, SHOWN);
    const list = table({
      caption: `First ${title.toLowerCase()}s`, key: ({ custom_id: name }) => name,
      columns: [
        { title: "Request", cell: ({ custom_id: name }) => h("div.named", {}, copyable(name)) },
        { title, cell: (line) => h("div.answer", {}, read(line)) },
      ],
    });
    list.update(lines);
    return section(`First ${title.toLowerCase()}s`, null, list.element);
  }));
}

const problemIn = ({ error, response }) => error?.message ?? response?.body?.error?.message ?? "";

/** The text of the first choice of a chat or a completion. */
function answerIn({ response }) {
  const [choice] = response.body.choices;
  return choice.text ?? choice.message.content ?? h("code", {}, JSON.stringify(choice.message.tool_calls));
}
