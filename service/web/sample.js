// Sample: a sheet of samples from the prior.

import { LatestOnly, request, requestJson, showMessage } from "./api.js";
import { addExports, curl } from "./exports.js";
import { sheetBlob, withBitmap } from "./picture.js";
import { Sheet } from "./sheet.js";
import { beginRequest, listen, set, state } from "./state.js";

const COUNT = 24;

const seed = document.querySelector("#sample-seed");
const temperature = document.querySelector("#temperature");
const temperatureValue = document.querySelector("#temperature-value");

/** Build the view; returns the function to call when it is shown. */
export function sample(model) {
  let painted = {}; // seed and temperature of the images that are painted
  let chosenZ = null; // the latent of the chosen sample
  const path = (count, { seed, temperature }) => `sample?n=${count}&seed=${seed}&temperature=${temperature}`;
  const goTo = async (at) => {
    const isLatest = beginRequest();
    const source = painted;
    const { z } = await requestJson(path(at + 1, source)); // the first samples of a seed do not depend on their number
    if (!isLatest()) return;
    set({ z: z[at] });
    chosenZ = state.z;
    if (source === painted) sheet.mark(at);
  };
  const enlarge = async (at) => {
    set({ canvas: sheet.canvases[at] });
    sheet.mark(at);
  };
  const sheet = new Sheet(
    document.querySelector("#sheet"),
    (at) => `Sample ${at + 1}`,
    (at) => (model.latent_dim ? goTo(at) : enlarge(at)).catch((error) => showMessage(error.message)),
  );
  const samples = new LatestOnly(async (_, isStale) => {
    const { seed, temperature } = state;
    const images = await request(`${path(COUNT, state)}&columns=${COUNT}`, { accept: "image/png", isStale });
    await withBitmap(images, (bitmap) => sheet.show(bitmap, COUNT, COUNT));
    painted = { seed, temperature };
  });
  const refresh = () => {
    seed.value = state.seed;
    temperature.value = state.temperature;
    temperatureValue.value = state.temperature.toFixed(2);
    if (state.view !== "sample") return;
    sheet.setCount(COUNT);
    samples.push();
  };
  listen(["z", "canvas"], () => {
    if (state.z !== chosenZ) sheet.mark(-1);
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
  addExports(
    "sample",
    () => curl(`${path(COUNT, state)}&scale=4`, { output: "samples.png" }),
    () => sheetBlob(sheet.canvases, sheet.columns),
  );
  return refresh;
}
