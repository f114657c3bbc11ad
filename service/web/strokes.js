// Strokes of a pen → pixels.

const DIGIT = 28; // MNIST's images: a digit in a box of 20×20, its centre of mass in the middle of 28×28
const BOX = 20;
const PEN = 2.4; // width of the ink in pixels of 28×28: as much of it as MNIST's digits have
const FINEST = 8; // pixels are the mean of so many by so many,
const FINE_SIDE = 512; // or of fewer, where a side would have more than this
const MOST_ENLARGED = 1.8; // a dot stays a dot
const WIDE_PEN = 1 / 16; // of the side of other models' images

const fine = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

/** Trace strokes, lists of [x, y] in [0, 1], in ink of `width`, both scaled as `place` says. */
export function trace(context, strokes, width, ink, place) {
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

/** Strokes as an image of the model's shape on `canvas`. */
export function render(canvas, strokes, [channels, height, width], ink) {
  const isDigit = channels === 1 && height === DIGIT && width === DIGIT;
  if (!isDigit) {
    const side = Math.max(height, width);
    const place = ([x, y]) => [width / 2 + (x - 0.5) * side, height / 2 + (y - 0.5) * side];
    draft(strokes, width, height, WIDE_PEN * side, ink, place);
    shrink(canvas, width, height);
    return;
  }
  const points = strokes.flat();
  const [left, right] = [Math.min(...points.map(([x]) => x)), Math.max(...points.map(([x]) => x))];
  const [top, bottom] = [Math.min(...points.map(([, y]) => y)), Math.max(...points.map(([, y]) => y))];
  const scale = Math.min((BOX - PEN) / Math.max(right - left, bottom - top), MOST_ENLARGED * DIGIT);
  const middle = [(left + right) / 2, (top + bottom) / 2];
  const centred = ([dx, dy]) => ([x, y]) => [
    DIGIT / 2 + dx + (x - middle[0]) * scale,
    DIGIT / 2 + dy + (y - middle[1]) * scale,
  ];
  draft(strokes, DIGIT, DIGIT, PEN, ink, centred([0, 0]));
  draft(strokes, DIGIT, DIGIT, PEN, ink, centred(offCentre()));
  shrink(canvas, DIGIT, DIGIT);
}

const finenessOf = (width, height) => Math.max(1, Math.min(FINEST, Math.floor(FINE_SIDE / Math.max(width, height))));

/** Ink on black, as many times as large as it is fine. */
function draft(strokes, width, height, pen, ink, place) {
  const times = finenessOf(width, height);
  Object.assign(fine.canvas, { width: width * times, height: height * times });
  fine.fillRect(0, 0, width * times, height * times);
  trace(fine, strokes, pen * times, ink, (point) => place(point).map((value) => value * times));
}

/** How far to move what is drafted to have its centre of mass in the middle, in pixels of the image. */
function offCentre() {
  const side = DIGIT * FINEST;
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
  return [(side / 2 - sumX / mass) / FINEST, (side / 2 - sumY / mass) / FINEST];
}

function shrink(canvas, width, height) {
  const times = finenessOf(width, height);
  const { data } = fine.getImageData(0, 0, width * times, height * times);
  const image = new ImageData(width, height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      for (let c = 0; c < 4; c += 1) {
        let sum = 0;
        for (let v = 0; v < times; v += 1) {
          const row = (y * times + v) * width * times + x * times;
          for (let u = 0; u < times; u += 1) sum += data[4 * (row + u) + c];
        }
        image.data[4 * (y * width + x) + c] = Math.round(sum / times ** 2);
      }
    }
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}
