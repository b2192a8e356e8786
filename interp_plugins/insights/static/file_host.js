
// The host inside a saved file: everything has been computed, so each request is answered from blocks of the page itself,
// each read when it is asked for. The module runs before the rest of a large file has come.
{
  const reading = () => document.readyState === "loading";
  const found = (id) => {
    const el = document.getElementById(id);
    return el && (el.nextSibling || !reading()) ? JSON.parse(el.textContent) : undefined;
  };
  const block = async (id) => {
    while (reading() && !document.getElementById(id)?.nextSibling) await new Promise((next) => setTimeout(next, 20));
    return found(id);
  };
  const listeners = { "msg:custom": [], "change:runs": [] };
  const catalogue = found("insights-data");
  const state = { catalogue, notes: catalogue.notes, runs: [{ name: catalogue.run, samples: catalogue.samples }] };
  const answer = async ({ type, sample, run = 0 }) => {
    if (type === "maps") return block(`insights-maps-${run}-${sample}`);
    if (type === "input") return (run && (await block(`insights-input-${run}-${sample}`))) || block(`insights-input-0-${sample}`);
    return undefined;
  };
  const tell = (event, value) => listeners[event].forEach((listener) => listener(value));
  const model = {
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    save_changes: () => {},
    on: (event, listener) => listeners[event]?.push(listener),
    send: async (message) => {
      const result = await answer(message);
      if (result !== undefined) tell("msg:custom", { id: message.id, type: "result", result });
      else tell("msg:custom", { id: message.id, type: "error", error: "This file holds no model; open a live session for that." });
    },
  };
  const begin = () => render({ model, el: document.getElementById("insights") });
  const complete = () => {
    for (let run; (run = found(`insights-run-${state.runs.length}`)); ) state.runs = [...state.runs, run];
    if (state.runs.length > 1) tell("change:runs");
  };
  begin();
  if (reading()) document.addEventListener("DOMContentLoaded", complete);
  else complete();
}
