/** Batches: files of requests that are answered in the background, and how far each is. */

import * as api from "../api.js";
import { command, copyable, empty, fill, h, quantity, status, when } from "../elements.js";
import { dropTarget, picker } from "../file-picker.js";
import { exact } from "../format.js";
import { BATCHES, createBatch } from "../requests.js";
import { table } from "../table.js";

const STEP = 50;

/** @param {import("../app.js").Page} page */
export async function show({ root, signal, kept, keep, open }) {
  let limit = kept.rows ?? STEP;
  const upload = picker({
    label: "New batch", kind: "primary", purpose: "batch", signal,
    onFile: async (file, picked) => open(`/batches/${(await createBatch(file.id, await picked.slice(0, 65_536).text())).id}`),
  });
  const list = table({
    caption: "Batches, newest first", href: ({ id }) => `/batches/${id}`,
    columns: [
      { title: "Batch", cell: ({ id, endpoint }) => [h("a", { href: `/batches/${id}` }, h("code", {}, id)), h("span.sub", {}, endpoint)] },
      { title: "Status", cell: state },
      { title: "Model", cell: ({ model }) => model ?? h("span.muted", {}, "–"), wide: true },
      { title: "Answered", cell: ({ request_counts: { completed, total } }) => (total ? `${exact(completed)} of ${exact(total)}` : h("span.muted", {}, "–")), figures: true },
      { title: "Failed", cell: ({ request_counts: { failed } }) => (failed ? h("span.bad", {}, exact(failed)) : h("span.muted", {}, "0")), figures: true, wide: true },
      { title: "Tokens", cell: ({ usage }) => quantity(usage.total_tokens), figures: true, wide: true },
      { title: "Created", cell: (batch) => when(batch.created_at), figures: true, wide: true },
    ],
  });
  const nothing = empty("No batch yet. Drop a file of requests here, one JSON object to a line. Its answers are a file, too.", command("attune batches create requests.jsonl --watch"));
  const body = h("div");
  const more = h("button", { type: "button", hidden: true, onclick: () => { limit += STEP; keep({ rows: limit }); refresh(); } }, "Show more");

  async function refresh() {
    const { data, hasMore } = await api.first(BATCHES, {}, limit, signal);
    list.update(data);
    more.hidden = !hasMore;
    const shown = data.length ? list.element : nothing;
    if (body.firstChild !== shown) fill(body, shown);
  }

  dropTarget(root, signal, upload.send);
  fill(root, h("div.head", {}, h("h1", {}, "Batches"), h("div.actions", {}, upload.button)), upload.progress, body, h("div", {}, more));
  await api.poll(3, signal, refresh);
}

/** The status, with the progress of an unfinished batch and the first error of a failed one. */
function state({ status: name, request_counts: { total, completed, failed }, errors }) {
  const [first] = errors?.data ?? [];
  return [status(name), first && h("span.sub", {}, first.line === null ? first.message : `Line ${exact(first.line)}: ${first.message}`),
    name === "in_progress" && h("progress", { value: completed + failed, max: total, "aria-label": "Progress" })];
}
