/** Files: training rows and results, and what their check found. */

import * as api from "../api.js";
import { button, command, complain, copyable, empty, fill, h, quantity, when } from "../elements.js";
import { dropTarget, picker } from "../file-picker.js";
import { check } from "../findings.js";
import { bytes } from "../format.js";
import { table } from "../table.js";

const PURPOSES = [["fine-tune", "Rows"], ["fine-tune-results", "Results of jobs"], ["batch", "Requests of batches"], ["batch_output", "Results of batches"], ["evals", "Rows of evals"]];
const STEP = 50;

/** @param {import("../app.js").Page} page */
export async function show({ root, query, signal, setQuery, kept, keep, open }) {
  let purpose = query.get("purpose") ?? PURPOSES[0][0];
  let limit = kept.rows ?? STEP, waits = true;
  const upload = picker({ signal, onFile: (file) => open(`/files/${file.id}`) });
  const tabs = PURPOSES.map(([name, label]) => h("button", { type: "button", "aria-pressed": String(name === purpose), onclick: () => choose(name) }, label));
  const body = h("div");
  const more = button("Show more", () => { limit += STEP; keep({ rows: limit }); return refresh(); });
  more.hidden = true;
  const list = table({
    caption: "Files, newest first",
    href: (file) => `/files/${file.id}`,
    columns: [
      { title: "File", cell: (file) => [h("a", { href: `/files/${file.id}` }, file.filename), h("span.sub", {}, copyable(file.id, `${file.id.slice(0, 14)}…`))] },
      { title: "Check", cell: (file) => check(file) },
      { title: "Rows", cell: (file) => quantity(file.scan?.status === "done" ? file.scan.rows : null), figures: true },
      { title: "Format", cell: (file) => file.scan?.format ?? h("span.muted", {}, "–"), wide: true },
      { title: "Size", cell: (file) => bytes(file.bytes), figures: true, wide: true },
      { title: "Created", cell: (file) => when(file.created_at), figures: true, wide: true },
    ],
  });

  function choose(name) {
    purpose = name;
    limit = STEP;
    keep({ rows: limit });
    tabs.forEach((tab, index) => tab.setAttribute("aria-pressed", String(PURPOSES[index][0] === name)));
    setQuery({ purpose: name === PURPOSES[0][0] ? null : name });
    refresh().catch(complain(signal));
  }

  async function refresh() {
    const wanted = purpose;
    const { data, hasMore } = await api.first("/v1/files", { purpose }, limit, signal);
    if (wanted !== purpose) return;
    waits = data.some(({ scan }) => scan?.status === "pending");
    list.update(data);
    more.hidden = !hasMore;
    const shown = data.length ? list.element : EMPTY[purpose];
    if (body.firstChild !== shown) fill(body, shown);
  }

  dropTarget(root, signal, upload.send);
  fill(root, h("div.head", {}, h("h1", {}, "Files"), h("div.filters", { role: "group", "aria-label": "Purpose" }, tabs), h("div.actions", {}, upload.button)),
    upload.progress, body, h("div", {}, more));
  let quiet = 0;
  await api.poll(4, signal, async () => {
    // Lists of files with many findings are long: without a file that waits for its check, one in five rounds is enough.
    quiet = waits ? 0 : quiet + 1;
    if (quiet % 5 <= 1) await refresh();
  });
}

const EMPTY = {
  "fine-tune": empty("No file yet. Drop a file of rows here, or send one from a terminal. Its rows are checked at once.", command("attune files upload rows.jsonl")),
  "fine-tune-results": empty("No results yet. A job that succeeds writes its metrics and its model as files."),
  batch: empty("No requests yet. ", h("a", { href: "/batches" }, "Batches"), " takes a file of requests and answers them."),
  evals: empty("No rows of evals yet. A run of an eval takes a file of them. ", command("attune files upload questions.jsonl --purpose evals")),
  batch_output: empty("No results yet. A batch that ends writes its answers and its errors as files."),
};
