// What a person chooses: which samples are shown, how maps look, which run, and what is explained.

import { field, fold, h, select, slider } from "./elements.js";

/**
 * @import { Catalogue, Notes, Parameter, Run, Sample } from "./wire.js"
 * @import { Looks, Palettes } from "./maps.js"
 *
 * Which samples are wanted. "" asks for nothing: `predicted` and `label` hold the number of a class, `correct` "true"
 * or "false"; `confidence` and `loss` are least values.
 * @typedef {{predicted: string, label: string, correct: string, confidence: number, loss: number, text: string,
 *   sort: string}} Want
 */

const PAGE_SIZES = ["6", "12", "24", "48"];
const BLENDS = { overlay: "map over the picture", heatmap: "map alone", masked: "picture where the map is strong" };
const SIGNS = { both: "both signs", positive: "raises the score", negative: "lowers the score", absolute: "strength" };
const TRUTHS = /** @type {[string, string][]} */ ([["", "all"], ["true", "correct"], ["false", "wrong"]]);
const SORTS = {
  index: "given order",
  name: "name",
  confident: "most confident first",
  unsure: "least confident first",
  loss: "largest loss first",
  error: "largest completeness error first",
};

/** Options whose text is their value. @param {string[]} texts @returns {[string, string][]} */
function plainOptions(texts) {
  return texts.map((text) => [text, text]);
}

const KEYS = [
  ["j k", "next and previous sample"],
  ["← →", "turn pages"],
  ["e", "explain this sample, or the page"],
  ["/", "search"],
  ["Ctrl + wheel", "zoom all maps of a sample"],
  ["?", "show or hide these keys"],
];

/** What each key does. */
export function keysHelp() {
  const keys = KEYS.map(([key, text]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)));
  return h("details", { class: "keys" }, h("summary", {}, "Keys"), h("dl", {}, keys));
}

// -- which samples, in which order ------------------------------------------------------------------------------------

/** What each order sorts by. @type {Record<string, (sample: Sample, i: number) => number | string>} */
const SORT_KEYS = {
  index: (_, i) => i,
  name: (sample) => sample.name,
  confident: (sample) => -(sample.models[0].probability ?? -1),
  unsure: (sample) => sample.models[0].probability ?? 2,
  loss: (sample) => -(sample.models[0].loss ?? -1),
  error: (sample) => -(sample.completenessError ?? -1),
};

/**
 * The numbers of the samples that pass all filters, in the chosen order.
 * @param {Sample[]} samples
 * @param {Want} want
 * @param {Notes} notes
 */
export function chosen(samples, want, notes) {
  const text = want.text.trim().toLowerCase();
  const passes = (/** @type {Sample} */ sample, /** @type {number} */ i) => {
    const first = sample.models[0];
    if (want.predicted !== "" && !first.predictions?.includes(Number(want.predicted))) return false;
    if (want.label !== "" && !sample.labels?.includes(Number(want.label))) return false;
    if (want.correct !== "" && String(first.correct) !== want.correct) return false;
    if (want.confidence > 0 && !((first.probability ?? 0) >= want.confidence)) return false;
    if (want.loss > 0 && !((first.loss ?? 0) >= want.loss)) return false;
    if (!text) return true;
    const { note, tags = [] } = notes[i] ?? {};
    const words = [sample.name, sample.labelText, first.predictionText, sample.words, note, ...tags];
    return words.some((word) => word && word.toLowerCase().includes(text));
  };
  const key = SORT_KEYS[want.sort];
  return [...samples.keys()].filter((i) => passes(samples[i], i)).sort((a, b) => {
    const x = key(samples[a], a), y = key(samples[b], b);
    return x < y ? -1 : x > y ? 1 : a - b;
  });
}

/** A round number not below `value`. @param {number} value */
function roundUp(value) {
  const size = 10 ** Math.floor(Math.log10(value || 1));
  return Math.ceil(value / size) * size || 1;
}

