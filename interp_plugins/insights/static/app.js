// The viewer: one ES module in anywidget's front-end convention. It is given `model` (get, set, on, save_changes, send)
// and an element, and knows nothing of its host.

import { Card } from "./card.js";
import { chosen, filterBar, keysHelp, looksBar, MethodForm, runBar } from "./controls.js";
import { button, h, offer } from "./elements.js";
import { Records } from "./records.js";
import { bytes, Host, reason } from "./wire.js";

/**
 * @import { Catalogue, Model, Notes, Remark, Run } from "./wire.js"
 * @import { Looks, Palettes } from "./maps.js"
 * @import { Want } from "./controls.js"
 */

/** Colour tables as bytes. @param {Catalogue["palettes"]} texts @returns {Palettes} */
function decoded(texts) {
  const tables = (/** @type {Record<string, string>} */ group) =>
    Object.fromEntries(Object.entries(group).map(([name, text]) => [name, bytes(text)]));
  return { signed: tables(texts.signed), unsigned: tables(texts.unsigned) };
}

/** The whole viewer. */
class App {
  /** @param {Model} model @param {HTMLElement} el */
  constructor(model, el) {
    this.model = model;
    this.el = el;
    this.host = new Host(model);
    this.catalogue = /** @type {Catalogue} */ (model.get("catalogue"));
    this.notes = /** @type {Notes} */ ({ ...model.get("notes") });
    this.palettes = decoded(this.catalogue.palettes);
    this.looks = /** @type {Looks} */ ({
      blend: "overlay", sign: "both", percentile: 99, opacity: 0.85, threshold: 0,
      signed: Object.keys(this.palettes.signed)[0], unsigned: Object.keys(this.palettes.unsigned)[0],
    });
    this.want = /** @type {Want} */ ({
      predicted: "", label: "", correct: "", confidence: 0, loss: 0, text: "", sort: "index",
    });
    this.runs = /** @type {Run[]} */ ([]);
    this.run = 0;
    this.compare = false;
    this.found = /** @type {number[]} */ ([]); // samples that pass the filters
    this.page = 0;
    this.size = 12;
    this.cards = /** @type {Map<number, Card>} */ (new Map());
    this.job = /** @type {?number} */ (null); // the request that explains
    this.list = h("div", { class: "list" });
    this.status = h("p", { class: "status", role: "status" });
    this.pager = h("nav", { class: "bar pager", "aria-label": "Pages" });
    this.tools = h("div", {});
    this.search = /** @type {?HTMLInputElement} */ (null);
    this.help = keysHelp();
    const { live, methods, title } = this.catalogue;
    const explain = () => this.explain(this.visible());
    this.form = live && methods.length ? new MethodForm(this.catalogue, explain, () => this.cancel()) : null;
    el.classList.add("insights");
    const samples = h("div", {}, this.form?.el, this.tools, this.status, this.list, this.pager);
    this.records = new Records(this.catalogue, this.host, samples, () => this.notes,
      (key, remark) => this.remember(key, remark));
    el.replaceChildren(h("header", { class: "top" }, h("h1", {}, title), this.files()),
      this.records.tabs, samples, this.records.place);
    const see = (/** @type {IntersectionObserverEntry[]} */ entries) => entries.forEach((entry) => this.see(entry));
    this.seen = new IntersectionObserver(see, { rootMargin: "400px" });
    this.keys = (/** @type {KeyboardEvent} */ event) => this.key(event);
    el.addEventListener("keydown", this.keys);
    this.takeRuns();
    model.on("change:runs", () => this.takeRuns());
  }

  get samples() {
    return this.runs[this.run].samples;
  }

  get baseline() {
    return this.form?.baseline.value;
  }

  /** The runs (epochs) that are there now; the last one is shown. */
  takeRuns() {
    this.runs = this.model.get("runs") ?? [{ name: "", samples: this.catalogue.samples }];
    this.run = this.runs.length - 1;
    this.cards.clear();
    this.drawTools();
    this.refresh();
  }

