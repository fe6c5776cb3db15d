// Runs a task: one request for each step, and what becomes of the results.

import { run } from "./api.js";
import { TASKS, stepsOf } from "./controls.js";
import { $, say } from "./dom.js";
import { open } from "./pictures.js";
import { hideProblem, showNotice, showProblem } from "./problems.js";
import { brush, setResults, state } from "./state.js";
import { show } from "./view.js";
import { hideWaiting, showProgress, showWaiting, stop } from "./waiting.js";

/** Run the task on the picture, and show the result of each step. */
export async function start() {
  if (!state.picture) return;
  stop();
  hideProblem();
  const control = (state.running = new AbortController());
  const live = state.task === "inpaint" && $("#live").checked;
  $("#wait").classList.toggle("live", live);
  try {
    await runSteps(state.task, control, live);
    if (state.results.at(-1)?.applied.includes("found=nothing"))
      showNotice("Nothing was found", "Touch up the cutout, or choose another model under More.");
    say("The result is ready.");
  } catch (error) {
    if (state.running === control && error.name !== "AbortError") showProblem(error);
  } finally {
    if (state.running === control) hideWaiting();
  }
}

async function runSteps(task, control, live) {
  const steps = stepsOf(task);
  let input = state.picture;
  const results = [];
  for (const [index, step] of steps.entries()) {
    const { title } = TASKS[step];
    showWaiting(steps.length > 1 ? `${title}, step ${index + 1} of ${steps.length}` : title);
    const form = await makeForm(task, step, input, live);
    const result = await run(step, form, control.signal, (job) => state.running === control && showProgress(job));
    input = await open(result.blob, result.name);
    control.signal.throwIfAborted();
    const cutout = step === "cutout" && !form.has("background") && !form.has("background_image");
    results.push({ ...result, title, picture: input, task, cutout });
    if (live) keepErased(results);
    else {
      setResults([...results]);
      show("result", index);
    }
  }
}

async function makeForm(task, step, input, live) {
  const form = new FormData();
  form.append("image", input.blob, input.name);
  for (const [field, value] of state.controls.values(task, step)) form.append(field, value);
  if (step === "inpaint") form.append("mask", await brush.strokes.export(), "mask.png");
  if (live && !form.has("format")) form.append("format", "png"); // again and again: without loss
  return form;
}

/** After a stroke that was erased at once: go on with the result. */
function keepErased(results) {
  state.past.push(state.picture);
  setResults(results);
  state.picture = results[0].picture;
  brush.open(state.picture);
  show("edit");
}

/** Take back a stroke, or a stroke that was erased at once. */
export function undo() {
  if (brush.strokes.canUndo || !state.past.length) return brush.undo();
  const last = state.picture;
  state.picture = state.past.pop();
  const [result] = state.results;
  setResults(
    state.past.length
      ? [{ ...result, picture: state.picture, blob: state.picture.blob, name: state.picture.name }]
      : [],
  );
  URL.revokeObjectURL(last.url);
  brush.open(state.picture);
  show("edit");
}

/** End touching up a cutout: with what was drawn, or as it was. */
export async function touchUp(done) {
  const result = state.results[state.shown];
  if (done) {
    result.blob = await brush.strokes.export();
    result.name = result.name.replace(/\.\w+$/, ".png");
    result.picture = await open(result.blob, result.name);
  }
  show("result", state.shown);
}
