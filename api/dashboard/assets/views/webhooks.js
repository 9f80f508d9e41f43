/** Webhook endpoints: where the ends of jobs and batches are sent to. */

import * as api from "../api.js";
import { quoted } from "../calls.js";
import { button, copyable, empty, fill, h, when, writes } from "../elements.js";
import { ask, showSecret } from "../dialogs.js";
import { table } from "../table.js";

export const PATH = "/v1/webhook_endpoints";
/** `fine_tuning.job.failed` as `job failed`, `batch.completed` as `batch completed`. */
export const shortEvent = (type) => type.replace("fine_tuning.", "").replaceAll(".", " ");
export const SECRET_ADVICE = "Copy the signing secret now. It verifies deliveries: OpenAI(webhook_secret=…).webhooks.unwrap(…). It is not shown again.";

/** @param {import("../app.js").Page} page */
export async function show({ root, signal, open }) {
  const list = table({
    caption: "Webhook endpoints, newest first",
    href: (hook) => `/webhooks/${hook.id}`,
    columns: [
      { title: "Endpoint", cell: (hook) => [h("a", { href: `/webhooks/${hook.id}` }, hook.name), h("span.sub", {}, copyable(hook.id))] },
      { title: "Address", cell: (hook) => hook.url, wide: true },
      { title: "Events", cell: (hook) => hook.event_types.map(shortEvent).join(", ") },
      { title: "Created", cell: (hook) => when(hook.created_at), figures: true, wide: true },
    ],
  });
  const body = h("div");

  async function create() {
    const fields = await endpointFields();
    const hook = await ask({ title: "New webhook", verb: "Create webhook", fields: fields.list, path: PATH, body: fields.read, cli: () => command(fields.read(), fields.all) });
    if (!hook) return;
    await showSecret("Signing secret", hook.signing_secret, SECRET_ADVICE);
    await open(`/webhooks/${hook.id}`);
  }

  const add = () => writes(button("New webhook", create, { kind: "primary" }));
  fill(root, h("div.head", {}, h("h1", {}, "Webhooks"), h("div.actions", {}, add())), body);
  await api.poll(15, signal, async () => {
    const { data } = await api.get(PATH, { limit: 100 }, signal);
    list.update(data);
    if (!data.length && !body.querySelector(".empty")) fill(body, empty("No webhook yet. An endpoint gets a signed POST when a job or a batch ends.", add()));
    if (data.length && body.firstChild !== list.element) fill(body, list.element);
  });
}

/** The same as a command, which asks for all events unless it names some. */
const command = ({ name, url, event_types: types }, all) => [
  `attune webhooks create ${quoted(url)} --name ${quoted(name)}`, ...(types.length < all.length ? types.map((type) => `--event ${type}`) : []),
].join(" ");

/** The fields of an endpoint for a form, with its present values. */
export async function endpointFields({ name = "", url = "", event_types: types } = {}) {
  const { data: all } = await api.get("/v1/webhook_event_types");
  const called = h("input", { type: "text", autocomplete: "off", value: name, placeholder: "such as alerts" });
  const address = h("input", { type: "text", inputmode: "url", autocomplete: "off", value: url, placeholder: "https://example.com/hooks/attune" });
  const boxes = all.map((type) => {
    const box = h("input", { type: "checkbox", value: type });
    box.checked = types?.includes(type) ?? true;
    return box;
  });
  const events = h("div.options", { role: "group", "aria-label": "Events" }, boxes.map((box) => h("label.option", {}, box, h("span", {}, shortEvent(box.value)))));
  return {
    all,
    list: [["name", "Name", called], ["url", "Address", address, "Public, with https. Redirects are not followed."], ["event_types", "Events", events]],
    read: () => ({ name: called.value.trim(), url: address.value.trim(), event_types: boxes.filter(({ checked }) => checked).map(({ value }) => value) }),
  };
}
