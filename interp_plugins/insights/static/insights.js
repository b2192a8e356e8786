// The viewer: one ES module in anywidget's front-end convention. It is given `model` (get, set, on, save_changes, send)
// and an element, and knows nothing of its host. Text is only ever set as text, never as markup.

/**
 * @typedef {{fraction: number[], deletion: number[], insertion: number[], deletionArea: number, insertionArea: number,
 *   of: string, baseline: string, error?: string}} Curves
 * @typedef {{view: string, shape: number[], limit: number, data: string, signed: boolean, title: string,
 *   method: string, targetText: string, score: ?number, completenessError: ?number, error?: string, key: number,
 *   model: number, code: string, share?: number, curves: ?Curves, src?: string, names?: string[], texts?: string[], tokens?: string[],
 *   hidden?: number}} MapRecord
 * @typedef {{view: string, src?: string, wide?: boolean, error?: string, tokens?: string[], names?: string[], texts?: string[]}} InputRecord
 * @typedef {{predictions: ?number[], predictionText: ?string, probability: ?number, correct: ?boolean, loss: ?number,
 *   top: {index: number, label: string, p: ?number}[]}} Outcome
 * @typedef {{name: string, labels: ?number[], labelText: ?string, completenessError: ?number, words?: string, models: Outcome[]}} Sample
 * @typedef {{name: string, samples: Sample[]}} Run
 */

const PAGE_SIZES = [6, 12, 24, 48];
const MOST_ROWS = 20; // columns of a table shown one by one
const KEYS = [
  ["j k", "next and previous sample"],
  ["← →", "turn pages"],
  ["e", "explain this sample, or the page"],
  ["/", "search"],
  ["Ctrl + wheel", "zoom all maps of a sample"],
  ["?", "show or hide these keys"],
];
const BLENDS = { overlay: "map over the picture", heatmap: "map alone", masked: "picture where the map is strong" };
const SIGNS = { both: "both signs", positive: "raises the score", negative: "lowers the score", absolute: "strength" };
const SORTS = {
  index: "given order",
  name: "name",
  confident: "most confident first",
  unsure: "least confident first",
  loss: "largest loss first",
  error: "largest completeness error first",
};

/** An element with properties and children. @returns {any} */
function h(/** @type {string} */ tag, /** @type {Record<string, any>} */ props = {}, /** @type {any[]} */ ...children) {
  const el = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) el.addEventListener(key.slice(2), value);
    else if (key === "class") el.className = value;
    else if (key === "style") Object.assign(el.style, value);
    else if (key in el && typeof value !== "string") /** @type {any} */ (el)[key] = value;
    else el.setAttribute(key, value === true ? "" : String(value));
  }
  el.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return el;
}

/** Bytes of base64 text. */
function bytes(/** @type {string} */ text) {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

/** A number in three digits; a dash for none. */
function digits(/** @type {?number} */ value) {
  return value === null || value === undefined ? "–" : Number(value.toPrecision(3)).toString();
}

/** A round number not below `value`. */
function nice(/** @type {number} */ value) {
  const size = 10 ** Math.floor(Math.log10(value || 1));
  return Math.ceil(value / size) * size || 1;
}

function percent(/** @type {?number} */ value) {
  return value === null || value === undefined ? "–" : `${(100 * value).toPrecision(2)} %`;
}

/** Waits until calls stop for a moment. */
function later(/** @type {() => void} */ work, ms = 150) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, ms);
  };
}

// -- numbers to pixels --------------------------------------------------------------------------------------------------

/** The map's bytes, with their absolute values sorted once for percentiles. */
class Values {
  constructor(/** @type {MapRecord} */ record) {
    this.data = new Int8Array(bytes(record.data).buffer);
    this.limit = record.limit;
    this.counts = new Uint32Array(129);
    for (const v of this.data) this.counts[Math.abs(v)]++;
  }

  /** The |byte| below which `percentile` % of the elements lie, at least 1. */
  clip(/** @type {number} */ percentile) {
    let left = (percentile / 100) * this.data.length;
    for (let level = 0; level <= 128; level++) {
      left -= this.counts[level];
      if (left <= 0) return Math.max(level, 1);
    }
    return 127;
  }

  at(/** @type {number} */ k) {
    return Math.sign(this.data[k]) * (this.data[k] / 127) ** 2 * this.limit;
  }
}

/**
 * For each possible byte (-128..127, index + 128): its colour and how much of it is laid over the picture.
 * Sliders change these 256 entries only; painting looks them up.
 */
function lookup(/** @type {any} */ settings, /** @type {number} */ clip, /** @type {boolean} */ signed, /** @type {any} */ palettes) {
  const diverging = signed && settings.sign === "both";
  const table = palettes[diverging ? "signed" : "unsigned"][diverging ? settings.signed : settings.unsigned];
  const rgb = new Uint8Array(256 * 3);
  const weight = new Float32Array(256);
  for (let byte = -128; byte < 128; byte++) {
    let unit = Math.sign(byte) * Math.min(1, (byte / clip) ** 2); // a byte is the root of its value
    if (settings.sign === "positive") unit = Math.max(unit, 0);
    if (settings.sign === "negative") unit = Math.max(-unit, 0);
    if (settings.sign === "absolute") unit = Math.abs(unit);
    const strength = Math.abs(unit);
    const at = Math.round(255 * (diverging ? (unit + 1) / 2 : strength));
    rgb.set(table.subarray(3 * at, 3 * at + 3), 3 * (byte + 128));
    weight[byte + 128] = strength < settings.threshold ? 0 : settings.blend === "overlay" ? strength : 1;
    if (settings.blend === "masked") weight[byte + 128] = strength < settings.threshold ? 0 : strength;
  }
  return { rgb, weight };
}

