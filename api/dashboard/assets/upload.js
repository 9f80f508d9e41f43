/** Uploads of files to the API: small ones whole, large ones in parts, which survive a lost connection. */

import * as api from "./api.js";

const MIB = 2 ** 20;
const WHOLE = 64 * MIB, LEAST_PART = 16 * MIB, MOST_PARTS = 10_000;
const TRIES = 6;
const STORED = "interrupted uploads", MOST_STORED = 20;

/**
 * @typedef {object} Options
 * @property {string} purpose
 * @property {AbortSignal} signal the view's: when it is left, an upload in parts can be continued later
 * @property {AbortSignal} [cancelled] the person's: the server forgets the upload
 * @property {(fraction: number, note?: string) => void} [onProgress]
 */

/**
 * Upload a file. Raise ApiError.
 * @param {File} file
 * @param {Options} options
 * @returns {Promise<any>} the API's file
 */
export function upload(file, options) {
  if (!file.size) throw new api.ApiError(`${file.name} is empty: choose a file with rows.`);
  return file.size > WHOLE ? uploadInParts(file, options) : uploadWhole(file, options);
}

function uploadWhole(file, { purpose, signal, cancelled, onProgress = () => {} }) {
  const sent = (bytes, total) => onProgress(total ? bytes / total : 0);
  return send("/v1/files", { purpose, file }, AbortSignal.any([signal, cancelled].filter(Boolean)), sent);
}

/** Bytes of a part: a file may have 10,000 parts. */
export const partSize = (bytes) => Math.max(LEAST_PART, Math.ceil(bytes / MOST_PARTS));

/**
 * Send a file in parts, each again if it fails. If that does not help, or the view is left, sending the same file again
 * continues after the parts that arrived.
 * @param {File} file
 * @param {Options & {size?: number}} options `size`: bytes of a part
 */
export async function uploadInParts(file, { purpose, signal, cancelled, onProgress = () => {}, size = partSize(file.size) }) {
  const stopped = AbortSignal.any([signal, cancelled].filter(Boolean));
  const patiently = (action) => repeat(action, stopped, (note) => onProgress(sent / file.size, note));
  const content = { name: file.name, bytes: file.size, modified: file.lastModified, purpose, size };
  let sent = 0;
  const { upload, parts } = await continued(content, stopped) ?? { upload: await begin(file, purpose, stopped), parts: [] };
  const path = `/v1/uploads/${upload.id}`;
  try {
    const done = upload.status === "completed" ? upload : await sendParts();
    store(content, null);
    return done.file;
  } catch (error) {
    if (cancelled?.aborted || refuses(error)) store(content, null);
    else if (parts.length) error.message += " The parts that arrived are kept for an hour: send the file again to continue.";
    if (cancelled?.aborted) api.post(`${path}/cancel`).catch(() => {}); // it expires otherwise
    throw error;
  }

  async function sendParts() {
    for (let index = parts.length; index * size < file.size; index += 1) {
      sent = index * size;
      const data = file.slice(sent, sent + size);
      const part = await patiently(() => send(`${path}/parts`, { data }, stopped, (bytes) => onProgress(Math.min(1, (sent + bytes) / file.size))));
      parts.push(part.id);
      store(content, { upload: upload.id, parts });
    }
    sent = file.size;
    onProgress(1, "the server joins its parts");
    const body = { part_ids: parts };
    return patiently(async () => (await api.request(`${path}/complete`, { method: "POST", body, signal: stopped })).json());
  }
}

const begin = (file, purpose, signal) =>
  api.post("/v1/uploads", { bytes: file.size, filename: file.name, mime_type: "application/octet-stream", purpose }, signal);

/** The uploads that have begun here and not ended, the newest last. */
const unfinished = () => JSON.parse(localStorage.getItem(STORED) ?? "[]");
const same = (content) => (stored) => JSON.stringify(stored.content) === JSON.stringify(content);

/** Remember how far an upload of this content is; null: it has ended. */
function store(content, state) {
  const others = unfinished().filter((stored) => !same(content)(stored));
  const all = state ? [...others, { content, ...state }].slice(-MOST_STORED) : others;
  if (all.length) localStorage.setItem(STORED, JSON.stringify(all));
  else localStorage.removeItem(STORED);
}

/** The upload of this content that was interrupted here, if the server still has it. */
async function continued(content, signal) {
  const stored = unfinished().find(same(content));
  if (!stored) return null;
  const upload = await api.get(`/v1/uploads/${stored.upload}`, {}, signal).catch(() => null);
  return ["pending", "completed"].includes(upload?.status) ? { upload, parts: stored.parts } : null;
}

/** Repeat an action after errors that may pass, with growing pauses. */
async function repeat(action, signal, note) {
  for (let wait = 1; ; wait *= 2) {
    try {
      return await action();
    } catch (error) {
      if (signal.aborted || !passes(error) || wait >= 2 ** (TRIES - 1)) throw error;
      note(`${error.message} Next attempt in ${wait} s`);
    }
    await api.pause(wait, signal);
  }
}

/** Whether the same request may succeed later. 507: the storage is full. */
const passes = ({ status }) => status === 0 || status === 429 || (status >= 500 && status !== 507);

/** Whether the server will not take this upload. 401: the session has ended, and the next one can continue. */
const refuses = ({ status }) => status >= 400 && status < 500 && status !== 401 && status !== 429;

/** Send a form and return the response's JSON. `fetch` reports no progress, so this is an XMLHttpRequest. Raise ApiError. */
function send(path, fields, signal, onSent) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.upload.onprogress = ({ loaded, total }) => onSent(loaded, total);
    request.onerror = () => reject(new api.ApiError("The connection was lost during the upload."));
    request.onabort = () => reject(new api.ApiError("The upload was stopped."));
    if (signal.aborted) return request.onabort();
    request.onload = () => {
      if (request.status === 200) return resolve(request.response);
      const error = request.response?.error;
      return reject(new api.ApiError(error?.message ?? `The server answered with status ${request.status}.`, { ...error, status: request.status }));
    };
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.open("POST", path);
    request.responseType = "json";
    request.send(form);
  });
}
