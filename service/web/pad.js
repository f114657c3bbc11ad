// The drawing pad: strokes drawn by mouse, touch, pen or keys, or a picture in their place.

import { imageShape, resize } from "./picture.js";
import { drawStrokes } from "./strokes.js";

const KEY_STEP = 0.02; // of the pad's side
const PEN_WIDTH = 0.055; // of the pad's side
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const canvas = document.querySelector("#pad");
const ink = document.querySelector("#ink");
const invert = document.querySelector("#invert");
const penState = document.querySelector("#pen-state");

export class Pad {
  /** Lists of [x, y] in [0, 1]. */
  strokes = [];
  /** An ImageBitmap, where a picture was given. */
  picture = null;
  #cursor = null; // of the keys: {at: [x, y], stroke: the one being drawn, or null}
  #changed;
  #clear;

  /**
   * `changed` is called with whether a stroke is finished, after each change that the pad makes itself; `clear` when
   * the user clears it by key.
   */
  constructor(changed, clear) {
    this.#changed = changed;
    this.#clear = clear;
    this.#listenToPointer();
    this.#listenToKeys();
    new ResizeObserver(() => this.redraw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  get isEmpty() {
    return !this.strokes.length && !this.picture;
  }

  /** Replace strokes and picture by another picture, or by nothing. */
  reset(picture = null) {
    this.removePicture();
    this.strokes = [];
    this.picture = picture;
  }

  removePicture() {
    if (!this.picture) return;
    this.picture.close();
    this.picture = null;
    invert.checked = false;
  }

  /** Redraw strokes, picture and cursor in the page's current size and colours. */
  redraw() {
    const side = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!side) return;
    const context = resize(canvas, side, side);
    context.clearRect(0, 0, side, side);
    if (this.picture) {
      const scale = Math.min(side / this.picture.width, side / this.picture.height);
      const [width, height] = [this.picture.width * scale, this.picture.height * scale];
      context.drawImage(this.picture, (side - width) / 2, (side - height) / 2, width, height);
    }
    const { color, accentColor } = getComputedStyle(canvas);
    const strokeColour = imageShape()[0] === 3 ? ink.value : color;
    drawStrokes(context, this.strokes, PEN_WIDTH * side, strokeColour, ([x, y]) => [x * side, y * side]);
    if (!this.#cursor) return;
    const [x, y] = this.#cursor.at;
    context.beginPath();
    context.arc(x * side, y * side, PEN_WIDTH * side * 0.8, 0, 2 * Math.PI);
    Object.assign(context, { strokeStyle: accentColor, lineWidth: 2 * devicePixelRatio });
    context.stroke();
  }

  #begin(stroke) {
    this.removePicture();
    this.strokes.push(stroke);
  }

  #listenToPointer() {
    let [stroke, pointer] = [null, null];
    const add = (event) => {
      const { left, top, width, height } = canvas.getBoundingClientRect();
      const coalesced = event.getCoalescedEvents?.() ?? [];
      for (const { clientX, clientY } of coalesced.length ? coalesced : [event]) {
        stroke.push([(clientX - left) / width, (clientY - top) / height]);
      }
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || stroke) return;
      canvas.setPointerCapture(event.pointerId);
      [stroke, pointer] = [[], event.pointerId];
      this.#begin(stroke);
      add(event);
      this.#changed(false);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!stroke || event.pointerId !== pointer) return;
      add(event);
      this.#changed(false);
    });
    for (const type of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(type, (event) => {
        if (!stroke || event.pointerId !== pointer) return;
        stroke = null;
        this.#changed(true);
      });
    }
  }

  #listenToKeys() {
    canvas.addEventListener("keydown", (event) => {
      const isErase = event.key === "Delete" || event.key === "Backspace";
      const isToggle = event.key === " ";
      const move = MOVES[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey || !(isErase || isToggle || move)) return;
      event.preventDefault();
      if (isToggle && event.repeat) return;
      this.#cursor ??= { at: [0.5, 0.5], stroke: null };
      const cursor = this.#cursor;
      if (move) {
        cursor.at = cursor.at.map((value, axis) => clamp(value + move[axis] * KEY_STEP));
        cursor.stroke?.push(cursor.at);
      } else cursor.stroke = isErase || cursor.stroke ? null : [cursor.at];
      if (isToggle && cursor.stroke) this.#begin(cursor.stroke);
      if (isErase) this.#clear();
      else if (isToggle || cursor.stroke) this.#changed(!cursor.stroke);
      else this.redraw();
      const [across, down] = cursor.at.map((value) => Math.round(100 * value));
      penState.textContent = `Pen ${cursor.stroke ? "down" : "up"}, ${across} % across, ${down} % down.`;
    });
    canvas.addEventListener("blur", () => {
      const isDrawing = this.#cursor?.stroke;
      this.#cursor = null;
      penState.textContent = "";
      if (isDrawing) this.#changed(true);
      else this.redraw();
    });
  }
}

const clamp = (value) => Math.min(1, Math.max(0, value));