/** Paint one map into a canvas of the map's size. */
function paint(/** @type {HTMLCanvasElement} */ canvas, /** @type {MapRecord} */ record, /** @type {Values} */ values,
  /** @type {?Uint8ClampedArray} */ photo, /** @type {any} */ settings, /** @type {any} */ palettes) {
  const [height, width] = record.shape;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  const image = context.createImageData(width, height);
  const out = image.data;
  const { rgb, weight } = lookup(settings, values.clip(settings.percentile), record.signed, palettes);
  const { opacity, blend } = settings;
  for (let k = 0, p = 0; k < values.data.length; k++, p += 4) {
    const entry = values.data[k] + 128;
    const w = weight[entry], at = 3 * entry;
    if (blend === "heatmap") {
      for (let c = 0; c < 3; c++) out[p + c] = w ? rgb[at + c] : 255;
    } else if (blend === "masked") {
      const kept = 1 - opacity + opacity * w;
      for (let c = 0; c < 3; c++) out[p + c] = (photo ? photo[p + c] : 255) * kept;
    } else {
      const over = opacity * w;
      const ground = (photo ? 0.299 * photo[p] + 0.587 * photo[p + 1] + 0.114 * photo[p + 2] : 255) * (1 - over);
      for (let c = 0; c < 3; c++) out[p + c] = ground + rgb[at + c] * over;
    }
    out[p + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** The pixels of a picture at a map's size. @returns {Promise<Uint8ClampedArray>} */
async function pixels(/** @type {string} */ src, /** @type {number} */ width, /** @type {number} */ height) {
  const picture = new Image();
  picture.src = src;
  await picture.decode();
  const canvas = h("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

// -- asking the host ----------------------------------------------------------------------------------------------------

/** Requests to whatever stands behind `model`; answers carry the request's id. */
class Host {
  constructor(/** @type {any} */ model) {
    this.model = model;
    this.next = 1;
    this.waiting = new Map();
    this.kept = new Map();
    model.on("msg:custom", (/** @type {any} */ message) => this.receive(message));
  }

  receive(/** @type {any} */ message) {
    const job = this.waiting.get(message.id);
    if (!job) return;
    if (message.type === "progress") return job.progress?.(message.done, message.total);
    this.waiting.delete(message.id);
    if (message.type === "error") job.reject(new Error(message.error));
    else job.resolve(message.result);
  }

  /** @returns {Promise<any>} */
  ask(/** @type {string} */ type, /** @type {any} */ body = {}, /** @type {any} */ progress = undefined) {
    const id = this.next++;
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject, progress }));
    this.model.send({ id, type, ...body });
    return Object.assign(answer, { id });
  }

  /** Like `ask`, once for each key. @returns {Promise<any>} */
  once(/** @type {string} */ type, /** @type {any} */ body) {
    const key = `${type} ${JSON.stringify(body)}`;
    let found = this.kept.get(key);
    if (!found) {
      found = this.ask(type, body);
      found.catch(() => this.kept.delete(key));
      this.kept.set(key, found);
    }
    return found;
  }

  /** Ask anew for what has changed of a sample. */
  forget(/** @type {string} */ type, /** @type {number} */ sample) {
    for (const key of [...this.kept.keys()]) if (key.startsWith(`${type} {"sample":${sample},`)) this.kept.delete(key);
  }
}

// -- which samples, in which order --------------------------------------------------------------------------------------

/** The numbers of the samples that pass all filters, in the chosen order. */
function chosen(/** @type {Sample[]} */ samples, /** @type {any} */ want, /** @type {any} */ notes) {
  const text = want.text.trim().toLowerCase();
  const keep = samples.map((_, i) => i).filter((i) => {
    const sample = samples[i];
    const first = sample.models[0];
    if (want.predicted !== "" && !first.predictions?.includes(Number(want.predicted))) return false;
    if (want.label !== "" && !sample.labels?.includes(Number(want.label))) return false;
    if (want.correct !== "" && String(first.correct) !== want.correct) return false;
    if (want.confidence > 0 && !((first.probability ?? 0) >= want.confidence)) return false;
    if (want.loss > 0 && !((first.loss ?? 0) >= want.loss)) return false;
    if (!text) return true;
    const words = [sample.name, sample.labelText, first.predictionText, sample.words, notes[i]?.note, ...(notes[i]?.tags ?? [])];
    return words.some((word) => word && String(word).toLowerCase().includes(text));
  });
  const key = {
    index: (/** @type {number} */ i) => i,
    name: (/** @type {number} */ i) => samples[i].name,
    confident: (/** @type {number} */ i) => -(samples[i].models[0].probability ?? -1),
    unsure: (/** @type {number} */ i) => samples[i].models[0].probability ?? 2,
    loss: (/** @type {number} */ i) => -(samples[i].models[0].loss ?? -1),
    error: (/** @type {number} */ i) => -(samples[i].completenessError ?? -1),
  }[/** @type {"index"} */ (want.sort)];
  return keep.sort((a, b) => {
    const x = /** @type {any} */ (key(a)), y = /** @type {any} */ (key(b));
    return x < y ? -1 : x > y ? 1 : a - b;
  });
}

// -- the parts of the page ----------------------------------------------------------------------------------------------

let labelled = 0;

/** A control with its label. */
function field(/** @type {string} */ name, /** @type {any} */ control, /** @type {any} */ hint = null) {
  control.id = `insights-${++labelled}`;
  return h("span", { class: "field" }, h("span", { class: "caption" }, h("label", { for: control.id }, name), hint), control);
}

function select(/** @type {Record<string, string>} */ options, /** @type {string} */ value, /** @type {(v: string) => void} */ changed) {
  const el = h("select", { onchange: () => changed(el.value) });
  for (const [key, text] of Object.entries(options)) el.append(h("option", { value: key, selected: key === value }, text));
  return el;
}

function slider(/** @type {number} */ low, /** @type {number} */ high, /** @type {number} */ step, /** @type {number} */ value,
  /** @type {(v: number) => void} */ changed) {
  const out = h("output", {}, String(value));
  const el = h("input", { type: "range", min: String(low), max: String(high), step: String(step) });
  el.value = String(value);
  el.addEventListener("input", () => {
    out.textContent = el.value;
    changed(Number(el.value));
  });
  return { el, out };
}

/** Bars for named values. */
function bars(/** @type {MapRecord} */ record, /** @type {Values} */ values) {
  const order = [...(record.names ?? []).keys()].sort((a, b) => Math.abs(values.data[b]) - Math.abs(values.data[a]) || a - b);
  const rows = order.slice(0, MOST_ROWS).map((k) => {
    const value = values.at(k), name = record.names?.[k] ?? "";
    const share = values.limit ? Math.abs(value) / values.limit : 0;
    const bar = h("span", { class: value < 0 ? "bar minus" : "bar plus", style: { width: `${50 * share}%` } });
    const text = record.texts?.[k] ? `${name} = ${record.texts[k]}` : name;
    return h("tr", { "data-link": name }, h("th", { scope: "row" }, text), h("td", { class: "track" }, bar), h("td", {}, digits(value)));
  });
  const more = order.length - rows.length + (record.hidden ?? 0);
  return h("div", {}, h("table", { class: "bars" }, h("tbody", {}, rows)), more > 0 ? h("p", { class: "faint" }, `and ${more} more`) : null);
}

/** Tokens on coloured ground. */
function tokens(/** @type {MapRecord} */ record, /** @type {Values} */ values, /** @type {any} */ settings, /** @type {any} */ palettes) {
  const { rgb, weight } = lookup({ ...settings, blend: "overlay" }, values.clip(settings.percentile), record.signed, palettes);
  return h("p", { class: "tokens", dir: "auto" }, (record.tokens ?? []).map((token, k) => {
    const entry = values.data[k] + 128;
    const [r, g, b] = rgb.subarray(3 * entry, 3 * entry + 3);
    const alpha = weight[entry] ? settings.opacity : 0;
    const dark = alpha > 0.5 && 0.299 * r + 0.587 * g + 0.114 * b < 110;
    const style = { background: `rgba(${r}, ${g}, ${b}, ${alpha})`, color: alpha ? (dark ? "#ffffff" : "#1f2328") : "" };
    return h("span", { class: "token", title: digits(values.at(k)), "data-link": String(k), style }, token);
  }));
}

/** What a sample is, before any map of it. */
function inputView(/** @type {InputRecord} */ input) {
  if (input.view === "image") return h("div", { class: "picture" }, h("div", { class: "zoomed" }, h("img", { src: input.src, alt: "The input" })));
  if (input.view === "tokens") return h("p", { class: "tokens", dir: "auto" }, (input.tokens ?? []).map((token, k) => h("span", { class: "token", "data-link": String(k) }, token)));
  if (input.view === "values") {
    const rows = (input.names ?? []).slice(0, MOST_ROWS).map((name, k) =>
      h("tr", { "data-link": name }, h("th", { scope: "row" }, name), h("td", {}, input.texts?.[k] ?? "")));
    const more = (input.names?.length ?? 0) - rows.length;
    return h("div", {}, h("table", { class: "bars values" }, h("tbody", {}, rows)), more > 0 ? h("p", { class: "faint" }, `and ${more} more`) : null);
  }
  return null;
}

/** A line chart of deletion and insertion, with the areas below them. */
function curveChart(/** @type {Curves} */ curves) {
  if (curves.error) return h("p", { class: "failed" }, curves.error);
  const width = 200, height = 72;
  const all = [...curves.deletion, ...curves.insertion];
  const low = Math.min(0, ...all), high = Math.max(...all);
  const place = (/** @type {number} */ value) => height - 2 - ((height - 4) * (value - low)) / (high - low || 1);
  const line = (/** @type {number[]} */ values) => values.map((value, k) => `${(width * curves.fraction[k]).toFixed(1)},${place(value).toFixed(1)}`).join(" ");
  const svg = (/** @type {string} */ tag, /** @type {Record<string, any>} */ props, /** @type {any[]} */ ...children) => {
    const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(props)) el.setAttribute(key, value);
    el.append(...children);
    return el;
  };
  const label = `${curves.of} from ${digits(low)} to ${digits(high)} against the share of the input, area of deletion ${digits(curves.deletionArea)}, of insertion ${digits(curves.insertionArea)}`;
  return h("div", { class: "curves" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, preserveAspectRatio: "none" },
      svg("polyline", { points: line(curves.deletion), class: "minus" }), svg("polyline", { points: line(curves.insertion), class: "plus" })),
    h("p", {}, h("span", { class: "key minus" }, `deletion ${digits(curves.deletionArea)}`), " ", h("span", { class: "key plus" }, `insertion ${digits(curves.insertionArea)}`),
      h("span", { class: "faint" }, ` ${curves.of} ${digits(low)}–${digits(high)}, removed = ${curves.baseline}`)));
}

