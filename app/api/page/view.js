// What is shown: the picture or a result, the steps, the command, the controls of a task.

import { curl } from "./api.js";
import { TASKS, stepsOf, taskOf } from "./controls.js";
import { $, el, fill, say } from "./dom.js";
import { open } from "./pictures.js";
import { hideProblem, showProblem } from "./problems.js";
import { brush, compare, setResults, state } from "./state.js";
import { stop } from "./waiting.js";

/** Show the picture (`edit`) or the result `index` (`result`). */
export function show(mode, index = -1) {
  state.shown = index;
  if (brush.base) brush.open(state.picture); // leave touching up
  document.body.dataset.mode = mode;
  const result = state.results[index];
  if (result) compare.open(state.original, result.picture);
  setBrush(mode === "edit" && state.task === "inpaint" ? "mask" : "");
  $("#facts").replaceChildren(...(result ? describe(result) : []).flatMap((fact) => [el("span", {}, fact), " "]));
  $("#touch").hidden = !result?.cutout;
  showSteps();
  showCurl();
}

/** Choose what the brush is for: `mask`, `touch`, or nothing. */
export function setBrush(kind) {
  if (kind) document.body.dataset.brush = kind;
  else delete document.body.dataset.brush;
  brush.enable(Boolean(kind));
}

const sizeOf = ({ width, height }) => `${width} × ${height}`;

function describe({ picture, model, applied }) {
  const [before, after] = [sizeOf(state.original), sizeOf(picture)];
  return [before === after ? after : `${before} → ${after}`, model, ...applied.split(";")].filter(Boolean);
}

function showSteps() {
  const step = (title, picture, index) =>
    el(
      "button",
      {
        type: "button",
        "aria-pressed": state.shown === index,
        onclick: () => show(index < 0 ? "edit" : "result", index),
      },
      el("img", { src: picture.url, alt: "" }),
      el("span", {}, el("b", {}, title), el("small", {}, sizeOf(picture))),
    );
  $("#film").replaceChildren(
    step("Picture", state.picture, -1),
    ...state.results.map(({ title, picture }, index) => step(title, picture, index)),
  );
}

export function setTask(name) {
  state.task = name;
  state.controls.clear();
  state.controls.show(name);
  $("#erase-controls").hidden = name !== "inpaint";
  $("#cannot").textContent = TASKS[name].cannot;
  $("#run").textContent = TASKS[name].title;
  if (!state.picture) return;
  const stays = state.results[state.shown]?.task === name;
  show(stays ? "result" : "edit", stays ? state.shown : -1);
}

/** Start anew with a picture. */
export async function setPicture(blob, name) {
  stop();
  hideProblem();
  let picture;
  try {
    picture = await open(blob, name);
  } catch (error) {
    return showProblem(error);
  }
  const last = [state.picture, state.original, ...state.past];
  Object.assign(state, { picture, original: picture, past: [] });
  setResults([]);
  for (const one of last) if (one && one.url !== picture.url) URL.revokeObjectURL(one.url);
  const longest = Math.max(picture.width, picture.height);
  $("#size").max = Math.max(20, Math.round(longest / 4));
  setSize(Math.max(4, Math.round(longest / 20)));
  brush.open(picture);
  brush.fit();
  show("edit");
  say(`${name}, ${picture.width} by ${picture.height} pixels`);
}

/** Set the size of the brush, in pixels of the picture. */
export function setSize(size) {
  const slider = $("#size");
  slider.value = size;
  brush.size = Number(slider.value);
  slider.setAttribute("aria-valuetext", `${slider.value} pixels`);
  fill(slider);
}

const ENDINGS = {
  jpg: "jpg",
  jpeg: "jpg",
  heic: "jpg",
  heif: "jpg",
  webp: "webp",
  tif: "tiff",
  tiff: "tiff",
  avif: "avif",
};

/** Return the name that a result will have, as the service chooses it. */
function guessName(input, step, fields) {
  const [, stem, ending] = /^(.*?)(?:\.(\w+))?$/.exec(input);
  const transparent = step === "cutout" && !fields.background && !fields.background_image;
  const own = ENDINGS[ending?.toLowerCase()];
  const kept = transparent && own === "jpg" ? "png" : own || "png";
  return `${stem}-${taskOf(step)}.${(fields.format || kept).replace("jpeg", "jpg")}`;
}

/** Show the command that sends the same form. */
export function showCurl() {
  if (!state.picture) return;
  let input = state.picture.name;
  const lines = stepsOf(state.task).map((step, index) => {
    const result = state.results[index];
    const fields = state.controls
      .values(state.task, step)
      .map(([name, value]) => [name, value.name || value, value instanceof File]);
    const output = result?.task === state.task ? result.name : guessName(input, step, Object.fromEntries(fields));
    const mask = step === "inpaint" ? [["mask", "mask.png", true]] : [];
    const line = curl(step, [["image", input, true], ...mask, ...fields], output);
    input = output;
    return line;
  });
  $("#curl code").textContent = lines.join(" && ");
}
