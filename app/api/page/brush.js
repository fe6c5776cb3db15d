// The canvas over a picture: strokes of a brush and an eraser, zoom and pan. Mouse, pen, touch and keyboard.

import { $, fit } from "./dom.js";
import { Strokes } from "./strokes.js";

const MASK_COLOR = "#ff3d6e";
const STEP = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Events: `change` after strokes, `stroke` when one ends, `view` after zoom. */
export class Brush extends EventTarget {
  size = 40;
  erasing = false;
  enabled = false;
  strokes = null; // Strokes
  #pointers = new Map();
  #stroke = null;
  #moving = null;
  #space = false;
  #pen = null;
  #fitted = true; // whether the whole picture is shown, also when the room changes

  constructor(room) {
    super();
    this.room = room;
    [this.image, this.canvas, this.cursor] = [$("img", room), $("canvas", room), $(".cursor", room)];
    this.context = this.canvas.getContext("2d");
    new ResizeObserver(() => this.picture && (this.#fitted ? this.fit() : this.#draw())).observe(room);
    const on = (type, listener) => this.canvas.addEventListener(type, listener);
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    for (const type of ["pointerup", "pointercancel"]) on(type, (event) => this.#up(event));
    on("pointerleave", () => (this.cursor.hidden = true));
    on("wheel", (event) => this.#wheel(event));
    on("keydown", (event) => this.#key(event));
    addEventListener("keyup", (event) => event.key === " " && (this.#space = false));
    on("blur", () => (this.#pen = null));
  }

  /** Show a picture without strokes; the view stays if the last one had the same size. */
  open(picture, base = null) {
    const same = this.picture?.width === picture.width && this.picture.height === picture.height;
    [this.picture, this.strokes, this.#pen] = [picture, new Strokes(picture, base), null];
    this.image.src = picture.url;
    this.image.style.width = `${picture.width}px`;
    this.room.classList.toggle("cutout", Boolean(base));
    this.room.classList.toggle("mask", !base);
    if (!same) this.fit();
    this.#emit("change");
  }

  enable(enabled) {
    this.enabled = enabled;
    this.room.classList.toggle("drawing", enabled);
    this.canvas.setAttribute(
      "aria-label",
      enabled
        ? "Picture. Draw on it: arrow keys move the brush, Enter starts and ends a stroke, [ and ] change the size."
        : "Picture. Plus and minus zoom, arrow keys move.",
    );
    this.#draw();
  }

  // --- strokes ---

  get base() {
    return this.strokes?.base;
  }

  add(...strokes) {
    this.strokes.add(...strokes);
    this.#emit("change");
  }

  undo() {
    this.strokes.undo();
    this.#emit("change");
  }

  redo() {
    this.strokes.redo();
    this.#emit("change");
  }

  clear() {
    if (!this.strokes.isEmpty) this.add({ clear: true });
  }

  // --- view ---

  fit() {
    this.#fitted = true;
    if (!this.room.clientWidth) return;
    const { width, height } = this.picture;
    const room = { clientWidth: this.room.clientWidth - 24, clientHeight: this.room.clientHeight - 24 };
    this.scale = fit(width, height, room);
    this.x = (this.room.clientWidth - width * this.scale) / 2;
    this.y = (this.room.clientHeight - height * this.scale) / 2;
    this.#draw();
    this.#emit("view");
  }

  /** Zoom around a point of the room; its middle by default. */
  zoom(factor, x = this.room.clientWidth / 2, y = this.room.clientHeight / 2) {
    const scale = Math.min(32, Math.max(0.02, this.scale * factor));
    this.#fitted = false;
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.#draw();
    this.#emit("view");
  }

  pan(x, y) {
    this.#fitted = false;
    this.x += x;
    this.y += y;
    this.#draw();
  }

  #draw() {
    if (!this.scale || this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.#render();
    });
  }

  #render() {
    const { canvas, context, scale, x, y } = this;
    const ratio = devicePixelRatio || 1;
    canvas.width = this.room.clientWidth * ratio;
    canvas.height = this.room.clientHeight * ratio;
    this.image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.image.style.imageRendering = scale >= 4 ? "pixelated" : "auto";
    context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
    context.save();
    context.beginPath();
    context.rect(0, 0, this.picture.width, this.picture.height);
    context.clip();
    this.strokes.paint(context, this.#stroke);
    if (!this.base) {
      context.globalCompositeOperation = "source-in";
      context.fillStyle = MASK_COLOR;
      context.fillRect(0, 0, this.picture.width, this.picture.height);
    }
    context.restore();
    this.#showPen();
  }

  #showCursor(x, y) {
    const size = this.size * this.scale;
    this.cursor.hidden = !this.enabled;
    Object.assign(this.cursor.style, {
      width: `${size}px`,
      height: `${size}px`,
      transform: `translate(${x - size / 2}px, ${y - size / 2}px)`,
    });
  }

  #showPen() {
    if (this.#pen) this.#showCursor(this.#pen.x * this.scale + this.x, this.#pen.y * this.scale + this.y);
  }

  // --- pointers ---

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #inPicture(event) {
    const [x, y] = this.#at(event);
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  #down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#at(event));
    if (this.#pointers.size === 2) {
      this.#stroke = null; // the first finger of a pinch draws nothing
      this.#moving = null;
      this.#draw();
    } else if (this.#pointers.size === 1) {
      if (this.#space || event.button === 1 || !this.enabled) this.#moving = this.#at(event);
      else this.#stroke = { size: this.size, erase: this.erasing, points: [this.#inPicture(event)] };
      this.room.classList.toggle("panning", Boolean(this.#moving));
      this.#draw();
    }
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
  }

  #move(event) {
    const now = this.#at(event);
    if (event.pointerType === "touch") this.cursor.hidden = true;
    else if (!this.#space) this.#showCursor(...now);
    if (!this.#pointers.has(event.pointerId)) return;
    if (this.#pointers.size === 2) this.#pinch(event.pointerId, now);
    else if (this.#moving) (this.pan(now[0] - this.#moving[0], now[1] - this.#moving[1]), (this.#moving = now));
    else if (this.#stroke) {
      const steps = event.getCoalescedEvents?.() ?? [];
      this.#stroke.points.push(...(steps.length ? steps : [event]).map((one) => this.#inPicture(one)));
      this.#draw();
    }
    this.#pointers.set(event.pointerId, now);
  }

  #pinch(id, now) {
    const before = this.#pointers.get(id);
    const [other] = [...this.#pointers].filter(([one]) => one !== id).map(([, at]) => at);
    const distance = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
    this.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    this.zoom(distance(now) / distance(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  #up(event) {
    this.#pointers.delete(event.pointerId);
    this.#moving = null;
    this.room.classList.remove("panning");
    if (this.#stroke) this.#finish(event.type === "pointercancel");
  }

  #finish(cancelled = false) {
    const stroke = this.#stroke;
    this.#stroke = null;
    if (cancelled) return this.#draw();
    this.add(stroke);
    this.#emit("stroke");
  }

  #wheel(event) {
    event.preventDefault();
    this.zoom(
      Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) * (event.ctrlKey ? 0.01 : 0.004)),
      ...this.#at(event),
    );
    this.#showCursor(...this.#at(event));
  }

  // --- keyboard ---

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = STEP[event.key];
    if (step) this.#step(step, event.shiftKey ? 5 : 1);
    else if (event.key === " ") this.#space = true;
    else if (event.key === "Enter" && this.enabled && !event.repeat) this.#togglePen();
    else if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  #step([x, y], times) {
    if (!this.enabled) return this.pan(-40 * x, -40 * y);
    const pen = this.#middle();
    const far = Math.max(1, this.size / 4) * times;
    pen.x = Math.min(this.picture.width, Math.max(0, pen.x + x * far));
    pen.y = Math.min(this.picture.height, Math.max(0, pen.y + y * far));
    this.#stroke?.points.push([pen.x, pen.y]);
    this.#showPen();
    this.#draw();
  }

  #middle() {
    return (this.#pen ??= { x: this.picture.width / 2, y: this.picture.height / 2 });
  }

  #togglePen() {
    const pen = this.#middle();
    if (this.#stroke) this.#finish();
    else this.#stroke = { size: this.size, erase: this.erasing, points: [[pen.x, pen.y]] };
    this.#draw();
  }

  #emit(type) {
    if (type === "change") this.#draw();
    this.dispatchEvent(new Event(type));
  }
}