/** One method's map with its facts; `redraw` follows the settings. */
class Panel {
  constructor(/** @type {MapRecord} */ record, /** @type {Card} */ card) {
    this.record = record;
    this.card = card;
    this.shared = card.app;
    this.photo = null;
    this.stale = true;
    this.body = h("div", { class: "picture" });
    this.readout = h("span", { class: "readout", "aria-live": "off" });
    const known = record.completenessError !== null && record.completenessError !== undefined;
    const facts = [
      ["explains", record.targetText],
      ["score", digits(record.score)],
      ["completeness error", known ? percent(record.completenessError) : null],
      ["share of all inputs", record.share === null || record.share === undefined ? null : percent(record.share)],
      ["baseline", record.baseline],
    ];
    this.chart = h("div", {});
    this.el = h("figure", { class: record.view === "picture" ? "panel wide" : "panel" },
      h("figcaption", {}, h("strong", { title: record.params ?? "" }, record.title), this.readout),
      this.body,
      h("dl", {}, facts.filter(([, v]) => v).map(([k, v]) => h("div", {}, h("dt", {}, k), h("dd", {}, v)))),
      this.chart);
    this.drawCurves();
    if (record.view === "error") {
      this.body.append(h("p", { class: "failed" }, record.error ?? "This map cannot be drawn."));
      return;
    }
    if (record.view === "picture") {
      this.body.append(h("div", { class: "zoomed" }, h("img", { src: record.src, alt: `${record.title}, ${record.targetText}` })));
      return;
    }
    this.values = new Values(record);
    if (record.view === "heatmap") this.heatmap();
  }

