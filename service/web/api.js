// Calls to the service. A busy service and a lost connection are waited for, a key is asked for; everything else that
// goes wrong is thrown, as the sentence that the service says.

import { askKey, key } from "./key.js";

const message = document.querySelector("#message");
const LONGEST_WAIT_MS = 5000;
const SAID_FOR_MS = 5000;

/** Something newer is wanted instead. */
export class Superseded extends Error {}

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

/** The answer to a request of `path`. `isStale` is asked before the request is sent once more. */
export async function call(path, { method = "GET", body, type, accept, isStale = () => false } = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const used = key();
    const response = await send(path, method, body, { "content-type": type, accept, authorization: used && `Bearer ${used}` });
    if (response?.ok) {
      if (isWaiting) say("");
      return response;
    }
    if (response?.status === 401) {
      await askKey(used);
      continue;
    }
    if (response && ![429, 502, 503, 504].includes(response.status)) throw new Error(await detail(response));
    say(`${response ? "The service is busy" : "No connection"}; this goes on by itself.`, { stays: true });
    isWaiting = true;
    const asked = Number(response?.headers.get("retry-after") ?? 0) * 1000;
    await pause(Math.min(LONGEST_WAIT_MS, Math.max(asked, 250 * 2 ** attempt)));
    if (isStale()) throw new Superseded();
  }
}

export async function callJson(path, options) {
  return (await call(path, { ...options, accept: "application/json" })).json();
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
    return await fetch(address(path), { method, body, headers });
  } catch {
    return null;
  }
}

async function detail(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `The service answered ${response.status}.`;
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
