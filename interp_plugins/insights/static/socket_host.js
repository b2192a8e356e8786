
// The host behind a local server: one WebSocket carries the same messages; the token comes from the page's own address.
{
  const listeners = [];
  const state = { notes: {} };
  const root = document.getElementById("insights");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/ws${location.search}`);
  const say = (text) => {
    const line = document.createElement("p");
    line.setAttribute("role", "status");
    line.textContent = text;
    root.prepend(line);
  };
  say("Loading the samples …");
  const model = {
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    save_changes: () => socket.send(JSON.stringify({ id: 0, type: "notes", notes: state.notes })),
    on: (event, listener) => event === "msg:custom" && listeners.push(listener),
    send: (message) => socket.send(JSON.stringify(message)),
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "hello") {
      Object.assign(state, { catalogue: message.catalogue, notes: message.notes });
      render({ model, el: root });
    } else listeners.forEach((listener) => listener(message));
  };
  socket.onclose = (event) => say(event.reason || "The session has ended. Start it again and reload the page.");
}