  drawTools() {
    const samples = this.runs.flatMap((run) => run.samples);
    const filters = filterBar(samples, this.catalogue.classes, this.want, this.size,
      (name, value) => this.filter({ ...this.want, [name]: value }, this.size),
      (size) => this.filter(this.want, size));
    const looks = looksBar(this.looks, this.palettes, (name, value) => {
      this.looks = { ...this.looks, [name]: value };
      this.cards.forEach((card) => card.redraw());
    });
    const runs = runBar(this.runs, this.run, this.compare,
      (run) => this.reshow(run, this.compare),
      (compare) => this.reshow(this.run, compare));
    this.search = filters.search;
    this.tools.replaceChildren(filters.el, looks, runs);
  }

  // -- pages of samples -----------------------------------------------------------------------------------------------

  /** @param {Want} want @param {number} size samples per page */
  filter(want, size) {
    Object.assign(this, { want, size, page: 0 });
    this.refresh();
  }

  /** Another run in the same cards, or all of them. @param {number} run @param {boolean} compare */
  reshow(run, compare) {
    Object.assign(this, { run, compare });
    for (const card of this.cards.values()) {
      if (!this.samples[card.index]) continue;
      const { dataset } = card.el, ready = dataset.ready;
      card.clear();
      if (ready) dataset.ready = ready;
      if (card.near) card.load();
    }
    this.refresh();
  }

  /** The numbers of the samples on this page. */
  visible() {
    return this.found.slice(this.page * this.size, (this.page + 1) * this.size);
  }

  /** A card comes near the screen, or leaves it. @param {IntersectionObserverEntry} entry */
  see(entry) {
    const card = this.cards.get(Number(/** @type {HTMLElement} */ (entry.target).dataset.index));
    if (!card || card.el !== entry.target) return;
    card.near = entry.isIntersecting;
    if (card.near) card.load().then(() => card.paint());
  }

  refresh() {
    this.found = chosen(this.samples, this.want, this.notes);
    const pages = Math.max(1, Math.ceil(this.found.length / this.size));
    this.page = Math.min(this.page, pages - 1);
    const shown = this.visible();
    for (const [index, card] of this.cards) {
      if (shown.includes(index)) continue;
      this.seen.unobserve(card.el);
      this.cards.delete(index);
    }
    this.list.replaceChildren(...shown.map((index) => this.card(index).el));
    const total = this.samples.length;
    if (!total) this.status.textContent = "There are no samples.";
    else if (!shown.length) this.status.textContent = `None of the ${total} samples passes these filters.`;
    else this.status.textContent = `${this.found.length} of ${total} samples`;
    this.drawPager(pages);
    this.rest();
  }

  /** The card of a sample on this page. @param {number} index */
  card(index) {
    const found = this.cards.get(index) ?? new Card(index, this);
    if (!this.cards.has(index)) {
      this.cards.set(index, found);
      this.seen.observe(found.el);
    }
    return found;
  }

  /** @param {number} pages */
  drawPager(pages) {
    const go = (/** @type {string} */ text, /** @type {number} */ to, /** @type {string} */ label) => {
      const disabled = to < 0 || to >= pages;
      return h("button", { type: "button", disabled, "aria-label": label, onclick: () => this.turn(to) }, text);
    };
    this.pager.hidden = pages === 1;
    this.pager.replaceChildren(go("‹", this.page - 1, "Previous page"),
      h("span", {}, `page ${this.page + 1} of ${pages}`), go("›", this.page + 1, "Next page"));
  }

  /** Load the page's other cards when there is time. */
  rest() {
    const idle = window.requestIdleCallback ?? ((/** @type {() => void} */ work) => setTimeout(work, 50));
    idle(() => {
      const next = [...this.cards.values()].find((card) => !card.loading);
      if (next) next.load().then(() => this.rest());
    });
  }

