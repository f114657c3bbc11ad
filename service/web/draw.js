// A pad for mouse, touch, pen and keys, and pictures from elsewhere: encoded, reconstructed and judged.

import { Newest, callJson, say } from "./api.js";
import { curl, takeHome } from "./curl.js";
import { loadLatents, nearest, shareMoreRemote } from "./latents.js";
import { encode } from "./png.js";
import { fit, imageShape, paintPixels, sheetOf } from "./picture.js";
import { set, wish } from "./state.js";
import { render, trace } from "./strokes.js";

const KEY_STEP = 0.02; // of the pad's side
const PAD_PEN = 0.055;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const RARE = 0.1; // of the test set lies as remote: unusual
const VERY_RARE = 0.01;
const DEAR = 1.5; // times the loss that the model expects of its own image: a twentieth of MNIST's test digits has it

const pad = document.querySelector("#pad");
const seen = document.querySelector("#seen");
const reconstruction = document.querySelector("#reconstruction");
const hint = document.querySelector("#hint");
const invert = document.querySelector("#invert");
const ink = document.querySelector("#ink");
const file = document.querySelector("#file");
const verdict = document.querySelector("#verdict");
const penState = document.querySelector("#pen-state");
const [loss, kl] = [document.querySelector("#loss"), document.querySelector("#kl")];

let strokes = [];
let picture = null; // a bitmap, where one was given in place of strokes
let pen = null; // of the keys: {at: [x, y], stroke or null}

/** Build it; gives what to do when it is shown. */
export function draw(model, spread) {
  const method = model.training.pictures?.fit;
  let edits = 0;
  let isLatest = () => false; // is the drawing what was wanted last?
  const judge = new Newest(async ({ isDone, edit }, isStale) => {
    const body = await encode([seen], imageShape()[0]);
    const found = await callJson("reconstruct", { method: "POST", body, type: "image/png", isStale });
    if (!hint.hidden) return; // it was cleared meanwhile
    paintPixels(reconstruction, found.pixels);
    const usual = model.figures;
    loss.textContent = nats(found.reconstruction_loss, usual.test_reconstruction_loss);
    kl.textContent = nats(found.kl_divergence, usual.test_kl_divergence);
    if (isLatest()) set(model.latent_dim ? { z: found.mean } : { large: reconstruction }, pad);
    if (isDone) speak.push({ found, edit });
  });
  const speak = new Newest(async ({ found, edit }) => {
    const text = model.latent_dim ? await sentence(found, spread && (await loadLatents())) : offBy(found);
    if (edit !== edits) return;
    const word = document.createElement("strong");
    [word.textContent] = text;
    verdict.replaceChildren(word, ` ${text[1]}`);
  });

  const changed = (isDone) => {
    const isEmpty = !strokes.length && !picture;
    hint.hidden = !isEmpty;
    edits += 1;
    verdict.textContent = "";
    drawPad();
    if (isEmpty) {
      clearResults();
      return;
    }
    if (picture) showPicture(method);
    else {
      render(seen, strokes, imageShape(), ink.value);
      if (invert.checked) invertSeen(0, 0, seen.width, seen.height);
    }
    if (!isLatest()) isLatest = wish();
    judge.push({ isDone, edit: edits });
  };
  const clear = () => {
    leavePicture();
    strokes = [];
    invert.checked = false;
    changed(true);
  };
  listenToPen(changed);
  listenToKeys(changed, clear);
  listenToPictures((bitmap) => {
    leavePicture();
    [strokes, picture] = [[], bitmap];
    invert.checked = imageShape()[0] === 1 && isInkOnPaper(...showPicture(method));
    changed(true);
  });
  invert.addEventListener("change", () => changed(true));
  ink.addEventListener("input", () => changed(true));
  document.querySelector("#clear").addEventListener("click", clear);
  document.querySelector("#undo").addEventListener("click", () => {
    if (picture) clear();
    else {
      strokes.pop();
      changed(true);
    }
  });
  const isColour = model.image_shape[0] === 3;
  document.querySelector("#ink-label").hidden = !isColour;
  pad.parentElement.classList.toggle("black", isColour); // so that any ink looks as it will
  new ResizeObserver(drawPad).observe(pad);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPad);
  clearResults();

  takeHome(
    "draw",
    async () => {
      if (!hint.hidden) throw new Error("Draw something first.");
      return curl("reconstruct", { png: await encode([seen], imageShape()[0]), accept: "application/json" });
    },
    () => {
      if (!hint.hidden) throw new Error("Draw something first.");
      return sheetOf([seen, reconstruction], 2);
    },
  );
  return drawPad;
}

