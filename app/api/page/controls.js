// The tasks, and controls for their fields: all of them are made from the OpenAPI document.

import { $, el, icon } from "./dom.js";
import {
  automatic,
  capitalize,
  choice,
  color,
  file,
  firstSentence,
  select,
  slider,
  styleGrid,
  text,
  toggle,
} from "./fields.js";

/**
 * Endpoints, as tasks for people. `main` are the fields shown first, with their labels; `initial` are values that
 * differ from the API's; `models` are those that suit the page, best first; `task` is the name of the task of models.
 */
export const TASKS = {
  denoise: {
    title: "Clean up",
    about: "Noise, grain, JPEG blocks",
    main: { strength: "Strength", preserve: "Keep some grain" },
    cannot: "Does not sharpen blur, and does not rebuild faces in old photographs.",
  },
  superres: {
    title: "Enlarge",
    about: "2, 3 or 4 times the size",
    main: { scale: "Enlarge" },
    cannot:
      "Sharpens edges but cannot know details that are not there, such as small faces. Clean up noisy pictures first.",
  },
  cutout: {
    title: "Remove background",
    about: "Keep the subject, cut out",
    main: { background: "Background", edge: "Edge" },
    task: "segment",
    models: ["object", "person"],
    cannot: "Hair, glass and smoke are hard. Touch up the cutout with the brush.",
  },
  inpaint: {
    title: "Erase",
    about: "Objects, scratches, stamps",
    main: { dilate: "Grow the mask" },
    initial: { dilate: 4 },
    cannot: "Continues what surrounds the area. It cannot invent what is hidden, such as half a face.",
  },
  stylize: {
    title: "Paint",
    about: "In the style of a painting",
    main: { style: "Style", strength: "Strength", preserve_color: "Keep the colors" },
    cannot: "Changes colors and contrast more than it paints strokes.",
  },
  old: {
    title: "Old photo",
    about: "Clean up, then enlarge",
    steps: ["denoise", "superres"],
    main: { scale: "Enlarge" },
    cannot: "Does not rebuild faces, and does not add color. Erase scratches first.",
  },
};
const HIDDEN = ["image", "mask", "mask_from", "output", "opacity"]; // the page sends them, or they change nothing here

export const taskOf = (step) => TASKS[step].task || step;
export const stepsOf = (task) => TASKS[task].steps || [task];

export class Controls {
  #fields = {};

  constructor(openapi, models, styles) {
    Object.assign(this, { openapi, models, styles });
  }

  #schema(step) {
    const body = this.openapi.paths[`/${step}`]?.post.requestBody;
    return body ? body.content["multipart/form-data"].schema.properties : {};
  }

  /** Put the controls of a task into the page: the main ones, and all others under "More". */
  show(task) {
    const { main, initial = {} } = TASKS[task];
    const steps = stepsOf(task);
    this.#fields[task] ??= steps.flatMap((step) =>
      Object.entries(this.#schema(step))
        .filter(([name]) => !HIDDEN.includes(name) && (steps.length === 1 || name in main))
        .map(([name, schema]) => this.#field(step, name, schema, main[name], initial[name] ?? schema.default)),
    );
    const shown = this.#fields[task].filter((field) => field.main);
    const rest = this.#fields[task].filter((field) => !field.main);
    shown.sort((one, other) => Object.keys(main).indexOf(one.name) - Object.keys(main).indexOf(other.name));
    $("#controls").replaceChildren(...shown.map((field) => field.node));
    $("#more > div").replaceChildren(...rest.map((field) => field.node));
    $("#more").hidden = !rest.length;
  }

  /** Return [field, value] of a step of a task, without those that have the API's default. */
  values(task, step) {
    const set = (this.#fields[task] || [])
      .filter((field) => field.step === step)
      .map(({ name, read }) => [name, read()])
      .filter(([name, value]) => value !== "" && value != null && `${value}` !== `${this.#schema(step)[name].default}`);
    const model = this.#model(step);
    if (model && !set.some(([name]) => name === "model")) set.push(["model", model]);
    return set;
  }

  /** Return the model that suits the page better than the default one, or undefined. */
  #model(step) {
    const here = this.models.filter((model) => model.task === taskOf(step) && model.state !== "unavailable");
    const best = TASKS[step].models?.find((name) => here.some((model) => model.name === name));
    return here.some((model) => model.default && model.name === best) ? undefined : best;
  }

  /** Show a problem beside the field that it names. Returns whether there is such a field. */
  mark(task, { field: name, message }) {
    const field = this.#fields[task]?.find((one) => one.name === name);
    if (!field) return false;
    const text = el("p", { className: "wrong", id: `wrong-${name}`, role: "alert" }, message);
    field.node.append(text);
    const input = $("input, select", field.node);
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", text.id);
    if (!field.main) $("#more").open = true;
    input.focus({ preventScroll: true });
    field.node.scrollIntoView({ block: "center" });
    return true;
  }

  clear() {
    for (const text of document.querySelectorAll(".wrong")) text.remove();
    for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  }

  #field(step, name, schema, label, value) {
    const title = label || capitalize(name.replaceAll("_", " "));
    const id = `${step}-${name}`;
    const { node, read } = this.#control(step, id, name, title, schema, value);
    if (!label && schema.description) node.append(el("p", { className: "hint" }, firstSentence(schema.description)));
    node.dataset.field = name;
    return { step, name, node, read, main: Boolean(label) };
  }

  #control(step, id, name, title, schema, value) {
    const [one, other] = schema.anyOf || [];
    if (schema.format === "binary") return file(id, title);
    if (name === "model") return select(id, title, this.#modelOptions(step), value);
    if (name === "style" && this.styles.length) return styleGrid(id, title, this.styles, schema.examples?.[0]);
    if (other?.pattern) return color(id, title, one.enum[0]);
    if (one?.enum) return automatic(id, title, one.enum[0], other);
    if (schema.type === "boolean") return toggle(id, title, value);
    const named = schema.enum?.map((item) => [item, name === "scale" ? `${item}×` : capitalize(item)]);
    if (named?.length <= 4) return choice(id, title, named, value);
    if (named) return select(id, title, named, value);
    if ("maximum" in schema) return slider(id, title, schema, value);
    return text(id, title, schema, value);
  }

  #modelOptions(step) {
    const here = this.models.filter((model) => model.task === taskOf(step) && model.latest);
    const named = here.map(({ name, title }) => [name, title ? `${name}: ${title}` : name]);
    return [["", "Best for this task"], ...named];
  }
}

/** Fill the list of tasks. They belong to the form, so that Enter runs the task. */
export function listTasks(room, chosen) {
  for (const [name, { title, about }] of Object.entries(TASKS)) {
    const input = el("input", { type: "radio", name: "task", value: name, checked: name === chosen });
    input.setAttribute("form", "form");
    room.append(el("label", {}, input, icon(name), el("b", {}, title), el("small", {}, about)));
  }
}
