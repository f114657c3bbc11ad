// Where a box, whose sides reach from −1 to 1, is seen from. A plane, which has z = 0, is seen from above.

const START = { turn: 0.7, tilt: 0.4, zoom: 1, shift: [0, 0] }; // angles in radians; shift in CSS pixels
const PLANE_START = { ...START, turn: 0, tilt: Math.PI / 2 };
const DISTANCE = 6; // from the viewer to the centre of the box
const UNIT = 0.28; // length of 1 at the centre, as a share of the smaller side of the view: leaves room for labels
const PLANE_UNIT = 0.4;
const TURN_PER_PIXEL = 0.01;

export class Camera {
  #isPlane;
  #view;

  constructor(isPlane) {
    this.#isPlane = isPlane;
    this.reset();
  }

  reset() {
    this.#view = this.#isPlane ? PLANE_START : START;
  }

  /** Turn the box, or move the plane, as a pointer that moves by (x, y) CSS pixels drags it. */
  drag(x, y) {
    const { turn, tilt, shift } = this.#view;
    const tilted = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, tilt + y * TURN_PER_PIXEL));
    const changes = this.#isPlane
      ? { shift: [shift[0] + x, shift[1] + y] }
      : { turn: turn + x * TURN_PER_PIXEL, tilt: tilted };
    this.#view = { ...this.#view, ...changes };
  }

  /** Zoom so that a place stays where it is, given in CSS pixels from the middle of the view. */
  zoom(factor, place) {
    const { zoom, shift } = this.#view;
    this.#view = {
      ...this.#view,
      zoom: zoom * factor,
      shift: shift.map((value, axis) => place[axis] - (place[axis] - value) * factor),
    };
  }

  /** A function from [x, y, z] to [left, top, nearness]: CSS pixels, and its enlargement relative to the centre's. */
  projection(width, height) {
    const { turn, tilt, zoom, shift } = this.#view;
    const [sinTurn, cosTurn, sinTilt, cosTilt] = [Math.sin(turn), Math.cos(turn), Math.sin(tilt), Math.cos(tilt)];
    const unit = (this.#isPlane ? PLANE_UNIT : UNIT) * Math.min(width, height) * zoom;
    const [left, top] = [width / 2 + shift[0], height / 2 + shift[1]];
    return ([x, y, z]) => {
      const right = cosTurn * x - sinTurn * y;
      const back = sinTurn * x + cosTurn * y;
      const up = cosTilt * z + sinTilt * back;
      const nearness = DISTANCE / (DISTANCE - (sinTilt * z - cosTilt * back));
      return [left + unit * nearness * right, top - unit * nearness * up, nearness];
    };
  }
}
