// One map: its numbers as colours, bars or tokens, the facts and curves beside it.

import { button, digits, h, percent, svg } from "./elements.js";
import { reason, Values } from "./wire.js";

/**
 * @import { BarsRecord, Curves, HeatmapRecord, InputRecord, MapRecord, TokensRecord } from "./wire.js"
 *
 * How maps are to look; `signed` and `unsigned` name palettes.
 * @typedef {{blend: string, sign: string, percentile: number, opacity: number, threshold: number,
 *   signed: string, unsigned: string}} Looks
 * @typedef {Record<"signed" | "unsigned", Record<string, Uint8Array>>} Palettes
 */

const MOST_ROWS = 20; // columns of a table shown one by one
const DARKEST = 0.78, BRIGHTEST = 0.96; // a photograph's black and white under a map: colours look alike on both

// -- numbers to colours -----------------------------------------------------------------------------------------------

/**
 * For each possible byte (-128..127, index + 128): its colour and how much of it is laid over the picture.
 * Sliders change these 256 entries only; painting looks them up.
 * @param {Looks} looks
 * @param {number} clip the |byte| that gets the strongest colour
 * @param {boolean} signed
 * @param {Palettes} palettes
 */
function colours(looks, clip, signed, palettes) {
  const diverging = signed && looks.sign === "both";
  const table = diverging ? palettes.signed[looks.signed] : palettes.unsigned[looks.unsigned];
  const rgb = new Uint8Array(256 * 3);
  const weight = new Float32Array(256);
  for (let byte = -128; byte < 128; byte++) {
    let unit = Math.sign(byte) * Math.min(1, (byte / clip) ** 2); // a byte is the root of its value
    if (looks.sign === "positive") unit = Math.max(unit, 0);
    if (looks.sign === "negative") unit = Math.max(-unit, 0);
    if (looks.sign === "absolute") unit = Math.abs(unit);
    const strength = Math.abs(unit);
    const at = Math.round(255 * (diverging ? (unit + 1) / 2 : strength));
    rgb.set(table.subarray(3 * at, 3 * at + 3), 3 * (byte + 128));
    weight[byte + 128] = strength < looks.threshold ? 0 : looks.blend === "heatmap" ? 1 : strength;
  }
  return { rgb, weight };
}

/**
 * Paint a map into a canvas of the map's size.
 * @param {HTMLCanvasElement} canvas
 * @param {HeatmapRecord} record
 * @param {Values} values
 * @param {?Uint8ClampedArray} photo the picture below it, at the map's size
 * @param {Looks} looks
 * @param {Palettes} palettes
 */
