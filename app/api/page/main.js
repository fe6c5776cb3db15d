// The page: a picture, a task, a result.

import { Problem, call, curl, get, key, root, run } from "./api.js";
import { Brush } from "./brush.js";
import { Compare } from "./compare.js";
import { Controls, TASKS, listTasks, stepsOf } from "./controls.js";
import { $, el, fill, save, say } from "./dom.js";
import { SAMPLES, draw, open, readMask, sampleImage, scratchStrokes, toPng } from "./pictures.js";

const body = document.body;
const brush = new Brush($("#edit"));
const compare = new Compare($("#compare"), $("#hold"), $("#lens"));
let controls = new Controls({ paths: {} }, [], []);
let task = "denoise";
let picture = null; // what a task works on
let original = null; // what results are compared with
let results = []; // {title, picture, model, applied, task} of the last run
let shown = -1; // index of the result that is shown
let running = null; // AbortController
let past = []; // pictures before each erased stroke, for undo

// --- what is shown ---

function show(mode, index = -1) {
  shown = index;
  if (brush.base) brush.open(picture); // leave touching up
  body.dataset.mode = mode;
  if (mode === "result") compare.open(original, results[index].picture);
  setBrush(mode === "edit" && task === "inpaint" ? "mask" : "");
  const result = results[index];
  $("#facts").replaceChildren(...(result ? describe(result) : []).map((fact) => el("span", {}, fact)));
  $("#touch").hidden = !result?.cutout;
  showFilm();
  showCurl();
}

function setBrush(kind) {
  if (kind) body.dataset.brush = kind;
  else delete body.dataset.brush;
  brush.enable(Boolean(kind));
  brush.fit();
}

function describe({ picture: { width, height }, model, applied }) {
  const size = original.width === width ? `${width} × ${height}` : `${original.width} × ${original.height} → ${width} × ${height}`;
  return [`${size} pixels`, model, ...applied.split(";")].filter(Boolean);
}

function showFilm() {
  const item = (title, text, url, pressed, onclick) =>
    el("button", { type: "button", onclick, "aria-pressed": pressed }, el("img", { src: url, alt: "" }), el("span", {}, el("b", {}, title), el("small", {}, text)));
  const size = ({ width, height }) => `${width} × ${height}`;
  $("#film").replaceChildren(
    item("Picture", size(picture), picture.url, shown < 0, () => show("edit")),
    ...results.map((result, index) => item(result.title, size(result.picture), result.picture.url, shown === index, () => show("result", index))));
}

function setTask(name) {
  task = name;
  controls.clear();
  controls.show(name);
  if (name === "inpaint") $("#controls").append(eraseControls);
  $("#cannot").textContent = TASKS[name].cannot;
  $("#run").textContent = TASKS[name].title;
  if (picture && body.dataset.brush !== "touch") show(shown >= 0 && results[shown].task === name ? "result" : "edit", results[shown]?.task === name ? shown : -1);
}

async function setPicture(blob, name) {
  stop();
  hideProblem();
  try {
    picture = original = await open(blob, name);
  } catch (error) {
    return showProblem(error);
  }
  [results, past] = [[], []];
  prepareBrush();
  show("edit");
  say(`${name}, ${picture.width} by ${picture.height} pixels`);
}

function prepareBrush() {
  const longest = Math.max(picture.width, picture.height);
  $("#size").max = Math.max(20, Math.round(longest / 4));
  setSize(Math.max(4, Math.round(longest / 20)));
  brush.open(picture);
}

function setSize(size) {
  const slider = $("#size");
  slider.value = size;
  brush.size = Number(slider.value);
  slider.setAttribute("aria-valuetext", `${slider.value} pixels`);
  fill(slider);
}

// --- run ---

async function start() {
  if (!picture) return $("#file").click();
  stop();
  hideProblem();
  const control = (running = new AbortController());
  const steps = stepsOf(task);
  const [name, live] = [task, task === "inpaint" && liveSwitch.checked];
  $("#wait").classList.toggle("live", live);
  try {
    let input = picture;
    const done = [];
    for (const [index, step] of steps.entries()) {
      showWaiting(steps.length > 1 ? `${TASKS[step].title}, step ${index + 1} of ${steps.length}` : TASKS[step].title);
      const form = await makeForm(name, step, input, live);
      const result = await run(step, form, control.signal, (job) => running === control && showProgress(job));
      if (running !== control) return;
      input = await open(result.blob, result.name);
      const cutout = step === "segment" && !form.has("background") && !form.has("background_image");
      done.push({ ...result, title: TASKS[step].title, picture: input, task: name, cutout });
      results = done;
      if (!live) show("result", index);
    }
    if (live) keepErased(input);
    say("The result is ready.");
  } catch (error) {
    if (running === control && error.name !== "AbortError") showProblem(error);
  } finally {
    if (running === control) hideWaiting();
  }
}

/** After a stroke that was erased at once: go on with the result. */
function keepErased(result) {
  past.push(picture);
  picture = result;
  brush.open(picture);
  show("edit");
}

