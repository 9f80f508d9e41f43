/** Requests to the API, with its errors in its own words, its pages and its event streams. */

/** `lost` when the server cannot be reached, `restored` when it can, `signed-out` when the session has ended. */
export const connection = new EventTarget();

let reachable = true;

function report(isReachable) {
  if (isReachable === reachable) return;
  reachable = isReachable;
  connection.dispatchEvent(new Event(isReachable ? "restored" : "lost"));
}

/** What the API answered instead of a result; `status` 0 if the server could not be reached. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, requestId });
  }
}

/**
 * Send a request and return the response. Raise ApiError.
 * @param {string} path with its query
 * @param {{method?: string, body?: any, headers?: Object, signal?: AbortSignal}} [options] `body`: JSON, or a FormData
 * @returns {Promise<Response>}
 */
export async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  const isForm = body instanceof FormData;
  const json = body === undefined || isForm ? {} : { "content-type": "application/json" };
  let response;
  try {
    response = await fetch(path, {
      method, signal, headers: { ...json, ...headers },
      body: body === undefined || isForm ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    report(false);
    throw new ApiError("The server cannot be reached. The page tries again by itself.");
  }
  report(true);
  if (!response.ok) throw await failed(response, method);
  return response;
}

async function failed(response, method) {
  const { error } = await response.json().catch(() => ({}));
  const wrongKey = method === "POST" && new URL(response.url).pathname.startsWith("/session");
  if (response.status === 401 && !wrongKey) connection.dispatchEvent(new Event("signed-out"));
  return new ApiError(error?.message ?? `The server answered with status ${response.status}, without an explanation by Attune. Is Attune running behind this address? A proxy may have refused the request.`, {
    ...error, status: response.status, requestId: response.headers.get("x-request-id"),
  });
}

/** Return a path with a query; null and empty values are left out. */
export function withQuery(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

export const get = async (path, query, signal) => (await request(withQuery(path, query), { signal })).json();
export const post = async (path, body, signal) => (await request(path, { method: "POST", body, signal })).json();
export const remove = async (path) => request(path, { method: "DELETE" });

/** @type {Promise<any>|null} */
let signedIn = null;
connection.addEventListener("signed-out", () => { signedIn = null; });

/** Who is signed in, `{project, key, scope}`. It is asked once until the session ends. */
export function session() {
  signedIn ??= get("/session").catch((error) => { signedIn = null; throw error; });
  return signedIn;
}

/** Yield the pages of a list, each `{data, has_more}`, until the caller stops. */
export async function* pages(path, query = {}, signal) {
  for (let after = query.after; ;) {
    const page = await get(path, { ...query, after }, signal);
    yield page;
    if (!page.has_more || !page.data.length) return;
    after = page.data.at(-1).id;
  }
}

/** Return the first objects of a list, and whether it has more. */
export async function first(path, query, limit, signal) {
  const data = [];
  for await (const page of pages(path, { ...query, limit: Math.min(limit, 100) }, signal)) {
    data.push(...page.data);
    if (data.length >= limit || !page.has_more) return { data: data.slice(0, limit), hasMore: page.has_more || data.length > limit };
  }
  return { data, hasMore: false };
}

/**
 * Call a function now, and again each time so many seconds have passed, while the page is visible and not left; at once when a reader comes back to it. Raise
 * the errors of the first call, and later only those that a repetition cannot mend.
 */
export async function poll(seconds, signal, action) {
  for (let first = true; ; ) {
    await visible(signal);
    if (signal.aborted) return;
    try {
      await action();
      first = false;
    } catch (error) {
      if (!signal.aborted && (isFinal(error) || (first && error.status !== 0))) throw error;
    }
    await pause(seconds, signal);
  }
}

/** Whether a repetition of the request would fail, too. */
export const isFinal = ({ status }) => status === undefined || (status >= 400 && status < 500 && status !== 429);

/** Wait for so many seconds, or until the signal is aborted. */
export const pause = (seconds, signal) => new Promise((resolve) => {
  const end = () => { clearTimeout(timer); signal.removeEventListener("abort", end); resolve(); };
  const timer = setTimeout(end, 1000 * seconds);
  signal.addEventListener("abort", end);
});

/**
 * Follow an event stream to its end; reconnect where it broke. A hidden page holds no connection, of which browsers
 * allow few, and continues where it was once it is visible.
 * @param {string} path of the list of events
 * @param {{after?: string|null, signal: AbortSignal, onEvent: (event: any) => void}} options `after`: an event's id
 */
export async function follow(path, { after = null, signal, onEvent }) {
  for (let wait = 1; !signal.aborted; wait = Math.min(30, 2 * wait)) {
    await visible(signal);
    const hidden = new AbortController();
    const hide = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      const headers = after ? { "last-event-id": after } : {};
      const response = await request(`${path}?stream=true`, { headers, signal: AbortSignal.any([signal, hidden.signal]) });
      if (response.status === 204) return;
      for await (const { id, data } of messages(response.body)) {
        onEvent(JSON.parse(data));
        [after, wait] = [id, 1];
      }
    } catch (error) {
      if (hidden.signal.aborted) continue;
      if (error instanceof ApiError && isFinal(error)) throw error;
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
    await pause(wait, signal);
  }
}

function visible(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true, signal });
    signal.addEventListener("abort", resolve, { once: true });
  });
}

/** Yield the messages of a server-sent stream, each `{id, data}`. Also reads the stream of a completion. */
export async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", read = await reader.read(); !read.done; read = await reader.read()) {
    const blocks = (rest + read.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = block.split("\n").filter((line) => !line.startsWith(":")).map((line) => line.split(/: ?(.*)/s));
      const data = fields.filter(([name]) => name === "data").map(([, value]) => value);
      if (data.length) yield { id: fields.find(([name]) => name === "id")?.[1], data: data.join("\n") };
    }
  }
}