/**
 * The filters that these samples have values for, and the order; each begins with what is wanted now.
 * @param {Sample[]} samples of all runs
 * @param {?string[]} classes
 * @param {Want} want
 * @param {number} size samples per page
 * @param {(name: keyof Want, value: string | number) => void} set
 * @param {(size: number) => void} resize
 */
export function filterBar(samples, classes, want, size, set, resize) {
  const to = (/** @type {keyof Want} */ name) => (/** @type {string | number} */ value) => set(name, value);
  const some = (/** @type {(s: Sample) => any} */ of) => samples.some((sample) => of(sample) !== null);
  const classOf = (/** @type {"predicted" | "label"} */ name, /** @type {(s: Sample) => ?number[]} */ of) => {
    const found = [...new Set(samples.flatMap((sample) => of(sample) ?? []))].sort((a, b) => a - b);
    const options = found.map((k) => /** @type {[string, string]} */ ([String(k), classes?.[k] ?? `class ${k}`]));
    return select([["", "any"], ...options], want[name], to(name));
  };
  const predicted = some((s) => s.models[0].predictions), labelled = some((s) => s.labels);
  const certain = some((s) => s.models[0].probability), costly = some((s) => s.models[0].loss);
  const largest = Math.max(0, ...samples.map((s) => s.models[0].loss ?? 0));
  const find = () => set("text", search.value);
  const search = h("input", { type: "search", placeholder: "name, class, tag", oninput: find });
  search.value = want.text;
  const confidence = slider(0, 1, 0.01, want.confidence, to("confidence"));
  const loss = slider(0, roundUp(largest), roundUp(largest) / 100, want.loss, to("loss"));
  const known = { index: true, name: samples.some((s) => s.name), confident: certain, unsure: certain, loss: costly,
    error: some((s) => s.completenessError) };
  const sorts = Object.entries(SORTS).filter(([key]) => known[/** @type {keyof typeof known} */ (key)]);
  const el = h("div", { class: "bar", role: "search", "aria-label": "Which samples" },
    field("Search", search),
    field("Order", select(sorts, want.sort, to("sort"))),
    field("Per page", select(plainOptions(PAGE_SIZES), String(size), (value) => resize(Number(value)))),
    fold("Filters",
    predicted ? field("Predicted", classOf("predicted", (s) => s.models[0].predictions)) : null,
    labelled ? field("Truth", classOf("label", (s) => s.labels)) : null,
    labelled && predicted ? field("Show", select(TRUTHS, want.correct, to("correct"))) : null,
    certain ? field("p at least", confidence.el, confidence.out) : null,
    costly && largest > 0 ? field("Loss at least", loss.el, loss.out) : null));
  return { el, search };
}

// -- looks and runs ---------------------------------------------------------------------------------------------------

/**
 * How maps look.
 * @param {Looks} looks as they are now
 * @param {Palettes} palettes
 * @param {(name: keyof Looks, value: string | number) => void} set
 */
export function looksBar(looks, palettes, set) {
  const to = (/** @type {keyof Looks} */ name) => (/** @type {string | number} */ value) => set(name, value);
  const names = (/** @type {keyof Palettes} */ group) => plainOptions(Object.keys(palettes[group]));
  const clip = slider(50, 100, 0.5, looks.percentile, to("percentile"));
  const opacity = slider(0, 1, 0.05, looks.opacity, to("opacity"));
  const threshold = slider(0, 1, 0.02, looks.threshold, to("threshold"));
  return fold("Looks", h("div", { class: "bar", role: "group", "aria-label": "How maps look" },
    field("Picture", select(Object.entries(BLENDS), looks.blend, to("blend"))),
    field("Sign", select(Object.entries(SIGNS), looks.sign, to("sign"))),
    field("Signed colours", select(names("signed"), looks.signed, to("signed"))),
    field("Strength colours", select(names("unsigned"), looks.unsigned, to("unsigned"))),
    field("Clip at percentile", clip.el, clip.out),
    field("Opacity", opacity.el, opacity.out),
    field("Threshold", threshold.el, threshold.out)));
}

