/** The fields of a new job that people choose first: file, base model, method and technique. */

import * as api from "./api.js";
import { copyable, fill, h } from "./elements.js";
import { picker } from "./file-picker.js";
import { check } from "./findings.js";
import { plural } from "./format.js";
import { complainer } from "./schema-form.js";

/** The training file: one that is there, or one that is picked or dropped now. */
export function fileField(files, signal, onChoose) {
  const known = new Map(files.map((file) => [file.id, file]));
  const control = h("select", { id: "training-file", "aria-describedby": "training-file-problem" });
  const about = h("div.help.about");
  const problem = h("p.problem", { id: "training-file-problem", role: "alert" });
  const upload = picker({ label: "Upload", signal, onFile: (file) => { known.set(file.id, file); list(file.id); follow(file.id); } });

  function list(chosen) {
    const options = [...known.values()].sort((one, other) => other.created_at - one.created_at);
    fill(control, h("option", { value: "" }, options.length ? "Choose a file" : "Upload or drop a file"),
      options.map((file) => h("option", { value: file.id, selected: file.id === chosen }, `${file.filename}${file.scan?.rows ? ` · ${plural(file.scan.rows, "row")}` : ""}`)));
    describe();
  }
  function describe() {
    const file = known.get(control.value);
    fill(about, file && [check(file), h("a", { href: `/files/${file.id}` }, "Look at its rows"), copyable(file.id)]);
    onChoose(file);
  }
  /** Wait for the file's check, which tells its format. */
  async function follow(id) {
    let file = known.get(id);
    for (let asked = Boolean(file.object); !file.object || file.scan?.status === "pending"; asked = true) {
      if (asked) await api.pause(1.5, signal);
      try {
        file = await api.get(`/v1/files/${id}`, {}, signal);
      } catch (error) {
        if (api.isFinal(error)) return; // the estimate says that there is no such file
        continue;
      }
      known.set(id, file);
      if (file.scan?.status !== "pending") list(control.value);
    }
  }
  control.addEventListener("change", () => { describe(); if (control.value) follow(control.value); });
  const element = h("div.field", {}, h("label", { for: "training-file" }, "Training file"),
    h("div.pick", {}, control, upload.button), upload.progress, problem, about);
  queueMicrotask(() => list(null));
  return {
    path: "training_file", element, control, send: upload.send, value: () => control.value || undefined, complain: complainer(control, problem),
    write(id) {
      if (!known.has(id)) known.set(id, { id, filename: id, created_at: 0 }); // older than those that are listed
      list(id);
      follow(id);
    },
  };
}

export function modelField(models) {
  const tuned = models.filter(({ id }) => id.startsWith("ft:"));
  const isEncoder = ({ facts }) => facts.kind === "encoder"; // encoders only learn classification
  const bases = models.filter(({ id }) => !id.startsWith("ft:")).toSorted((one, other) => isEncoder(one) - isEncoder(other));
  const option = ({ id }) => h("option", { value: id }, id);
  const control = h("select", { id: "model", "aria-describedby": "model-problem model-help" },
    h("optgroup", { label: "Base models" }, bases.map(option)), tuned.length > 0 && h("optgroup", { label: "Fine-tuned models, to train further" }, tuned.map(option)));
  const problem = h("p.problem", { id: "model-problem", role: "alert" });
  const help = h("p.help", { id: "model-help" }, !models.length && ["No base model yet. The operator adds one: ", h("code", {}, "attune models add NAME SOURCE")]);
  return {
    path: "model", control, value: () => control.value || undefined, complain: complainer(control, problem),
    element: h("div.field", {}, h("label", { for: "model" }, "Base model"), control, problem, help),
    write(id) {
      if (!models.some((model) => model.id === id)) control.append(h("option", { value: id }, id));
      control.value = id;
    },
  };
}

/** The methods that are shown before the rows' format is known. */
const COMMON = ["supervised", "classification", "dpo"];

/** What to learn: the methods that can read the file's rows, the others under a fold. */
export function methodField(catalog) {
  const problem = h("p.problem", { id: "method-problem", role: "alert" });
  const [suited, others] = [h("div.options"), h("div.options")];
  const more = h("details.fold", {}, h("summary"), others);
  const element = h("fieldset.field", { "aria-describedby": "method-problem" }, h("legend", {}, "What to learn"), suited, more, problem);
  const radios = new Map(catalog.methods.map(({ type, summary, formats }, index) => {
    const input = h("input", { type: "radio", name: "method", value: type });
    input.checked = index === 0;
    return [type, { input, label: h("label.option", {}, input, h("span", {}, h("strong", {}, type), " ", h("span.muted", {}, summary), h("span.sub", {}, `Rows: ${formats.join(", ")}`))) }];
  }));
  function narrow(format) {
    const fits = (entry) => (format === null ? COMMON.includes(entry.type) : entry.formats.includes(format));
    more.firstChild.textContent = format === null ? "More methods" : "Methods for other rows";
    fill(suited, catalog.methods.filter(fits).map(({ type }) => radios.get(type).label));
    fill(others, catalog.methods.filter((entry) => !fits(entry)).map(({ type }) => radios.get(type).label));
    more.hidden = !others.children.length;
    const chosen = catalog.methods.find(({ type }) => radios.get(type).input.checked);
    const first = catalog.methods.find(fits);
    if (format !== null && first && !fits(chosen)) radios.get(first.type).input.checked = true;
  }
  narrow(null);
  return {
    path: "method", element, narrow, complain: (message) => { problem.textContent = message; },
    get control() { return radios.get(this.value()).input; },
    value: () => [...radios].find(([, { input }]) => input.checked)[0],
    write(type) {
      if (!radios.has(type)) return;
      radios.get(type).input.checked = true;
      more.open = others.contains(radios.get(type).label);
    },
  };
}

/** A choice of a catalogue's entries, with the chosen one's summary below. */
export function choiceField(label, entries, chosen) {
  const id = label.toLowerCase();
  const control = h("select", { id, "aria-describedby": `${id}-help ${id}-problem` }, entries.map(({ type }) => h("option", { value: type, selected: type === chosen }, type)));
  const problem = h("p.problem", { id: `${id}-problem`, role: "alert" });
  const help = h("p.help", { id: `${id}-help` });
  const describe = () => { help.textContent = entries.find(({ type }) => type === control.value).summary; };
  describe();
  const field = {
    path: id, control, touched: false, value: () => control.value, complain: complainer(control, problem),
    element: h("div.field", {}, h("label", { for: id }, label), control, problem, help),
    write(type) { control.value = type; field.touched = true; describe(); },
  };
  control.addEventListener("input", () => { field.touched = true; describe(); }); // before the form's own listener
  return field;
}
