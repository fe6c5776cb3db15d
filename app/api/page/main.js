// Starts the page: what its buttons and keys do, and what it asks of the service.

import { get, key } from "./api.js";
import { Controls, listTasks } from "./controls.js";
import { $, el, save, say } from "./dom.js";
import { SAMPLES, draw, readMask, sampleImage, scratchStrokes, toPng } from "./pictures.js";
import { askKey, showProblem } from "./problems.js";
import { start, touchUp, undo } from "./run.js";
import { brush, state } from "./state.js";
import { setBrush, setPicture, setSize, setTask, showCurl } from "./view.js";
import { stop } from "./waiting.js";

const body = document.body;
const click = (selector, listener) => $(selector).addEventListener("click", listener);
const result = () => state.results[state.shown];

/** Pictures come from files, the camera, the clipboard, or are dropped anywhere. */
function listenForPictures() {
  const take = (file) => file && setPicture(file, file.name || "picture.png");
  for (const id of ["#choose", "#replace"]) click(id, () => $("#file").click());
  for (const input of [$("#file"), $("#camera")])
    input.addEventListener("change", () => {
      take(input.files[0]);
      input.value = "";
    });
  addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  $("#empty").addEventListener(
    "click",
    (event) => event.target.closest("button, label, #samples") || $("#file").click(),
  );
  for (const type of ["dragenter", "dragover", "dragleave", "drop"])
    addEventListener(type, (event) => {
      event.preventDefault();
      body.classList.toggle("over", type === "dragenter" || type === "dragover");
      if (type === "drop") take(event.dataTransfer.files[0]);
    });
}

function listenToForm() {
  $("#tasks").addEventListener("change", (event) => setTask(event.target.value));
  $("#form").addEventListener("input", showCurl);
  $("#form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!state.running) start();
  });
  click("#cancel", cancel);
  addEventListener("keydown", (event) => event.key === "Escape" && state.running && cancel());
  click("#mask-save", async () => save(await brush.strokes.export(), "mask.png"));
  click("#mask-load", () => $("#mask").click());
  $("#mask").addEventListener("change", async ({ target }) => {
    try {
      if (target.files[0] && state.picture) brush.add({ image: await readMask(target.files[0], state.picture) });
    } catch (error) {
      showProblem(error);
    }
    target.value = "";
  });
}

function cancel() {
  stop();
  say("Cancelled");
}

function listenToBrush() {
  click("#undo", undo);
  click("#redo", () => brush.redo());
  click("#clear", () => brush.clear());
  click("#draw", () => setErasing(false));
  click("#erase", () => setErasing(true));
  click("#zoom-in", () => brush.zoom(1.25));
  click("#zoom-out", () => brush.zoom(0.8));
  click("#zoom-fit", () => brush.fit());
  $("#size").addEventListener("input", (event) => setSize(event.target.value));
  brush.addEventListener("view", () => ($("#zoom").value = `${Math.round(brush.scale * 100)} %`));
  brush.addEventListener("change", () => {
    $("#undo").disabled = !brush.strokes.canUndo && !state.past.length;
    $("#redo").disabled = !brush.strokes.canRedo;
    $("#clear").disabled = brush.strokes.isEmpty;
  });
  brush.addEventListener("stroke", () => {
    if (body.dataset.brush === "mask" && $("#live").checked && !brush.erasing) start();
  });
  addEventListener("keydown", shortcut);
}

function setErasing(erasing) {
  brush.erasing = erasing;
  $("#draw").setAttribute("aria-pressed", !erasing);
  $("#erase").setAttribute("aria-pressed", erasing);
}

function shortcut(event) {
  const typing = event.target.matches("input:not([type=range], [type=radio], [type=checkbox]), select, dialog *");
  if (!body.dataset.brush || typing) return;
  const [command, letter] = [event.ctrlKey || event.metaKey, event.key.toLowerCase()];
  if (command && letter === "z") event.shiftKey ? brush.redo() : undo();
  else if (command && letter === "y") brush.redo();
  else if (command || event.altKey) return;
  else if (letter === "]") setSize(Math.ceil(brush.size * 1.2) + 1);
  else if (letter === "[") setSize(Math.floor(brush.size / 1.2) - 1);
  else if (letter === "e") setErasing(true);
  else if (letter === "b") setErasing(false);
  else return;
  event.preventDefault();
}

function listenToResult() {
  click("#touch", () => {
    body.dataset.mode = "edit";
    brush.open(state.picture, result().picture.image);
    setBrush("touch");
  });
  click("#touch-done", () => touchUp(true));
  click("#touch-cancel", () => touchUp(false));
  click("#next", () => setPicture(result().blob, result().name));
  click("#download", () => save(result().blob, result().name));
  click("#copy", async () => {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": toPng(result().picture) })]);
    say("Copied");
  });
  $("#copy").hidden = !navigator.clipboard?.write; // without HTTPS there is no clipboard
  click("#copy-curl", async () => {
    const code = $("#curl code");
    getSelection().selectAllChildren(code);
    if (navigator.clipboard) await navigator.clipboard.writeText(code.textContent);
    else document.execCommand("copy");
    say("Copied");
  });
}

function listenToKey() {
  click("#key-open", () => askKey(""));
  click("#key-cancel", () => $("#key").close());
  $("#key form").addEventListener("submit", (event) => {
    event.preventDefault();
    $("#key").close();
    key.set($("#key-value").value.trim());
    load().catch(showProblem);
  });
}

/** Fetch what the controls are made of. Models and styles need the key, where there is one. */
async function load() {
  const [openapi, models, styles] = await Promise.all([
    get("openapi.json"),
    get("models").then(
      (answer) => answer.models,
      () => [],
    ),
    get("styles").then(
      (answer) => answer.styles,
      () => [],
    ),
  ]);
  state.controls = new Controls(openapi, models, styles);
  setTask(state.task);
}

async function listSamples() {
  const image = await sampleImage();
  for (const sample of SAMPLES) {
    const canvas = draw(sample, image);
    const choose = async (blob) => {
      $(`#tasks [value=${sample.task}]`).click();
      await setPicture(blob, sample.name);
      if (sample.task === "inpaint") brush.add(...scratchStrokes());
    };
    $("#samples").append(el("button", { type: "button", onclick: () => canvas.toBlob(choose) }, canvas, sample.title));
  }
}

async function describeService() {
  const { limits, needs_key: needed } = await get("");
  const hours = `${limits.job_ttl_h} ${limits.job_ttl_h === 1 ? "hour" : "hours"}`;
  $("#kept").textContent =
    `Pictures go to ${location.host} and nowhere else. Results are deleted there as soon as the page has them; ` +
    `if you close it before, after ${hours}.`;
  $("#key-open").hidden = !needed;
  if (needed && !key.get()) askKey("This service needs a key.");
}

listTasks($("#tasks"), state.task);
for (const listen of [listenForPictures, listenToForm, listenToBrush, listenToResult, listenToKey]) listen();
setTask(state.task);
for (const part of [load, describeService, listSamples]) part().catch(showProblem);
