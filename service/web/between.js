// Two pinned points and the images on the way from one to the other.

import { Newest, call, callJson, say } from "./api.js";
import { button, curl, takeHome } from "./curl.js";
import { drawFrom, enlargement, imageShape, paint, save, sheetOf } from "./picture.js";
import { encode } from "./png.js";
import { Sheet } from "./sheet.js";
import { listen, set, state, tidy } from "./state.js";

const FRAME_MS = 120;
const REDUCED_FRAME_MS = 1000;
const STARTING_SEED = 7; // two samples, where nothing is pinned yet

const position = document.querySelector("#position");
const steps = document.querySelector("#steps");
const method = document.querySelector("#method");
const play = document.querySelector("#play-strip");
const ends = { a: document.querySelector("#end-a"), b: document.querySelector("#end-b") };

let latents = []; // of the strip, [steps][D]
let timer = 0;

/** Build it; gives what to do when it is shown. */
export function between() {
  const go = (at, by = null) => {
    position.value = at;
    set({ z: latents[at] }, by);
  };
  const strip = new Sheet(
    document.querySelector("#strip"),
    (at) => `Step ${at + 1} of ${state.steps}`,
    (at) => {
      stop();
      go(at);
    },
  );
  const way = new Newest(async (_, isStale) => {
    const options = { method: "POST", type: "application/json", isStale, body: JSON.stringify(question()) };
    const [found, images] = await Promise.all([
      callJson("interpolate", options),
      call("interpolate", { ...options, accept: "image/png" }),
    ]);
    await drawFrom(images, (bitmap) => {
      latents = found.z.map((z) => z.map(tidy));
      position.max = latents.length - 1;
      strip.show(bitmap, latents.length, latents.length);
      paint(ends.a.firstChild, bitmap, 0, latents.length);
      paint(ends.b.firstChild, bitmap, latents.length - 1, latents.length);
    });
    mark();
  });
  const mark = () => {
    const at = latents.findIndex((z) => z.every((value, d) => value === state.z[d]));
    strip.mark(at);
    if (at >= 0) position.value = at;
    else stop();
    position.setAttribute("aria-valuetext", `step ${Number(position.value) + 1} of ${latents.length}`);
  };
  const refresh = async () => {
    steps.value = state.steps;
    method.value = state.method;
    if (state.view !== "between") return;
    strip.lay(state.steps);
    if (!state.a || !state.b) {
      const { z } = await callJson(`sample?n=2&seed=${STARTING_SEED}`);
      set({ a: state.a ?? z[0], b: state.b ?? z[1] });
      return;
    }
    way.push();
  };
  const shown = () => refresh().catch((error) => say(error.message));
  listen(["a", "b", "steps", "method"], shown);
  listen(["z"], mark);

  let direction = 1;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.setAttribute("aria-pressed", "false");
  };
  const start = () => {
    play.setAttribute("aria-pressed", "true");
    const isReduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
    timer = setInterval(() => {
      if (state.view !== "between" || latents.length < 2) {
        stop();
        return;
      }
      const at = Number(position.value);
      if (at + direction < 0 || at + direction >= latents.length) direction = -direction;
      go(at + direction, strip);
    }, isReduced ? REDUCED_FRAME_MS : FRAME_MS);
  };
  play.addEventListener("click", () => (timer ? stop() : start()));
  position.addEventListener("input", () => {
    stop();
    go(position.valueAsNumber);
  });
  for (const [name, tile] of Object.entries(ends)) tile.addEventListener("click", () => set({ z: state[name] }));
  steps.addEventListener("change", () => {
    const wanted = Math.round(steps.valueAsNumber || state.steps);
    set({ steps: Math.min(Number(steps.max), Math.max(Number(steps.min), wanted)) });
  });
  method.addEventListener("change", () => set({ method: method.value }));

  takeHome(
    "between",
    () => curl("interpolate?scale=4", { json: question(), output: "between.png" }),
    () => sheetOf(strip.canvases, strip.canvases.length),
  ).append(
    button("Save animation", async () => {
      const there = strip.canvases;
      if (!there.length) throw new Error("The images have not come yet.");
      const canvases = [...there, ...there.slice(1, -1).reverse()];
      save(await encode(canvases, imageShape()[0], FRAME_MS, enlargement(there[0], 2)), "between-animated.png");
    }),
  );
  return shown;
}

const question = () => ({ from: state.a, to: state.b, steps: state.steps, method: state.method });