  heatmap() {
    this.canvas = h("canvas", { role: "img", "aria-label": `${this.record.title}, ${this.record.targetText}` });
    this.dot = h("span", { class: "dot", hidden: true });
    this.body.append(h("div", { class: "zoomed" }, this.canvas, this.dot));
    const [height, width] = this.record.shape;
    Object.assign(this.canvas, { width, height });
    const photo = this.card.photo(width, height);
    photo?.then((/** @type {Uint8ClampedArray} */ found) => {
      this.photo = found;
      this.stale = true;
      this.card.paint();
    });
  }

  /** Draw, if anything has changed since. */
  redraw() {
    if (!this.values || !this.stale) return;
    this.stale = false;
    const { settings, palettes } = this.shared;
    if (this.canvas) paint(this.canvas, this.record, this.values, this.photo, settings, palettes);
    else if (this.record.view === "tokens") this.body.replaceChildren(tokens(this.record, this.values, settings, palettes));
    else this.body.replaceChildren(bars(this.record, this.values));
  }

  drawCurves() {
    const { curves } = this.record;
    if (curves) this.chart.replaceChildren(curveChart(curves));
    else if (this.shared.catalogue.live && this.record.view !== "error") {
      const button = h("button", { type: "button", class: "small", title: "How the score falls without the strongest parts, and rises with them alone", onclick: () => {
        button.disabled = true;
        this.askCurves();
      } }, "Insertion and deletion");
      this.chart.replaceChildren(button);
    }
  }

  async askCurves() {
    const { record, card, shared } = this;
    try {
      record.curves = await shared.host.ask("curves", { sample: card.index, key: record.key, baseline: shared.form?.baseline.value });
    } catch (error) {
      record.curves = /** @type {any} */ ({ error: String(/** @type {Error} */ (error).message) });
    }
    this.drawCurves();
  }

  /** Show the value under a place (0..1 from left and top), or nothing. */
  point(/** @type {?{x: number, y: number}} */ place) {
    if (!this.canvas || !this.values) return;
    this.dot.hidden = !place;
    if (!place) {
      this.readout.textContent = "";
      return;
    }
    const [height, width] = this.record.shape;
    const column = Math.min(width - 1, Math.floor(place.x * width)), row = Math.min(height - 1, Math.floor(place.y * height));
    this.readout.textContent = `${digits(this.values.at(row * width + column))} at ${column}, ${row}`;
    Object.assign(this.dot.style, { left: `${100 * place.x}%`, top: `${100 * place.y}%` });
  }
}

/** One sample: its input, its maps side by side with linked zoom and pointer, its tags and note. */
class Card {
  constructor(/** @type {number} */ index, /** @type {App} */ app) {
    this.index = index;
    this.app = app;
    this.near = false; // whether it is on the screen, or soon will be
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.photos = /** @type {Map<string, Promise<Uint8ClampedArray>>} */ (new Map());
    this.head = h("div", {});
    this.row = h("div", { class: "rows" });
    this.code = h("code", { class: "code", hidden: true });
    this.el = h("article", { class: "card", tabindex: "-1", "data-index": String(index) }, this.head, this.row, this.remarks(), this.code);
    this.row.addEventListener("pointermove", (event) => this.hover(event));
    this.row.addEventListener("pointerover", (event) => this.link(event));
    this.row.addEventListener("pointerleave", () => this.leave());
    this.row.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.clear();
  }

  /** Nothing but what is known without maps. */
  clear() {
    this.panels = /** @type {Panel[]} */ ([]);
    this.groups = /** @type {Map<string, any>} */ (new Map());
    this.loading = /** @type {?Promise<void>} */ (null);
    const sample = this.app.samples[this.index];
    this.head.replaceChildren(
      h("header", {}, h("h2", {}, sample.name || `Sample ${this.index + 1}`), this.badges(sample), this.zoomButtons()),
      ...sample.models.map((outcome, m) => this.classes(outcome, m) ?? ""));
    delete this.el.dataset.ready;
  }

  badges(/** @type {Sample} */ sample) {
    const first = sample.models[0];
    const mark = first.correct === null ? null : h("span", { class: first.correct ? "badge right" : "badge wrong" }, first.correct ? "correct" : "wrong");
    return h("p", { class: "facts" },
      first.predictionText === null ? null : h("span", {}, `predicted ${first.predictionText}`),
      first.probability === null ? null : h("span", {}, `p ${digits(first.probability)}`),
      sample.labelText === null ? null : h("span", {}, `truth ${sample.labelText}`),
      first.loss === null ? null : h("span", {}, `loss ${digits(first.loss)}`),
      mark);
  }

  /** The likeliest classes; a click explains that class. */
  classes(/** @type {Outcome} */ outcome, /** @type {number} */ m) {
    if (!outcome.top.length) return null;
    const name = this.app.catalogue.models.length > 1 ? h("span", { class: "faint" }, this.app.catalogue.models[m].name) : null;
    return h("div", { class: "chips", role: "group", "aria-label": "Classes; press one to explain it" }, name,
      outcome.top.map((entry) => h("button", {
        type: "button",
        class: outcome.predictions?.includes(entry.index) ? "chip said" : "chip",
        disabled: !this.app.catalogue.live,
        title: this.app.catalogue.live ? `Explain ${entry.label}` : null,
        onclick: () => this.app.explain([this.index], { target: entry.index, model: String(m) }),
      }, `${entry.label} ${entry.p === null ? "" : digits(entry.p)}`)));
  }

  zoomButtons() {
    const button = (/** @type {string} */ text, /** @type {string} */ label, /** @type {number} */ factor) =>
      h("button", { type: "button", class: "small", "aria-label": label, title: label, onclick: () => this.zoom(factor) }, text);
    return h("span", { class: "zoom" }, button("−", "Zoom out", 0.8), button("+", "Zoom in", 1.25), button("1:1", "Whole picture", 0));
  }

  /** Fetch input and maps, once. */
  load() {
    this.loading ??= this.fetch();
    return this.loading;
  }

