// A grid of small images that can be chosen, by hand or by the arrow keys.

import { paint } from "./picture.js";

export class Sheet {
  #place;
  #names;
  #chosen = -1;
  #painted = 0;

  /** `choose` is told the index of the image that was chosen, `names` is told an index and says its name. */
  constructor(place, names, choose) {
    this.#place = place;
    this.#names = names;
    place.addEventListener("click", (event) => {
      const at = this.#buttons.indexOf(event.target.closest("button"));
      if (at >= 0 && at < this.#painted) choose(at);
    });
    place.addEventListener("keydown", (event) => {
      const to = this.#neighbour(event.key);
      if (to === undefined) return;
      event.preventDefault();
      const at = Math.min(Math.max(to, 0), this.#buttons.length - 1);
      this.#reach(at);
      this.#buttons[at].focus();
    });
  }

  /** Those that have an image. */
  get canvases() {
    return this.#buttons.slice(0, this.#painted).map((button) => button.firstChild);
  }

  get columns() {
    const { top } = this.#buttons[0].getBoundingClientRect();
    return this.#buttons.filter((button) => button.getBoundingClientRect().top === top).length;
  }

  /** Keep room for so many images. */
  lay(count) {
    this.#painted = Math.min(this.#painted, count);
    while (this.#buttons.length > count) this.#place.lastChild.remove();
    while (this.#buttons.length < count) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(document.createElement("canvas"));
      this.#place.append(button);
    }
    for (const [index, button] of this.#buttons.entries()) button.setAttribute("aria-label", this.#names(index));
    this.mark(this.#chosen);
  }

  /** Show `count` images of a bitmap with `columns` in a row. */
  show(bitmap, count, columns) {
    this.lay(count);
    for (const [index, button] of this.#buttons.entries()) paint(button.firstChild, bitmap, index, columns);
    this.#painted = count;
  }

  /** Mark the image that is being shown; -1 for none. */
  mark(chosen) {
    this.#chosen = chosen;
    for (const [index, button] of this.#buttons.entries()) {
      button.setAttribute("aria-pressed", String(index === chosen));
    }
    this.#reach(Math.max(0, chosen));
  }

  get #buttons() {
    return [...this.#place.children];
  }

  #reach(at) {
    for (const [index, button] of this.#buttons.entries()) button.tabIndex = index === at ? 0 : -1;
  }

  #neighbour(key) {
    const at = this.#buttons.indexOf(document.activeElement);
    const { columns } = this;
    return { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: 1e9 }[
      key
    ];
  }
}
