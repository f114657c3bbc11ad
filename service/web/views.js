// Builds the views that this model has.

import { about } from "./about.js";
import { between } from "./between.js";
import { draw } from "./draw.js";
import { sample } from "./sample.js";
import { space } from "./space.js";
import { showTabs } from "./tabs.js";

export function showViews(model, spread) {
  const views = { draw: draw(model, spread), sample: sample(model), about: about(model, spread) };
  if (model.latent_dim) views.between = between();
  if (spread) views.space = space(model);
  document.querySelector("#views").hidden = false;
  showTabs(views);
}
