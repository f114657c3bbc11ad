// In place of the sliders where latents are maps (C'×h×w): the chosen or sampled image, enlarged.

import { request, showMessage } from "./api.js";
import { makeButton } from "./exports.js";
import { paint, save, sheetBlob, withBitmap } from "./picture.js";
import { beginRequest, listen, state } from "./state.js";

const image = document.querySelector("#image");
const seed = document.querySelector("#seed");

/** Build it; returns the functions of the keyboard shortcuts. */
export function maps(model) {
  for (const element of document.querySelectorAll("[data-vectors]")) element.hidden = true;
  const note = document.createElement("p");
  note.className = "intro";
  note.textContent =
    `The latents of this model are maps of ${model.latent_shape.join("×")} numbers: too many for sliders. ` +
    "The image that you draw, choose or sample is shown here.";
  document.querySelector("#sliders").append(note);
  image.setAttribute("aria-label", "The chosen image");
  const savePng = makeButton("Save PNG", async () => save(await sheetBlob([image]), "image.png"));
  document.querySelector("[data-exports=walk]").append(savePng);

  listen(["canvas"], () => {
    seed.value = "";
    paint(image, state.canvas);
  });
  const random = async () => {
    const isLatest = beginRequest();
    const chosen = crypto.getRandomValues(new Uint32Array(1))[0];
    try {
      const body = await request(`sample?n=1&seed=${chosen}`, { accept: "image/png" });
      if (!isLatest()) return;
      await withBitmap(body, (bitmap) => paint(image, bitmap));
      seed.value = `seed ${chosen}`;
    } catch (error) {
      showMessage(error.message);
    }
  };
  document.querySelector("#random").addEventListener("click", random);
  listen(["z"], random); // z changes when the URL is read: the first image
  return { random };
}
