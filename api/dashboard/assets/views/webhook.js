/** A webhook endpoint: its settings, a test, and the log of its deliveries. */

import * as api from "../api.js";
import { copyAs } from "../calls.js";
import { button, confirm, copyable, empty, facts, fill, h, section, status, toast, when, writes } from "../elements.js";
import { ask, showSecret } from "../dialogs.js";
import { table } from "../table.js";
import { endpointFields, PATH, SECRET_ADVICE, shortEvent } from "./webhooks.js";

const STEP = 100;
const STATUSES = { pending: ["○", "Pending", "wait"], delivered: ["✓", "Delivered", "good"], failed: ["✕", "Failed", "bad"] };

/** @param {import("../app.js").Page} page */
export async function show({ root, id, signal, setTitle, kept, keep, open }) {
  const path = `${PATH}/${encodeURIComponent(id)}`;
  const log = deliveries(path, { signal, kept, keep });
  let hook = await api.get(path, {}, signal);

  function draw() {
    setTitle(hook.name);
    fill(root, h("div.head", {}, h("h1", {}, hook.name), h("div.actions", {},
      copyAs(() => ({ method: "GET", path })),
      [button("Send a test", test), button("Edit", edit), button("New secret", rotate), button("Delete", remove, { kind: "danger" })].map(writes))),
    facts([
      ["Id", copyable(hook.id)], ["Address", hook.url], ["Events", hook.event_types.map(shortEvent).join(", ")],
      ["Signing secret", h("code", {}, hook.signing_secret_hint)], ["Created", when(hook.created_at)], ["Changed", when(hook.updated_at)],
    ]), log.element);
  }

  async function test() {
    const { status_code: code } = await api.post(`${path}/test`, { event_type: hook.event_types[0] });
    toast(`The endpoint answered with status ${code}.`, code < 300 ? "" : "bad");
  }
  async function edit() {
    const fields = await endpointFields(hook);
    const changed = await ask({ title: `Edit ${hook.name}`, verb: "Save", fields: fields.list, path, body: fields.read });
    if (changed) { hook = changed; draw(); }
  }
  async function rotate() {
    if (!await confirm(`New signing secret for ${hook.name}?`, "Deliveries are signed with the old secret as well for 24 hours, so receivers can change without a gap.", "Create secret")) return;
    hook = await api.post(`${path}/rotate_secret`, { keep_old_secret_active_for_24_hours: true });
    await showSecret("Signing secret", hook.signing_secret, SECRET_ADVICE);
    draw();
  }
  async function remove() {
    if (!await confirm(`Delete webhook ${hook.name}?`, "Its pending deliveries are dropped, and its log is deleted.", "Delete webhook")) return;
    await api.remove(path);
    await open("/webhooks");
  }

  draw();
  await api.poll(4, signal, log.refresh);
}

function deliveries(path, { signal, kept, keep }) {
  let limit = kept.rows ?? STEP;
  const list = table({
    caption: "Deliveries, newest first",
    columns: [
      { title: "Event", cell: (delivery) => [shortEvent(delivery.event_type), h("span.sub.wide", {}, copyable(delivery.event_id))] },
      { title: "Of", cell: ({ data: { id } }) => subject(id), wide: true },
      { title: "Status", cell: (delivery) => [status(delivery.status, STATUSES[delivery.status]), delivery.last_error && h("span.sub", {}, delivery.last_error)] },
      { title: "Attempts", cell: (delivery) => delivery.attempts, figures: true, wide: true },
      { title: "Answer", cell: (delivery) => delivery.last_status ?? h("span.muted", {}, "–"), figures: true, wide: true },
      { title: "Time", cell: (delivery) => (delivery.next_attempt_at ? ["next ", when(delivery.next_attempt_at)] : when(delivery.ended_at ?? delivery.created_at)), figures: true, wide: true },
      { title: "", cell: (delivery) => writes(button("Send again", async () => { await api.post(`${path}/deliveries/${delivery.id}/replay`); await refresh(); })), figures: true },
    ],
  });
  const body = h("div");
  const more = button("Show more", () => { limit += STEP; keep({ rows: limit }); return refresh(); });
  more.hidden = true;
  async function refresh() {
    const { data, hasMore } = await api.first(`${path}/deliveries`, {}, limit, signal);
    list.update(data);
    more.hidden = !hasMore;
    const shown = data.length ? list.element : empty("Nothing was sent yet. The next end of a job or a batch is delivered here; “Send a test” sends a sample event now.");
    if (body.firstChild !== shown) fill(body, shown);
  }
  return { element: section("Deliveries", null, body, more), refresh };
}

/** What an event is about, with a link to its view. */
function subject(id) {
  const view = { ftjob: "jobs", batch: "batches" }[id.match(/^[a-z]+/)?.[0]];
  return view ? h("a", { href: `/${view}/${id}` }, h("code", {}, id)) : copyable(id);
}
