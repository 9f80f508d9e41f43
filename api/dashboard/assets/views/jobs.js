/** Jobs: the live list. */

import * as api from "../api.js";
import { h, quantity, status, when } from "../elements.js";
import { table } from "../table.js";

/** @param {import("../app.js").Page} page */
export async function show({ root, signal }) {
  const list = table({
    caption: "Fine-tuning jobs, newest first",
    columns: [
      { title: "Job", cell: (job) => job.id },
      { title: "Status", cell: (job) => status(job.status) },
      { title: "Base model", cell: (job) => job.model, wide: true },
      { title: "Method", cell: (job) => job.method.type, wide: true },
      { title: "Trained tokens", cell: (job) => quantity(job.trained_tokens), figures: true, wide: true },
      { title: "Created", cell: (job) => when(job.created_at), figures: true },
    ],
  });
  root.append(h("div.head", {}, h("h1", {}, "Jobs")), list.element);
  await api.poll(4, signal, async () => {
    const { data } = await api.get("/v1/fine_tuning/jobs", { limit: 50 }, signal);
    list.update(data);
  });
}
