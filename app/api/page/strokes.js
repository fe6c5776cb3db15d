// Strokes as points of the picture: a mask has the picture's full size, whatever the zoom.

import { surface, toBlob } from "./dom.js";

/**
 * Strokes with undo and redo. A stroke is {size, erase, points}, {image} (a mask file) or {clear}.
 *
 * Without `base` they are a mask. With `base`, a cutout, the brush restores the picture there and the eraser erases it.
 */
export class Strokes {
  #undone = [];

  constructor(picture, base = null) {
    Object.assign(this, { picture, base, list: [] });
  }

  get isEmpty() {
    return !this.list.length || Boolean(this.list.at(-1).clear);
  }

  get canUndo() {
    return this.list.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  add(...strokes) {
    this.list.push(...strokes);
    this.#undone = [];
  }

  undo() {
    if (this.canUndo) this.#undone.push(this.list.pop());
  }

  redo() {
    if (this.canRedo) this.list.push(this.#undone.pop());
  }

  /** Draw into a context whose units are pixels of the picture; `current` is a stroke that is not finished. */
  paint(context, current) {
    const { width, height } = this.picture;
    const start = () => this.base && context.drawImage(this.base, 0, 0, width, height);
    const strokeStyle = this.base ? context.createPattern(this.picture.image, "no-repeat") : "#fff";
    Object.assign(context, { lineCap: "round", lineJoin: "round", strokeStyle });
    start();
    for (const stroke of current ? [...this.list, current] : this.list) {
      if (stroke.clear) {
        context.clearRect(0, 0, width, height);
        start();
      } else if (stroke.image) context.drawImage(stroke.image, 0, 0);
      else this.#line(context, stroke);
    }
  }

  #line(context, { size, erase, points }) {
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.lineWidth = size;
    context.beginPath();
    context.moveTo(...points[0]);
    for (const [x, y] of points) context.lineTo(x + 0.01, y); // a line of no length is not drawn
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  /** Return a PNG of the picture's size: the mask, white where it was drawn on; with `base`, the changed cutout. */
  async export() {
    const { width, height } = this.picture;
    const canvas = surface(width, height);
    const context = canvas.getContext("2d");
    this.paint(context);
    if (!this.base) {
      context.globalCompositeOperation = "destination-over";
      context.fillRect(0, 0, width, height);
    }
    return toBlob(canvas);
  }
}
