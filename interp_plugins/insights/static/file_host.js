// The host inside a saved file: everything has been computed, so each request is answered from blocks of the page
// itself, each read when it is asked for. The module runs before the rest of a large file has come.

import { render } from "./app.js";

/** @import { Listener, Model, Request, Run } from "./wire.js" */

function reading() {
  return document.readyState === "loading";
}

/** A block's content, if all of it has come. @param {string} id */
function blockNow(id) {
  const el = document.getElementById(id);
  return el && (el.nextSibling || !reading()) ? JSON.parse(el.textContent ?? "") : undefined;
}

/** A block's content, as soon as it has come; undefined where there is none. @param {string} id */
async function block(id) {
  while (reading() && !document.getElementById(id)?.nextSibling) await new Promise((next) => setTimeout(next, 20));
  return blockNow(id);
}

/** @param {Request} request */
async function answer({ type, sample, record, run = 0 }) {
  if (type === "record") return block(`insights-record-${record}`);
  if (type === "maps") return block(`insights-maps-${run}-${sample}`);
  if (type !== "input") return undefined;
  const own = run ? await block(`insights-input-${run}-${sample}`) : undefined;
  return own ?? block(`insights-input-0-${sample}`);
}

function openFile() {
  const catalogue = blockNow("insights-data");
  let runs = /** @type {Run[]} */ ([{ name: catalogue.run, samples: catalogue.samples }]);
  const state = /** @type {Record<string, any>} */ ({ catalogue, notes: catalogue.notes, runs });
  const listeners = /** @type {Record<string, Listener[]>} */ ({ "msg:custom": [], "change:runs": [] });
  const tell = (/** @type {string} */ event, /** @type {any} */ value) =>
    listeners[event].forEach((listen) => listen(value));
  /** @type {Model} */
  const model = {
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    save_changes: () => {},
    on: (event, listener) => listeners[event]?.push(listener),
    send: async (request) => {
      const { id } = request;
      const result = await answer(request);
      if (result !== undefined) tell("msg:custom", { id, type: "result", result });
      else tell("msg:custom", { id, type: "error", error: "This file holds no model; open a live session for that." });
    },
  };
  const complete = () => {
    for (let run; (run = blockNow(`insights-run-${runs.length}`)); ) runs = [...runs, run];
    state.runs = runs;
    if (runs.length > 1) tell("change:runs", runs);
  };
  render({ model, el: /** @type {HTMLElement} */ (document.getElementById("insights")) });
  if (reading()) document.addEventListener("DOMContentLoaded", complete);
  else complete();
}

openFile();
