// In the place of the walk where latents are maps, too many numbers for sliders: what is chosen is shown large.

import { call, say } from "./api.js";
import { button } from "./curl.js";
import { drawFrom, paint, save, sheetOf } from "./picture.js";
import { listen, state, wish } from "./state.js";

const image = document.querySelector("#image");
const seed = document.querySelector("#seed");

/** Build it; gives what keys do. */
export function maps(model) {
  for (const one of document.querySelectorAll("[data-vectors]")) one.hidden = true;
  const note = document.createElement("p");
  note.className = "lede";
  note.textContent =
    `The latents of this model are maps of ${model.latent_shape.join("×")} numbers: too many for sliders. ` +
    "What you draw, choose or draw at random is shown here.";
  document.querySelector("#sliders").append(note);
  image.setAttribute("aria-label", "The image that was chosen");
  const savePng = button("Save PNG", async () => save(await sheetOf([image]), "image.png"));
  document.querySelector("[data-home=walk]").append(savePng);

  listen(["large"], () => {
    seed.value = "";
    paint(image, state.large);
  });
  const random = async () => {
    const isLatest = wish();
    const chosen = crypto.getRandomValues(new Uint32Array(1))[0];
    try {
      const body = await call(`sample?n=1&seed=${chosen}`, { accept: "image/png" });
      if (!isLatest()) return;
      await drawFrom(body, (bitmap) => paint(image, bitmap));
      seed.value = `seed ${chosen}`;
    } catch (error) {
      say(error.message);
    }
  };
  document.querySelector("#random").addEventListener("click", random);
  listen(["z"], random); // which is set once the URL has been read
  return { random };
}
