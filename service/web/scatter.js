// A scatter plot on a canvas. Dragging turns a plot of three dimensions and moves one of two; the wheel, or two fingers,
// zoom; a double click shows all again. The arrow keys, +, − and 0 do the same.

import { Camera } from "./camera.js";
import { resize } from "./picture.js";

const LABEL_GAP = 0.12; // between the box, whose sides reach from −1 to 1, and the labels of its axes
const POINT_RADIUS = 2.5; // CSS pixels
const CURRENT_RADIUS = 6;
const DOT_SIDE = 16; // pixels of the image of a point, from which it is drawn in its size
const REACH = 8; // CSS pixels around a point within which the pointer is on it
const CLICK_MOVE = 4; // CSS pixels that the pointer may move during a click
const KEY_PIXELS = 20; // a press of an arrow key drags so far
const KEY_ZOOM = 1.2;

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ZOOMS = { "+": KEY_ZOOM, "=": KEY_ZOOM, "-": 1 / KEY_ZOOM };

export class Scatter {
  #canvas;
  #names;
  #ranges; // of each axis: [low, high]
  #groups; // {label, rows, dot, isVisible} in the order given
  #groupOf; // of each row
  #places; // of each row, in the box: [x, y, z]
  #toBox;
  #sides; // half of the box's
  #screen; // x and y of each row in CSS pixels, and how near it is: [N × 3]
  #order; // rows, the farthest first
  #current = null;
  #camera;
  #hovered = -1; // row
  #isDue = false;

