// Pixels: from responses to canvases, from canvases to files.

let shape = [1, 1, 1];

/** The model's image shape: [C, H, W]. */
export const imageShape = () => shape;

export function setImageShape(imageShape) {
  shape = imageShape;
}

/** Decode a PNG blob and call `use` with its bitmap, which is closed afterwards. */
export async function withBitmap(blob, use) {
  const bitmap = await createImageBitmap(blob);
  use(bitmap);
  bitmap.close();
}

/** Paint the image at `index` of a sheet with `columns` images in a row. */
export function paint(canvas, bitmap, index = 0, columns = 1) {
  const [, height, width] = shape;
  const [left, top] = [(index % columns) * width, Math.floor(index / columns) * height];
  resize(canvas, width, height).drawImage(bitmap, left, top, width, height, 0, 0, width, height);
}

/** Paint an image given as [C][H][W] in [0, 1]. */
export function paintPixels(canvas, pixels) {
  const [channels, height, width] = shape;
  const planes = pixels.map((plane) => plane.flat());
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      image.data[4 * at + channel] = Math.round(255 * planes[channels === 3 ? channel : 0][at]);
    }
    image.data[4 * at + 3] = 255;
  }
  resize(canvas, width, height).putImageData(image, 0, 0);
}

/** Set the canvas's size and return its 2D context. A canvas that has this size already keeps its content. */
export function resize(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}

/** Canvases as one PNG with `columns` images in a row, each pixel enlarged to a square of whole pixels. */
export function sheetBlob(canvases, columns = 1) {
  if (!canvases.length) throw new Error("The images have not been loaded yet.");
  const { width, height } = canvases[0];
  const scale = enlargement(canvases[0], canvases.length);
  const sheet = document.createElement("canvas");
  const rows = Math.ceil(canvases.length / columns);
  const context = resize(sheet, width * scale * columns, height * scale * rows);
  context.imageSmoothingEnabled = false;
  for (const [index, canvas] of canvases.entries()) {
    const [left, top] = [index % columns, Math.floor(index / columns)];
    context.drawImage(canvas, left * width * scale, top * height * scale, width * scale, height * scale);
  }
  return new Promise((resolve) => sheet.toBlob(resolve));
}

/** The factor that brings a single image to about 500 pixels a side, one of several to about 150. */
export const enlargement = ({ width, height }, count) =>
  Math.max(1, Math.floor((count > 1 ? 150 : 500) / Math.max(width, height)));

/** Download a blob as a file. */
export function save(blob, name) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
}
