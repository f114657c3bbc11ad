// A sheet of draws from the prior.

import { Newest, call, callJson, say } from "./api.js";
import { curl, takeHome } from "./curl.js";
import { drawFrom, sheetOf } from "./picture.js";
import { Sheet } from "./sheet.js";
import { listen, set, state, wish } from "./state.js";

const COUNT = 24;

const seed = document.querySelector("#sample-seed");
const temperature = document.querySelector("#temperature");
const temperatureValue = document.querySelector("#temperature-value");

/** Build it; gives what to do when it is shown. */
export function sample(model) {
  let drawn = {}; // seed and temperature of the images that are there
  let shown = null; // the latent of the sample that was chosen
  const path = (count, { seed, temperature }) => `sample?n=${count}&seed=${seed}&temperature=${temperature}`;
  const choose = async (at) => {
    const isLatest = wish();
    const from = drawn;
    const { z } = await callJson(path(at + 1, from)); // a seed's first draws are the same, however many are asked for
    if (!isLatest()) return;
    set({ z: z[at] });
    shown = state.z;
    if (from === drawn) sheet.mark(at);
  };
  const enlarge = async (at) => {
    set({ large: sheet.canvases[at] });
    sheet.mark(at);
  };
  const sheet = new Sheet(
    document.querySelector("#sheet"),
    (at) => `Sample ${at + 1}`,
    (at) => (model.latent_dim ? choose(at) : enlarge(at)).catch((error) => say(error.message)),
  );
  const draws = new Newest(async (_, isStale) => {
    const { seed, temperature } = state;
    const wanted = { seed, temperature };
    const images = await call(`${path(COUNT, wanted)}&columns=${COUNT}`, { accept: "image/png", isStale });
    await drawFrom(images, (bitmap) => sheet.show(bitmap, COUNT, COUNT));
    drawn = wanted;
  });
  const refresh = () => {
    seed.value = state.seed;
    temperature.value = state.temperature;
    temperatureValue.value = state.temperature.toFixed(2);
    if (state.view !== "sample") return;
    sheet.lay(COUNT);
    draws.push();
  };
  listen(["z", "large"], () => {
    if (state.z !== shown) sheet.mark(-1);
  });
  listen(["seed", "temperature"], () => {
    sheet.mark(-1);
    refresh();
  });
  seed.addEventListener("change", () => {
    if (seed.reportValidity() && seed.value) set({ seed: seed.valueAsNumber });
  });
  document.querySelector("#another").addEventListener("click", () => {
    set({ seed: crypto.getRandomValues(new Uint32Array(1))[0] });
  });
  temperature.addEventListener("input", () => set({ temperature: temperature.valueAsNumber }));
  takeHome(
    "sample",
    () => curl(`${path(COUNT, state)}&scale=4`, { output: "samples.png" }),
    () => sheetOf(sheet.canvases, sheet.columns),
  );
  return refresh;
}
