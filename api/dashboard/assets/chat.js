/** A chat with one or two models at once, each with its own history. Answers are streamed. */

import { messages, request } from "./api.js";
import { copyAs, literal, quoted } from "./calls.js";
import { fill, h } from "./elements.js";
import { duration, plural } from "./format.js";

const PATH = "/v1/chat/completions";

/**
 * @param {{models: [string, string][], signal: AbortSignal}} options `models`: [label, id] of each column
 * @returns {{element: HTMLElement, suggest: (system: string) => void}} `suggest`: a system message, if none is written yet
 */
export function chat({ models, signal }) {
  const columns = models.map(([label, id]) => column(label, id));
  const system = h("textarea", { rows: 2, id: "system", placeholder: "none" });
  const temperature = h("input", { type: "number", min: 0, max: 2, step: 0.1, value: 0, id: "temperature" });
  const longest = h("input", { type: "number", min: 1, step: 1, value: 128, id: "max-tokens" });
  const input = h("textarea", { rows: 2, placeholder: "Write a message. Enter sends, Shift Enter breaks the line.", "aria-label": "Message" });
  const send = h("button.primary", { type: "submit" }, "Send");
  const stop = h("button", { type: "button", hidden: true }, "Stop");
  const clear = h("button.quiet", { type: "button" }, "Start over");
  let running = null;
  let suggested = { shown: "", exact: "" };

  /** The system message; "" if there is none. A text area turns "\r\n" into "\n", so an unchanged suggestion is sent as it came. */
  const systemMessage = () => system.value === suggested.shown ? suggested.exact : system.value.trim() && system.value;
  const settings = () => ({ temperature: Number(temperature.value), max_tokens: Number(longest.value), system: systemMessage() });

  async function submit(event) {
    event.preventDefault();
    const text = input.value.trim();
    if (!text || running) return;
    input.value = "";
    running = new AbortController();
    [send.hidden, stop.hidden] = [true, false];
    const current = AbortSignal.any([signal, running.signal]);
    await Promise.all(columns.map((one) => one.ask(text, settings(), current)));
    running = null;
    [send.hidden, stop.hidden] = [false, true];
    if (document.activeElement === stop || document.activeElement === document.body) input.focus();
  }

  stop.addEventListener("click", () => running?.abort());
  clear.addEventListener("click", () => { running?.abort(); for (const one of columns) one.clear(); input.focus(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  });
  const call = () => {
    const body = columns.at(-1).body(input.value.trim() || "Hello", settings());
    const given = Object.entries(body).map(([name, value]) => `    ${name}=${literal(value, "    ")},\n`).join("");
    const python = `answer = client.chat.completions.create(\n${given})\nprint(answer.choices[0].message.content)`;
    return { method: "POST", path: PATH, body, python, cli: command(body) };
  };
  const options = h("details.fold", {}, h("summary", {}, "Settings"), h("div.filters", {},
    h("label.inline.system", {}, "System message", system), h("label.inline", {}, "Temperature", temperature), h("label.inline", {}, "Most tokens", longest)));
  const element = h("div.chat", {},
    h("div.columns", {}, columns.map((one) => one.element)),
    h("form.ask", { onsubmit: submit }, input, h("div.actions", {}, send, stop, clear, copyAs(call))), options);
  return {
    element,
    suggest(message) {
      if (system.value || running || options.open) return;
      system.value = message;
      suggested = { shown: system.value, exact: message };
      options.open = true;
      options.append(h("p.muted.small", {}, "The system message is that of the first training row: a tuned model expects it."));
    },
  };
}

/** The same as a command, which sends one message; undefined if there are earlier ones. */
function command({ model, temperature, max_tokens: longest, messages: sent }) {
  const system = sent[0].role === "system" ? sent[0].content : null;
  if (sent.length > (system === null ? 1 : 2)) return undefined;
  const options = `--temperature ${temperature} --max-tokens ${longest}${system === null ? "" : ` --system ${quoted(system)}`}`;
  return `attune chat ${model} ${quoted(sent.at(-1).content)} ${options}`;
}

function column(label, model) {
  const log = h("div.chat-log", { role: "log", "aria-live": "polite", "aria-label": `Chat with ${model}`, tabindex: "0" });
  const nothing = h("p.muted", {}, "Answers appear here.");
  const element = h("div", {}, h("h3", {}, label, h("span.muted", {}, ` ${model}`)), log);
  let history = [];
  fill(log, nothing);

  const body = (text, { system, temperature, max_tokens }) => ({
    model, temperature, max_tokens,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...history, { role: "user", content: text }],
  });

  async function ask(text, settings, signal) {
    const sent = body(text, settings);
    const before = history;
    const remember = () => { // unless it was started over meanwhile
      if (history === before) history = [...before, { role: "user", content: text }, { role: "assistant", content }];
    };
    const answer = h("p.answer", { "aria-busy": "true" });
    const thoughts = h("p.muted.small"), fold = h("details.fold", { hidden: true }, h("summary", {}, "Reasoning"), thoughts);
    const note = h("p.muted.small");
    if (!history.length) log.replaceChildren();
    log.append(h("p.question", {}, text), fold, answer, note);
    let content = "", reasoning = "", tokens = 0;
    const begun = performance.now();
    const follow = () => { log.scrollTop = log.scrollHeight; };
    follow();
    try {
      const response = await request(PATH, { method: "POST", signal, body: { ...sent, stream: true, stream_options: { include_usage: true } } });
      for await (const { data } of messages(response.body)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        const delta = chunk.choices[0]?.delta;
        content += delta?.content ?? "";
        reasoning += delta?.reasoning_content ?? "";
        tokens = chunk.usage?.completion_tokens ?? tokens;
        answer.textContent = content;
        thoughts.textContent = reasoning;
        fold.hidden = !reasoning;
        follow();
      }
      const empty = reasoning ? "the model only reasoned" : "the model ended it at once";
      if (!content) fill(answer, h("span.muted", {}, `The answer is empty: ${empty}.`));
      const cut = tokens >= settings.max_tokens ? ", cut there" : "";
      note.textContent = `${plural(tokens, "token")} in ${duration((performance.now() - begun) / 1000)}${cut}`;
      remember();
    } catch (error) {
      if (signal.aborted) note.textContent = "Stopped.";
      else fill(note, h("span.problem", { role: "alert" }, error.message));
      if (content) remember();
    } finally {
      answer.removeAttribute("aria-busy");
      if (!content && !answer.textContent) answer.remove();
      follow();
    }
  }
  return { element, ask, body, clear: () => { history = []; fill(log, nothing); } };
}
