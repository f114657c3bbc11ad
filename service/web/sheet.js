// A grid of small images, one of which can be chosen by mouse, touch or arrow keys.

import { paint } from "./picture.js";

export class Sheet {
  #container;
  #nameOf;
  #chosen = -1;
  #painted = 0;

  /** `nameOf` returns the accessible name for an index; `choose` is called with the index of the chosen image. */
  constructor(container, nameOf, choose) {
    this.#container = container;
    this.#nameOf = nameOf;
    container.addEventListener("click", (event) => {
      const at = this.#buttons.indexOf(event.target.closest("button"));
      if (at >= 0 && at < this.#painted) choose(at);
    });
    container.addEventListener("keydown", (event) => {
      const target = this.#neighbour(event.key);
      if (target === undefined) return;
      event.preventDefault();
      const at = Math.min(Math.max(target, 0), this.#buttons.length - 1);
      this.#setTabStop(at);
      this.#buttons[at].focus();
    });
  }

  /** The canvases that have been painted. */
  get canvases() {
    return this.#buttons.slice(0, this.#painted).map((button) => button.firstChild);
  }

  get columns() {
    const { top } = this.#buttons[0].getBoundingClientRect();
    return this.#buttons.filter((button) => button.getBoundingClientRect().top === top).length;
  }

  /** Add or remove empty images until there are `count`. */
  setCount(count) {
    this.#painted = Math.min(this.#painted, count);
    while (this.#buttons.length > count) this.#container.lastChild.remove();
    while (this.#buttons.length < count) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(document.createElement("canvas"));
      this.#container.append(button);
    }
    for (const [index, button] of this.#buttons.entries()) button.setAttribute("aria-label", this.#nameOf(index));
    this.mark(this.#chosen);
  }

  /** Show `count` images of a bitmap with `columns` in a row. */
  show(bitmap, count, columns) {
    this.setCount(count);
    for (const [index, button] of this.#buttons.entries()) paint(button.firstChild, bitmap, index, columns);
    this.#painted = count;
  }

  /** Mark the chosen image; -1 for none. */
  mark(chosen) {
    this.#chosen = chosen;
    for (const [index, button] of this.#buttons.entries()) {
      button.setAttribute("aria-pressed", String(index === chosen));
    }
    this.#setTabStop(Math.max(0, chosen));
  }

  get #buttons() {
    return [...this.#container.children];
  }

  /** Only one button of the grid is in the tab order (roving tabindex). */
  #setTabStop(at) {
    for (const [index, button] of this.#buttons.entries()) button.tabIndex = index === at ? 0 : -1;
  }

  #neighbour(key) {
    const at = this.#buttons.indexOf(document.activeElement);
    const { columns } = this;
    const last = this.#buttons.length - 1;
    const targets = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns };
    return { ...targets, Home: 0, End: last }[key];
  }
}
