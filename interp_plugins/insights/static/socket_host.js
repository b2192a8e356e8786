// The host behind a local server: one WebSocket carries the same messages; the token comes from the page's own address.

import { render } from "./app.js";

/** @import { Listener, Model } from "./wire.js" */

function openSocket() {
  const listeners = /** @type {Listener[]} */ ([]);
  const state = /** @type {Record<string, any>} */ ({ notes: {} });
  const el = /** @type {HTMLElement} */ (document.getElementById("insights"));
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/ws${location.search}`);
  const line = document.createElement("p");
  line.setAttribute("role", "status");
  const say = (/** @type {string} */ text) => {
    line.textContent = text;
    el.prepend(line);
  };
  say("Loading the samples …");
  let ended = "The session has ended. Start it again and reload the page.";
  const send = (/** @type {any} */ message) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
    else say(ended);
  };
  /** @type {Model} */
  const model = {
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    save_changes: () => send({ id: 0, type: "notes", notes: state.notes }),
    on: (event, listener) => event === "msg:custom" && listeners.push(listener),
    send,
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "hello") {
      Object.assign(state, { catalogue: message.catalogue, notes: message.notes });
      render({ model, el });
    } else if (message.type === "failed") ended = message.error;
    else listeners.forEach((listener) => listener(message));
  };
  socket.onclose = (event) => say(event.reason || ended);
}

openSocket();
