// Runs with OpenAI's client for Node, and tells what that client saw, as JSON.
//
//     node conformance.mjs GIVEN.json      (in the folder whose node_modules hold `openai`)
//
// No module of Attune is at hand here. The client is used as anyone uses it. It checks no answer against its types, so
// that the tests do (test_node.py).

import fs from "node:fs";
import { createRequire } from "node:module";
import timers from "node:timers/promises";

const require = createRequire(process.cwd() + "/");
const OpenAI = require("openai");
const { VERSION } = require("openai/version");
const given = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const PAGE = 7;

const client = new OpenAI({ baseURL: given.base_url, apiKey: given.api_key, adminAPIKey: given.api_key });
const { jobs, checkpoints, alpha } = client.fineTuning;
const content = fs.readFileSync(given.training_file);

const upload = () => client.files.create({ file: fs.createReadStream(given.training_file), purpose: "fine-tune" });

async function all(list) {
  const found = [];
  for await (const each of list) found.push(each);
  return found;
}

async function until(job, ...statuses) {
  const deadline = Date.now() + 120_000;
  while (!statuses.includes(job.status) && Date.now() < deadline) {
    await timers.setTimeout(200);
    job = await jobs.retrieve(job.id);
  }
  return job;
}

const finish = (job) => until(job, "succeeded", "failed", "cancelled");
const bytes = async (response) => Buffer.from(await response.arrayBuffer());
const supervised = (hyperparameters) => ({ type: "supervised", supervised: { hyperparameters } });

async function files() {
  const streamed = await client.files.create({
    file: OpenAI.toStreamingFile(fs.createReadStream(given.training_file), "rows.jsonl"),
    purpose: "fine-tune",
    expires_after: { anchor: "created_at", seconds: 3600 },
  });
  const made = await client.files.create({ file: await OpenAI.toFile(content, "named.jsonl"), purpose: "fine-tune" });
  const seen = {
    streamed,
    made,
    retrieved: await client.files.retrieve(made.id),
    processed: (await client.files.waitForProcessing(made.id)).status,
    paged: (await all(client.files.list({ limit: 1, purpose: "fine-tune", order: "asc" }))).map((file) => file.id),
    listed: (await all(client.files.list())).map((file) => file.id),
    same: [streamed, made].map(async (file) => content.equals(await bytes(await client.files.content(file.id)))),
  };
  seen.same = await Promise.all(seen.same);
  seen.deleted = await Promise.all([streamed, made].map((file) => client.files.delete(file.id)));
  return seen;
}

async function inParts() {
  const named = { filename: "rows.jsonl", bytes: content.length, mime_type: "text/jsonl", purpose: "fine-tune" };
  const begun = await client.uploads.create(named);
  const half = content.length >> 1;
  const part = async (data) => client.uploads.parts.create(begun.id, { data: await OpenAI.toFile(data, "part") });
  const last = await part(content.subarray(half));
  const first = await part(content.subarray(0, half));
  const completed = await client.uploads.complete(begun.id, { part_ids: [first.id, last.id] });
  return {
    begun,
    part: first,
    completed,
    same: content.equals(await bytes(await client.files.content(completed.file.id))),
    cancelled: await client.uploads.cancel((await client.uploads.create(named)).id),
  };
}

async function mainPath() {
  const file = await upload();
  const created = await jobs.create({
    model: "tiny",
    training_file: file.id,
    method: supervised({ n_epochs: 2, batch_size: 4 }),
    metadata: { by: "node" },
    suffix: "slash",
    seed: 7,
    validation_file: null,
    integrations: null,
    technique: { type: "lora", rank: 4 }, // keys of ours go through as they are
  });
  const job = await finish(created);
  if (job.status !== "succeeded") return { created, job };
  const [csv, adapter] = await Promise.all(job.result_files.map(async (id) => bytes(await client.files.content(id))));
  const saved = await all(jobs.checkpoints.list(job.id, { limit: 1 }));
  return {
    created,
    job,
    events: (await jobs.listEvents(job.id, { limit: 100 })).data,
    paged: await all(jobs.listEvents(job.id, { limit: PAGE })),
    checkpoints: saved,
    csv: csv.toString(),
    adapter: adapter.length,
    listed: (await all(jobs.list({ limit: 1, metadata: { by: "node" } }))).map((each) => each.id),
    unmarked: (await all(jobs.list({ limit: PAGE, metadata: null }))).map((each) => each.id),
    model: await client.models.retrieve(job.fine_tuned_model),
    models: (await all(client.models.list())).map((model) => model.id),
    shared: await shared(saved[0].fine_tuned_model_checkpoint),
    asked: await asked(job.fine_tuned_model),
    deleted: await client.models.delete(job.fine_tuned_model),
  };
}

async function shared(checkpoint) {
  const { permissions } = checkpoints;
  const granted = await all(permissions.create(checkpoint, { project_ids: ["default"] }));
  return {
    granted,
    listed: await all(permissions.list(checkpoint, { limit: 1, order: "ascending" })),
    retrieved: await permissions.retrieve(checkpoint),
    deleted: await permissions.delete(granted[0].id, { fine_tuned_model_checkpoint: checkpoint }),
  };
}

