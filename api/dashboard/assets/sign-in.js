/** Sign-in: by an API key that a person types, or by a link that works once. */

import { post } from "./api.js";
import { command, confirm, fill, h, toast } from "./elements.js";

/** Ask for a key where the view would be; the address stays. Resolve once the person is signed in. */
export function askForKey(main, reason = "") {
  return new Promise((resolve) => {
    const input = h("input", { id: "key", name: "key", type: "password", required: true, autocomplete: "current-password", spellcheck: "false", "aria-describedby": "problem" });
    const problem = h("p.problem", { id: "problem", role: "alert" }, reason);
    const submit = h("button.primary", { type: "submit" }, "Sign in");
    const form = h("form.sign-in", {},
      h("h1", {}, "Sign in to Attune"),
      h("p.muted", {}, "This command prints a link that signs this browser in. Run it in the folder where the server was started, or after ", h("code", {}, "attune login"), ":"),
      command("attune open"),
      h("p.muted.or", {}, "Or enter an API key. ", h("code", {}, "attune up"), " writes one to ", h("code", {}, "attune-data/credentials.json"), "."),
      h("label", { for: "key" }, "API key"), input, problem, submit);
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

/**
 * Sign in by the link in the address, once the person agrees, and go to the page that it names. Anybody can send links,
 * so the person is asked whoever is signed in: a stranger's would lead into the stranger's project.
 */
export async function followLink(main) {
  const given = new URLSearchParams(location.hash.slice(1)), token = given.get("token");
  const { pathname, search } = new URL(given.get("page") ?? "/", location.origin);
  history.replaceState(null, "", pathname + search); // the token leaves the history
  if (!token) return;
  const session = await fetch("/session").catch(() => null), now = session?.ok && await session.json();
  try {
    const { project, key } = await post("/session/links/describe", { token });
    const link = `The link signs this browser in with the key ${key.name} of project ${project}.`;
    const current = now ? ` You are signed in to project ${now.project} with the key ${now.key.name}.` : "";
    const agreed = await confirm(`Sign in to project ${project}?`, `${link}${current} Sign in only if you made the link yourself, as attune open does.`, "Sign in", { loses: false });
    if (agreed) await post("/session/links/spend", { token });
  } catch (error) {
    if (now) toast(error.message, "bad");
    else await askForKey(main, error.message);
  }
}
