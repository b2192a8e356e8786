"""The viewer behind a local server: one page, one WebSocket, one `Session` per connection.

It listens on the loopback interface alone. Who has the page's address with its random token may use it; a page of
another origin may not, even with the token, and neither may a name that only resolves to this machine (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from interp_plugins.core.errors import InputError
from interp_plugins.insights.page import page, script
from interp_plugins.insights.session import Session

_REASON = 123  # bytes of text that the end of a WebSocket may carry
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


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
        html = page(script("socket_host.js"), title, connect=f"ws://{request.headers['host']}")
        return HTMLResponse(html, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})

    async def socket(ws: WebSocket) -> None:
        host, origin = ws.headers.get("host", ""), ws.headers.get("origin")
        if not _admitted(token, host, ws.query_params.get("token")) or origin != f"http://{host}":
            await ws.close(code=4403, reason="The token is missing or wrong, or the page is of another origin.")
            return
        await ws.accept()
        await _converse(ws, await asyncio.to_thread(new_session))

    return Starlette(routes=[Route("/", index), WebSocketRoute("/ws", socket)])


def _admitted(token: str, host: str, given: str | None) -> bool:
    """Whether a request names this machine's loopback interface and holds the token."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    return name in _LOOPBACK and secrets.compare_digest((given or "").encode(), token.encode())


async def _converse(ws: Any, session: Session) -> None:
    """Pass messages between a page and its session, until the page goes."""
    from starlette.websockets import WebSocketDisconnect

    loop, outbox = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()

    def send(message: dict[str, Any]) -> None:  # called from the session's thread
        loop.call_soon_threadsafe(outbox.put_nowait, message)

    async def post() -> None:
        while True:
            message = await outbox.get()
            try:
                text = json.dumps(message, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as err:
                said = f"The server could not send its answer: {type(err).__name__}: {err}"
                if message["type"] == "hello":  # without it the page would wait for ever
                    await ws.close(code=1011, reason=said.encode("ascii", "replace")[:_REASON].decode())
                    return
                text = json.dumps({"id": message["id"], "type": "error", "error": said})
            await ws.send_text(text)

    send({"id": 0, "type": "hello", "catalogue": session.catalogue, "notes": session.notes})
    postman = asyncio.create_task(post())
    try:
        while True:
            message = await ws.receive_json()
            await asyncio.to_thread(session.receive, message, send)
    except WebSocketDisconnect:
        pass
    finally:
        postman.cancel()
        session.close()


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
        InputError: the port cannot be had.
    """
    token = secrets.token_urlsafe(24)
    app = make_app(new_session, token, title)
    try:
        import uvicorn
    except ModuleNotFoundError as err:
        raise ImportError("The viewer's server needs uvicorn: pip install 'interp-plugins[insights]'.") from err
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws_max_size=2**26)
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
