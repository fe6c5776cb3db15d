// Controls for fields. Each function returns {node, read}: an element, and a function that returns its value.

import { call } from "./api.js";
import { $, el, fill } from "./dom.js";

export const capitalize = (text) => text[0].toUpperCase() + text.slice(1);

export const firstSentence = (text) =>
  text
    .replaceAll("`", "")
    .split(/(?<=[.;]) /)[0]
    .replace(/;$/, ".");

const field = (...children) => el("div", { className: "field" }, ...children);

const head = (id, title, ...more) => el("div", { className: "head" }, el("label", { htmlFor: id }, title), ...more);

/** A field of radio buttons; `more` stands beside its title. */
const radios = (title, className, items, ...more) =>
  el(
    "div",
    { className: "field", role: "radiogroup", "aria-label": title },
    el("div", { className: "head" }, title, ...more),
    el("div", { className }, ...items),
  );

export function slider(id, title, schema, value) {
  const { minimum: min, maximum: max } = schema;
  const input = el("input", { type: "range", id, min, max, step: schema.type === "integer" ? 1 : 0.01, value });
  const output = el("output", { htmlFor: id });
  const show = () => {
    output.value = max <= 1 ? `${Math.round(input.value * 100)} %` : input.value;
    input.setAttribute("aria-valuetext", output.value);
    fill(input);
  };
  input.addEventListener("input", show);
  show();
  return { node: field(head(id, title, output), input), read: () => Number(input.value), input, output };
}

/** A slider with a switch for `auto`. */
export function automatic(id, title, word, schema) {
  const { node, input, output } = slider(id, title, schema, 0.3);
  const box = el("input", { type: "checkbox", checked: true });
  const show = () => {
    input.hidden = output.hidden = box.checked;
  };
  box.addEventListener("input", show);
  show();
  $(".head", node).append(output, el("label", { className: "switch" }, capitalize(word), box));
  return { node, read: () => (box.checked ? word : Number(input.value)) };
}

export function toggle(id, title, value) {
  const input = el("input", { type: "checkbox", id, checked: value });
  return { node: field(el("label", { className: "switch" }, title, input)), read: () => input.checked };
}

export function choice(id, title, options, value) {
  const items = options.map(([item, label]) =>
    el(
      "label",
      {},
      el("input", { type: "radio", name: id, value: item, checked: String(item) === String(value) }),
      label,
    ),
  );
  const node = radios(title, "choice", items);
  return { node, read: () => $(":checked", node).value };
}

export function select(id, title, options, value) {
  const input = el(
    "select",
    { id },
    ...options.map(([item, label]) => el("option", { value: item, selected: item === value }, label)),
  );
  return { node: field(head(id, title), input), read: () => input.value };
}

export function text(id, title, schema, value) {
  const input = el("input", { type: schema.type === "string" ? "text" : "number", id, value });
  return { node: field(head(id, title), input), read: () => input.value.trim() };
}

export function file(id, title) {
  const input = el("input", { type: "file", id, accept: "image/*" });
  return { node: field(head(id, title), input), read: () => input.files[0] };
}

export function color(id, title, none) {
  const own = el("input", { type: "color", value: "#3b7dd8", "aria-label": "Background color" });
  const options = [
    [none, "None"],
    ["#ffffff", "White"],
    ["#000000", "Black"],
    ["own", "Color"],
  ];
  const { node } = choice(id, title, options, none);
  const read = () => $(":checked", node).value;
  const show = () => (own.hidden = read() !== "own");
  node.addEventListener("input", show);
  $(".head", node).append(own);
  show();
  return { node, read: () => (read() === "own" ? own.value : read()) };
}

/** Show a picture of the service; an address in the page would not send the key. */
async function load(image, path) {
  try {
    image.src = URL.createObjectURL(await (await call(path)).blob());
  } catch {
    // its text stays
  }
}

export function styleGrid(id, title, styles, example) {
  const first = styles.some((style) => style.name === example) ? example : styles[0].name;
  const name = el("output");
  const items = styles.map((style) => {
    const image = el("img", { alt: `${style.title}, ${style.artist}`, width: 64, height: 64 });
    if (style.painting) load(image, style.painting.slice(1));
    return el(
      "label",
      { title: image.alt },
      el("input", { type: "radio", name: id, value: style.name, checked: style.name === first }),
      image,
    );
  });
  const node = radios(title, "styles", items, name);
  const read = () => $(":checked", node).value;
  const show = () => (name.value = styles.find((style) => style.name === read()).title);
  node.addEventListener("input", show);
  show();
  return { node, read };
}
