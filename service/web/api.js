// Requests to the service. A busy service and a lost connection are retried, a missing key is asked for; any other
// error is thrown with the `detail` of the response as its message.

import { askKey, key } from "./key.js";

const message = document.querySelector("#message");
const MAX_RETRY_DELAY_MS = 5000;
const MESSAGE_MS = 5000;
const RETRIED_STATUSES = [429, 502, 503, 504];

/** A newer request has replaced this one. */
export class Superseded extends Error {}

let hideTimer = 0;
let isRetrying = false;

/** Show a message at the foot of the page for `MESSAGE_MS`, or until the next one if it `stays`; "" hides it. */
export function showMessage(text, { stays = false } = {}) {
  if (message.textContent !== text) message.textContent = text;
  clearTimeout(hideTimer);
  isRetrying = false;
  if (text && !stays) hideTimer = setTimeout(() => showMessage(""), MESSAGE_MS);
}

export const absoluteUrl = (path) => new URL(path, document.baseURI).href;

/** Request `path`; returns the response body as a Blob. Before each retry, `isStale` tells whether to give up. */
export async function request(path, { method = "GET", body, type, accept, isStale = () => false } = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const usedKey = key();
    const authorization = usedKey && `Bearer ${utf8AsLatin1(usedKey)}`;
    const response = await send(path, method, body, { "content-type": type, accept, authorization });
    if (response?.ok) {
      hideRetryMessage();
      return response.body;
    }
    if (response?.status === 401) {
      await askKey(usedKey);
      continue;
    }
    if (response && !RETRIED_STATUSES.includes(response.status)) throw new Error(await detail(response));
    await delayRetry(response ? "The service is busy" : "No connection", attempt, response?.retryAfter);
    if (isStale()) throw new Superseded();
  }
}

export async function requestJson(path, options) {
  const body = await request(path, { ...options, accept: "application/json" });
  return JSON.parse(await body.text());
}

/** Call `load` until it does not throw a TypeError, which is what browsers throw when a file cannot be fetched. */
export async function retryLoad(load) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const result = await load();
      hideRetryMessage();
      return result;
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      await delayRetry("No connection", attempt);
    }
  }
}

/** Import a module of the page. Its files are fetched first: not every browser lets a failed `import` be repeated. */
export async function loadModule(file) {
  const { href } = new URL(file, import.meta.url);
  await prefetch(href, new Set());
  return import(href).catch((cause) => {
    throw new Error("A part of the page could not be loaded. Reload the page.", { cause });
  });
}

/** Fetch the module at `url` and all that it imports into the browser's cache. */
async function prefetch(url, seen) {
  if (seen.has(url)) return;
  seen.add(url);
  const code = await retryLoad(async () => {
    const response = await fetch(url);
    if (!response.ok) throw new TypeError(`${url}: status ${response.status}`);
    return response.text();
  });
  const imports = [...code.matchAll(/\bfrom "(\.[^"]+)"/g)];
  await Promise.all(imports.map(([, path]) => prefetch(new URL(path, url).href, seen)));
}

/** Runs `work` on the latest value: of the values pushed while it is busy, only the last one is processed next. */
export class LatestOnly {
  #work;
  #next = null;
  #isBusy = false;

  constructor(work) {
    this.#work = work;
  }

  async push(value) {
    this.#next = { value };
    if (this.#isBusy) return;
    this.#isBusy = true;
    while (this.#next) {
      const { value: latest } = this.#next;
      this.#next = null;
      try {
        await this.#work(latest, () => this.#next !== null);
      } catch (error) {
        if (!(error instanceof Superseded)) showMessage(error.message);
      }
    }
    this.#isBusy = false;
  }
}

async function send(path, method, body, fields) {
  const headers = Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
  try {
    const response = await fetch(absoluteUrl(path), { method, body, headers });
    const { ok, status } = response;
    const retryAfter = Number(response.headers.get("retry-after")) || 0; // seconds; a date counts as 0
    return { ok, status, retryAfter, body: await response.blob() };
  } catch {
    return null; // the connection failed before or within the response
  }
}

async function detail({ status, body }) {
  try {
    return JSON.parse(await body.text()).detail;
  } catch {
    return `The service answered with status ${status}.`;
  }
}

/** Show the reason and wait: exponential backoff, at least `seconds`, at most `MAX_RETRY_DELAY_MS`. */
async function delayRetry(reason, attempt, seconds = 0) {
  showMessage(`${reason}; retrying.`, { stays: true });
  isRetrying = true;
  const milliseconds = Math.min(MAX_RETRY_DELAY_MS, Math.max(seconds * 1000, 250 * 2 ** attempt));
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function hideRetryMessage() {
  if (isRetrying) showMessage("");
}

/** UTF-8 bytes as one character each: `fetch` throws for header characters above 255. */
const utf8AsLatin1 = (text) => String.fromCharCode(...new TextEncoder().encode(text));
