/** The form of a new run of an eval: which rows, and which model is asked what. */

import * as api from "./api.js";
import { ask } from "./dialogs.js";
import { h } from "./elements.js";
import { EVALS } from "./evals.js";
import { picker } from "./file-picker.js";

/** Ask for a run, which begins with the settings of another one, if there is any. Resolve with the run, or null. */
export async function askForRun(found, like, signal) {
  const [files, models] = await Promise.all([
    api.get("/v1/files", { purpose: "evals", limit: 100 }, signal),
    api.get("/v1/models", {}, signal),
  ]);
  const before = like?.data_source;
  const rows = h("select", { "aria-label": "Rows" }, including(files.data, before?.source.id).map(({ id, filename }) => h("option", { value: id, selected: id === before?.source.id }, filename ?? id)));
  if (before?.source.type === "file_content") rows.append(h("option", { value: "", selected: true }, "The rows of the last run"));
  const upload = picker({ label: "Upload", purpose: "evals", signal, onFile: (file) => rows.prepend(h("option", { value: file.id, selected: true }, file.filename)) });
  const model = h("select", {}, h("option", { value: "" }, "None: the rows have answers"), including(models.data, before?.model).map(({ id }) => h("option", { value: id, selected: id === before?.model }, id)));
  const prompt = h("textarea.code", { rows: 3, spellcheck: "false" }, promptOf(found, before?.input_messages));
  const name = h("input", { type: "text", autocomplete: "off" });

  function body() {
    const source = rows.value ? { type: "file_id", id: rows.value } : before?.source;
    if (!model.value) return { name: name.value.trim(), data_source: { type: "jsonl", source } };
    return { name: name.value.trim(), data_source: {
      type: "completions", source, model: model.value,
      input_messages: inputOf(prompt.value), sampling_params: before?.sampling_params ?? undefined,
    } };
  }
  const choose = () => { prompt.closest(".field").hidden = !model.value; };
  model.addEventListener("change", choose);
  const asked = ask({
    title: "New run", verb: "Start run", path: `${EVALS}/${found.id}/runs`, body,
    fields: [
      ["data_source.source", "Rows", h("div", {}, h("div.pick", {}, rows, upload.button), upload.progress), "JSON lines of {\"item\": {…}}."],
      ["data_source.model", "Model", model],
      ["data_source.input_messages", "Message", prompt, "What the model is asked. {{ item.NAME }} is a value of the row; item.NAME alone names the row's own messages."],
      ["name", "Name", name, "A note on the run."],
    ],
  });
  choose();
  return asked;
}

/** The objects, and one with this id if they lack it: an older file, or a model that is gone, of which the API says so. */
const including = (objects, id) => (!id || objects.some((each) => each.id === id) ? objects : [...objects, { id }]);

/** The message of the run before, or the first text of the items. */
function promptOf({ data_source_config: { schema } }, messages) {
  if (messages?.type === "item_reference") return messages.item_reference;
  if (messages) return messages.template.length === 1 && typeof messages.template[0].content === "string" ? messages.template[0].content : JSON.stringify(messages.template, null, 2);
  const [first] = Object.entries(schema.properties.item.properties ?? {}).find(([, { type }]) => type === "string") ?? [];
  return first ? `{{ item.${first} }}` : "";
}

/** Messages from the form's text: the name of those in the row, a list of messages as JSON, or the text of one message. */
function inputOf(text) {
  if (/^item\.[\w.]+$/.test(text.trim())) return { type: "item_reference", item_reference: text.trim() };
  try {
    const template = JSON.parse(text);
    if (Array.isArray(template)) return { type: "template", template };
  } catch {
    // a text, which is one message
  }
  return { type: "template", template: [{ role: "user", content: text }] };
}