  async fetch() {
    const { host, run, runs, compare } = this.app;
    const asked = this.loading;
    const shown = compare ? [...runs.keys()] : [run];
    try {
      const input = await host.once("input", { sample: this.index, run });
      const found = await Promise.all(shown.map((r) => (runs[r].samples[this.index] ? host.once("maps", { sample: this.index, run: r }) : [])));
      if (this.loading !== asked && asked) return; // the run was changed meanwhile
      this.input = input;
      this.photos.clear();
      this.panels = [];
      this.groups.clear();
      const view = inputView(input);
      this.row.replaceChildren();
      if (view) this.group("", "").append(h("figure", { class: input.view !== "image" ? "panel hint" : input.wide ? "panel wide" : "panel" }, h("figcaption", {}, h("strong", {}, "Input")), view));
      if (input.view === "error") this.fail(input.error ?? "");
      found.forEach((records, k) => records.forEach((/** @type {MapRecord} */ record) => this.add(record, compare ? runs[shown[k]].name : "")));
      if (!this.panels.length) this.hint();
    } catch (error) {
      this.fail(String(/** @type {Error} */ (error).message));
    }
    this.el.dataset.ready = "yes";
    this.paint();
  }

  hint() {
    const live = this.app.catalogue.live;
    this.group("", "").append(h("p", { class: "faint hint" }, live ? "No map yet: choose a method above and press Explain." : "This sample has no map."));
  }

  /** The row of a model, or of a run where all are compared. */
  group(/** @type {string} */ key, /** @type {string} */ name) {
    let found = this.groups.get(key);
    if (!found) {
      found = h("div", { class: "row" });
      this.groups.set(key, found);
      this.row.append(name ? h("section", { class: "group" }, h("h3", {}, name), found) : found);
    }
    return found;
  }

  add(/** @type {MapRecord} */ record, run = "") {
    for (const hint of this.row.querySelectorAll(".hint")) hint.remove();
    const { models } = this.app.catalogue;
    const panel = new Panel(record, this);
    this.panels.push(panel);
    const name = [run, models.length > 1 ? models[record.model].name : ""].filter(Boolean).join(", ");
    this.group(name, name).append(panel.el);
    this.transform();
    return panel;
  }

  /** The input's pixels at a size, shared by all maps. */
  photo(/** @type {number} */ width, /** @type {number} */ height) {
    if (this.input?.view !== "image" || !this.input.src) return null;
    const key = `${width} ${height}`;
    if (!this.photos.has(key)) this.photos.set(key, pixels(this.input.src, width, height));
    return this.photos.get(key);
  }

  fail(/** @type {string} */ text) {
    this.row.append(h("p", { class: "failed", role: "alert" }, text));
  }

  /** Draw what is stale, if it can be seen. */
  paint() {
    if (this.near) this.panels.forEach((panel) => panel.redraw());
  }

  hover(/** @type {PointerEvent} */ event) {
    const canvas = /** @type {HTMLElement} */ (event.target).closest("canvas, img");
    if (!canvas) return;
    const box = canvas.getBoundingClientRect();
    const place = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    if (place.x < 0 || place.y < 0 || place.x >= 1 || place.y >= 1) return;
    this.panels.forEach((panel) => panel.point(place));
    if (event.buttons === 1 && this.view.zoom > 1) {
      const within = (/** @type {number} */ v) => Math.min(1, Math.max(0, v));
      this.view.x = within(this.view.x - (event.movementX * 2) / box.width);
      this.view.y = within(this.view.y - (event.movementY * 2) / box.height);
      this.transform();
    } else this.place = place;
  }

  /** The same token or column in all maps of the sample. */
  link(/** @type {PointerEvent} */ event) {
    const link = /** @type {HTMLElement} */ (event.target).closest("[data-link]")?.getAttribute("data-link");
    for (const el of this.row.querySelectorAll("[data-link]")) el.classList.toggle("linked", link !== undefined && el.getAttribute("data-link") === link);
  }

  leave() {
    this.panels.forEach((panel) => panel.point(null));
    for (const el of this.row.querySelectorAll(".linked")) el.classList.remove("linked");
  }

  wheel(/** @type {WheelEvent} */ event) {
    if (!event.ctrlKey) return; // a plain wheel scrolls the page
    event.preventDefault();
    if (this.view.zoom === 1 && this.place) Object.assign(this.view, this.place);
    this.zoom(event.deltaY < 0 ? 1.25 : 0.8);
  }

  zoom(/** @type {number} */ factor) {
    this.view = factor ? { ...this.view, zoom: Math.min(16, Math.max(1, this.view.zoom * factor)) } : { zoom: 1, x: 0.5, y: 0.5 };
    this.transform();
  }

  transform() {
    const { zoom, x, y } = this.view;
    for (const el of this.row.querySelectorAll(".zoomed")) {
      const style = /** @type {HTMLElement} */ (el).style;
      style.transformOrigin = `${100 * x}% ${100 * y}%`;
      style.transform = zoom === 1 ? "" : `scale(${zoom})`;
    }
  }

  remarks() {
    const { app, index } = this;
    const kept = app.notes[index] ?? { tags: [], note: "" };
    const save = later(() => app.remember(index, {
      tags: tags.value.split(",").map((/** @type {string} */ t) => t.trim()).filter(Boolean),
      note: note.value,
    }));
    const tags = h("input", { type: "text", placeholder: "tags, by commas", oninput: save });
    const note = h("input", { type: "text", placeholder: "a note", oninput: save });
    tags.value = kept.tags.join(", ");
    note.value = kept.note;
    return h("footer", {}, field("Tags", tags), field("Note", note),
      app.catalogue.live ? h("button", { type: "button", class: "small", onclick: () => app.explain([index]) }, "Explain this sample") : null,
      h("button", { type: "button", class: "small", onclick: () => app.exportPng(this) }, "Save as PNG"),
      h("button", { type: "button", class: "small", onclick: () => this.showCode() }, "Copy as code"));
  }

  /** Show the calls that make these maps, and put them on the clipboard. */
  showCode() {
    const calls = [...new Set(this.panels.map((panel) => panel.record.code))];
    this.code.textContent = calls.join("\n") || "There is no map yet.";
    this.code.hidden = false;
    if (calls.length) navigator.clipboard?.writeText(this.code.textContent ?? "").catch(() => {});
  }

