/** Uploads of files with their progress, and places to drop them. */

import { ApiError } from "./api.js";
import { h, toast, writes } from "./elements.js";
import { bytes, percent } from "./format.js";

/**
 * Upload a file. `fetch` reports no progress, so this is an XMLHttpRequest. Raise ApiError.
 * @param {File} file
 * @param {{purpose: string, signal?: AbortSignal, onProgress?: (fraction: number) => void}} options
 * @returns {Promise<any>} the API's file
 */
export function upload(file, { purpose, signal, onProgress = () => {} }) {
  const form = new FormData();
  form.append("purpose", purpose);
  form.append("file", file);
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 0);
    sending.onerror = () => reject(new ApiError("The connection was lost during the upload. Send the file again."));
    sending.onabort = () => reject(new ApiError("The upload was stopped."));
    sending.onload = () => {
      if (sending.status === 200) return resolve(sending.response);
      const error = sending.response?.error;
      return reject(new ApiError(error?.message ?? `The server answered with status ${sending.status}.`, { ...error, status: sending.status }));
    };
    signal?.addEventListener("abort", () => sending.abort(), { once: true });
    sending.open("POST", "/v1/files");
    sending.responseType = "json";
    sending.send(form);
  });
}

/**
 * A button that picks a file, and a bar that shows its upload.
 * @param {{label?: string, kind?: string, purpose?: string, signal: AbortSignal, onFile: (file: any, picked: File) => any}} options
 *   `onFile` gets the API's file, and the one on this machine
 */
export function picker({ label = "Upload a file", kind = "", purpose = "fine-tune", signal, onFile }) {
  const input = h("input", { type: "file", hidden: true, tabindex: "-1", "aria-label": label });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Upload" });
  const text = h("span.muted.small");
  const progress = h("div.uploading", { hidden: true, role: "status" }, text, bar);
  const pick = writes(h("button", { type: "button", class: kind, onclick: () => input.click() }, label));

  async function send(file) {
    pick.disabled = true;
    progress.hidden = false;
    const show = (fraction) => {
      bar.value = fraction;
      text.textContent = `${file.name}, ${percent(fraction)} of ${bytes(file.size)}`;
    };
    show(0);
    try {
      await onFile(await upload(file, { purpose, signal, onProgress: show }), file);
    } catch (error) {
      if (!signal.aborted) toast(error.message, "bad");
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
