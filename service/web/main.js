// Starts the page: asks what is served, shows the walk and, while its image is on its way, fetches the other views.

import { callJson, loadModule, say } from "./api.js";
import { setImageShape } from "./picture.js";
import { follow } from "./state.js";
import { walk } from "./walk.js";

async function start() {
  const [model, spread] = await Promise.all([callJson("model"), callJson("web/spread.json")]);
  setImageShape(model.image_shape);
  const [channels, height, width] = model.image_shape;
  const { latent_dim: dim, latent_shape: shape } = model;
  const latents = dim ? `${dim} latent dimension${dim === 1 ? "" : "s"}` : `latents of ${shape.join("×")}`;
  document.querySelector("#summary").textContent =
    `Every point is an image: ${model.name}, ${latents}, ${width}×${height}${channels === 3 ? " in colour" : ""}.`;
  const shortcuts = dim ? walk(model, spread) : (await loadModule("maps.js")).maps(model);
  follow(dim ?? 0);
  document.querySelector("#main").hidden = false;
  document.addEventListener("keydown", (event) => {
    const isWritten = event.target.closest("input:not([type=range], [type=checkbox]), select, textarea, dialog");
    if (isWritten || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.toLowerCase() === "r" && !event.repeat) shortcuts.random();
    if (event.key !== " " || event.target.closest("button, a, input[type=checkbox], [role=application]")) return;
    event.preventDefault(); // it would scroll the page
    if (!event.repeat) shortcuts.play?.();
  });
  const { showViews } = await loadModule("views.js");
  showViews(model, spread);
}

start().catch((error) => say(error.message, { stays: true }));