  /** @param {number} page */
  turn(page) {
    this.page = page;
    this.refresh();
    this.el.scrollIntoView({ block: "start" });
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.records.shown >= 0) return;
    if (event.target instanceof HTMLElement && event.target.closest("input, select, textarea")) return;
    const all = /** @type {HTMLElement[]} */ ([...this.list.children]);
    const at = all.findIndex((el) => el.contains(document.activeElement));
    const focus = (/** @type {number} */ k) => all[Math.max(0, Math.min(all.length - 1, k))]?.focus();
    const { key } = event;
    if (key === "/") this.search?.focus();
    else if (key === "?") this.help.open = !this.help.open;
    else if (key === "e" && this.form) this.explain(at < 0 ? this.visible() : [Number(all[at].dataset.index)]);
    else if (key === "ArrowRight" && (this.page + 1) * this.size < this.found.length) this.turn(this.page + 1);
    else if (key === "ArrowLeft" && this.page > 0) this.turn(this.page - 1);
    else if (key === "j") focus(at + 1);
    else if (key === "k") focus(at - 1);
    else return;
    event.preventDefault();
  }

  // -- asking for maps ------------------------------------------------------------------------------------------------

  /**
   * Explain samples as the form says.
   * @param {number[]} samples
   * @param {Record<string, any>} change overrides what the form asks for
   */
  async explain(samples, change = {}) {
    const { form } = this;
    if (!form || !samples.length || this.job !== null) return;
    form.busy(true);
    try {
      const request = { samples, ...form.request(), ...change };
      const work = this.host.ask("explain", request, (done, total) => (form.bar.value = done / total));
      this.job = work.id;
      const { records, failures, cancelled } = await work;
      for (const index of samples) this.host.forget("maps", index);
      const added = [];
      for (const { sample, record } of records) {
        const card = this.cards.get(sample);
        await card?.load();
        if (card && !card.has(record)) added.push(card.add(record));
        card?.paint();
      }
      for (const { sample, error } of failures) this.cards.get(sample)?.fail(error);
      if (cancelled) form.fail("Cancelled; the maps made before are kept.");
      if (form.curves.checked && !cancelled) for (const panel of added) await panel.askCurves();
    } catch (error) {
      form.fail(reason(error));
    } finally {
      this.job = null;
      form.busy(false);
    }
  }

  cancel() {
    if (this.job !== null) this.host.cancel(this.job);
  }

  // -- notes and files ------------------------------------------------------------------------------------------------

  /** The buttons that save and load. */
  files() {
    const load = () => file.files?.[0] && this.loadNotes(file.files[0]);
    const file = h("input", { type: "file", accept: "application/json,.json", hidden: true, onchange: load });
    const saves = [button("Save as one file", () => this.download("html")),
      button("Save the numbers", () => this.download("safetensors"))];
    return h("div", { class: "tools" }, this.catalogue.saves ? saves : null,
      button("Save notes", () => this.saveNotes()), button("Load notes", () => file.click()), file, this.help);
  }

  /** @param {number | string} key the sample's number, or "record/item" @param {Remark} remark */
  remember(key, remark) {
    this.notes = { ...this.notes, [key]: remark };
    this.model.set("notes", this.notes);
    this.model.save_changes();
  }

  saveNotes() {
    const rows = Object.entries(this.notes).map(([key, remark]) => {
      const [at, item] = key.split("/").map(Number);
      const whose = item === undefined ? { sample: at, name: this.samples[at]?.name } : { record: at, item };
      return { ...whose, ...remark };
    });
    offer(new Blob([JSON.stringify(rows, null, 1)], { type: "application/json" }), "notes.json");
  }

  /** Take notes that were saved; they belong to samples by number. @param {File} file */
  async loadNotes(file) {
    try {
      const rows = JSON.parse(await file.text());
      for (const { sample, record, item, tags, note } of rows)
        this.remember(record === undefined ? Number(sample) : `${Number(record)}/${Number(item)}`,
          { tags: tags.map(String), note: String(note) });
      this.cards.clear();
      this.records.redraw();
      this.refresh();
    } catch {
      this.status.textContent = `${file.name} holds no notes as "Save notes" writes them.`;
    }
  }

  /** @param {"html" | "safetensors"} format */
  async download(format) {
    try {
      const { name, data, type } = await this.host.ask("export", { format });
      offer(new Blob([bytes(data)], { type }), name);
    } catch (error) {
      const place = this.form ?? { fail: (/** @type {string} */ text) => (this.status.textContent = text) };
      place.fail(reason(error));
    }
  }
}

/**
 * anywidget's entry: draw into `el`. Returns what takes the listeners off again.
 * @param {{model: Model, el: HTMLElement}} given
 */
export function render({ model, el }) {
  const app = new App(model, el);
  return () => {
    el.removeEventListener("keydown", app.keys);
    app.seen.disconnect();
  };
}

export default { render };
