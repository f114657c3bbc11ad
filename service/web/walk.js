// A slider per latent dimension, and the image that follows them.

import { Newest, call, callJson, say } from "./api.js";
import { curl, takeHome } from "./curl.js";
import { drawFrom, paint, sheetOf } from "./picture.js";
import { listen, set, state, wish } from "./state.js";

const STEP = 0.01;
const PRIOR = { low: -3, high: 3, mean: 0, deviation: 1, histogram: null };
const LAP_S = 9; // of the first dimension, in a walk; the others go slower, so that it hardly comes back
const REDUCED_STEP_S = 1;
const LATE_MS = 400; // after which an image that has not come is said to be on its way

const image = document.querySelector("#image");
const frame = document.querySelector("#frame");
const play = document.querySelector("#play");
const seed = document.querySelector("#seed");

/** Build it; gives what keys do. `spread`: how the test set's latents lie along each dimension, or null. */
export function walk(model, spread) {
  const rows = Array.from({ length: model.latent_dim }, (_, at) => new Row(at, ranges(spread, at)));
  document.querySelector("#sliders").append(...rows.map((row) => row.element));

  const decode = new Newest(async (z, isStale) => {
    const options = { method: "POST", body: JSON.stringify(z), type: "application/json", accept: "image/png", isStale };
    const late = setTimeout(() => frame.classList.add("late"), LATE_MS);
    try {
      await drawFrom(await call("decode", options), (bitmap) => paint(image, bitmap));
    } finally {
      clearTimeout(late);
      frame.classList.remove("late");
    }
  });
  listen(["z"], (by) => {
    if (by !== journey) {
      journey.stop();
      seed.value = "";
    }
    for (const [at, row] of rows.entries()) row.show(state.z[at]);
    decode.push(state.z);
  });

  const journey = new Journey(rows.map((row) => row.range));
  const origin = () => new Array(model.latent_dim).fill(0);
  const go = (z) => set({ z });
  const random = async () => {
    const isLatest = wish();
    const chosen = crypto.getRandomValues(new Uint32Array(1))[0];
    try {
      const { z } = await callJson(`sample?n=1&seed=${chosen}`);
      if (!isLatest()) return;
      go(z[0]);
      seed.value = `seed ${chosen}`;
    } catch (error) {
      say(error.message);
    }
  };
  for (const row of rows) {
    row.input.addEventListener("input", () => go(state.z.with(row.at, row.input.valueAsNumber)));
    row.input.addEventListener("dblclick", () => go(state.z.with(row.at, 0)));
  }
  image.addEventListener("dblclick", () => go(origin()));
  document.querySelector("#reset").addEventListener("click", () => go(origin()));
  document.querySelector("#random").addEventListener("click", random);
  play.addEventListener("click", () => journey.toggle());
  for (const button of document.querySelectorAll("[data-pin]")) {
    button.addEventListener("click", () => {
      set({ [button.dataset.pin]: [...state.z] });
      say(`${button.dataset.pin.toUpperCase()} is pinned here.`);
    });
  }
  takeHome(
    "walk",
    () => curl("decode", { json: state.z, output: "walk.png" }),
    () => sheetOf([image]),
  );
  return { random, play: () => journey.toggle() };
}

/** One dimension: its name, a slider over the range of the data with marks at ±σ, its value. */
class Row {
  constructor(at, range) {
    const { low, high, mean, deviation, histogram } = range;
    this.at = at;
    this.range = range;
    this.element = document.createElement("label");
    this.element.className = "slider";
    this.input = document.createElement("input");
    this.output = document.createElement("output");
    const name = document.createElement("span");
    const track = document.createElement("span");
    name.textContent = `z${at + 1}`;
    name.className = "name";
    track.className = "track";
    Object.assign(this.input, { type: "range", min: low, max: high, step: STEP });
    this.input.setAttribute("aria-label", `z${at + 1}`);
    this.output.setAttribute("aria-hidden", "true"); // the slider says its value by itself
    if (histogram) track.append(hill(histogram));
    track.append(this.input);
    for (const [sigmas, text] of [[-2, ""], [-1, "−σ"], [0, ""], [1, "+σ"], [2, ""]]) {
      const share = (mean + sigmas * deviation - low) / (high - low);
      if (share <= 0 || share >= 1) continue;
      const mark = document.createElement("span");
      mark.className = "mark";
      mark.style.setProperty("--share", share);
      mark.textContent = text;
      track.append(mark);
    }
    this.element.append(name, track, this.output);
  }

  show(value) {
    this.input.value = value;
    this.input.setAttribute("aria-valuetext", value.toFixed(2));
    const { min, max, valueAsNumber } = this.input;
    this.element.style.setProperty("--share", (valueAsNumber - min) / (max - min));
    this.output.value = value.toFixed(2).replace("-", "−");
  }
}

/** A smooth way through the middle of the data, from where the sliders are. */
class Journey {
  #ranges;
  #frame = 0;

  constructor(ranges) {
    this.#ranges = ranges;
  }

  toggle() {
    if (this.#frame) this.stop();
    else this.#start();
  }

  stop() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    play.setAttribute("aria-pressed", "false");
  }

  #start() {
    play.setAttribute("aria-pressed", "true");
    const waves = this.#ranges.map(({ mean, deviation }, at) => {
      const away = state.z[at] - mean;
      const height = Math.max(1.6 * deviation, Math.abs(away));
      return { mean, height, phase: Math.asin(away / height), pace: (2 * Math.PI) / (LAP_S * (1 + at * 0.382)) };
    });
    const isReduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const started = performance.now();
    let shown = -1;
    const step = (now) => {
      let seconds = Math.max(0, now - started) / 1000;
      if (isReduced) seconds = Math.floor(seconds / REDUCED_STEP_S) * REDUCED_STEP_S;
      if (seconds !== shown) {
        const z = waves.map(({ mean, height, phase, pace }) => mean + height * Math.sin(phase + pace * seconds));
        set({ z }, this);
        shown = seconds;
      }
      this.#frame = requestAnimationFrame(step);
    };
    seed.value = "";
    this.#frame = requestAnimationFrame(step);
  }
}

function ranges(spread, at) {
  if (!spread) return PRIOR;
  const low = Math.floor(spread.low[at] * 100) / 100;
  const high = Math.ceil(spread.high[at] * 100) / 100;
  if (high - low < 4 * STEP) return { ...PRIOR, mean: spread.mean[at] }; // a dimension that is not used
  return { low, high, mean: spread.mean[at], deviation: spread.deviation[at], histogram: spread.histogram[at] };
}

/** A histogram as a silhouette. */
function hill(counts) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  const path = document.createElementNS(namespace, "path");
  const most = Math.max(...counts);
  const points = counts.map((count, at) => `L${at + 0.5} ${(1 - count / most).toFixed(3)}`);
  path.setAttribute("d", `M0 1${points.join("")}L${counts.length} 1Z`);
  svg.setAttribute("viewBox", `0 0 ${counts.length} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(path);
  return svg;
}
