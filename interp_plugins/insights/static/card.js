// One sample: its input, its maps side by side with linked zoom and pointer, its tags and note.

import { button, digits, field, h, later, offer } from "./elements.js";
import { inputView, Panel, pixels, rowOrder } from "./maps.js";
import { reason } from "./wire.js";

/**
 * @import { Catalogue, Host, InputRecord, MapRecord, Notes, Outcome, Remark, Run, Sample } from "./wire.js"
 * @import { Looks, Palettes } from "./maps.js"
 *
 * What a card needs of the page around it. `run` is the number of the run shown; with `compare` all are. `baseline`
 * replaces what curves remove. `explain` takes samples, and what differs from the page's own choice.
 * @typedef {{catalogue: Catalogue, host: Host, runs: Run[], run: number, compare: boolean, readonly samples: Sample[],
 *   notes: Notes, looks: Looks, palettes: Palettes, readonly baseline: string | undefined,
 *   explain: (samples: number[], change?: Record<string, any>) => Promise<void>,
 *   remember: (index: number, remark: Remark) => void}} Viewer
 *
 * @typedef {HTMLImageElement | HTMLCanvasElement} Drawn
 */

export class Card {
  /** @param {number} index the sample's number @param {Viewer} viewer */
  constructor(index, viewer) {
    this.index = index;
    this.viewer = viewer;
    this.near = false; // whether it is on the screen, or soon will be
    this.zoomed = { zoom: 1, x: 0.5, y: 0.5 };
    this.spot = /** @type {?{x: number, y: number}} */ (null); // where the pointer was last
    this.input = /** @type {?InputRecord} */ (null);
    this.photos = /** @type {Map<string, Promise<Uint8ClampedArray>>} */ (new Map());
    this.panels = /** @type {Panel[]} */ ([]);
    this.groups = /** @type {Map<string, HTMLElement>} */ (new Map());
    this.loading = /** @type {?Promise<void>} */ (null);
    this.cleared = 0; // how often: what was asked for before comes too late
    this.head = h("div", {});
    this.row = h("div", { class: "rows" });
    this.code = h("code", { class: "code", hidden: true });
    this.el = h("article", { class: "card", tabindex: "-1", "data-index": String(index) },
      this.head, this.row, this.remarks(), this.code);
    this.row.addEventListener("pointermove", (event) => this.hover(event));
    this.row.addEventListener("pointerover", (event) => this.link(event));
    this.row.addEventListener("pointerleave", () => this.leave());
    this.row.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.clear();
  }

  /** Nothing but what is known without maps. */
  clear() {
    this.panels = [];
    this.groups = new Map();
    this.loading = null;
    this.cleared++;
    const sample = this.viewer.samples[this.index];
    this.head.replaceChildren(
      h("header", {}, h("h2", {}, sample.name || `Sample ${this.index + 1}`), this.badges(sample), this.zoomButtons()),
      ...sample.models.map((outcome, m) => this.classes(outcome, m) ?? ""));
    delete this.el.dataset.ready;
  }

  /** @param {Sample} sample */
  badges(sample) {
    const { predictionText, probability, loss, correct } = sample.models[0];
    const fact = (/** @type {string} */ name, /** @type {?string} */ text) =>
      text === null ? null : h("span", {}, `${name} ${text}`);
    const mark = h("span", { class: correct ? "badge right" : "badge wrong" }, correct ? "correct" : "wrong");
    return h("p", { class: "facts" },
      fact("predicted", predictionText),
      fact("p", probability === null ? null : digits(probability)),
      fact("truth", sample.labelText),
      fact("loss", loss === null ? null : digits(loss)),
      correct === null ? null : mark);
  }

  /** The likeliest classes; a click explains that class. @param {Outcome} outcome @param {number} m the model */
  classes(outcome, m) {
    if (!outcome.top.length) return null;
    const { models, live } = this.viewer.catalogue;
    const name = models.length > 1 ? h("span", { class: "faint" }, models[m].name) : null;
    const chips = outcome.top.map(({ index, label, p }) => h("button", {
      type: "button",
      class: outcome.predictions?.includes(index) ? "chip said" : "chip",
      disabled: !live,
      title: live ? `Explain ${label}` : null,
      onclick: () => this.viewer.explain([this.index], { target: index, model: String(m) }),
    }, `${label} ${p === null ? "" : digits(p)}`));
    return h("div", { class: "chips", role: "group", "aria-label": "Classes; press one to explain it" }, name, chips);
  }

  // -- maps -----------------------------------------------------------------------------------------------------------

  /** Fetch input and maps, once. */
  load() {
    this.loading ??= this.fetch();
    return this.loading;
  }

