// Starts the page: loads the model's description, shows the sliders and their image, then loads the views.

import { loadModule, requestJson, showMessage } from "./api.js";
import { setImageShape } from "./picture.js";
import { listen, set, state, syncWithUrl } from "./state.js";
import { walk } from "./walk.js";

const pixels = document.querySelector("#pixels");

async function start() {
  const [model, spread] = await Promise.all([requestJson("model"), requestJson("web/spread.json")]);
  setImageShape(model.image_shape);
  document.querySelector("#summary").textContent = `A variational autoencoder: ${describe(model)}.`;
  const shortcuts = model.latent_dim ? walk(model, spread) : (await loadModule("maps.js")).maps(model);
  listen(["pixels"], () => {
    pixels.checked = state.pixels;
    document.body.classList.toggle("pixelated", state.pixels);
  });
  pixels.addEventListener("change", () => set({ pixels: pixels.checked }));
  syncWithUrl(spread?.start ?? new Array(model.latent_dim ?? 0).fill(0));
  document.querySelector("#main").hidden = false;
  document.addEventListener("keydown", (event) => runShortcut(event, shortcuts));
  const { showViews } = await loadModule("views.js");
  showViews(model, spread);
}

function describe({ name, latent_dim: dim, latent_shape: shape, image_shape: [channels, height, width] }) {
  const latents = dim ? `${dim} latent dimension${dim === 1 ? "" : "s"}` : `latents of ${shape.join("×")}`;
  return `${name}, ${latents}, ${width}×${height}${channels === 3 ? " in colour" : ""}`;
}

function runShortcut(event, shortcuts) {
  const isTyping = event.target.closest("input:not([type=range], [type=checkbox]), select, textarea, dialog");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.toLowerCase() === "r" && !event.repeat) shortcuts.random();
  if (event.key !== " " || event.target.closest("button, a, input[type=checkbox], [role=application]")) return;
  event.preventDefault(); // Space would scroll the page
  if (!event.repeat) shortcuts.play?.();
}

start().catch((error) => showMessage(error.message, { stays: true }));
