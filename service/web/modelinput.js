// The canvas "As the model sees it": strokes or a picture, brought to the model's image shape.

import { imageShape, resize } from "./picture.js";
import { renderStrokes } from "./strokes.js";

export const canvas = document.querySelector("#model-input");

export function paintStrokes(strokes, ink, isInverted) {
  renderStrokes(canvas, strokes, imageShape(), ink);
  if (isInverted) invert(0, 0, canvas.width, canvas.height);
}

/**
 * Paint a picture, scaled as the service does it for `fit`, the checkpoint's `training.pictures.fit`. Returns the
 * region of the image that it covers: [left, top, width, height].
 */
export function paintPicture(picture, isInverted, fit = "contain") {
  const [channels, height, width] = imageShape();
  const scales = [width / picture.width, height / picture.height];
  const choose = { contain: Math.min, cover: Math.max }[fit];
  const [scaledWidth, scaledHeight] = [picture.width, picture.height].map((side, axis) =>
    Math.max(1, Math.round(side * (choose ? choose(...scales) : scales[axis]))),
  );
  const [left, top] = [Math.floor((width - scaledWidth) / 2), Math.floor((height - scaledHeight) / 2)];
  const region = [Math.max(0, left), Math.max(0, top), Math.min(scaledWidth, width), Math.min(scaledHeight, height)];
  const context = resize(canvas, width, height);
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, width, height);
  context.drawImage(picture, left, top, scaledWidth, scaledHeight);
  context.globalCompositeOperation = "destination-over"; // transparent pixels: white behind dark, black behind bright
  context.fillStyle = brightness(context.getImageData(...region).data) < 0.5 ? "#fff" : "#000";
  context.fillRect(...region);
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  if (channels === 1) mapColours(region, (red, green, blue) => new Array(3).fill(luma(red, green, blue)));
  if (isInverted) invert(...region);
  return region;
}

/** Whether the border of a region is bright on average: dark ink on white paper. */
export function hasBrightBorder(left, top, width, height) {
  const context = resize(canvas, canvas.width, canvas.height);
  const rows = [top, top + height - 1].map((y) => [left, y, width, 1]);
  const columns = [left, left + width - 1].map((x) => [x, top, 1, height]);
  const sides = [...rows, ...columns].map((side) => brightness(context.getImageData(...side).data));
  return sides.reduce((sum, side) => sum + side) / sides.length > 0.5;
}

function invert(...region) {
  mapColours(region, (...colour) => colour.map((value) => 255 - value));
}

function mapColours([left, top, width, height], map) {
  const context = resize(canvas, canvas.width, canvas.height);
  const image = context.getImageData(left, top, width, height);
  for (let at = 0; at < image.data.length; at += 4) image.data.set(map(...image.data.subarray(at, at + 3)), at);
  context.putImageData(image, left, top);
}

/** Mean brightness in [0, 1], weighted by opacity. */
function brightness(data) {
  let [sum, weight] = [0, 0];
  for (let at = 0; at < data.length; at += 4) {
    sum += (luma(...data.subarray(at, at + 3)) / 255) * data[at + 3];
    weight += data[at + 3];
  }
  return weight && sum / weight;
}

/** ITU-R BT.601, as the service computes it. */
const luma = (red, green, blue) => Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
