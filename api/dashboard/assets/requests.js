/** Files of requests and of their results: what is in their first lines, and batches of them. */

import { get, post, request } from "./api.js";

export const BATCHES = "/v1/batches";
const FIRST_BYTES = 65_536;

/** The body that creates a batch of a file whose content begins like this. The API names a wrong `url` by its line. */
export function batchOf(fileId, beginning) {
  const [first] = objects(beginning);
  return { input_file_id: fileId, endpoint: first?.url ?? "/v1/chat/completions", completion_window: "24h" };
}

export const createBatch = async (fileId, beginning) => post(BATCHES, batchOf(fileId, beginning));

/** The beginning of a stored file. */
export async function firstPart(fileId, signal) {
  const headers = { range: `bytes=0-${FIRST_BYTES - 1}` };
  return (await request(`/v1/files/${encodeURIComponent(fileId)}/content`, { headers, signal })).text();
}

/** The whole JSON objects at the beginning of JSON lines; the last line may be cut. */
export function objects(text) {
  const found = [];
  for (const line of text.split("\n")) {
    try {
      if (line.trim()) found.push(JSON.parse(line));
    } catch {
      break;
    }
  }
  return found;
}

export const getBatch = (id, signal) => get(`${BATCHES}/${encodeURIComponent(id)}`, {}, signal);
