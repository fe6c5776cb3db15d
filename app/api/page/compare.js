// Before and after: a boundary moved by a slider, the original while a button is held, and a lens.

import { $, fit } from "./dom.js";

const LENS = 150;

export class Compare {
  #lens = null;

  constructor(room, hold, lens) {
    this.room = room;
    this.frame = $(".frame", room);
    [this.before, this.after] = room.querySelectorAll("img");
    [this.range, this.lens] = [$("input", room), $(".lens", room)];
    this.range.addEventListener("input", () => this.#show());
    new ResizeObserver(() => this.#size()).observe(room);
    const holding = (on) => (on ? this.#show(100) : this.#show());
    for (const type of ["pointerdown", "pointerup", "pointerleave", "pointercancel", "blur"])
      hold.addEventListener(type, () => holding(type === "pointerdown"));
    for (const type of ["keydown", "keyup"])
      hold.addEventListener(type, (event) => [" ", "Enter"].includes(event.key) && holding(type === "keydown"));
    lens.addEventListener("click", () => {
      this.lens.hidden = lens.getAttribute("aria-pressed") === "true";
      lens.setAttribute("aria-pressed", String(!this.lens.hidden));
      this.#move(0.5, 0.4);
      if (!this.lens.hidden) this.lens.focus();
    });
    this.frame.addEventListener("pointermove", (event) => {
      const box = this.frame.getBoundingClientRect();
      this.#move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
    this.lens.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      this.#move(this.#lens[0] + step[0] * 0.04, this.#lens[1] + step[1] * 0.04);
    });
  }

  /** Show two pictures of the same view; they may have different sizes. */
  open(original, result) {
    this.original = original;
    this.result = result;
    this.before.src = original.url;
    this.after.src = result.url;
    this.range.value = 50;
    this.#size();
    this.#show();
    this.#draw();
  }

  #size() {
    if (!this.result || !this.room.clientWidth) return;
    const { width, height } = this.result;
    this.scale = fit(width, height, {
      clientWidth: this.room.clientWidth - 24,
      clientHeight: this.room.clientHeight - 24,
    });
    this.frame.style.width = `${Math.round(width * this.scale)}px`;
    this.frame.style.height = `${Math.round(height * this.scale)}px`;
  }

  #show(at = Number(this.range.value)) {
    this.frame.style.setProperty("--at", `${at}%`);
    this.range.setAttribute("aria-valuetext", `${at} % original`);
    $(".left", this.frame).style.opacity = Number(at > 12);
    $(".right", this.frame).style.opacity = Number(at < 88);
  }

  #move(x, y) {
    this.#lens = [x, y].map((one) => Math.min(1, Math.max(0, one)));
    this.lens.style.left = `${this.#lens[0] * 100}%`;
    this.lens.style.top = `${this.#lens[1] * 100}%`;
    this.#draw();
  }

  /** Draw original and result side by side around the point, at 100 % or, where that is less than shown, twice that. */
  #draw() {
    if (this.lens.hidden || !this.#lens) return;
    const ratio = devicePixelRatio || 1;
    const zoom = this.scale >= 0.9 ? Math.round(this.scale * 2) : 1;
    const context = this.lens.getContext("2d");
    Object.assign(this.lens, { width: 2 * LENS * ratio, height: LENS * ratio });
    Object.assign(this.lens.style, { width: `${2 * LENS}px`, height: `${LENS}px` });
    context.scale(ratio, ratio);
    context.fillStyle = "#777";
    context.fillRect(0, 0, 2 * LENS, LENS);
    [this.original, this.result].forEach((picture, side) => {
      const part = picture.width / this.result.width;
      const size = LENS / zoom;
      const [x, y] = [this.#lens[0] * this.result.width - size / 2, this.#lens[1] * this.result.height - size / 2];
      context.drawImage(picture.image, x * part, y * part, size * part, size * part, side * LENS, 0, LENS, LENS);
    });
    context.fillStyle = "#fff";
    context.fillRect(LENS - 1, 0, 2, LENS);
    context.font = "600 11px system-ui";
    ["Original", `Result, ${zoom * 100} %`].forEach((text, side) => {
      context.fillStyle = "#000a";
      context.fillRect(side * LENS, LENS - 20, LENS, 20);
      context.fillStyle = "#fff";
      context.fillText(text, side * LENS + 8, LENS - 6);
    });
  }
}
