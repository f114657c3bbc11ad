// The views beside the walk.

import { about } from "./about.js";
import { between } from "./between.js";
import { draw } from "./draw.js";
import { sample } from "./sample.js";
import { space } from "./space.js";
import { showTabs } from "./tabs.js";

export function showViews(model, spread) {
  const views = { draw: draw(model, spread), between: between(), sample: sample(), about: about(model, spread) };
  document.querySelector("#views").hidden = false;
  showTabs(spread ? { ...views, space: space(model) } : views);
}
