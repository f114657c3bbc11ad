// A sheet of draws from the prior.

import { Newest, call, callJson, say } from "./api.js";
import { curl, takeHome } from "./curl.js";
import { bitmapOf, sheetOf } from "./picture.js";
import { Sheet } from "./sheet.js";
import { listen, set, state } from "./state.js";

const COUNT = 24;

const seed = document.querySelector("#sample-seed");
const temperature = document.querySelector("#temperature");
const temperatureValue = document.querySelector("#temperature-value");

/** Build it; gives what to do when it is shown. */
export function sample() {
  let shown = null; // the latent of the sample that was chosen
  const path = (count) => `sample?n=${count}&seed=${state.seed}&temperature=${state.temperature}`;
  const choose = async (at) => {
    const { z } = await callJson(path(at + 1)); // a seed's first draws are the same, however many are asked for
    set({ z: z[at] });
    shown = state.z;
    sheet.mark(at);
  };
  const sheet = new Sheet(
    document.querySelector("#sheet"),
    (at) => `Sample ${at + 1}`,
    (at) => choose(at).catch((error) => say(error.message)),
  );
  const draws = new Newest(async (_, isStale) => {
    const bitmap = await bitmapOf(await call(`${path(COUNT)}&columns=${COUNT}`, { accept: "image/png", isStale }));
    sheet.show(bitmap, COUNT, COUNT);
  });
  const refresh = () => {
    seed.value = state.seed;
    temperature.value = state.temperature;
    temperatureValue.value = state.temperature.toFixed(2);
    if (state.view !== "sample") return;
    sheet.lay(COUNT);
    draws.push();
  };
  listen(["z"], () => {
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
    () => curl(`${path(COUNT)}&scale=4`, { output: "samples.png" }),
    () => sheetOf(sheet.canvases, sheet.columns),
  );
  return refresh;
}