function paint(canvas, record, values, photo, looks, palettes) {
  const [height, width] = record.shape;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  const image = context.createImageData(width, height);
  const out = image.data;
  const { rgb, weight } = colours(looks, values.clip(looks.percentile), record.signed, palettes);
  const { opacity, blend } = looks;
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
      const grey = photo ? 0.299 * photo[p] + 0.587 * photo[p + 1] + 0.114 * photo[p + 2] : 255;
      const ground = (photo ? 255 * DARKEST + (BRIGHTEST - DARKEST) * grey : 255) * (1 - over);
      for (let c = 0; c < 3; c++) out[p + c] = ground + rgb[at + c] * over;
    }
    out[p + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** The pixels of a picture at a map's size. @param {string} src @param {number} width @param {number} height */
export async function pixels(src, width, height) {
  const picture = new Image();
  picture.src = src;
  await picture.decode();
  const canvas = h("canvas", { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

// -- tables, tokens, curves -------------------------------------------------------------------------------------------

/** The rows of a table, and how many are not shown. @param {string} look @param {Node[]} rows @param {number} more */
function table(look, rows, more) {
  return h("div", {}, h("table", { class: look }, h("tbody", {}, rows)),
    more > 0 ? h("p", { class: "faint" }, `and ${more} more`) : null);
}

/** A table's columns, the strongest over all maps first: the same rows stand side by side. @param {Panel[]} all */
export function rowOrder(all) {
  const sums = /** @type {Map<string, number>} */ (new Map());
  for (const { record, values } of all) {
    if (record.view !== "bars" || !values) continue;
    const unit = values.limit || 1;
    record.names.forEach((name, k) => sums.set(name, (sums.get(name) ?? 0) + Math.abs(values.at(k)) / unit));
  }
  return [...sums].sort(([, a], [, b]) => b - a).map(([name]) => name);
}

/**
 * Bars for named values, a line each.
 * @param {BarsRecord} record
 * @param {Values} values
 * @param {string[]} names in the order of the card, which is the same for all its methods
 */
function bars(record, values, names) {
  const { texts, hidden, signed } = record;
  const place = new Map(names.map((name, k) => [name, k]));
  const order = [...record.names.keys()].sort((a, b) =>
    (place.get(record.names[a]) ?? names.length) - (place.get(record.names[b]) ?? names.length) || a - b);
  const rows = order.slice(0, MOST_ROWS).map((k) => {
    const value = values.at(k), name = record.names[k];
    const share = values.limit ? Math.abs(value) / values.limit : 0;
    const look = !signed ? "plain" : value < 0 ? "minus" : "plus";
    const bar = h("span", { class: `bar ${look}`, style: { width: `${(signed ? 50 : 100) * share}%` } });
    const text = texts[k] ? `${name} = ${texts[k]}` : name;
    return h("tr", { "data-link": name },
      h("th", { scope: "row", title: text }, text), h("td", { class: "track" }, bar), h("td", {}, digits(value)));
  });
  return table("bars", rows, order.length - rows.length + hidden);
}

/**
 * Tokens on coloured ground.
 * @param {TokensRecord} record
 * @param {Values} values
 * @param {Looks} looks
 * @param {Palettes} palettes
 */
function tokens(record, values, looks, palettes) {
  const overlay = { ...looks, blend: "overlay" };
  const { rgb, weight } = colours(overlay, values.clip(looks.percentile), record.signed, palettes);
  return h("p", { class: "tokens", dir: "auto" }, record.tokens.map((token, k) => {
    const entry = values.data[k] + 128;
    const [r, g, b] = rgb.subarray(3 * entry, 3 * entry + 3);
    const alpha = weight[entry] ? looks.opacity : 0;
    const dark = alpha > 0.5 && 0.299 * r + 0.587 * g + 0.114 * b < 110;
    const color = alpha ? (dark ? "#ffffff" : "#1f2328") : "";
    const style = { background: `rgba(${r}, ${g}, ${b}, ${alpha})`, color };
    return h("span", { class: "token", title: digits(values.at(k)), "data-link": String(k), style }, token);
  }));
}

/** What a sample is, before any map of it; null where it has no view. @param {InputRecord} input */
export function inputView(input) {
  if (input.view === "image") return zoomable(h("img", { src: input.src, alt: "The input" }));
  if (input.view === "tokens") {
    const spans = input.tokens.map((token, k) => h("span", { class: "token", "data-link": String(k) }, token));
    return h("p", { class: "tokens", dir: "auto" }, spans);
  }
  if (input.view === "values") {
    const { names, texts } = input;
    const rows = names.slice(0, MOST_ROWS).map((name, k) =>
      h("tr", { "data-link": name }, h("th", { scope: "row" }, name), h("td", {}, texts[k] ?? "")));
    return table("bars values", rows, names.length - rows.length);
  }
  return null;
}

/** A picture that the card zooms. @param {...Node} parts */
function zoomable(...parts) {
  return h("div", { class: "picture" }, h("div", { class: "zoomed" }, parts));
}

/** A line chart of deletion and insertion, with the areas below them. @param {Curves} curves */
function curveChart({ of, baseline, fraction, deletion, insertion, deletionArea, insertionArea }) {
  const width = 200, height = 72;
  const all = [...deletion, ...insertion];
  const low = Math.min(0, ...all), high = Math.max(...all);
  const down = (/** @type {number} */ value) => height - 2 - ((height - 4) * (value - low)) / (high - low || 1);
  const line = (/** @type {number[]} */ values, /** @type {string} */ look) => svg("polyline", {
    points: values.map((value, k) => `${(width * fraction[k]).toFixed(1)},${down(value).toFixed(1)}`).join(" "),
    class: look,
  });
  const label = `${of} from ${digits(low)} to ${digits(high)} against the share of the input, ` +
    `area of deletion ${digits(deletionArea)}, of insertion ${digits(insertionArea)}`;
  const frame = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, preserveAspectRatio: "none" };
  return h("div", { class: "curves" },
    svg("svg", frame, line(deletion, "minus"), line(insertion, "plus")),
    h("p", {}, h("span", { class: "key minus" }, `deletion ${digits(deletionArea)}`), " ",
      h("span", { class: "key plus" }, `insertion ${digits(insertionArea)}`),
      h("span", { class: "faint" }, ` ${of} ${digits(low)}–${digits(high)}, removed = ${baseline}`)));
}

// -- a map with what stands beside it ---------------------------------------------------------------------------------

/**
 * What a panel asks of its card: the input's pixels at a size (null: there are none), the map's curves (null: nothing
 * can compute them), the order of a table's rows, and to be drawn again.
 * @typedef {{photo: (width: number, height: number) => ?Promise<Uint8ClampedArray>, curves: ?(() => Promise<Curves>),
 *   order: () => string[], repaint: () => void}} Place
 */

/** One method's map with its facts; `redraw` follows the looks. */
export class Panel {
  /** @param {MapRecord} record @param {Place} place */
  constructor(record, place) {
    this.record = record;
    this.place = place;
    this.stale = true;
    this.photo = /** @type {?Uint8ClampedArray} */ (null);
    this.canvas = /** @type {?HTMLCanvasElement} */ (null);
    this.dot = h("span", { class: "dot", hidden: true });
    this.values = record.view === "picture" || record.view === "error" ? null : new Values(record);
    this.readout = h("span", { class: "readout", "aria-live": "off" });
    this.body = h("div", { class: "picture" });
    this.chart = h("div", {});
    this.el = h("figure", { class: record.view === "picture" ? "panel wide" : "panel" },
      h("figcaption", {}, h("strong", { title: record.params ?? "" }, record.title), this.readout),
      this.body, this.facts(), this.chart);
    this.drawCurves();
    if (record.view === "error") this.body.append(h("p", { class: "failed" }, record.error));
    if (record.view === "picture") {
      this.body.append(h("div", { class: "zoomed" }, h("img", { src: record.src, alt: this.name() })));
    }
    if (record.view === "heatmap") this.heatmap(record);
  }

  name() {
    return `${this.record.title}, ${this.record.targetText}`;
  }

  facts() {
    const { targetText, score, completenessText, share, baseline } = this.record;
    const some = (/** @type {?number} */ value) => (value === null ? null : percent(value));
    const facts = [
      ["explains", targetText],
      ["score", digits(score)],
      ["completeness error", completenessText],
      ["share of all inputs", some(share)],
      ["baseline", baseline],
    ];
    return h("dl", {}, facts.filter(([, v]) => v).map(([k, v]) => h("div", {}, h("dt", {}, k), h("dd", {}, v))));
  }

  /** @param {HeatmapRecord} record */
  heatmap(record) {
    const [height, width] = record.shape;
    this.canvas = h("canvas", { role: "img", "aria-label": this.name(), width, height });
    this.body.append(h("div", { class: "zoomed" }, this.canvas, this.dot));
    this.place.photo(width, height)?.then((found) => {
      this.photo = found;
      this.stale = true;
      this.place.repaint();
    });
  }

  /** Draw, if anything has changed since. @param {Looks} looks @param {Palettes} palettes */
  redraw(looks, palettes) {
    const { record, values } = this;
    if (!values || !this.stale) return;
    this.stale = false;
    if (record.view === "tokens") this.body.replaceChildren(tokens(record, values, looks, palettes));
    else if (record.view === "bars") this.body.replaceChildren(bars(record, values, this.place.order()));
    else if (record.view === "heatmap" && this.canvas) paint(this.canvas, record, values, this.photo, looks, palettes);
  }

  drawCurves() {
    const { curves, view } = this.record;
    if (curves && "error" in curves) this.chart.replaceChildren(h("p", { class: "failed" }, curves.error));
    else if (curves) this.chart.replaceChildren(curveChart(curves));
    else if (this.place.curves && view !== "error") {
      const title = "How the score falls without the strongest parts, and rises with them alone";
      const ask = button("Insertion and deletion", () => {
        ask.disabled = true;
        this.askCurves();
      }, { title });
      this.chart.replaceChildren(ask);
    }
  }

  async askCurves() {
    const { record, place } = this;
    try {
      record.curves = (await place.curves?.()) ?? null;
    } catch (error) {
      record.curves = { error: reason(error) };
    }
    this.drawCurves();
  }

  /** Show the value under a spot (0..1 from left and top), or nothing. @param {?{x: number, y: number}} spot */
  point(spot) {
    const { record, values, dot, readout } = this;
    if (record.view !== "heatmap" || !values) return;
    dot.hidden = !spot;
    if (!spot) {
      readout.textContent = "";
      return;
    }
    const [height, width] = record.shape;
    const column = Math.min(width - 1, Math.floor(spot.x * width));
    const row = Math.min(height - 1, Math.floor(spot.y * height));
    readout.textContent = `${digits(values.at(row * width + column))} at ${column}, ${row}`;
    Object.assign(dot.style, { left: `${100 * spot.x}%`, top: `${100 * spot.y}%` });
  }
}