  redraw() {
    this.panels.forEach((panel) => (panel.stale = true));
    this.paint();
  }
}

/** A form made from a method's parameters. */
class MethodForm {
  constructor(/** @type {App} */ app) {
    this.app = app;
    const { methods, baselines = [], models } = app.catalogue;
    this.values = /** @type {Record<string, any>} */ ({});
    this.fields = h("span", { class: "fields" });
    this.method = select(Object.fromEntries(methods.map((/** @type {any} */ m) => [m.name, m.title])), app.catalogue.method ?? methods[0]?.name ?? "", () => this.fill());
    this.baseline = select(Object.fromEntries(["default", ...baselines].map((b) => [b, b])), "default", () => {});
    this.model = models.length > 1 ? select(Object.fromEntries(["all", ...models.keys()].map((m) => [String(m), m === "all" ? "all" : models[/** @type {number} */ (m)].name])), "all", () => {}) : null;
    this.curves = h("input", { type: "checkbox" });
    this.bar = h("progress", { max: "1", value: "0", hidden: true, "aria-label": "Progress" });
    this.cancel = h("button", { type: "button", hidden: true, onclick: () => app.cancel() }, "Cancel");
    this.error = h("p", { class: "failed", role: "alert", hidden: true });
    this.send = h("button", { type: "submit", class: "primary" }, "Explain this page");
    this.el = h("form", { class: "bar method", onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      app.explain(app.visible());
    } },
      field("Method", this.method), this.fields, field("Baseline", this.baseline), this.model ? field("Model", this.model) : null,
      field("With curves", this.curves), this.send, this.bar, this.cancel, this.error);
    this.fill();
  }

  fill() {
    this.values = {};
    const known = this.app.catalogue.methods.find((/** @type {any} */ m) => m.name === this.method.value);
    this.fields.replaceChildren(...(known?.params ?? []).map((/** @type {any} */ param) => {
      let control;
      if (param.type === "choice") control = select(Object.fromEntries(param.choices.map((/** @type {string} */ c) => [c, c])), param.default, (v) => (this.values[param.name] = v));
      else if (param.type === "bool") control = h("input", { type: "checkbox", checked: param.default, onchange: () => (this.values[param.name] = control.checked) });
      else {
        control = h("input", { type: param.type === "text" ? "text" : "number", step: param.type === "int" ? "1" : "any", oninput: () => {
          if (control.value === "") delete this.values[param.name];
          else this.values[param.name] = param.type === "text" ? control.value : Number(control.value);
        } });
        control.placeholder = param.default === null ? "automatic" : String(param.default);
      }
      return field(param.name, control);
    }));
  }

  /** What the form asks for. */
  request() {
    return { method: this.method.value, params: { ...this.values }, baseline: this.baseline.value, model: this.model?.value ?? "0" };
  }

  busy(/** @type {boolean} */ on) {
    this.bar.hidden = this.cancel.hidden = !on;
    this.send.disabled = on;
    this.bar.value = 0;
    if (on) this.error.hidden = true;
  }

  fail(/** @type {string} */ text) {
    this.error.textContent = text;
    this.error.hidden = false;
  }
}

/** The whole viewer. */
class App {
  constructor(/** @type {any} */ model, /** @type {HTMLElement} */ el) {
    this.model = model;
    this.el = el;
    this.host = new Host(model);
    this.catalogue = model.get("catalogue");
    this.notes = { ...(model.get("notes") ?? {}) };
    this.palettes = { signed: {}, unsigned: {} };
    for (const group of /** @type {const} */ (["signed", "unsigned"]))
      for (const [name, text] of Object.entries(this.catalogue.palettes[group])) this.palettes[group][name] = bytes(/** @type {string} */ (text));
    this.settings = {
      blend: "overlay", sign: "both", percentile: 99, opacity: 0.85, threshold: 0,
      signed: Object.keys(this.palettes.signed)[0], unsigned: Object.keys(this.palettes.unsigned)[0],
    };
    this.want = { predicted: "", label: "", correct: "", confidence: 0, loss: 0, text: "", sort: "index" };
    this.run = 0;
    this.compare = false;
    this.page = 0;
    this.size = 12;
    this.cards = /** @type {Map<number, Card>} */ (new Map());
    this.list = h("div", { class: "list" });
    this.status = h("p", { class: "status", role: "status" });
    this.pager = h("nav", { class: "bar pager", "aria-label": "Pages" });
    this.tools = h("div", {});
    this.form = this.catalogue.live && this.catalogue.methods.length ? new MethodForm(this) : null;
    el.classList.add("insights");
    el.replaceChildren(h("header", { class: "top" }, h("h1", {}, this.catalogue.title), this.exports()),
      this.form?.el ?? "", this.tools, this.status, this.list, this.pager);
    this.seen = new IntersectionObserver((entries) => entries.forEach((entry) => this.see(entry)), { rootMargin: "400px" });
    this.keys = (/** @type {KeyboardEvent} */ event) => this.key(event);
    el.addEventListener("keydown", this.keys);
    this.takeRuns();
    model.on("change:runs", () => this.takeRuns());
  }

  get samples() {
    return this.runs[this.run].samples;
  }

  /** The runs (epochs) that are there now; the last one is shown. */
  takeRuns() {
    this.runs = /** @type {Run[]} */ (this.model.get("runs") ?? [{ name: "", samples: this.catalogue.samples }]);
    this.run = this.runs.length - 1;
    this.cards.clear();
    this.tools.replaceChildren(this.filters(), this.looks(), this.runBar());
    this.refresh();
  }

