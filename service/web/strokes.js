// Pen strokes, lists of [x, y] in [0, 1] → pixels.

// MNIST's format: digits fit a box of 20×20 pixels, their centre of mass is in the middle of 28×28 pixels.
const MNIST_SIDE = 28;
const MNIST_BOX = 20;
const MNIST_PEN = 2.4; // pixels; gives drawn digits the mean brightness of MNIST's
const MAX_ENLARGEMENT = 1.8; // of drawings smaller than the box, so that a dot stays small
const PEN = 1 / 16; // of the longer side, for other models
const SUPERSAMPLING = 8; // each pixel is the mean of 8×8 finer ones,
const MAX_FINE_SIDE = 512; // or of fewer, so that no side of the finer image is longer than this

const fine = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

/** Draw strokes as smooth lines. `place` maps a point to the context's coordinates, in which `width` is given. */
export function drawStrokes(context, strokes, width, ink, place) {
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: ink });
  for (const stroke of strokes) {
    context.beginPath();
    const points = stroke.map(place);
    context.moveTo(...points[0]);
    for (const [at, [x, y]] of points.entries()) {
      const [nextX, nextY] = points[at + 1] ?? [x, y];
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    context.lineTo(...points.at(-1));
    context.stroke();
  }
}

/** Render strokes on `canvas` as an image of the model's shape [C, H, W]; 1×28×28 is taken for MNIST's format. */
export function renderStrokes(canvas, strokes, [channels, height, width], ink) {
  if (channels !== 1 || height !== MNIST_SIDE || width !== MNIST_SIDE) {
    const side = Math.max(height, width);
    const place = ([x, y]) => [width / 2 + (x - 0.5) * side, height / 2 + (y - 0.5) * side];
    supersample(strokes, width, height, PEN * side, ink, place);
    downsample(canvas, width, height);
    return;
  }
  const points = strokes.flat();
  const [left, right] = [Math.min(...points.map(([x]) => x)), Math.max(...points.map(([x]) => x))];
  const [top, bottom] = [Math.min(...points.map(([, y]) => y)), Math.max(...points.map(([, y]) => y))];
  const scale = Math.min((MNIST_BOX - MNIST_PEN) / Math.max(right - left, bottom - top), MAX_ENLARGEMENT * MNIST_SIDE);
  const middle = [(left + right) / 2, (top + bottom) / 2];
  const centred = ([dx, dy]) => ([x, y]) => [
    MNIST_SIDE / 2 + dx + (x - middle[0]) * scale,
    MNIST_SIDE / 2 + dy + (y - middle[1]) * scale,
  ];
  supersample(strokes, MNIST_SIDE, MNIST_SIDE, MNIST_PEN, ink, centred([0, 0]));
  supersample(strokes, MNIST_SIDE, MNIST_SIDE, MNIST_PEN, ink, centred(centreOffset()));
  downsample(canvas, MNIST_SIDE, MNIST_SIDE);
}

const finePerPixel = (width, height) =>
  Math.max(1, Math.min(SUPERSAMPLING, Math.floor(MAX_FINE_SIDE / Math.max(width, height))));

/** Draw strokes on black at the finer resolution. */
function supersample(strokes, width, height, pen, ink, place) {
  const factor = finePerPixel(width, height);
  Object.assign(fine.canvas, { width: width * factor, height: height * factor });
  fine.fillRect(0, 0, width * factor, height * factor);
  drawStrokes(fine, strokes, pen * factor, ink, (point) => place(point).map((value) => value * factor));
}

/** The shift, in pixels of the image, that brings the centre of mass of the finer image to its middle. */
function centreOffset() {
  const side = MNIST_SIDE * SUPERSAMPLING;
  const { data } = fine.getImageData(0, 0, side, side);
  let [mass, sumX, sumY] = [0, 0, 0];
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      const value = data[4 * (y * side + x)];
      mass += value;
      sumX += value * (x + 0.5);
      sumY += value * (y + 0.5);
    }
  }
  return [(side / 2 - sumX / mass) / SUPERSAMPLING, (side / 2 - sumY / mass) / SUPERSAMPLING];
}

function downsample(canvas, width, height) {
  const factor = finePerPixel(width, height);
  const { data } = fine.getImageData(0, 0, width * factor, height * factor);
  const image = new ImageData(width, height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      for (let c = 0; c < 4; c += 1) {
        let sum = 0;
        for (let v = 0; v < factor; v += 1) {
          const row = (y * factor + v) * width * factor + x * factor;
          for (let u = 0; u < factor; u += 1) sum += data[4 * (row + u) + c];
        }
        image.data[4 * (y * width + x) + c] = Math.round(sum / factor ** 2);
      }
    }
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}