function clearResults() {
  const [, height, width] = imageShape();
  for (const canvas of [seen, reconstruction]) fit(canvas, width, height).clearRect(0, 0, width, height);
  loss.textContent = kl.textContent = "–";
  verdict.textContent = "";
}

/** Strokes take the place of the picture, if there is one. */
function leavePicture() {
  if (!picture) return;
  picture.close();
  picture = null;
  invert.checked = false;
}

function listenToPen(changed) {
  let [stroke, pointer] = [null, null];
  const add = (event) => {
    const { left, top, width, height } = pad.getBoundingClientRect();
    const coalesced = event.getCoalescedEvents?.() ?? [];
    for (const { clientX, clientY } of coalesced.length ? coalesced : [event]) {
      stroke.push([(clientX - left) / width, (clientY - top) / height]);
    }
  };
  pad.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || stroke) return;
    pad.setPointerCapture(event.pointerId);
    leavePicture();
    [stroke, pointer] = [[], event.pointerId];
    strokes.push(stroke);
    add(event);
    changed(false);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!stroke || event.pointerId !== pointer) return;
    add(event);
    changed(false);
  });
  for (const type of ["pointerup", "pointercancel"]) {
    pad.addEventListener(type, (event) => {
      if (!stroke || event.pointerId !== pointer) return;
      stroke = null;
      changed(true);
    });
  }
}

function listenToKeys(changed, clear) {
  pad.addEventListener("keydown", (event) => {
    const isErased = event.key === "Delete" || event.key === "Backspace";
    const isSwitched = event.key === " ";
    const move = MOVES[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || !(isErased || isSwitched || move)) return;
    event.preventDefault();
    if (isSwitched && event.repeat) return;
    pen ??= { at: [0.5, 0.5], stroke: null };
    if (move) {
      pen.at = pen.at.map((value, axis) => within(value + move[axis] * KEY_STEP));
      pen.stroke?.push(pen.at);
    } else pen.stroke = isErased || pen.stroke ? null : [pen.at];
    if (isSwitched && pen.stroke) {
      leavePicture();
      strokes.push(pen.stroke);
    }
    if (isErased) clear();
    else if (isSwitched || pen.stroke) changed(!pen.stroke);
    else drawPad();
    const [across, down] = pen.at.map((value) => Math.round(100 * value));
    penState.textContent = `Pen ${pen.stroke ? "down" : "up"}, ${across} % across, ${down} % down.`;
  });
  pad.addEventListener("blur", () => {
    const isStroke = pen?.stroke;
    pen = null;
    penState.textContent = "";
    if (isStroke) changed(true);
    else drawPad();
  });
}

