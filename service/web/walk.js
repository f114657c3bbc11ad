// Walk: a slider per latent dimension, and the image decoded from them.

import { LatestOnly, request, requestJson, showMessage } from "./api.js";
import { addExports, curl } from "./exports.js";
import { paint, sheetBlob, withBitmap } from "./picture.js";
import { beginRequest, listen, set, state } from "./state.js";

const STEP = 0.01;
const PRIOR = { low: -3, high: 3, mean: 0, deviation: 1, histogram: null };
const PERIOD_S = 9; // of the first dimension while playing
const PERIOD_GROWTH = 0.382; // per dimension; irrational ratios of periods, so that the path hardly repeats
const AMPLITUDE = 1.6; // standard deviations
const REDUCED_STEP_S = 1; // between two steps where prefers-reduced-motion is set
const PENDING_MS = 400; // after which the frame shows that its image is still being loaded

const image = document.querySelector("#image");
const frame = document.querySelector("#frame");
const play = document.querySelector("#play");
const seed = document.querySelector("#seed");

/** Build it; returns the functions of the keyboard shortcuts. `spread`: statistics of each latent dimension, or null. */
export function walk(model, spread) {
  const sliders = Array.from({ length: model.latent_dim }, (_, at) => new Slider(at, sliderRange(spread, at)));
  document.querySelector("#sliders").append(...sliders.map((slider) => slider.element));

  const decode = new LatestOnly(async (z, isStale) => {
    const options = { method: "POST", body: JSON.stringify(z), type: "application/json", accept: "image/png", isStale };
    const pending = setTimeout(() => frame.classList.add("pending"), PENDING_MS);
    try {
      await withBitmap(await request("decode", options), (bitmap) => paint(image, bitmap));
    } finally {
      clearTimeout(pending);
      frame.classList.remove("pending");
    }
  });
  listen(["z"], (source) => {
    if (source !== player) {
      player.stop();
      seed.value = "";
    }
    for (const [at, slider] of sliders.entries()) slider.show(state.z[at]);
    decode.push(state.z);
  });

  const player = new Player(sliders.map((slider) => slider.range));
  const goToOrigin = () => set({ z: new Array(model.latent_dim).fill(0) });
  const random = async () => {
    const isLatest = beginRequest();
    const chosen = crypto.getRandomValues(new Uint32Array(1))[0];
    try {
      const { z } = await requestJson(`sample?n=1&seed=${chosen}`);
      if (!isLatest()) return;
      set({ z: z[0] });
      seed.value = `seed ${chosen}`;
    } catch (error) {
      showMessage(error.message);
    }
  };
  for (const { at, input } of sliders) {
    input.addEventListener("input", () => set({ z: state.z.with(at, input.valueAsNumber) }));
    input.addEventListener("dblclick", () => set({ z: state.z.with(at, 0) }));
  }
  image.addEventListener("dblclick", goToOrigin);
  document.querySelector("#origin").addEventListener("click", goToOrigin);
  document.querySelector("#random").addEventListener("click", random);
  play.addEventListener("click", () => player.toggle());
  for (const button of document.querySelectorAll("[data-pin]")) {
    button.addEventListener("click", () => {
      set({ [button.dataset.pin]: [...state.z] });
      showMessage(`Pinned as ${button.dataset.pin.toUpperCase()}.`);
    });
  }
  addExports(
    "walk",
    () => curl("decode", { json: state.z, output: "walk.png" }),
    () => sheetBlob([image]),
  );
  return { random, play: () => player.toggle() };
}

/** One dimension: its name, a slider over the range of the data with marks at ±σ and ±2σ, its value. */
class Slider {
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
    this.output.setAttribute("aria-hidden", "true"); // screen readers read the slider's own value
    if (histogram) track.append(histogramShape(histogram));
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
    this.output.value = value.toFixed(2).replace("-", "−");
  }
}

/** Moves z on a smooth path from where it is: a sine per dimension about the mean of the data. */
class Player {
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
      const offset = state.z[at] - mean;
      const amplitude = Math.max(AMPLITUDE * deviation, Math.abs(offset));
      const frequency = (2 * Math.PI) / (PERIOD_S * (1 + at * PERIOD_GROWTH)); // radians per second
      return { mean, amplitude, phase: Math.asin(offset / amplitude), frequency };
    });
    const isReduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const startTime = performance.now();
    let shownAt = -1;
    const step = (now) => {
      let seconds = Math.max(0, now - startTime) / 1000;
      if (isReduced) seconds = Math.floor(seconds / REDUCED_STEP_S) * REDUCED_STEP_S;
      if (seconds !== shownAt) {
        const z = waves.map(
          ({ mean, amplitude, phase, frequency }) => mean + amplitude * Math.sin(phase + frequency * seconds),
        );
        set({ z }, this);
        shownAt = seconds;
      }
      this.#frame = requestAnimationFrame(step);
    };
    seed.value = "";
    this.#frame = requestAnimationFrame(step);
  }
}

function sliderRange(spread, at) {
  if (!spread) return PRIOR;
  const low = Math.floor(spread.low[at] * 100) / 100;
  const high = Math.ceil(spread.high[at] * 100) / 100;
  if (high - low < 4 * STEP) return { ...PRIOR, mean: spread.mean[at] }; // an inactive dimension
  return { low, high, mean: spread.mean[at], deviation: spread.deviation[at], histogram: spread.histogram[at] };
}

/** A histogram as an SVG area. */
function histogramShape(counts) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  const path = document.createElementNS(namespace, "path");
  const max = Math.max(...counts);
  const points = counts.map((count, at) => `L${at + 0.5} ${(1 - count / max).toFixed(3)}`);
  path.setAttribute("d", `M0 1${points.join("")}L${counts.length} 1Z`);
  svg.setAttribute("viewBox", `0 0 ${counts.length} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(path);
  return svg;
}