  async fetch() {
    const { host, run, runs, compare } = this.viewer;
    const sample = this.index, { cleared } = this;
    const shown = (compare ? [...runs.keys()] : [run]).filter((r) => runs[r].samples[sample]);
    try {
      const input = await host.once("input", { sample, run });
      const found = await Promise.all(shown.map((r) => host.once("maps", { sample, run: r })));
      if (this.cleared !== cleared) return; // the run was changed meanwhile
      this.begin(input);
      found.forEach((records, k) => records.forEach((record) => this.add(record, compare ? runs[shown[k]].name : "")));
      if (!this.panels.length) this.hint();
    } catch (error) {
      if (this.cleared !== cleared) return;
      this.fail(reason(error));
    }
    this.el.dataset.ready = "yes";
    this.paint();
  }

  /** The input alone, before its maps. @param {InputRecord} input */
  begin(input) {
    this.input = input;
    this.photos.clear();
    this.panels = [];
    this.groups.clear();
    this.row.replaceChildren();
    const view = inputView(input);
    if (view) {
      const look = input.view !== "image" ? "panel hint" : input.wide ? "panel wide" : "panel";
      this.group("", "").append(h("figure", { class: look }, h("figcaption", {}, h("strong", {}, "Input")), view));
    }
    if (input.view === "error") this.fail(input.error);
  }

  hint() {
    const { live } = this.viewer.catalogue;
    const text = live ? "No map yet: choose a method above and press Explain." : "This sample has no map.";
    this.group("", "").append(h("p", { class: "faint hint" }, text));
  }

  /** The row of a model, or of a run where all are compared. @param {string} key @param {string} name */
  group(key, name) {
    let found = this.groups.get(key);
    if (!found) {
      found = h("div", { class: "row" });
      this.groups.set(key, found);
      this.row.append(name ? h("section", { class: "group" }, h("h3", {}, name), found) : found);
    }
    return found;
  }

  /** One more map. @param {MapRecord} record @param {string} run its name, where several are compared */
  add(record, run = "") {
    for (const hint of this.row.querySelectorAll(".hint")) hint.remove();
    const { host, catalogue } = this.viewer;
    const curves = () => host.ask("curves", { sample: this.index, key: record.key, baseline: this.viewer.baseline });
    const panel = new Panel(record, {
      photo: (width, height) => this.photo(width, height),
      curves: catalogue.live ? curves : null,
      order: () => rowOrder(this.panels),
      repaint: () => this.paint(),
    });
    this.panels.push(panel);
    if (record.view === "bars") for (const one of this.panels) one.stale ||= one.record.view === "bars";
    const model = catalogue.models.length > 1 ? catalogue.models[record.model].name : "";
    const name = [run, model].filter(Boolean).join(", ");
    this.group(name, name).append(panel.el);
    this.transform();
    return panel;
  }

  /** Whether this map is shown already. @param {MapRecord} record */
  has({ key, title }) {
    return this.panels.some(({ record }) => record.key === key && record.title === title);
  }

  /** The input's pixels at a size, shared by all maps. @param {number} width @param {number} height */
  photo(width, height) {
    if (this.input?.view !== "image") return null;
    const key = `${width} ${height}`;
    const found = this.photos.get(key) ?? pixels(this.input.src, width, height);
    this.photos.set(key, found);
    return found;
  }

  /** @param {string} text */
  fail(text) {
    this.row.append(h("p", { class: "failed", role: "alert" }, text));
  }

  /** Draw what is stale, if it can be seen. */
  paint() {
    if (this.near) this.panels.forEach((panel) => panel.redraw(this.viewer.looks, this.viewer.palettes));
  }

  /** The looks have changed. */
  redraw() {
    this.panels.forEach((panel) => (panel.stale = true));
    this.paint();
  }

  // -- pointer and zoom -----------------------------------------------------------------------------------------------

  /** @param {PointerEvent} event */
  hover(event) {
    const canvas = /** @type {HTMLElement} */ (event.target).closest("canvas, img");
    if (!canvas) return;
    const box = canvas.getBoundingClientRect();
    const spot = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    if (spot.x < 0 || spot.y < 0 || spot.x >= 1 || spot.y >= 1) return;
    this.panels.forEach((panel) => panel.point(spot));
    if (event.buttons === 1 && this.zoomed.zoom > 1) {
      const within = (/** @type {number} */ v) => Math.min(1, Math.max(0, v));
      this.zoomed.x = within(this.zoomed.x - (event.movementX * 2) / box.width);
      this.zoomed.y = within(this.zoomed.y - (event.movementY * 2) / box.height);
      this.transform();
    } else this.spot = spot;
  }

