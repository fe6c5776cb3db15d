// Problems: beside the field that they name, or below the picture; without a key, a question for it.

import { key, root } from "./api.js";
import { $, el } from "./dom.js";
import { state } from "./state.js";

export function showProblem(error) {
  if (error.status === 401) return askKey(error.message);
  state.controls.clear();
  if (state.controls.mark(state.task, error)) return;
  const link = error.type?.startsWith("/")
    ? el("a", { href: new URL(error.type.slice(1), root).href, target: "_blank" }, "What to do")
    : "";
  showNotice(error.title || "This did not work", error.message, " ", link);
}

/** Show a text below the picture. */
export function showNotice(title, ...text) {
  $("#problem").replaceChildren(el("b", {}, title), ...text);
  $("#problem").hidden = false;
  $("#problem").scrollIntoView({ block: "nearest" });
}

export function hideProblem() {
  $("#problem").hidden = true;
  state.controls.clear();
}

export function askKey(reason) {
  $("#key-text").textContent = `${reason ? `${reason} ` : ""}A key is kept in this tab until you close it.`;
  $("#key-value").value = key.get();
  $("#key").showModal();
}
