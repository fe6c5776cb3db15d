// Small helpers: elements, announcements, files.

export const $ = (selector, root = document) => root.querySelector(selector);

/** Return a new element. Attributes that are properties of it are set as such; `onclick` adds a listener. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function icon(name) {
  const node = el("span");
  node.innerHTML = `<svg><use href="#i-${name}"/></svg>`;
  return node.firstChild;
}

/** Tell people who use a screen reader what happened. */
export const say = (text) => ($("#status").textContent = text);

/** Show how far a slider is: WebKit has no selector for the part before the thumb. */
export const fill = (range) =>
  range.style.setProperty("--fill", `${(100 * (range.value - range.min)) / (range.max - range.min)}%`);

/** Return the scale at which a picture fits into a room; small pictures grow to 640 pixels at most. */
export const fit = (width, height, room) =>
  Math.min(room.clientWidth / width, room.clientHeight / height, Math.max(1, 640 / Math.max(width, height)));

export function surface(width, height) {
  return el("canvas", { width, height });
}

export const toBlob = (canvas) =>
  new Promise((done, fail) =>
    canvas.toBlob(
      (blob) => (blob ? done(blob) : fail(new Error("The picture is too large for this browser."))),
      "image/png",
    ),
  );

export function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
