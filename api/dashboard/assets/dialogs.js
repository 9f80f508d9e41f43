/** A dialog that asks for some fields, and one with a secret that is shown once. */

import { post } from "./api.js";
import { copyAs } from "./calls.js";
import { copy, h } from "./elements.js";
import { complainer } from "./schema-form.js";

/** Show a secret until the person closes the dialog. */
export function showSecret(title, secret, advice) {
  return new Promise((resolve) => {
    const field = h("input.secret", { type: "text", readonly: true, value: secret, "aria-label": title });
    const dialog = h("dialog", { "aria-label": title }, h("form", { method: "dialog" },
      h("h2", {}, title), h("p", {}, advice), field,
      h("div.actions", {}, h("button", { value: "" }, "Done"),
        h("button.primary", { type: "button", onclick: (event) => copy(secret, event.currentTarget) }, "Copy"))));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(); });
    document.body.append(dialog);
    dialog.showModal();
    field.select();
  });
}

/**
 * Ask for fields in a dialog. An error is placed at its field, and what was typed stays. Resolve with the
 * result, or null if the person leaves.
 * @param {object} options
 * @param {string} options.title
 * @param {string} options.verb label of the button
 * @param {[string, string, HTMLElement, string?][]} options.fields [name in the API, label, control, help]
 * @param {() => any} options.body what is sent to `path`, and shown by "Copy as"
 * @param {string} options.path
 * @param {() => string} [options.cli] the same as a command
 */
export function ask({ title, verb, fields, path, body, cli }) {
  return new Promise((resolve) => {
    let result = null;
    const problem = h("p.problem", { role: "alert" });
    const submit = h("button.primary", { type: "submit" }, verb);
    const made = fields.map(([name, label, control, help]) => {
      const id = `ask-${name}`;
      const wrong = h("p.problem", { role: "alert", id: `${id}-problem` });
      const grouped = control.matches("fieldset, div");
      if (!grouped) control.id = id;
      control.setAttribute("aria-describedby", `${id}-problem`);
      return { name, control, complain: complainer(control, wrong), element: h("div.field", {}, h(grouped ? "span.label" : "label", { for: grouped ? null : id }, label), control, wrong, help && h("p.help", {}, help)) };
    });
    const form = h("form", { novalidate: true }, h("h2", {}, title), made.map(({ element }) => element), problem,
      h("div.actions", {}, copyAs(() => ({ method: "POST", path, body: body(), cli: cli?.() })),
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), submit));
    const dialog = h("dialog", { "aria-label": title }, form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      submit.disabled = true;
      problem.textContent = "";
      for (const field of made) field.complain("");
      try {
        result = await post(path, body());
        dialog.close();
      } catch (error) {
        const field = made.find(({ name }) => error.param === name || error.param?.startsWith(`${name}.`));
        if (field) field.complain(error.message);
        else problem.textContent = error.message;
        field?.control.focus();
      } finally {
        submit.disabled = false;
      }
    });
    dialog.addEventListener("close", () => { dialog.remove(); resolve(result); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
