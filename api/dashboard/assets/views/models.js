/** Models: this project's fine-tuned models, then the base models. */

import * as api from "../api.js";
import { arrange, command, empty, fill, h, modelAddress, quantity, refill, when, writes } from "../elements.js";
import { term } from "../format.js";
import { table } from "../table.js";

export const isTuned = ({ id }) => id.startsWith("ft:");
const name = (model) => h("a", { href: modelAddress(model.id) }, model.id);

/** @param {import("../app.js").Page} page */
export async function show({ root, query, signal, setQuery }) {
  const search = h("input", { type: "search", placeholder: "Filter by name, base model or method", "aria-label": "Filter models", value: query.get("q") ?? "" });
  const tuned = table({
    caption: "Fine-tuned models, newest first",
    href: (model) => modelAddress(model.id),
    columns: [
      { title: "Fine-tuned model", cell: name },
      { title: "Base model", cell: ({ facts }) => h("a", { href: modelAddress(facts.base_model) }, facts.base_model), wide: true },
      { title: "Method", cell: ({ facts }) => facts.method && term(facts.method), wide: true },
      { title: "Technique", cell: ({ facts }) => facts.technique && term(facts.technique), wide: true },
      { title: "Created", cell: (model) => when(model.created), figures: true },
    ],
  });
  const bases = table({
    caption: "Base models",
    href: (model) => modelAddress(model.id),
    columns: [
      { title: "Base model", cell: name },
      { title: "Kind", cell: ({ facts }) => (facts.kind === "encoder" ? "encoder" : "language model"), wide: true },
      { title: "Architecture", cell: ({ facts }) => facts.model_type, wide: true },
      { title: "Parameters", cell: ({ facts }) => quantity(facts.parameters), figures: true },
      { title: "Context", cell: ({ facts }) => quantity(facts.context_window, "tokens"), figures: true, wide: true },
    ],
  });
  const [own, operators] = [h("div"), h("div")];
  let models = [];

  function draw() {
    const words = search.value.trim().toLowerCase();
    const found = models.filter((model) => [model.id, model.facts.base_model, model.facts.method, model.facts.technique].join(" ").toLowerCase().includes(words));
    place(own, tuned, found.filter(isTuned), words
      ? empty(`No fine-tuned model matches “${words}”.`)
      : empty("No fine-tuned model yet. A job that succeeds publishes one.", writes(h("a.button.primary", { href: "/new" }, "New job"))));
    place(operators, bases, found.filter((model) => !isTuned(model)), words
      ? empty(`No base model matches “${words}”.`)
      : empty("No base model yet. The operator adds them on the server's machine:", command("attune models add smollm2-135m-instruct HuggingFaceTB/SmolLM2-135M-Instruct")));
  }

  search.addEventListener("input", () => { setQuery({ q: search.value.trim() || null }); draw(); });
  await api.poll(10, signal, async () => {
    models = (await api.get("/v1/models", {}, signal)).data;
    if (!own.isConnected) fill(root, h("div.head", {}, h("h1", {}, "Models")), h("div.filters", {}, search), own, operators);
    draw();
  });
}

function place(element, list, rows, nothing) {
  list.update(rows);
  if (rows.length) arrange(element, [list.element]);
  else refill(element, nothing);
}