  /** The same token or column in all maps of the sample. @param {PointerEvent} event */
  link(event) {
    const link = /** @type {HTMLElement} */ (event.target).closest("[data-link]")?.getAttribute("data-link");
    for (const el of this.row.querySelectorAll("[data-link]"))
      el.classList.toggle("linked", link !== undefined && el.getAttribute("data-link") === link);
  }

  leave() {
    this.panels.forEach((panel) => panel.point(null));
    for (const el of this.row.querySelectorAll(".linked")) el.classList.remove("linked");
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    if (!event.ctrlKey) return; // a plain wheel scrolls the page
    event.preventDefault();
    if (this.zoomed.zoom === 1 && this.spot) Object.assign(this.zoomed, this.spot);
    this.zoom(event.deltaY < 0 ? 1.25 : 0.8);
  }

  /** @param {number} factor 0: the whole picture */
  zoom(factor) {
    const { zoom, x, y } = this.zoomed;
    this.zoomed = factor ? { zoom: Math.min(16, Math.max(1, zoom * factor)), x, y } : { zoom: 1, x: 0.5, y: 0.5 };
    this.transform();
  }

  zoomButtons() {
    const by = (/** @type {string} */ text, /** @type {string} */ label, /** @type {number} */ factor) =>
      button(text, () => this.zoom(factor), { "aria-label": label, title: label });
    return h("span", { class: "zoom" },
      by("−", "Zoom out", 0.8), by("+", "Zoom in", 1.25), by("1:1", "Whole picture", 0));
  }

  transform() {
    const { zoom, x, y } = this.zoomed;
    for (const { style } of /** @type {NodeListOf<HTMLElement>} */ (this.row.querySelectorAll(".zoomed"))) {
      style.transformOrigin = `${100 * x}% ${100 * y}%`;
      style.transform = zoom === 1 ? "" : `scale(${zoom})`;
    }
  }

  // -- tags, note, saving ---------------------------------------------------------------------------------------------

  remarks() {
    const { viewer, index } = this;
    const kept = viewer.notes[index] ?? { tags: [], note: "" };
    const save = later(() => viewer.remember(index, {
      tags: tags.value.split(",").map((tag) => tag.trim()).filter(Boolean),
      note: note.value,
    }));
    const tags = h("input", { type: "text", placeholder: "tags, by commas", oninput: save });
    const note = h("input", { type: "text", placeholder: "a note", oninput: save });
    tags.value = kept.tags.join(", ");
    note.value = kept.note;
    return h("footer", {}, field("Tags", tags), field("Note", note),
      viewer.catalogue.live ? button("Explain this sample", () => viewer.explain([index])) : null,
      button("Save as PNG", () => this.savePng()),
      button("Copy as code", () => this.showCode()));
  }

  /** Show the calls that make these maps, and put them on the clipboard. */
  showCode() {
    const calls = [...new Set(this.panels.map((panel) => panel.record.code))];
    this.say(calls.join("\n") || "There is no map yet.");
    if (calls.length) navigator.clipboard?.writeText(calls.join("\n")).catch(() => {});
  }

  /** @param {string} text below the maps */
  say(text) {
    this.code.textContent = text;
    this.code.hidden = false;
  }

  /** All pictures of the sample in one, each with its title, at most four beside each other. */
  savePng() {
    this.panels.forEach((panel) => panel.redraw(this.viewer.looks, this.viewer.palettes));
    const pictures = /** @type {NodeListOf<Drawn>} */ (this.row.querySelectorAll("img, canvas"));
    if (!pictures.length) {
      this.say("Only pictures can be saved as PNG; this sample has none.");
      return;
    }
    sheet([...pictures]).toBlob((blob) => blob && offer(blob, `sample-${this.index + 1}.png`));
  }
}

/** Pictures of a card on one canvas, each below its title. @param {Drawn[]} pictures */
function sheet(pictures) {
  const shape = (/** @type {Drawn} */ el) =>
    el instanceof HTMLImageElement ? el.naturalHeight / el.naturalWidth : el.height / el.width;
  const width = 320, line = 24, across = Math.min(4, pictures.length);
  const height = line + Math.ceil(width * Math.max(...pictures.map(shape)));
  const canvas = h("canvas", { width: across * width, height: Math.ceil(pictures.length / across) * height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  Object.assign(context, { fillStyle: "#ffffff", font: "14px sans-serif", imageSmoothingEnabled: false });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#1f2328";
  pictures.forEach((el, k) => {
    const x = (k % across) * width, y = Math.floor(k / across) * height;
    const titles = [el.closest(".group")?.querySelector("h3"), el.closest("figure")?.querySelector("strong")];
    context.drawImage(el, x + 2, y + line, width - 4, (width - 4) * shape(el));
    context.fillText(titles.map((title) => title?.textContent).filter(Boolean).join(": "), x + 4, y + 17, width - 8);
  });
  return canvas;
}