async function asked(model) {
  const chat = { model, messages: [{ role: "user", content: "1+1" }], max_completion_tokens: 4, temperature: 0 };
  const text = { model, prompt: "1+", max_tokens: 4, temperature: 0 };
  const runner = client.chat.completions.stream({ ...chat, stream_options: { include_usage: true } });
  const streamed = await runner.finalChatCompletion();
  const pieces = await all(await client.completions.create({ ...text, stream: true }));
  return {
    chat: await client.chat.completions.create({ ...chat, logprobs: true, top_logprobs: 2 }),
    streamed: streamed.choices[0].message.content,
    usage: streamed.usage,
    text: await client.completions.create({ ...text, logprobs: 1 }),
    pieces: pieces.map((piece) => piece.choices[0]?.text ?? "").join(""),
  };
}

async function methods() {
  const file = await upload();
  const create = (body) => jobs.create({ model: "tiny", training_file: file.id, ...body });
  const grader = { type: "string_check", name: "right", operation: "eq", input: "{{sample.output_text}}", reference: "1" };
  const cancelled = [];
  const begun = async (body) => {
    const job = await create(body);
    cancelled.push(await jobs.cancel(job.id)); // at once: a small job ends within seconds
    return job;
  };
  const created = {
    plain: await begun({}),
    old_form: await begun({ hyperparameters: { n_epochs: 50, batch_size: "auto", learning_rate_multiplier: 0.5 } }),
    dpo: await begun({ method: { type: "dpo", dpo: { hyperparameters: { beta: 0.2 } } } }),
    reinforcement: await begun({
      method: { type: "reinforcement", reinforcement: { grader, hyperparameters: { eval_samples: 1 } } },
    }),
  };
  const held = await until(await create({ method: supervised({ n_epochs: 50, batch_size: 1 }) }), "queued", "running");
  const paused = await until(await jobs.pause(held.id), "paused", "succeeded");
  const resumed = await jobs.resume(held.id);
  cancelled.push(await jobs.cancel(held.id));
  return { created, paused, resumed, cancelled };
}

async function graded() {
  const { graders } = alpha;
  const texts = { input: "{{ sample.output_text }}", reference: "{{ item.answer }}" };
  const check = { type: "string_check", name: "right", operation: "eq", ...texts };
  const near = { type: "text_similarity", name: "near", evaluation_metric: "fuzzy_match", ...texts };
  const multi = { type: "multi", name: "all", graders: { check, near }, calculate_output: "(check + near) / 4" };
  return {
    sent: multi,
    validated: (await graders.validate({ grader: multi })).grader,
    run: await graders.run({ grader: multi, model_sample: "Paris", item: { answer: "Paris" } }),
  };
}

async function webhooks() {
  const { body, headers, secret } = given.webhook;
  const receiver = new OpenAI({ apiKey: "unused", webhookSecret: secret });
  const seen = { unwrapped: await receiver.webhooks.unwrap(body, headers) };
  await receiver.webhooks.verifySignature(body, headers, secret);
  seen.forged = await outcome(receiver.webhooks.unwrap(body.replace("ftjob", "ftjab"), headers));
  return seen;
}

async function outcome(promise) {
  try {
    await promise;
    return { exception: null };
  } catch (error) {
    const { status, message, type, param, code, requestID } = error;
    return { exception: error.constructor.name, status, message, type, param, code, request_id: requestID };
  }
}

async function errors() {
  const through = (apiKey) => new OpenAI({ baseURL: given.proxy_url, apiKey, adminAPIKey: apiKey });
  const [owner, reader, stranger] = [given.api_key, given.read_only_key, "sk-wrong"].map(through);
  const file = await upload();
  const body = { model: "tiny", training_file: file.id };
  const ended = await jobs.cancel((await jobs.create(body)).id);
  const create = (fields) => (options) => owner.fineTuning.jobs.create({ ...body, ...fields }, options);
  const calls = {
    "epochs out of range": create({ method: supervised({ n_epochs: 0 }) }),
    "unknown field": create({ lerning_rate: 1 }),
    "unknown method": create({ method: { type: "magic" } }),
    "unknown base model": create({ model: "gpt-17" }),
    "unknown training file": create({ training_file: "file-none" }),
    "body too large": create({ x: "x".repeat(2_000_000) }),
    "cancel after the end": (options) => owner.fineTuning.jobs.cancel(ended.id, options),
    "no such cursor": (options) => owner.fineTuning.jobs.listEvents(ended.id, { after: "ftevent-none" }, options),
    "wrong key": (options) => stranger.models.list(options),
    "read-only key": (options) => reader.fineTuning.jobs.cancel(ended.id, options),
    "not an admin": (options) => reader.fineTuning.checkpoints.permissions.create("m", { project_ids: ["x"] }, options),
    "no such job": (options) => owner.fineTuning.jobs.retrieve("ftjob-none", options),
    "no such file": (options) => owner.files.retrieve("file-none", options),
    "no such model": (options) => owner.models.retrieve("owner/none", options),
    "no such path": (options) => owner.get("/nowhere", options),
    "wrong verb": (options) => owner.patch("/files", options),
  };
  for (const status of given.injected) {
    const headers = { "x-inject": String(status) };
    calls[`injected ${status}`] = (options) => owner.models.list({ headers: { ...options.headers, ...headers } });
  }
  const seen = {};
  for (const [name, call] of Object.entries(calls)) {
    seen[name] = await outcome(call({ headers: { "x-attempt-of": name } }));
  }
  return seen;
}

const parts = { files, inParts, mainPath, methods, graded, webhooks, errors };
const seen = { version: VERSION };
for (const [name, part] of Object.entries(parts)) seen[name] = await part();
console.log(JSON.stringify(seen));