  exports() {
    const button = (/** @type {string} */ text, /** @type {() => void} */ work) => h("button", { type: "button", class: "small", onclick: work }, text);
    const file = h("input", { type: "file", accept: "application/json,.json", hidden: true, onchange: () => this.loadNotes(file.files[0]) });
    const keys = KEYS.map(([key, text]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)));
    this.help = h("details", { class: "keys" }, h("summary", {}, "Keys"), h("dl", {}, keys));
    return h("div", { class: "tools" },
      this.catalogue.saves ? [button("Save as one file", () => this.download("html")), button("Save the numbers", () => this.download("safetensors"))] : null,
      button("Save notes", () => this.saveNotes()), button("Load notes", () => file.click()), file, this.help);
  }

  filters() {
    const { classes } = this.catalogue;
    const samples = this.runs.flatMap((run) => run.samples);
    const set = (/** @type {string} */ name) => (/** @type {any} */ value) => {
      this.want = { ...this.want, [name]: value };
      this.page = 0;
      this.refresh();
    };
    const options = (/** @type {(s: Sample) => ?number[]} */ of) => {
      const found = [...new Set(samples.flatMap((s) => of(s) ?? []))].sort((a, b) => a - b);
      return { "": "any", ...Object.fromEntries(found.map((k) => [` ${k}`, classes?.[k] ?? `class ${k}`])) };
    };
    const trimmed = (/** @type {string} */ key) => (/** @type {string} */ value) => set(key)(value.trim());
    const some = (/** @type {(s: Sample) => any} */ of) => samples.some((s) => of(s) !== null);
    const predicted = some((s) => s.models[0].predictions), labelledData = some((s) => s.labels);
    const certain = some((s) => s.models[0].probability), costly = some((s) => s.models[0].loss);
    const search = h("input", { type: "search", placeholder: "name, class, tag", oninput: () => set("text")(search.value) });
    search.value = this.want.text;
    this.search = search;
    const confidence = slider(0, 1, 0.01, this.want.confidence, set("confidence"));
    const largest = Math.max(0, ...samples.map((s) => s.models[0].loss ?? 0));
    const loss = slider(0, nice(largest), nice(largest) / 100, this.want.loss, set("loss"));
    const possible = { loss: costly, confident: certain, unsure: certain, error: some((s) => s.completenessError), name: samples.some((s) => s.name) };
    const sorts = Object.fromEntries(Object.entries(SORTS).filter(([key]) => /** @type {any} */ (possible)[key] ?? true));
    return h("div", { class: "bar", role: "search", "aria-label": "Which samples" },
      field("Search", search),
      predicted ? field("Predicted", select(options((s) => s.models[0].predictions), "", trimmed("predicted"))) : null,
      labelledData ? field("Truth", select(options((s) => s.labels), "", trimmed("label"))) : null,
      labelledData && predicted ? field("Show", select({ "": "all", true: "correct", false: "wrong" }, "", set("correct"))) : null,
      certain ? field("p at least", confidence.el, confidence.out) : null,
      costly && largest > 0 ? field("Loss at least", loss.el, loss.out) : null,
      field("Order", select(sorts, "index", set("sort"))),
      field("Per page", select(Object.fromEntries(PAGE_SIZES.map((n) => [String(n), String(n)])), String(this.size), (v) => {
        this.size = Number(v);
        this.page = 0;
        this.refresh();
      })));
  }

  looks() {
    const set = (/** @type {string} */ name) => (/** @type {any} */ value) => {
      this.settings = { ...this.settings, [name]: value };
      this.redraw();
    };
    const names = (/** @type {"signed"} */ group) => Object.fromEntries(Object.keys(this.palettes[group]).map((k) => [k, k]));
    const clip = slider(50, 100, 0.5, 99, set("percentile"));
    const opacity = slider(0, 1, 0.05, 0.85, set("opacity"));
    const threshold = slider(0, 1, 0.02, 0, set("threshold"));
    return h("div", { class: "bar", role: "group", "aria-label": "How maps look" },
      field("Picture", select(BLENDS, "overlay", set("blend"))),
      field("Sign", select(SIGNS, "both", set("sign"))),
      field("Signed colours", select(names("signed"), this.settings.signed, set("signed"))),
      field("Strength colours", select(names(/** @type {any} */ ("unsigned")), this.settings.unsigned, set("unsigned"))),
      field("Clip at percentile", clip.el, clip.out),
      field("Opacity", opacity.el, opacity.out),
      field("Threshold", threshold.el, threshold.out));
  }

  /** Which run is shown, where there are several. */
  runBar() {
    if (this.runs.length < 2) return "";
    const show = (/** @type {number} */ run) => {
      this.run = run;
      steps.out.textContent = this.runs[run].name;
      this.reshow();
    };
    const steps = slider(0, this.runs.length - 1, 1, this.run, show);
    steps.el.classList.add("wide");
    steps.out.textContent = this.runs[this.run].name;
    const all = h("input", { type: "checkbox", checked: this.compare, onchange: () => {
      this.compare = all.checked;
      this.reshow();
    } });
    return h("div", { class: "bar", role: "group", "aria-label": "Runs" }, field("Run", steps.el, steps.out), field("All below each other", all));
  }

  /** Another run in the same cards. */
  reshow() {
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

  /** A card comes near the screen, or leaves it. */
  see(/** @type {IntersectionObserverEntry} */ entry) {
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
    for (const index of shown) {
      if (this.cards.has(index)) continue;
      const card = new Card(index, this);
      this.cards.set(index, card);
      this.seen.observe(card.el);
    }
    this.list.replaceChildren(...shown.map((index) => /** @type {Card} */ (this.cards.get(index)).el));
    const total = this.samples.length;
    if (!total) this.status.textContent = "There are no samples.";
    else if (!shown.length) this.status.textContent = `None of the ${total} samples passes these filters.`;
    else this.status.textContent = `${this.found.length} of ${total} samples`;
    const go = (/** @type {string} */ text, /** @type {number} */ to, /** @type {string} */ label) =>
      h("button", { type: "button", disabled: to < 0 || to >= pages, "aria-label": label, onclick: () => this.turn(to) }, text);
    this.pager.hidden = pages === 1;
    this.pager.replaceChildren(go("‹", this.page - 1, "Previous page"), h("span", {}, `page ${this.page + 1} of ${pages}`), go("›", this.page + 1, "Next page"));
    this.rest();
  }

  /** Load the page's other cards when there is time. */
  rest() {
    const idle = window.requestIdleCallback ?? ((/** @type {() => void} */ work) => setTimeout(work, 50));
    idle(() => {
      const next = [...this.cards.values()].find((card) => !card.loading);
      if (next) next.load().then(() => this.rest());
    });
  }

  turn(/** @type {number} */ page) {
    this.page = page;
    this.refresh();
    this.el.scrollIntoView({ block: "start" });
  }

  redraw() {
    this.cards.forEach((card) => card.redraw());
  }

  key(/** @type {KeyboardEvent} */ event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLElement && event.target.closest("input, select, textarea")) return;
    const step = { j: 1, k: -1 }[event.key];
    const all = [...this.list.children];
    const at = all.findIndex((el) => el.contains(document.activeElement));
    if (event.key === "/") this.search.focus();
    else if (event.key === "?") this.help.open = !this.help.open;
    else if (event.key === "e" && this.form) this.explain(at < 0 ? this.visible() : [Number(/** @type {HTMLElement} */ (all[at]).dataset.index)]);
    else if (event.key === "ArrowRight" && (this.page + 1) * this.size < this.found.length) this.turn(this.page + 1);
    else if (event.key === "ArrowLeft" && this.page > 0) this.turn(this.page - 1);
    else if (step) {
      const next = /** @type {HTMLElement | undefined} */ (all[Math.max(0, Math.min(all.length - 1, at + step))]);
      next?.focus();
    } else return;
    event.preventDefault();
  }

  /** Explain samples as the form says; `change` overrides what the form asks for. */
  async explain(/** @type {number[]} */ samples, /** @type {any} */ change = {}) {
    if (!this.form || !samples.length || this.job) return;
    const { form } = this;
    form.busy(true);
    try {
      const work = this.host.ask("explain", { samples, ...form.request(), ...change }, (/** @type {number} */ done, /** @type {number} */ total) => (form.bar.value = done / total));
      this.job = /** @type {any} */ (work).id;
      const { records, failures, cancelled } = await work;
      for (const index of samples) this.host.forget("maps", index);
      const added = [];
      for (const { sample, record } of records) {
        const card = this.cards.get(sample);
        await card?.load();
        if (card && !card.panels.some((panel) => panel.record.key === record.key && panel.record.title === record.title)) added.push(card.add(record));
        card?.paint();
      }
      for (const { sample, error } of failures ?? []) this.cards.get(sample)?.fail(error);
      if (cancelled) form.fail("Cancelled; the maps made before are kept.");
      if (form.curves.checked && !cancelled) for (const panel of added) await panel.askCurves();
    } catch (error) {
      form.fail(String(/** @type {Error} */ (error).message));
    } finally {
      this.job = null;
      form.busy(false);
    }
  }

  cancel() {
    if (this.job) this.model.send({ id: 0, type: "cancel", job: this.job });
  }

  remember(/** @type {number} */ index, /** @type {any} */ remark) {
    this.notes = { ...this.notes, [index]: remark };
    this.model.set("notes", this.notes);
    this.model.save_changes();
  }

  saveNotes() {
    const rows = Object.entries(this.notes).map(([index, remark]) => ({ sample: Number(index), name: this.samples[Number(index)]?.name, .../** @type {any} */ (remark) }));
    this.offer(new Blob([JSON.stringify(rows, null, 1)], { type: "application/json" }), "notes.json");
  }

  /** Take notes that were saved; they belong to samples by number. */
  async loadNotes(/** @type {File} */ file) {
    try {
      const rows = JSON.parse(await file.text());
      for (const { sample, tags, note } of rows) this.remember(Number(sample), { tags: tags.map(String), note: String(note) });
      this.cards.clear();
      this.refresh();
    } catch {
      this.status.textContent = `${file.name} holds no notes as "Save notes" writes them.`;
    }
  }

  async download(/** @type {string} */ format) {
    try {
      const { name, data, type } = await this.host.ask("export", { format });
      this.offer(new Blob([bytes(data)], { type }), name);
    } catch (error) {
      this.fail(String(/** @type {Error} */ (error).message));
    }
  }

  /** Say what went wrong, where the eye is. */
  fail(/** @type {string} */ text) {
    if (this.form) this.form.fail(text);
    else this.status.textContent = text;
  }

  offer(/** @type {Blob} */ blob, /** @type {string} */ name) {
    const url = URL.createObjectURL(blob);
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  /** All pictures of a card in one, as wide as they are in the page. */
  exportPng(/** @type {Card} */ card) {
    card.panels.forEach((panel) => panel.redraw());
    const parts = [...card.row.querySelectorAll("img, canvas")].map((el) => {
      const picture = /** @type {any} */ (el);
      const figure = el.closest("figure");
      const title = [el.closest(".group")?.querySelector("h3")?.textContent, figure?.querySelector("strong")?.textContent].filter(Boolean).join(": ");
      return { picture, title, shape: (picture.naturalHeight || picture.height) / (picture.naturalWidth || picture.width) };
    });
    if (!parts.length) {
      card.code.textContent = "Only pictures can be saved as PNG; this sample has none.";
      card.code.hidden = false;
      return;
    }
    const width = 320, line = 24, across = Math.min(4, parts.length);
    const height = line + Math.ceil(width * Math.max(...parts.map((part) => part.shape)));
    const canvas = h("canvas", { width: across * width, height: Math.ceil(parts.length / across) * height });
    const context = canvas.getContext("2d");
    Object.assign(context, { fillStyle: "#ffffff", font: "14px sans-serif", imageSmoothingEnabled: false });
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = "#1f2328";
    parts.forEach(({ picture, title, shape }, k) => {
      const x = (k % across) * width, y = Math.floor(k / across) * height;
      context.drawImage(picture, x + 2, y + line, width - 4, (width - 4) * shape);
      context.fillText(title, x + 4, y + 17, width - 8);
    });
    canvas.toBlob((/** @type {?Blob} */ blob) => blob && this.offer(blob, `sample-${card.index + 1}.png`));
  }
}

/** anywidget's entry: draw into `el`, return what takes the listeners off again. */
function render(/** @type {{model: any, el: HTMLElement}} */ { model, el }) {
  const app = new App(model, el);
  return () => {
    el.removeEventListener("keydown", app.keys);
    app.seen.disconnect();
  };
}

export default { render };
