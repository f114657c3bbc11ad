// Starts the page: asks what is served, shows the walk and, while its image is on its way, fetches the other views.

import { callJson, say } from "./api.js";
import { setImageShape } from "./picture.js";
import { follow } from "./state.js";
import { walk } from "./walk.js";

async function start() {
  const [model, spread] = await Promise.all([callJson("model"), callJson("web/spread.json")]);
  setImageShape(model.image_shape);
  const [channels, height, width] = model.image_shape;
  const dimensions = `${model.latent_dim} latent dimension${model.latent_dim === 1 ? "" : "s"}`;
  document.querySelector("#summary").textContent =
    `Every point is an image: ${model.name}, ${dimensions}, ${width}×${height}${channels === 3 ? " in colour" : ""}.`;
  const shortcuts = walk(model, spread);
  follow(model.latent_dim);
  document.querySelector("#main").hidden = false;
  document.addEventListener("keydown", (event) => {
    const isWritten = event.target.closest("input:not([type=range], [type=checkbox]), select, textarea, dialog");
    if (isWritten || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.toLowerCase() === "r") shortcuts.random();
    if (event.key !== " " || event.target.closest("button, a, input[type=checkbox], [role=application]")) return;
    event.preventDefault(); // it would scroll the page
    shortcuts.play();
  });
  const { showViews } = await import("./views.js");
  showViews(model, spread);
}

start().catch((error) => say(error.message, { stays: true }));