async function makeForm(name, step, input, live) {
  const form = new FormData();
  form.append("image", input.blob, input.name);
  for (const [field, value] of controls.values(name, step)) form.append(field, value);
  if (step === "inpaint") form.append("mask", await brush.export(), "mask.png");
  if (live && !form.has("format")) form.append("format", "png"); // again and again: without loss
  return form;
}

function stop() {
  running?.abort(new DOMException("cancelled", "AbortError"));
  if (running) hideWaiting();
}

function showWaiting(title) {
  $("#wait").hidden = false;
  $("#wait-title").textContent = title;
  $("#wait-text").textContent = "Sending the picture";
  $(".bar").removeAttribute("aria-valuenow");
  $("#run").disabled = true;
  $("#stage").scrollIntoView({ block: "nearest" });
  say(`${title}: started`);
}

function hideWaiting() {
  running = null;
  $("#wait").hidden = true;
  $("#run").disabled = false;
}

function showProgress(job) {
  const parts = [];
  if (job.state === "queued") parts.push(job.place > 1 ? `Place ${job.place} in the queue` : "Next in the queue");
  else if (job.all) parts.push(`${job.done} of ${job.all} parts`);
  if (job.eta) parts.push(`about ${job.eta < 90 ? `${Math.ceil(job.eta)} s` : `${Math.round(job.eta / 60)} min`} left`);
  const text = parts.join(", ") || "Working";
  if ($("#wait-text").textContent !== text) say(text);
  $("#wait-text").textContent = text;
  if (!job.all) return;
  $(".bar").setAttribute("aria-valuenow", Math.round(100 * job.progress));
  $(".bar").style.setProperty("--done", `${100 * job.progress}%`);
}

// --- problems ---

function showProblem(error) {
  if (error.status === 401) return askKey(error.message);
  controls.clear();
  if (controls.mark(task, error)) return;
  const link = error.type && el("a", { href: new URL(error.type.slice(1), root).href, target: "_blank" }, "What to do");
  $("#problem").replaceChildren(el("b", {}, error.title || "This did not work"), error.message, " ", link || "");
  $("#problem").hidden = false;
  $("#problem").scrollIntoView({ block: "nearest" });
}

function hideProblem() {
  $("#problem").hidden = true;
  controls.clear();
}

function askKey(reason) {
  $("#key-text").textContent = `${reason ? `${reason} ` : ""}A key is kept in this tab until you close it.`;
  $("#key-value").value = key.get();
  $("#key").showModal();
}

// --- the command ---

function showCurl() {
  if (!picture) return;
  const stem = picture.name.replace(/\.[^.]*$/, "");
  let input = picture.name;
  const lines = stepsOf(task).map((step, index) => {
    const output = results[index]?.task === task ? results[index].name : `${stem}-${step}.png`;
    const fields = controls.values(task, step).map(([name, value]) => [name, value.name || value, value instanceof File]);
    const mask = step === "inpaint" ? [["mask", "mask.png", true]] : [];
    const line = curl(step, [["image", input, true], ...mask, ...fields], output);
    input = output;
    return line;
  });
  $("#curl code").textContent = lines.join(" && ");
}

async function copyText(text) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else {
    getSelection().selectAllChildren($("#curl code")); // without HTTPS there is no clipboard
    document.execCommand("copy");
  }
  say("Copied");
}

// --- start ---

const liveSwitch = el("input", { type: "checkbox", id: "live" });
const maskFile = el("input", { type: "file", accept: "image/*", hidden: true, onchange: () => loadMask(maskFile.files[0]) });
const eraseControls = el("div", { className: "field" },
  el("label", { className: "switch" }, "Run when the stroke ends", liveSwitch),
  el("div", { className: "row" },
    el("button", { type: "button", className: "button", id: "mask-load", onclick: () => maskFile.click() }, "Load mask"),
    el("button", { type: "button", className: "button", id: "mask-save", onclick: async () => save(await brush.export(), "mask.png") }, "Save mask"),
    maskFile));

async function loadMask(file) {
  if (!file || !picture) return;
  try {
    brush.add({ image: await readMask(file, picture) });
  } catch (error) {
    showProblem(error);
  }
}

async function touchUp(done) {
  if (done) {
    const result = results[shown];
    const name = result.name.replace(/\.\w+$/, ".png");
    result.blob = await brush.export();
    result.picture = await open(result.blob, name);
    result.name = name;
  }
  show("result", shown);
}

function undo() {
  if (brush.isEmpty && !brush.strokes.length && past.length) {
    picture = past.pop();
    if (!past.length) results = [];
    else results[0] = { ...results[0], picture };
    brush.open(picture);
    show("edit");
  } else brush.undo();
}

