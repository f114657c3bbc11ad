// The state of the page, mirrored in the URL's fragment: a copied link restores it.
//
// z: the latent shown, [D]; a, b: the pinned latents, [D] or null; view: the selected tab; seed, temperature: of the
// samples; steps, method: of the path from a to b; pixels: whether enlarged images show square pixels.
// Where latents are maps, z is empty and `canvas` is the canvas whose image is shown.

const VIEWS = ["draw", "space", "between", "sample", "about"];
const METHODS = ["linear", "spherical"];
const URL_DELAY_MS = 350; // Safari allows 100 changes of the URL in 30 s
const MAX_ABS_LATENT = 1e6; // the service rejects larger values

export const state = {
  z: [],
  a: null,
  b: null,
  view: "draw",
  seed: 0,
  temperature: 1,
  steps: 12,
  method: "linear",
  pixels: false,
};

const listeners = [];
let timer = 0;
let lastRequest = 0;

/** Register a request for another image. Returns a function that tells whether no later one has been registered. */
export function beginRequest() {
  lastRequest += 1;
  const own = lastRequest;
  return () => own === lastRequest;
}

/**
 * Change fields and notify their listeners with `source`: what changes the image continuously, an animation or the pad;
 * null for a single change, which `beginRequest` registers.
 */
export function set(changes, source = null) {
  if (("z" in changes || "canvas" in changes) && !source) beginRequest();
  for (const name of ["z", "a", "b"]) if (changes[name]) changes[name] = roundLatent(changes[name]);
  Object.assign(state, changes);
  for (const [names, listener] of listeners) if (names.some((name) => name in changes)) listener(source);
  timer ||= setTimeout(writeUrl, URL_DELAY_MS);
}

export function listen(names, listener) {
  listeners.push([names, listener]);
}

/** Read the state from the URL, now and whenever its fragment changes. `start`: z where the URL has none, [D]. */
export function syncWithUrl(start) {
  const read = () => set({ z: start, a: null, b: null, ...parse(location.hash, start.length) });
  addEventListener("hashchange", read);
  read();
}

function writeUrl() {
  timer = 0;
  const fields = new URLSearchParams();
  const { z, a, b, view, seed, temperature, steps, method, pixels } = state;
  for (const [name, value] of Object.entries({ z, view, a, b, seed, temperature, steps, method, pixels })) {
    if (value !== null && value.length !== 0) fields.set(name, value);
  }
  const hash = `#${fields.toString().replaceAll("%2C", ",")}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
}

function parse(hash, latentDim) {
  const fields = new URLSearchParams(hash.slice(1));
  const parsed = {};
  for (const name of ["z", "a", "b"]) {
    const vector = (fields.get(name) ?? "").split(",").map((text) => (text.trim() ? Number(text) : NaN));
    if (vector.length === latentDim && vector.every((value) => Math.abs(value) <= MAX_ABS_LATENT)) parsed[name] = vector;
  }
  const parseNumber = (name, low, high, isInteger) => {
    const value = fields.has(name) ? Number(fields.get(name)) : NaN;
    if (value >= low && value <= high && (!isInteger || Number.isInteger(value))) parsed[name] = value;
  };
  parseNumber("seed", 0, 2 ** 32 - 1, true);
  parseNumber("temperature", 0, 2, false);
  parseNumber("steps", 2, 48, true);
  if (VIEWS.includes(fields.get("view"))) parsed.view = fields.get("view");
  if (METHODS.includes(fields.get("method"))) parsed.method = fields.get("method");
  if (fields.has("pixels")) parsed.pixels = fields.get("pixels") === "true";
  return parsed;
}

/** Four decimals, so that a link gives exactly the image that was shown; `+ 0` turns −0 into 0. */
export const roundLatent = (z) => z.map((value) => Math.round(value * 1e4) / 1e4 + 0);
