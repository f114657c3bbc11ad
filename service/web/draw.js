// Draw: a drawing or a picture is encoded, reconstructed and judged.

import { LatestOnly, request, requestJson, showMessage } from "./api.js";
import { addExports, curl } from "./exports.js";
import { canvas as modelInput, hasBrightBorder, paintPicture, paintStrokes } from "./modelinput.js";
import { Pad } from "./pad.js";
import { imageShape, paint, paintPixels, sheetBlob } from "./picture.js";
import { encodePng } from "./png.js";
import { beginRequest, set } from "./state.js";
import { errorVerdict, scoreVerdict, verdict } from "./verdict.js";

const EXAMPLE_SEED = 14; // of the example, a sample from the prior; with the bundled model a clear 3

const reconstruction = document.querySelector("#reconstruction");
const inputBadge = document.querySelector("#input-badge");
const reconstructionBadge = document.querySelector("#reconstruction-badge");
const hint = document.querySelector("#hint");
const invert = document.querySelector("#invert");
const ink = document.querySelector("#ink");
const file = document.querySelector("#file");
const verdictText = document.querySelector("#verdict");
const [loss, kl] = [document.querySelector("#loss"), document.querySelector("#kl")];

/** Build the view; returns the function to call when it is shown. */
export function draw(model, spread) {
  const { fit } = model.training.pictures ?? {};
  let edits = 0;
  let isLatest = () => false; // whether the drawing is the image that was asked for last
  const reconstruct = new LatestOnly(async ({ isFinished, edit }, isStale) => {
    const body = await encodePng([modelInput], imageShape()[0]);
    const found = await requestJson("reconstruct", { method: "POST", body, type: "image/png", isStale });
    if (pad.isEmpty) return; // it was cleared meanwhile
    paintPixels(reconstruction, found.pixels);
    reconstructionBadge.hidden = true;
    const metrics = model.figures;
    loss.textContent = nats(found.reconstruction_loss, metrics.test_reconstruction_loss);
    kl.textContent = nats(found.kl_divergence, metrics.test_kl_divergence);
    if (isLatest()) set(model.latent_dim ? { z: found.mean } : { canvas: reconstruction }, pad);
    if (isFinished) judge.push({ body, found, edit });
  });
  const judgeBy = async (body, found, isStale) => {
    if (model.calibration) {
      const scored = await requestJson("score", { method: "POST", body, type: "image/png", isStale });
      return scoreVerdict(found, scored, spread !== null);
    }
    const isSquaredError = model.stride !== null;
    return isSquaredError ? errorVerdict(found) : verdict(found, spread !== null, model.likelihood);
  };
  const judge = new LatestOnly(async ({ body, found, edit }, isStale) => {
    const [word, reason] = await judgeBy(body, found, isStale);
    if (edit !== edits) return;
    const strong = document.createElement("strong");
    strong.textContent = word;
    verdictText.replaceChildren(strong, ` ${reason}`);
  });

  const changed = (isFinished) => {
    hint.hidden = !pad.isEmpty;
    edits += 1;
    verdictText.textContent = "";
    pad.redraw();
    if (pad.isEmpty) {
      loss.textContent = kl.textContent = "–";
      showExample();
      return;
    }
    if (pad.picture) paintPicture(pad.picture, invert.checked, fit);
    else paintStrokes(pad.strokes, ink.value, invert.checked);
    inputBadge.hidden = true;
    if (!isLatest()) isLatest = beginRequest();
    reconstruct.push({ isFinished, edit: edits });
  };
  const clear = () => {
    pad.reset();
    invert.checked = false;
    changed(true);
  };
  const pad = new Pad(changed, clear);
  listenToPictures((bitmap) => {
    pad.reset(bitmap);
    invert.checked = imageShape()[0] === 1 && hasBrightBorder(...paintPicture(bitmap, false, fit));
    changed(true);
  });
  invert.addEventListener("change", () => changed(true));
  ink.addEventListener("input", () => changed(true));
  document.querySelector("#clear").addEventListener("click", clear);
  document.querySelector("#undo").addEventListener("click", () => {
    if (pad.picture) clear();
    else {
      pad.strokes.pop();
      changed(true);
    }
  });
  const isColour = model.image_shape[0] === 3;
  document.querySelector("#ink-label").hidden = !isColour;
  document.querySelector("#pad").parentElement.classList.toggle("black", isColour); // the ink on its real background

  let example = null; // of two bitmaps, once it has been asked for
  const showExample = () => {
    example ??= loadExample();
    example
      .then(([sample, itsReconstruction]) => {
        if (!pad.isEmpty) return;
        paint(modelInput, sample);
        paint(reconstruction, itsReconstruction);
        inputBadge.hidden = reconstructionBadge.hidden = false;
      })
      .catch((error) => {
        example = null;
        showMessage(error.message);
      });
  };

  const requireDrawing = () => {
    if (pad.isEmpty) throw new Error("Draw something first.");
  };
  addExports(
    "draw",
    async () => {
      requireDrawing();
      return curl("reconstruct", { png: await encodePng([modelInput], imageShape()[0]), accept: "application/json" });
    },
    () => {
      requireDrawing();
      return sheetBlob([modelInput, reconstruction], 2);
    },
  );
  return () => {
    pad.redraw();
    if (pad.isEmpty) showExample();
  };
}

/** A sample from the prior and its reconstruction, as bitmaps. */
async function loadExample() {
  const accept = "image/png";
  const sample = await request(`sample?n=1&seed=${EXAMPLE_SEED}`, { accept });
  const itsReconstruction = await request("reconstruct", { method: "POST", body: sample, type: accept, accept });
  return Promise.all([sample, itsReconstruction].map((blob) => createImageBitmap(blob)));
}

/** Pictures that are chosen, pasted or dropped. */
function listenToPictures(take) {
  const reader = new LatestOnly(async (source) => {
    try {
      take(await createImageBitmap(source, { imageOrientation: "from-image" }));
      set({ view: "draw" });
    } catch {
      showMessage("The browser cannot read this file as a picture.");
    }
  });
  const read = (source) => {
    if (source) reader.push(source);
  };
  file.addEventListener("change", () => {
    read(file.files[0]);
    file.value = "";
  });
  document.addEventListener("paste", (event) => read([...event.clipboardData.files][0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    read([...event.dataTransfer.files][0]);
  });
}

const nats = (value, mean) => `${value.toFixed(1)} nats${mean ? `, test set ${mean.toFixed(1)}` : ""}`;
