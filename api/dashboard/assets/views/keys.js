/** API keys of the project: create, with the secret shown once, and revoke. */

import * as api from "../api.js";
import { button, confirm, copyable, fill, h, status, when } from "../elements.js";
import { ask, showSecret } from "../dialogs.js";
import { table } from "../table.js";

const PATH = "/v1/keys", STEP = 100;
const SCOPES = ["read", "write", "admin", "operator"];
const RIGHTS = { read: "reads only", write: "reads and writes", admin: "everything in the project", operator: "also the health and usage of all projects" };
const LIVES = [["", "never"], [86_400, "in a day"], [7 * 86_400, "in a week"], [90 * 86_400, "in 90 days"], [365 * 86_400, "in a year"]];

/** @param {import("../app.js").Page} page */
export async function show({ root, signal, kept, keep }) {
  let limit = kept.rows ?? STEP;
  const session = await api.session();
  const allowed = SCOPES.slice(0, SCOPES.indexOf(session.scope) + 1);
  const mayWrite = session.scope !== "read";
  const list = table({
    caption: "API keys, newest first",
    columns: [
      { title: "Key", cell: (key) => [key.name, h("span.sub", {}, h("code", {}, key.redacted_value))] },
      { title: "Status", cell: state },
      { title: "Scope", cell: (key) => [key.scope, h("span.sub", {}, RIGHTS[key.scope])] },
      { title: "Created", cell: (key) => when(key.created_at), figures: true, wide: true },
      { title: "Last used", cell: (key) => (key.last_used_at ? when(key.last_used_at) : h("span.muted", {}, "never")), figures: true, wide: true },
      { title: "Expires", cell: (key) => (key.expires_at ? when(key.expires_at) : h("span.muted", {}, "never")), figures: true, wide: true },
      { title: "Id", cell: (key) => copyable(key.id, key.id.slice(0, 12)), wide: true },
      { title: "", cell: (key) => isLive(key) && mayWrite && allowed.includes(key.scope) && button("Revoke", () => revoke(key), { kind: "danger" }), figures: true },
    ],
  });
  list.element.classList.add("stacked", "listed");
  const isLive = (key) => !key.revoked_at && !(key.expires_at && key.expires_at * 1000 < Date.now());

  function state(key) {
    if (key.revoked_at) return [status("revoked", ["✕", "Revoked", "wait"]), h("span.sub", {}, when(key.revoked_at))];
    if (!isLive(key)) return status("expired", ["⊘", "Expired", "wait"]);
    return [status("live", ["✓", "Live", "good"]), key.current && h("span.sub", {}, "this session's key")];
  }

  const more = button("Show more", () => {
    limit += STEP;
    keep({ rows: limit });
    scrollTo(0, 0); // to those that are live
    return refresh();
  });
  more.hidden = true;

  async function refresh() {
    const { data, hasMore } = await api.first(PATH, {}, limit, signal);
    more.hidden = !hasMore;
    list.update([...data.filter(isLive), ...data.filter((key) => !isLive(key))]);
  }

  async function create() {
    const name = h("input", { type: "text", autocomplete: "off", placeholder: "its use, such as nightly training" });
    const scope = h("select", {}, allowed.map((value) => h("option", { value, selected: value === "write" }, `${value}: ${RIGHTS[value]}`)));
    const life = h("select", {}, LIVES.map(([value, label]) => h("option", { value }, label)));
    const made = await ask({
      title: "New API key", verb: "Create key",
      fields: [["name", "Name", name], ["scope", "Scope", scope, "A key cannot have more rights than the one that creates it."], ["expires_in_seconds", "Expires", life]],
      path: PATH, body: () => ({ name: name.value.trim(), scope: scope.value, ...(life.value && { expires_in_seconds: Number(life.value) }) }),
    });
    if (!made) return;
    await showSecret(`Key ${made.name}`, made.value, "Copy the key now. Only its hash is stored, so it cannot be shown again.");
    await refresh();
  }

  async function revoke(key) {
    const own = key.current ? " You are signed in with it, so this session ends." : "";
    const local = key.name === "local admin" ? " The commands on the server's machine use it until “attune up” starts again." : "";
    if (!await confirm(`Revoke key ${key.name}?`, `Programs that send it are refused at once.${own}${local}`, "Revoke key")) return;
    await api.remove(`${PATH}/${key.id}`);
    await refresh();
  }

  fill(root, h("div.head", {}, h("h1", {}, "Keys"), h("p.muted", {}, `of project ${session.project}`),
    h("div.actions", {}, mayWrite ? button("New key", create, { kind: "primary" }) : h("p.muted", {}, "This session's key can only read."))), list.element, h("div", {}, more));
  await api.poll(15, signal, refresh);
}