function listenToPictures(take) {
  const reading = new Newest(async (source) => {
    try {
      take(await createImageBitmap(source, { imageOrientation: "from-image" }));
      set({ view: "draw" });
    } catch {
      say("That is not a picture that this browser can read.");
    }
  });
  const open = (source) => {
    if (source) reading.push(source);
  };
  file.addEventListener("change", () => {
    open(file.files[0]);
    file.value = "";
  });
  document.addEventListener("paste", (event) => open([...event.clipboardData.files][0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    open([...event.dataTransfer.files][0]);
  });
}

/** The pad as the person left it: strokes in the page's ink, or the picture. */
function drawPad() {
  const side = Math.round(pad.clientWidth * devicePixelRatio);
  if (!side) return;
  const context = fit(pad, side, side);
  context.clearRect(0, 0, side, side);
  if (picture) {
    const scale = Math.min(side / picture.width, side / picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    context.drawImage(picture, (side - width) / 2, (side - height) / 2, width, height);
  }
  const { color, accentColor } = getComputedStyle(pad);
  const ownInk = imageShape()[0] === 3 ? ink.value : color;
  trace(context, strokes, PAD_PEN * side, ownInk, ([x, y]) => [x * side, y * side]);
  if (!pen) return;
  context.beginPath();
  context.arc(pen.at[0] * side, pen.at[1] * side, PAD_PEN * side * 0.8, 0, 2 * Math.PI);
  Object.assign(context, { strokeStyle: accentColor, lineWidth: 2 * devicePixelRatio });
  context.stroke();
}

/**
 * Draw the given picture as the model's image, brought to its size as the service does it for `method`, the
 * checkpoint's `training.pictures.fit`. Returns the part of the image that it covers: left, top, width, height.
 */
function showPicture(method = "contain") {
  const [channels, height, width] = imageShape();
  const scales = [width / picture.width, height / picture.height];
  const choose = { contain: Math.min, cover: Math.max }[method];
  const [wide, high] = [picture.width, picture.height].map((side, axis) =>
    Math.max(1, Math.round(side * (choose ? choose(...scales) : scales[axis]))),
  );
  const [left, top] = [Math.floor((width - wide) / 2), Math.floor((height - high) / 2)];
  const place = [Math.max(0, left), Math.max(0, top), Math.min(wide, width), Math.min(high, height)];
  const context = fit(seen, width, height);
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, width, height);
  context.drawImage(picture, left, top, wide, high);
  context.globalCompositeOperation = "destination-over"; // behind what can be seen through
  context.fillStyle = brightness(context.getImageData(...place).data) < 0.5 ? "#fff" : "#000";
  context.fillRect(...place);
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  if (channels === 1) change(place, (red, green, blue) => new Array(3).fill(luma(red, green, blue)));
  if (invert.checked) invertSeen(...place);
  return place;
}

function invertSeen(...place) {
  change(place, (...colour) => colour.map((value) => 255 - value));
}

/** Put other colours in the place of those of `seen`. */
function change([left, top, width, height], recolour) {
  const context = fit(seen, seen.width, seen.height);
  const image = context.getImageData(left, top, width, height);
  for (let at = 0; at < image.data.length; at += 4) image.data.set(recolour(...image.data.subarray(at, at + 3)), at);
  context.putImageData(image, left, top);
}

/** Is the border of the picture bright? */
function isInkOnPaper(left, top, width, height) {
  const context = fit(seen, seen.width, seen.height);
  const rows = [top, top + height - 1].map((y) => [left, y, width, 1]);
  const columns = [left, left + width - 1].map((x) => [x, top, 1, height]);
  const sides = [...rows, ...columns].map((side) => brightness(context.getImageData(...side).data));
  return sides.reduce((sum, side) => sum + side) / sides.length > 0.5;
}

/** Of what is not see-through, 0 to 1. */
function brightness(data) {
  let [sum, weight] = [0, 0];
  for (let at = 0; at < data.length; at += 4) {
    sum += (luma(...data.subarray(at, at + 3)) / 255) * data[at + 3];
    weight += data[at + 3];
  }
  return weight && sum / weight;
}

/** ITU-R BT.601, as the service does it. */
const luma = (red, green, blue) => Math.round(0.299 * red + 0.587 * green + 0.114 * blue);

/** How usual a picture is, in words: the verdict, and its reason. */
async function sentence({ mean, pixels, reconstruction_loss: found }, latents) {
  const expected = pixels.flat(2).reduce((sum, p) => sum + entropy(p), 0);
  const times = found / expected;
  const dear = `it costs ${times.toFixed(1)} times what the model expects of a picture there`;
  if (!latents) return times > DEAR ? ["Unusual:", `${dear}.`] : ["Usual,", "as far as its loss says."];
  const share = await shareMoreRemote(mean, latents.mean);
  const percent = Math.round(share * 100);
  const labels = nearest(mean, latents.mean).indices.map((row) => latents.label[row]);
  const [label, votes] = most(labels);
  const place = `${percent} % of the test set lie further from their neighbours than this`;
  const around = `${votes} of its ${labels.length} nearest test images are labelled ${label}`;
  if (share < VERY_RARE) return ["Very unusual:", `${place}; ${around}.`];
  if (share < RARE) return ["Unusual:", `${place}; ${around}.`];
  if (times > DEAR) return ["Unusual:", `its place is not, ${place}, but ${dear}; ${around}.`];
  return ["Usual:", `${place}; ${around}.`];
}

/** Where latents are maps there are no others to compare with: how far the reconstruction is off. */
function offBy({ reconstruction_loss: found }) {
  const values = imageShape().reduce((count, side) => count * side);
  const off = 255 * Math.sqrt((2 * found) / values); // the loss is half of the squared error
  return ["Reconstructed:", `its values are ${off.toFixed(0)} of 255 off, root mean square.`];
}

/** Nats that a pixel of value p costs where the model says p. */
const entropy = (p) => (p <= 0 || p >= 1 ? 0 : -p * Math.log(p) - (1 - p) * Math.log(1 - p));

function most(labels) {
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best));
}

const nats = (value, usual) => `${value.toFixed(1)} nats${usual ? `, test set ${usual.toFixed(1)}` : ""}`;
const within = (value) => Math.min(1, Math.max(0, value));
