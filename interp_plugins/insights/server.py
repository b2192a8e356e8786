"""The viewer behind a local server: one page, one WebSocket, one `Session` per connection.

It listens on the loopback interface alone. Who has the page's address with its random token may use it; a page of
another origin may not, even with the token, neither may a name that only resolves to this machine (DNS rebinding), and
no page may hold this one in a frame.

Each connection has a thread of its own beside its session's, so a page that waits for a model keeps no other waiting;
what cannot be read is answered, and the connection goes on. Where a page goes, its work stops at the next pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from interp_plugins.core.errors import InputError
from interp_plugins.insights.page import page, script
from interp_plugins.insights.records import behaviours
from interp_plugins.insights.session import Session
from interp_plugins.insights.worker import Worker, tell_trace

_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
_LONGEST = 2**24  # bytes of a message: thousands of notes
_REASON = 123  # bytes of text that the end of a WebSocket may carry
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "frame-ancestors 'none'",  # beside the page's own; in a page this is not heard
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
}


def make_app(new_session: Callable[[], Session], token: str, title: str = "Insights") -> Any:
    """The Starlette application.

    Args:
        new_session: makes the session of a connection.
        token: what the page's address must hold as `?token=`.
        title: of the document.
    """
    try:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, PlainTextResponse, Response
        from starlette.routing import Route, WebSocketRoute
        from starlette.websockets import WebSocket
    except ModuleNotFoundError as err:
        raise ImportError("The viewer's server needs starlette: pip install 'interp-plugins[insights]'.") from err

    async def index(request: Request) -> Response:
        if not _admitted(token, request.headers.get("host", ""), request.query_params.get("token")):
            return PlainTextResponse("The token in this address is missing or wrong.", status_code=403)
        html = page(script("socket_host.js", behaviours()), title, connect=f"ws://{request.headers['host']}")
        return HTMLResponse(html, headers=_HEADERS)

    async def socket(ws: WebSocket) -> None:
        host, origin = ws.headers.get("host", ""), ws.headers.get("origin")
        if not _admitted(token, host, ws.query_params.get("token")) or origin != f"http://{host}":
            await ws.close(code=4403, reason="The token is missing or wrong, or the page is of another origin.")
            return
        await ws.accept()
        await _Conversation(ws, new_session).run()

    return Starlette(routes=[Route("/", index), WebSocketRoute("/ws", socket)])


def _admitted(token: str, host: str, given: str | None) -> bool:
    """Whether a request names this machine's loopback interface and holds the token."""
    known = _HOST.fullmatch(host) is not None
    return known and secrets.compare_digest((given or "").encode("utf-8", "replace"), token.encode())


class _Conversation:
    """A connection: messages between a page and its session, until the page goes."""

    def __init__(self, ws: Any, new_session: Callable[[], Session]):
        self.ws, self.new_session = ws, new_session
        self.loop = asyncio.get_running_loop()
        self.outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.worker = Worker("insights-page")
        self.session: Session | None = None

    async def run(self) -> None:
        """Open a session and talk, until the page goes; then stop what it asked for."""
        postman = asyncio.create_task(self._post())
        opening = asyncio.create_task(self.worker.result(self._open))
        opening.add_done_callback(lambda task: task.cancelled() or task.exception())  # the page may have gone
        try:
            while (packet := await self.ws.receive())["type"] != "websocket.disconnect":
                await opening
                await self.worker.result(partial(self._take, packet))
        finally:
            self.worker.close()
            if self.session is not None:
                self.session.close()
            postman.cancel()
            opening.cancel()

    def send(self, message: dict[str, Any]) -> None:
        """Put a message into the outbox; called from the session's threads, also after the page has gone."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.outbox.put_nowait, message)

    async def _post(self) -> None:
        """Send what is in the outbox, as long as there is somebody to send it to."""
        with contextlib.suppress(Exception):  # the page has gone, as `run` will hear
            while await self._sent(await self.outbox.get()):
                pass

    async def _sent(self, message: dict[str, Any]) -> bool:
        """Send a message, or that it cannot be sent. Whether others follow; the last one ends the connection."""
        try:
            text = json.dumps(message, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as err:
            said = f"The server could not send its answer: {type(err).__name__}: {err}"
            if message["type"] == "hello":  # without it the page would wait for ever
                await self.ws.close(code=1011, reason=said.encode("ascii", "replace")[:_REASON].decode())
                return False
            text = json.dumps({"id": message["id"], "type": "error", "error": said})
        await self.ws.send_text(text)
        if message["type"] != "failed":
            return True
        await self.ws.close(code=1011)
        return False

    def _open(self) -> None:
        """Make the session; in the worker's thread."""
        try:
            session = self.new_session()
        except (Exception, SystemExit) as err:
            self.send({"id": 0, "type": "failed", "error": f"No session: {type(err).__name__}: {err}"})
            tell_trace()  # for whoever serves
            return
        self.session = session
        if self.worker.closed:
            session.close()
        self.send({"id": 0, "type": "hello", "catalogue": session.catalogue, "notes": session.notes})

    def _take(self, packet: dict[str, Any]) -> None:
        """Read a packet and hand it to the session; in the worker's thread."""
        if self.session is None:
            return
        try:
            message = json.loads(packet.get("text") or "")
        except (ValueError, RecursionError) as err:
            what = "bytes" if packet.get("text") is None else "no JSON"
            self.send({"id": None, "type": "error", "error": f"The message could not be read: {what}, {err}"})
            return
        self.session.receive(message, self.send)


@dataclass
class Server:
    """A running server.

    Attributes:
        url: the page's address, with its token.
    """

    url: str
    _uvicorn: Any = field(repr=False)
    _thread: threading.Thread = field(repr=False)

    def stop(self) -> None:
        """End the server and its sessions."""
        self._uvicorn.should_exit = True
        self._thread.join(timeout=10)

    def wait(self) -> None:
        """Wait until the server ends (Ctrl-C stops it)."""
        try:
            while self._thread.is_alive():
                self._thread.join(timeout=0.5)
        except KeyboardInterrupt:
            self.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def serve(
    new_session: Callable[[], Session], *, port: int = 0, open_browser: bool = False, title: str = "Insights"
) -> Server:
    """Serve the viewer on the loopback interface, in a thread of its own.

    Args:
        new_session: makes the session of a connection: `lambda: Session(model, inputs, ...)`.
        port: 0 = a free one.
        open_browser: open the page.
        title: of the document.

    Returns:
        The running `Server`; its `url` holds the token.

    Raises:
        ImportError: starlette or uvicorn is missing.
        InputError: the port is none, or cannot be had.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 2**16:
        raise InputError(f"port must be a whole number from 0 (a free one) to 65535, got {port!r}.")
    token = secrets.token_urlsafe(24)
    app = make_app(new_session, token, title)
    try:
        import uvicorn
    except ModuleNotFoundError as err:
        raise ImportError("The viewer's server needs uvicorn: pip install 'interp-plugins[insights]'.") from err
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws_max_size=_LONGEST)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="insights-server", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise InputError(f"The server did not start on port {port}; choose another, or 0 for a free one.")
        time.sleep(0.01)
    found = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{found}/?token={token}"
    if open_browser:
        webbrowser.open(url)
    return Server(url, server, thread)
