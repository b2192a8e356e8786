
// The host inside a saved file: everything has been computed, so each request is answered from the page itself.
{
  const { catalogue, inputs, maps, notes } = JSON.parse(document.getElementById("insights-data").textContent);
  const listeners = [];
  const state = { catalogue, notes };
  const answer = (message) => ({ input: () => inputs[message.sample], maps: () => maps[message.sample] })[message.type]?.();
  const model = {
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    save_changes: () => {},
    on: (event, listener) => event === "msg:custom" && listeners.push(listener),
    send: (message) => {
      const result = answer(message);
      const reply = result === undefined
        ? { id: message.id, type: "error", error: "This file holds no model; open a live session for that." }
        : { id: message.id, type: "result", result };
      queueMicrotask(() => listeners.forEach((listener) => listener(reply)));
    },
  };
  render({ model, el: document.getElementById("insights") });
}