/**
 * Which run is shown, where there are several.
 * @param {Run[]} runs
 * @param {number} run the one shown now
 * @param {boolean} compare whether all are
 * @param {(run: number) => void} show
 * @param {(compare: boolean) => void} showAll
 */
export function runBar(runs, run, compare, show, showAll) {
  if (runs.length < 2) return "";
  const steps = slider(0, runs.length - 1, 1, run, (to) => {
    steps.out.textContent = runs[to].name;
    show(to);
  });
  steps.el.classList.add("wide");
  steps.out.textContent = runs[run].name;
  const all = h("input", { type: "checkbox", checked: compare, onchange: () => showAll(all.checked) });
  return h("div", { class: "bar", role: "group", "aria-label": "Runs" },
    field("Run", steps.el, steps.out), field("All below each other", all));
}

// -- what is explained ------------------------------------------------------------------------------------------------

/** A form made from a method's parameters. */
export class MethodForm {
  /** @param {Catalogue} catalogue @param {() => void} explain @param {() => void} cancel */
  constructor(catalogue, explain, cancel) {
    const { methods, method, baselines, models } = catalogue;
    this.methods = methods;
    this.values = /** @type {Record<string, string | number | boolean>} */ ({});
    this.fields = h("span", { class: "fields" });
    const titles = methods.map(({ name, title }) => /** @type {[string, string]} */ ([name, title]));
    this.method = select(titles, method, () => this.fill());
    this.baseline = select(plainOptions(["default", ...baselines]), "default", () => {});
    const numbered = models.map(({ name }, m) => /** @type {[string, string]} */ ([String(m), name]));
    this.model = models.length > 1 ? select([["all", "all"], ...numbered], "all", () => {}) : null;
    this.curves = h("input", { type: "checkbox" });
    this.bar = h("progress", { max: "1", value: "0", hidden: true, "aria-label": "Progress" });
    this.cancel = h("button", { type: "button", hidden: true, onclick: cancel }, "Cancel");
    this.error = h("p", { class: "failed", role: "alert", hidden: true });
    this.send = h("button", { type: "submit", class: "primary" }, "Explain this page");
    this.el = h("form", { class: "bar method", onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      explain();
    } },
      field("Method", this.method), this.model ? field("Model", this.model) : null,
      this.send, this.bar, this.cancel, this.error,
      fold("Parameters", this.fields, field("Baseline", this.baseline), field("With curves", this.curves)));
    this.fill();
  }

  /** The controls of the chosen method's parameters, at their defaults. */
  fill() {
    this.values = {};
    const known = this.methods.find(({ name }) => name === this.method.value);
    this.fields.replaceChildren(...(known?.params ?? []).map((param) => field(param.name, this.control(param))));
  }

  /** @param {Parameter} parameter */
  control({ name, type, default: preset, min, max }) {
    if (type === "bool") {
      const box = h("input", { type: "checkbox", checked: preset, onchange: () => (this.values[name] = box.checked) });
      return box;
    }
    const text = type === "text";
    const control = h("input", { type: text ? "text" : "number", step: type === "int" ? "1" : "any", oninput: () => {
      if (control.value === "") delete this.values[name];
      else this.values[name] = text ? control.value : Number(control.value);
    } });
    if (min !== null) control.min = String(min);
    if (max !== null) control.max = String(max);
    control.placeholder = preset === null ? "automatic" : String(preset);
    return control;
  }

  /** What the form asks for. */
  request() {
    const model = this.model?.value ?? "0";
    return { method: this.method.value, params: { ...this.values }, baseline: this.baseline.value, model };
  }

  /** @param {boolean} on */
  busy(on) {
    this.bar.hidden = this.cancel.hidden = !on;
    this.send.disabled = on;
    this.bar.value = 0;
    if (on) this.error.hidden = true;
  }

  /** @param {string} text */
  fail(text) {
    this.error.textContent = text;
    this.error.hidden = false;
  }
}
