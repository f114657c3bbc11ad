// What the page shows, and its image in the URL: a copied link shows the same.
//
// z: the latent shown, [D]; a, b: the pinned ones, [D] or null; view: the tab; seed, temperature: of the sheet of
// samples; steps, method: of the way from a to b. Where latents are maps z is empty, and `large` the canvas that is shown.

const VIEWS = ["draw", "space", "between", "sample", "about"];
const METHODS = ["linear", "spherical"];
const WRITE_EVERY_MS = 350; // Safari lets a page change its URL a hundred times in 30 s
const BOUND = 1e6; // the service takes no latent beyond

export const state = { z: [], a: null, b: null, view: "draw", seed: 0, temperature: 1, steps: 12, method: "linear" };

const listeners = [];
let timer = 0;
let wishes = 0;

/** Someone wants another image, which has yet to come. Gives whether nothing else has been wanted since. */
export function wish() {
  wishes += 1;
  const own = wishes;
  return () => own === wishes;
}

/** Change some fields; whoever listens to one of them is told. `by`: what moves z on and on, where no hand does. */
export function set(changes, by = null) {
  if (("z" in changes || "large" in changes) && !by) wish();
  for (const name of ["z", "a", "b"]) if (changes[name]) changes[name] = changes[name].map(tidy);
  Object.assign(state, changes);
  for (const [names, listener] of listeners) if (names.some((name) => name in changes)) listener(by);
  timer ||= setTimeout(write, WRITE_EVERY_MS);
}

export function listen(names, listener) {
  listeners.push([names, listener]);
}

/** Take over what the URL says, and what it will say. */
export function follow(latentDim) {
  const origin = new Array(latentDim).fill(0);
  const read = () => set({ z: origin, a: null, b: null, ...parse(location.hash, latentDim) });
  addEventListener("hashchange", read);
  read();
}

/** The page's URL with the state as it is now. */
export function link() {
  const fields = new URLSearchParams();
  const { z, a, b, view, seed, temperature, steps, method } = state;
  for (const [name, value] of Object.entries({ z, view, a, b, seed, temperature, steps, method })) {
    if (value !== null && value.length !== 0) fields.set(name, value);
  }
  return `#${fields.toString().replaceAll("%2C", ",")}`;
}

function write() {
  timer = 0;
  if (link() !== location.hash) history.replaceState(null, "", link());
}

function parse(hash, latentDim) {
  const fields = new URLSearchParams(hash.slice(1));
  const found = {};
  for (const name of ["z", "a", "b"]) {
    const vector = (fields.get(name) ?? "").split(",").map((text) => (text.trim() ? Number(text) : NaN));
    if (vector.length === latentDim && vector.every((value) => Math.abs(value) <= BOUND)) found[name] = vector;
  }
  const number = (name, low, high, isWhole) => {
    const value = fields.has(name) ? Number(fields.get(name)) : NaN;
    if (value >= low && value <= high && (!isWhole || Number.isInteger(value))) found[name] = value;
  };
  number("seed", 0, 2 ** 32 - 1, true);
  number("temperature", 0, 2, false);
  number("steps", 2, 48, true);
  if (VIEWS.includes(fields.get("view"))) found.view = fields.get("view");
  if (METHODS.includes(fields.get("method"))) found.method = fields.get("method");
  return found;
}

/** Four decimals: what is shown is what the link says, to the bit. */
export const tidy = (value) => Math.round(value * 1e4) / 1e4 + 0;
