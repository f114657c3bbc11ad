// Calls to the service. A busy service and a lost connection are waited for, a key is asked for; everything else that
// goes wrong is thrown, as the sentence that the service says.

import { askKey, key } from "./key.js";

const message = document.querySelector("#message");
const LONGEST_WAIT_MS = 5000;
const SAID_FOR_MS = 5000;

/** Something newer is wanted instead. */
export class Superseded extends Error {}

const BUSY = [429, 502, 503, 504];

let leaving = 0;
let isWaiting = false;

/** Say something at the foot of the page, for a while or until something else is said; "" takes it away. */
export function say(text, { stays = false } = {}) {
  if (message.textContent !== text) message.textContent = text;
  clearTimeout(leaving);
  isWaiting = false;
  if (text && !stays) leaving = setTimeout(() => say(""), SAID_FOR_MS);
}

export const address = (path) => new URL(path, document.baseURI).href;

/** The body of the answer to a request of `path`. `isStale` is asked before the request is sent once more. */
export async function call(path, { method = "GET", body, type, accept, isStale = () => false } = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const used = key();
    const authorization = used && `Bearer ${latin1OfUtf8(used)}`;
    const answer = await send(path, method, body, { "content-type": type, accept, authorization });
    if (answer?.ok) {
      goOn();
      return answer.body;
    }
    if (answer?.status === 401) {
      await askKey(used);
      continue;
    }
    if (answer && !BUSY.includes(answer.status)) throw new Error(await detail(answer));
    await waitFor(answer ? "The service is busy" : "No connection", attempt, answer?.retryAfter);
    if (isStale()) throw new Superseded();
  }
}

export async function callJson(path, options) {
  const body = await call(path, { ...options, accept: "application/json" });
  return JSON.parse(await body.text());
}

/** What `load` gives, which has the browser fetch files and is tried again where it cannot: a TypeError. */
export async function loaded(load) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const found = await load();
      goOn();
      return found;
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      await waitFor("No connection", attempt);
    }
  }
}

/** A module of the page. What of it did not come is fetched again, which `import` does not in every browser. */
export async function loadModule(file) {
  const { href } = new URL(file, import.meta.url);
  await fetchWhole(href, new Set());
  return import(href).catch((cause) => {
    throw new Error("A part of the page did not come. Load it again.", { cause });
  });
}

/** Has the browser keep the module at `url` and all that it imports. */
async function fetchWhole(url, seen) {
  if (seen.has(url)) return;
  seen.add(url);
  const code = await loaded(async () => {
    const answer = await fetch(url);
    if (!answer.ok) throw new TypeError(`${url} is answered with ${answer.status}.`);
    return answer.text();
  });
  const imported = [...code.matchAll(/\bfrom "(\.[^"]+)"/g)];
  await Promise.all(imported.map(([, path]) => fetchWhole(new URL(path, url).href, seen)));
}

/** Does `work` with the newest value: while it is done, of all values that come only the last is kept for next. */
export class Newest {
  #work;
  #next = null;
  #busy = false;

  constructor(work) {
    this.#work = work;
  }

  async push(value) {
    this.#next = { value };
    if (this.#busy) return;
    this.#busy = true;
    while (this.#next) {
      const { value: newest } = this.#next;
      this.#next = null;
      try {
        await this.#work(newest, () => this.#next !== null);
      } catch (error) {
        if (!(error instanceof Superseded)) say(error.message);
      }
    }
    this.#busy = false;
  }
}

async function send(path, method, body, fields) {
  const headers = Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
  try {
    const response = await fetch(address(path), { method, body, headers });
    const { ok, status } = response;
    const retryAfter = Number(response.headers.get("retry-after")) || 0; // it may be a date
    return { ok, status, retryAfter, body: await response.blob() };
  } catch {
    return null; // the connection was lost, before the answer or in it
  }
}

async function detail({ status, body }) {
  try {
    return JSON.parse(await body.text()).detail;
  } catch {
    return `The service answered ${status}.`;
  }
}

/** Say what is waited for, and wait: longer at each attempt, and at least `seconds`. */
async function waitFor(what, attempt, seconds = 0) {
  say(`${what}; this goes on by itself.`, { stays: true });
  isWaiting = true;
  const milliseconds = Math.min(LONGEST_WAIT_MS, Math.max(seconds * 1000, 250 * 2 ** attempt));
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function goOn() {
  if (isWaiting) say("");
}

/** `fetch` throws for characters above 255. No key has them, but people mistype: the service says that it is wrong. */
const latin1OfUtf8 = (text) => String.fromCharCode(...new TextEncoder().encode(text));
