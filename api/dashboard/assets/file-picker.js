/** Buttons that upload files and show the progress, and places to drop files. */

import { h, toast, writes } from "./elements.js";
import { bytes, percent } from "./format.js";
import { upload } from "./upload.js";

/**
 * A button that picks a file, and a bar that shows its upload, with a button to cancel it.
 * @param {{label?: string, kind?: string, purpose?: string, signal: AbortSignal, onFile: (file: any, picked: File) => any}} options
 *   `onFile` gets the API's file, and the one on this machine
 */
export function picker({ label = "Upload a file", kind = "", purpose = "fine-tune", signal, onFile }) {
  const input = h("input", { type: "file", hidden: true, tabindex: "-1", "aria-label": label });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Upload" });
  const text = h("span.muted.small");
  const cancel = h("button.quiet", { type: "button" }, "Cancel upload");
  const progress = h("div.uploading", { hidden: true }, text, bar, cancel);
  const pick = writes(h("button", { type: "button", class: kind, onclick: () => input.click() }, label));

  async function send(file) {
    if (pick.disabled) return toast("Another upload runs: wait for its end, or cancel it.", "bad");
    const stop = new AbortController();
    cancel.onclick = () => stop.abort();
    pick.disabled = true;
    progress.hidden = false;
    const show = (fraction, note) => {
      bar.value = fraction;
      text.textContent = [`${file.name}, ${percent(fraction)} of ${bytes(file.size)}`, note].filter(Boolean).join("; ");
    };
    show(0);
    try {
      await onFile(await upload(file, { purpose, signal, cancelled: stop.signal, onProgress: show }), file);
    } catch (error) {
      if (stop.signal.aborted) toast("Upload cancelled");
      else if (!signal.aborted) toast(error.message, "bad");
    } finally {
      pick.disabled = false;
      progress.hidden = true;
      input.value = "";
    }
  }
  input.addEventListener("change", () => input.files[0] && send(input.files[0]));
  return { button: [pick, input], progress, send };
}

/** Take files that are dropped anywhere on an element. */
export function dropTarget(element, signal, onDrop) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (event, over) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    element.toggleAttribute("data-over", over);
  };
  element.addEventListener("dragover", (event) => mark(event, true), { signal });
  element.addEventListener("dragleave", (event) => element.contains(event.relatedTarget) || mark(event, false), { signal });
  element.addEventListener("drop", (event) => {
    mark(event, false);
    if (event.dataTransfer?.files[0]) onDrop(event.dataTransfer.files[0]);
  }, { signal });
}
