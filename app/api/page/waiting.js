// The card that is shown while a task runs: progress, place in the queue, time left.

import { $, say } from "./dom.js";
import { state } from "./state.js";

export function showWaiting(title) {
  $("#wait").hidden = false;
  $("#wait-title").textContent = title;
  $("#wait-text").textContent = "Sending the picture";
  $(".bar").removeAttribute("aria-valuenow");
  $("#run").setAttribute("aria-disabled", "true"); // not disabled: it would lose the focus
  $("#stage").scrollIntoView({ block: "nearest" });
  say(`${title}: started`);
}

export function hideWaiting() {
  state.running = null;
  $("#wait").hidden = true;
  $("#run").removeAttribute("aria-disabled");
}

/** Cancel the run, if there is one. */
export function stop() {
  state.running?.abort(new DOMException("cancelled", "AbortError"));
  if (state.running) hideWaiting();
}

export function showProgress(job) {
  const text = describe(job);
  if ($("#wait-text").textContent !== text) say(text);
  $("#wait-text").textContent = text;
  if (!job.done) return; // the bar moves back and forth until there is something to show
  $(".bar").setAttribute("aria-valuenow", Math.round(100 * job.progress));
  $(".bar").style.setProperty("--done", `${100 * job.progress}%`);
}

function describe({ state: now, place, all, done, eta }) {
  if (now === "queued") return place > 1 ? `Place ${place} in the queue` : "Next in the queue";
  const parts = all ? [`${done} of ${all} parts`] : ["Working"];
  if (eta) parts.push(`about ${eta < 90 ? `${Math.ceil(eta)} s` : `${Math.round(eta / 60)} min`} left`);
  return parts.join(", ");
}
