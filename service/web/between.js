// Between: images decoded along a path from one pinned latent to the other.

import { LatestOnly, request, requestJson, showMessage } from "./api.js";
import { addExports, curl, makeButton } from "./exports.js";
import { enlargement, imageShape, paint, save, sheetBlob, withBitmap } from "./picture.js";
import { encodePng } from "./png.js";
import { Sheet } from "./sheet.js";
import { listen, roundLatent, set, state } from "./state.js";

const FRAME_MS = 120;
const REDUCED_FRAME_MS = 1000; // where prefers-reduced-motion is set
const DEFAULT_ENDS_SEED = 7; // of the two samples that are the ends while nothing is pinned

const position = document.querySelector("#position");
const steps = document.querySelector("#steps");
const method = document.querySelector("#method");
const play = document.querySelector("#play-path");
const ends = { a: document.querySelector("#end-a"), b: document.querySelector("#end-b") };

let latents = []; // of the path, [steps][D]
let timer = 0;

/** Build the view; returns the function to call when it is shown. */
export function between() {
  const goTo = (at, source = null) => {
    position.value = at;
    set({ z: latents[at] }, source);
  };
  const strip = new Sheet(
    document.querySelector("#strip"),
    (at) => `Step ${at + 1} of ${state.steps}`,
    (at) => {
      stop();
      goTo(at);
    },
  );
  const path = new LatestOnly(async (_, isStale) => {
    const options = { method: "POST", type: "application/json", isStale, body: JSON.stringify(pathBody()) };
    const [{ z }, images] = await Promise.all([
      requestJson("interpolate", options),
      request("interpolate", { ...options, accept: "image/png" }),
    ]);
    await withBitmap(images, (bitmap) => {
      latents = z.map(roundLatent);
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
    strip.setCount(state.steps);
    if (!state.a || !state.b) {
      const { z } = await requestJson(`sample?n=2&seed=${DEFAULT_ENDS_SEED}`);
      set({ a: state.a ?? z[0], b: state.b ?? z[1] });
      return;
    }
    path.push();
  };
  const show = () => refresh().catch((error) => showMessage(error.message));
  listen(["a", "b", "steps", "method"], show);
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
      goTo(at + direction, strip);
    }, isReduced ? REDUCED_FRAME_MS : FRAME_MS);
  };
  play.addEventListener("click", () => (timer ? stop() : start()));
  position.addEventListener("input", () => {
    stop();
    goTo(position.valueAsNumber);
  });
  for (const [name, button] of Object.entries(ends)) button.addEventListener("click", () => set({ z: state[name] }));
  steps.addEventListener("change", () => {
    const count = Math.round(steps.valueAsNumber || state.steps);
    set({ steps: Math.min(Number(steps.max), Math.max(Number(steps.min), count)) });
  });
  method.addEventListener("change", () => set({ method: method.value }));

  addExports(
    "between",
    () => curl("interpolate?scale=4", { json: pathBody(), output: "between.png" }),
    () => sheetBlob(strip.canvases, strip.canvases.length),
  ).append(
    makeButton("Save animation", async () => {
      const { canvases } = strip;
      if (!canvases.length) throw new Error("The images have not been loaded yet.");
      const frames = [...canvases, ...canvases.slice(1, -1).reverse()];
      save(await encodePng(frames, imageShape()[0], FRAME_MS, enlargement(canvases[0], 2)), "between-animated.png");
    }),
  );
  return show;
}

const pathBody = () => ({ from: state.a, to: state.b, steps: state.steps, method: state.method });