function listen() {
  const click = (id, listener) => $(id).addEventListener("click", listener);
  $("#tasks").addEventListener("change", (event) => setTask(event.target.value));
  $("#form").addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  $("#form").addEventListener("input", showCurl);
  for (const id of ["#choose", "#replace"]) click(id, () => $("#file").click());
  for (const input of [$("#file"), $("#camera")])
    input.addEventListener("change", () => {
      if (input.files[0]) setPicture(input.files[0], input.files[0].name);
      input.value = "";
    });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) setPicture(file, file.name || "pasted.png");
  });
  for (const type of ["dragenter", "dragover", "dragleave", "drop"])
    addEventListener(type, (event) => {
      event.preventDefault();
      body.classList.toggle("over", type === "dragenter" || type === "dragover");
      const [file] = type === "drop" ? event.dataTransfer.files : [];
      if (file) setPicture(file, file.name);
    });
  click("#cancel", () => {
    stop();
    say("Cancelled");
  });
  click("#undo", undo);
  click("#redo", () => brush.redo());
  click("#clear", () => brush.clear());
  click("#draw", () => setErasing(false));
  click("#erase", () => setErasing(true));
  $("#size").addEventListener("input", (event) => setSize(event.target.value));
  click("#zoom-in", () => brush.zoom(1.25));
  click("#zoom-out", () => brush.zoom(0.8));
  click("#zoom-fit", () => brush.fit());
  brush.addEventListener("view", () => ($("#zoom").value = `${Math.round(brush.scale * 100)} %`));
  brush.addEventListener("change", () => {
    $("#undo").disabled = !brush.strokes.length && !past.length;
    $("#redo").disabled = !brush.canRedo;
    $("#clear").disabled = brush.isEmpty;
  });
  brush.addEventListener("stroke", () => body.dataset.brush === "mask" && liveSwitch.checked && !brush.erasing && start());
  addEventListener("keydown", shortcut);
  click("#touch", () => {
    body.dataset.mode = "edit";
    setBrush("touch");
    brush.open(picture, results[shown].picture.image);
  });
  click("#touch-done", () => touchUp(true));
  click("#touch-cancel", () => touchUp(false));
  click("#next", () => setPicture(results[shown].blob, results[shown].name));
  click("#download", (event) => {
    event.preventDefault();
    save(results[shown].blob, results[shown].name);
  });
  click("#copy", async () => {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": toPng(results[shown].picture) })]);
    say("Copied");
  });
  $("#copy").hidden = !navigator.clipboard?.write;
  click("#copy-curl", () => copyText($("#curl code").textContent));
  click("#key-open", () => askKey(""));
  $("#key").addEventListener("submit", (event) => {
    event.preventDefault();
    $("#key").close();
    if (event.submitter?.value !== "save") return;
    key.set($("#key-value").value.trim());
    load();
  });
}

function setErasing(erasing) {
  brush.erasing = erasing;
  $("#draw").setAttribute("aria-pressed", !erasing);
  $("#erase").setAttribute("aria-pressed", erasing);
}

function shortcut(event) {
  if (!body.dataset.brush || event.target.matches("input:not([type=range]):not([type=radio]), select, dialog *")) return;
  const command = event.ctrlKey || event.metaKey;
  const letter = event.key.toLowerCase();
  if (command && letter === "z") event.shiftKey ? brush.redo() : undo();
  else if (command && letter === "y") brush.redo();
  else if (command || event.altKey) return;
  else if (letter === "[" || letter === "]") setSize(Math.round(brush.size * (letter === "]" ? 1.2 : 1 / 1.2)) + (letter === "]" ? 1 : -1));
  else if (letter === "e") setErasing(true);
  else if (letter === "b") setErasing(false);
  else return;
  event.preventDefault();
}

/** Fetch what the controls are made of. Models and styles need the key, where there is one. */
async function load() {
  const [openapi, models, styles] = await Promise.all([
    get("openapi.json"),
    get("models").then((answer) => answer.models, () => []),
    get("styles").then((answer) => answer.styles, () => []),
  ]);
  controls = new Controls(openapi, models, styles);
  setTask(task);
}

async function listSamples() {
  const image = await sampleImage();
  for (const sample of SAMPLES) {
    const canvas = draw(sample, image);
    const choose = () => canvas.toBlob(async (blob) => {
      $(`#tasks [value=${sample.task}]`).click();
      await setPicture(blob, sample.name);
      if (sample.task === "inpaint") brush.add(...scratchStrokes());
    });
    $("#samples").append(el("button", { type: "button", onclick: choose }, canvas, sample.title));
  }
}

async function describeService() {
  const { limits, needs_key: needed } = await get("");
  const hours = limits.job_ttl_h;
  $("#kept").textContent = `Pictures go to ${location.host} and nowhere else. Results are deleted there as soon as the page has them; if you close it before, after ${hours} ${hours === 1 ? "hour" : "hours"}.`;
  $("#key-open").hidden = !needed;
  if (needed && !key.get()) askKey("This service needs a key.");
}

listTasks($("#tasks"), task);
listen();
setTask(task);
for (const part of [load, describeService, listSamples]) part().catch(showProblem);
