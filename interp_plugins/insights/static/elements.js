// Elements, controls and numbers as text. Text is only ever set as text, never as markup.

/** @typedef {string | Node | null | undefined | false} Child */

/**
 * An element with properties and children; those that are null, undefined or false are left out.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} props `on...` listens; `class` and `style` as one expects; others are properties
 *   or attributes
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props = {}, ...children) {
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

/**
 * An element of SVG.
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {...Node} children
 */
export function svg(tag, attributes, ...children) {
  const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) el.setAttribute(key, value);
  el.append(...children);
  return el;
}

/**
 * A small button. @param {string} text @param {() => void} work @param {Record<string, any>} props
 */
export function button(text, work, props = {}) {
  return h("button", { type: "button", class: "small", onclick: work, ...props }, text);
}

/**
 * A list to choose from.
 * @param {[value: string, text: string][]} options
 * @param {string} value chosen at first
 * @param {(value: string) => void} changed
 */
export function select(options, value, changed) {
  const el = h("select", { onchange: () => changed(el.value) });
  for (const [key, text] of options) el.append(h("option", { value: key, selected: key === value }, text));
  return el;
}

/**
 * A slider and the number beside it.
 * @param {number} low
 * @param {number} high
 * @param {number} step
 * @param {number} value
 * @param {(value: number) => void} changed
 */
export function slider(low, high, step, value, changed) {
  const out = h("output", {}, String(value));
  const el = h("input", { type: "range", min: String(low), max: String(high), step: String(step) });
  el.value = String(value);
  el.addEventListener("input", () => {
    out.textContent = el.value;
    changed(Number(el.value));
  });
  return { el, out };
}

const OWN = Math.random().toString(36).slice(2, 8); // a notebook may hold this module several times
let labelled = 0;

/**
 * A control with its label. @param {string} name @param {HTMLElement} control @param {Child} hint beside the name
 */
export function field(name, control, hint = null) {
  control.id = `insights-${OWN}-${++labelled}`;
  const caption = h("span", { class: "caption" }, h("label", { for: control.id }, name), hint);
  return h("span", { class: "field" }, caption, control);
}

/**
 * Controls that are opened when they are wanted. @param {string} name @param {...Child} controls
 */
export function fold(name, ...controls) {
  return h("details", { class: "fold" }, h("summary", {}, name), h("div", { class: "inside" }, controls));
}

/** A number in three digits; a dash for none. @param {?number | undefined} value */
export function digits(value) {
  return value === null || value === undefined ? "–" : Number(value.toPrecision(3)).toString();
}

/** A share in two digits; a dash for none. @param {?number | undefined} value */
export function percent(value) {
  return value === null || value === undefined ? "–" : `${Number((100 * value).toPrecision(2))} %`;
}

/** Waits until calls stop for a moment. @param {() => void} work @param {number} ms */
export function later(work, ms = 150) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = window.setTimeout(work, ms);
  };
}

/** Offer a file for saving. @param {Blob} blob @param {string} name */
export function offer(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