  /**
   * `points`: [N][2 or 3]; `names`: of the axes; `groups`: `{label, colour, rows}`. `pick` is called with the row of a
   * point that is clicked.
   */
  constructor(canvas, points, names, groups, pick) {
    this.#canvas = canvas;
    this.#names = names;
    const isFlat = names.length === 2;
    this.#groups = groups.map(({ label, colour, rows }) => ({ label, rows, dot: makeDot(colour), isVisible: true }));
    this.#groupOf = new Array(points.length);
    for (const group of this.#groups) for (const row of group.rows) this.#groupOf[row] = group;
    this.#ranges = names.map((_, axis) => {
      const values = points.map((point) => point[axis]);
      return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    });
    const halves = this.#ranges.map(([low, high]) => (high - low) / 2);
    const scales = halves.map((half) => (isFlat ? Math.max(...halves) : half) || 1); // a plane keeps its proportions
    this.#sides = halves.map((half, axis) => half / scales[axis]);
    this.#toBox = (point) => {
      const [x, y, z = 0] = this.#ranges.map(([low, high], axis) => (point[axis] - (low + high) / 2) / scales[axis]);
      return [x, y, z];
    };
    this.#places = points.map(this.#toBox);
    this.#screen = new Float32Array(3 * points.length);
    this.#order = Uint32Array.from(points, (_, row) => row);
    this.#camera = new Camera(isFlat);
    this.#listenToPointers(pick);
    this.#listenToKeys();
    new ResizeObserver(() => this.#redraw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#redraw());
  }

  /** Show or hide the points of a label. */
  setVisible(label, isVisible) {
    this.#groups.find((group) => group.label === label).isVisible = isVisible;
    this.#hovered = -1;
    this.#redraw();
  }

  /** Mark a point that is none of the rows. */
  mark(point) {
    this.#current = this.#toBox(point);
    this.#redraw();
  }

  #redraw() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
    });
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width) return;
    const context = resize(this.#canvas, Math.round(width * devicePixelRatio), Math.round(height * devicePixelRatio));
    const { color, backgroundColor, fontFamily, borderColor } = getComputedStyle(this.#canvas);
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    Object.assign(context, { fillStyle: backgroundColor, font: `13px ${fontFamily}`, lineWidth: 1 });
    context.fillRect(0, 0, width, height);
    const project = this.#camera.projection(width, height);
    context.strokeStyle = borderColor;
    this.#drawBox(context, project);
    context.fillStyle = color;
    this.#drawLabels(context, project);
    this.#drawPoints(context, project);
    if (this.#current) this.#drawCurrent(context, project, color);
    if (this.#hovered >= 0) this.#drawHovered(context, color, backgroundColor);
  }

  #drawBox(context, project) {
    context.beginPath();
    for (const [axis, half] of this.#sides.entries()) {
      for (const corner of this.#corners(axis)) {
        context.moveTo(...project(corner.with(axis, -half)).slice(0, 2));
        context.lineTo(...project(corner.with(axis, half)).slice(0, 2));
      }
    }
    context.stroke();
  }

  /** A place on each edge along `axis`. */
  #corners(axis) {
    let corners = [[0, 0, 0]];
    for (const [other, half] of this.#sides.entries()) {
      if (other !== axis) corners = corners.flatMap((corner) => [corner.with(other, -half), corner.with(other, half)]);
    }
    return corners;
  }

  #drawLabels(context, project) {
    Object.assign(context, { textAlign: "center", textBaseline: "middle" });
    for (const [axis, name] of this.#names.entries()) {
      const isUpright = axis === this.#names.length - 1; // the leftmost edge bears the labels, else the lowest
      const score = ([left, top]) => (isUpright ? left : -top);
      const [corner] = this.#corners(axis).sort((a, b) => score(project(a)) - score(project(b)));
      const edge = corner.map((value) => value + Math.sign(value) * LABEL_GAP);
      const half = this.#sides[axis];
      const [low, high] = this.#ranges[axis].map((value) => `${Number(value.toPrecision(2))}`.replace("-", "−"));
      for (const [text, at] of name ? [[low, -half], [name, 0], [high, half]] : []) {
        context.fillText(text, ...project(edge.with(axis, at)).slice(0, 2));
      }
    }
  }

  #drawPoints(context, project) {
    const screen = this.#screen;
    for (const [row, place] of this.#places.entries()) screen.set(project(place), 3 * row);
    this.#order.sort((a, b) => screen[3 * a + 2] - screen[3 * b + 2]);
    context.globalAlpha = 0.75;
    for (const row of this.#order) {
      const { dot, isVisible } = this.#groupOf[row];
      if (!isVisible) continue;
      const radius = POINT_RADIUS * screen[3 * row + 2];
      context.drawImage(dot, screen[3 * row] - radius, screen[3 * row + 1] - radius, 2 * radius, 2 * radius);
    }
    context.globalAlpha = 1;
  }

  /** The marked point, with lines through the box, which show where it is when other points hide it. */
  #drawCurrent(context, project, colour) {
    context.strokeStyle = colour;
    context.beginPath();
    for (const [axis, half] of this.#sides.entries()) {
      context.moveTo(...project(this.#current.with(axis, -half)).slice(0, 2));
      context.lineTo(...project(this.#current.with(axis, half)).slice(0, 2));
    }
    context.stroke();
    context.fillStyle = getComputedStyle(this.#canvas).accentColor;
    drawCircle(context, project(this.#current), CURRENT_RADIUS);
    context.fill();
    context.lineWidth = 2;
    context.stroke();
  }

  #drawHovered(context, colour, background) {
    const [x, y] = this.#screen.subarray(3 * this.#hovered);
    const label = String(this.#groupOf[this.#hovered].label);
    const width = context.measureText(label).width + 10;
    drawCircle(context, [x, y], POINT_RADIUS + 2);
    Object.assign(context, { strokeStyle: colour, fillStyle: background });
    context.stroke();
    context.fillRect(x - width / 2, y - 30, width, 20);
    context.strokeRect(x - width / 2, y - 30, width, 20);
    context.fillStyle = colour;
    context.fillText(label, x, y - 20);
  }

  /** The visible row nearest to a place on the canvas and within REACH of it, or −1. */
  #rowAt([x, y]) {
    let [nearest, least] = [-1, REACH ** 2];
    for (const row of this.#order) {
      if (!this.#groupOf[row].isVisible) continue;
      const square = (this.#screen[3 * row] - x) ** 2 + (this.#screen[3 * row + 1] - y) ** 2;
      if (square < least) [nearest, least] = [row, square];
    }
    return nearest;
  }

  #drag(x, y) {
    this.#camera.drag(x, y);
    this.#redraw();
  }

  /** Zoom so that what is at a place on the canvas stays there. */
  #zoom(factor, [x, y]) {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    this.#camera.zoom(factor, [x - width / 2, y - height / 2]);
    this.#redraw();
  }

  #showAll() {
    this.#camera.reset();
    this.#redraw();
  }

  #hover(row) {
    if (row === this.#hovered) return;
    this.#hovered = row;
    this.#canvas.classList.toggle("on-point", row >= 0);
    this.#redraw();
  }

  #listenToPointers(pick) {
    const canvas = this.#canvas;
    const pointers = new Map(); // those that are down: id → place
    let moved = 0;
    const gap = () => {
      const [a, b] = pointers.values();
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      moved = pointers.size === 1 ? 0 : Infinity;
    });
    canvas.addEventListener("pointermove", (event) => {
      const place = [event.offsetX, event.offsetY];
      const before = pointers.get(event.pointerId);
      if (!before) {
        this.#hover(this.#rowAt(place));
        return;
      }
      const gapBefore = pointers.size === 2 ? gap() : 0;
      pointers.set(event.pointerId, place);
      const [x, y] = [place[0] - before[0], place[1] - before[1]];
      moved += Math.hypot(x, y);
      if (gapBefore) this.#zoom(gap() / gapBefore, place);
      else if (moved >= CLICK_MOVE) this.#drag(x, y);
    });
    canvas.addEventListener("pointerup", (event) => {
      const row = pointers.delete(event.pointerId) && moved < CLICK_MOVE ? this.#rowAt([event.offsetX, event.offsetY]) : -1;
      if (row >= 0) pick(row);
    });
    canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.#hover(-1));
    canvas.addEventListener("dblclick", () => this.#showAll());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault(); // the page would scroll
      this.#zoom(Math.exp(-event.deltaY / 500), [event.offsetX, event.offsetY]);
    });
  }

  #listenToKeys() {
    this.#canvas.addEventListener("keydown", (event) => {
      const arrow = ARROWS[event.key];
      const zoom = ZOOMS[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey || !(arrow || zoom || event.key === "0")) return;
      event.preventDefault();
      if (arrow) this.#drag(arrow[0] * KEY_PIXELS, arrow[1] * KEY_PIXELS);
      else if (zoom) this.#zoom(zoom, [this.#canvas.clientWidth / 2, this.#canvas.clientHeight / 2]);
      else this.#showAll();
    });
  }
}

function makeDot(colour) {
  const dot = document.createElement("canvas");
  const context = resize(dot, DOT_SIDE, DOT_SIDE);
  context.fillStyle = colour;
  drawCircle(context, [DOT_SIDE / 2, DOT_SIDE / 2], DOT_SIDE / 2);
  context.fill();
  return dot;
}

function drawCircle(context, [x, y], radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
}
