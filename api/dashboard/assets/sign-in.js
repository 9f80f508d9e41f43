/** The form that exchanges an API key for a session. */

import { post } from "./api.js";
import { command, fill, h } from "./elements.js";

/** Ask for a key where the view would be; the address stays. Resolve once the person is signed in. */
export function askForKey(main) {
  return new Promise((resolve) => {
    const input = h("input", { id: "key", name: "key", type: "password", required: true, autocomplete: "current-password", spellcheck: "false", "aria-describedby": "problem" });
    const problem = h("p.problem", { id: "problem", role: "alert" });
    const submit = h("button.primary", { type: "submit" }, "Sign in");
    const form = h("form.sign-in", {},
      h("h1", {}, "Sign in to Attune"),
      h("label", { for: "key" }, "API key"), input, problem, submit,
      h("p.muted", {}, "On the server's machine, ", h("code", {}, "attune up"), " writes a key to ", h("code", {}, "credentials.json"), " in its data folder. This command creates another key, in the same folder:"),
      command("attune keys create --data-dir attune-data"));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      submit.disabled = true;
      problem.textContent = "";
      try {
        await post("/session", { key: input.value });
        resolve();
      } catch (error) {
        problem.textContent = error.message;
        input.focus();
      } finally {
        submit.disabled = false;
      }
    });
    fill(main, form);
    document.title = "Sign in · Attune";
    document.getElementById("tools").replaceChildren();
    input.focus();
  });
}
