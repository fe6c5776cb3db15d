// What the modules of the page share.

import { Brush } from "./brush.js";
import { Compare } from "./compare.js";
import { Controls } from "./controls.js";
import { $ } from "./dom.js";

export const state = {
  task: "denoise",
  picture: null, // what a task works on
  original: null, // what results are compared with
  results: [], // {title, task, picture, blob, name, model, applied, cutout} of the last run
  shown: -1, // index of the result that is shown, or -1
  past: [], // pictures before each stroke that was erased at once, for undo
  running: null, // AbortController of the run
  controls: new Controls({ paths: {} }, [], []), // until the OpenAPI document is there
};
export const brush = new Brush($("#edit"));
export const compare = new Compare($("#compare"), $("#hold"), $("#lens"));

/** Replace the results, and let the browser free those that nothing shows any more. */
export function setResults(results) {
  const kept = [...results.map((one) => one.picture), state.picture, state.original, ...state.past];
  for (const { picture } of state.results) if (!kept.includes(picture)) URL.revokeObjectURL(picture.url);
  state.results = results;
}
