"""The viewer on bad days: messages that cannot be read, pages that go away, waiting pages, hostile text and names.

A page's connection, its maps and everybody else's pages must outlive each of these; what a page has asked for must stop
soon after nobody wants it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("matplotlib")

import torch
from starlette.testclient import TestClient
from torch import Tensor
from websockets.sync.client import connect

from interp_plugins.core.errors import InputError
from interp_plugins.core.spec import InputSpec
from interp_plugins.insights import Session, serve, write_report
from interp_plugins.insights.server import make_app
from tests.insights.nets import Squares, squares
from tests.insights.test_browser import explained
from tests.thorough import THOROUGH, times

HOST = {"host": "127.0.0.1:8000"}
ORIGIN = {**HOST, "origin": "http://127.0.0.1:8000"}
SOCKET = "/ws?token=right token"
EXPLAIN = {"id": 5, "type": "explain", "samples": [0], "method": "saliency"}
DEEP = "[" * 100_000 + "]" * 100_000

NOT_READ: list[str | bytes] = [
    "", " ", "{", "}", "nothing", "{'id': 1}", '{"id": 1,}', "\x00", "\ud7ff", "NaN", "Infinity", "-", "1" * 5000, DEEP,
    '{"a":' * 50_000, b"", b"\x00\xff", b'{"id": 1, "type": "maps", "sample": 0}', "null", "true", "5", "1e400",
    '"maps"', "[]", "[1]", "{}", '{"id": 1}', '{"type": "maps"}',
]  # fmt: skip
MISREAD: list[dict[str, Any]] = [
    *({"id": number, "type": "maps", "sample": 0} for number in ([], {}, None, "1", 1.5, True, float("nan"), 10**30)),
    *({"id": 1, "type": kind} for kind in (None, 5, [], {}, "", "dance", "__class__", "\ud800", "x" * 10**5)),
    *({"id": 1, "type": "maps", "sample": i} for i in (None, -1, 99, 0.5, "0", True, [], {}, float("inf"), 10**400)),
    *({"id": 1, "type": "input", "sample": i} for i in (None, -1, "\ud800", [[]])),
    *({"id": 1, "type": "notes", "notes": n} for n in ("text", 5, [1, 2], ["ab"], {"0": "a"}, {"0": {"tags": 5}})),
    *({"id": 1, "type": "notes", "notes": n} for n in (None, {"x": {"note": ""}}, {"0": {"note": 5}}, {"0": None})),
    *({"id": 1, "type": "cancel", "job": job} for job in ([], {}, None, "1", float("nan"))),
    *({"id": 1, "type": "export", "format": f} for f in (None, 5, [], "exe", "../html", "\ud800")),
    *({**EXPLAIN, "samples": s} for s in (None, 5, "0", [None], [[0]], [-1], [99], {"0": 1}, [True], ["\ud800"])),
    *({**EXPLAIN, "method": m} for m in (None, 5, [], {}, "", "salency", "\ud800", "__init__")),
    *({**EXPLAIN, "params": p} for p in (5, [1], "text", {"no such": 1}, {"\ud800": 1}, {"self": 1})),
    *({**EXPLAIN, "model": m} for m in (-1, 99, "x", [], {}, 0.5, "²", True)),
    *({**EXPLAIN, "baseline": b, "method": "integrated_gradients"} for b in (5, [1], {"a": 1}, "none", "\ud800")),
    *({**EXPLAIN, "target": t} for t in (99, -99, "no class", {"a": 1}, 0.5, "\ud800")),
    *({"id": 1, "type": "curves", "sample": 0, "key": k} for k in (None, -1, 9, "0", [], True)),
]


class Slow(Squares):
    """Every pass takes a while, in the model's own thread; says when the first gradient begins."""

    def __init__(self, seconds: float = 0.02) -> None:
        super().__init__()
        self.seconds, self.begun, self.passes = seconds, threading.Event(), 0

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.begun.set()
            self.passes += 1
            time.sleep(self.seconds)
        return super().forward(x)


LONG = {"id": 7, "type": "explain", "samples": [0], "method": "integrated_gradients"}
LONG |= {"params": {"n_steps": 3000, "internal_batch_size": 1}}  # a minute with `Slow`


def encoded(message: str | bytes | dict[str, Any]) -> str | bytes:
    return json.dumps(message) if isinstance(message, dict) else message


def sent(ws: Any, message: str | bytes | dict[str, Any]) -> None:
    packet = encoded(message)
    ws.send_bytes(packet) if isinstance(packet, bytes) else ws.send_text(packet)


@contextlib.contextmanager
def talking(new: Callable[..., Session], **kwargs: Any) -> Iterator[Any]:
    """A connection that has one map already."""
    client = TestClient(make_app(lambda: new(n=2, **kwargs), "right token"))
    with client.websocket_connect(SOCKET, headers=ORIGIN) as ws:
        assert ws.receive_json()["type"] == "hello"
        sent(ws, EXPLAIN)
        assert [ws.receive_json()["type"] for _ in range(2)] == ["progress", "result"]
        yield ws


def answers_until(ws: Any, number: int) -> list[dict[str, Any]]:
    found = []
    while not found or found[-1]["id"] != number:
        found.append(json.loads(ws.receive_text(), parse_constant=pytest.fail))
    return found


@pytest.mark.parametrize(
    "message", [*NOT_READ, *MISREAD], ids=lambda m: repr(m)[:60].encode("ascii", "replace").decode()
)
def test_a_bad_message_is_answered_and_the_connection_keeps_its_maps(new_session, message) -> None:
    with talking(new_session) as ws:
        sent(ws, message)
        sent(ws, {"id": 900, "type": "maps", "sample": 0})
        sent(ws, {**EXPLAIN, "id": 901, "samples": [1]})  # and the thread that explains is alive
        found = answers_until(ws, 901)
        found += answers_until(ws, 901) if found[-1]["type"] == "progress" else []
        maps = next(a for a in found if a["id"] == 900)
        others = [a for a in found if a["id"] not in (900, 901)]
        assert found[-1]["type"] == "result" and len(maps["result"]) == 1
        assert [a["type"] for a in others if a["type"] != "progress"] == ["error"], others
        assert len(others[-1]["error"]) > 10


def test_all_bad_messages_on_one_connection(new_session) -> None:
    assert len(NOT_READ) + len(MISREAD) >= 67
    with talking(new_session) as ws:
        for message in (*NOT_READ, *MISREAD):
            sent(ws, message)
        sent(ws, {"id": 900, "type": "notes", "notes": {"0": {"tags": ["odd"], "note": "\ud800"}}})
        sent(ws, {"id": 901, "type": "export", "format": "html"})
        found = answers_until(ws, 901)
        assert found[-1]["type"] == "result" and found[-1]["result"]["name"] == "insights.html"
        assert len([a for a in found if a["type"] == "error"]) == len(NOT_READ) + len(MISREAD)
        sent(ws, {"id": 902, "type": "maps", "sample": 0})
        assert len(answers_until(ws, 902)[-1]["result"]) == 1


def test_an_answer_that_is_no_json_is_told_and_one_with_surrogates_arrives(new_session) -> None:
    with talking(new_session, names=["\ud800 one", "two"]) as ws:
        sent(ws, {"id": 3, "type": "maps", "sample": 0})
        assert answers_until(ws, 3)[-1]["result"]

    class Odd(Session):
        def _input(self, message: Any, send: Any) -> dict[str, Any]:
            return {"view": {1, 2}}

    client = TestClient(make_app(lambda: Odd(Squares(), squares(1)), "right token"))
    with client.websocket_connect(SOCKET, headers=ORIGIN) as ws:
        ws.receive_json()
        sent(ws, {"id": 3, "type": "input", "sample": 0})
        answer = ws.receive_json()
        assert answer["id"] == 3 and "could not send its answer" in answer["error"]
        sent(ws, {"id": 4, "type": "maps", "sample": 0})
        assert ws.receive_json() == {"id": 4, "type": "result", "result": []}


class Exits(Squares):
    """A model that ends the process when it is explained."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            sys.exit(3)
        return super().forward(x)


def test_a_model_that_exits_is_an_answer(new_session) -> None:
    client = TestClient(make_app(lambda: new_session(model=Exits()), "right token"))
    with client.websocket_connect(SOCKET, headers=ORIGIN) as ws:
        ws.receive_json()
        for number in (1, 2):
            sent(ws, {**EXPLAIN, "id": number})
            assert "SystemExit: 3" in answers_until(ws, number)[-1]["error"]


@pytest.mark.parametrize("raised", [RuntimeError("no weights"), SystemExit(2), InputError("\ud800")])
def test_a_session_that_cannot_be_made_says_why(raised: BaseException, capsys) -> None:
    def fail() -> Session:
        raise raised

    client = TestClient(make_app(fail, "right token"))
    with client.websocket_connect(SOCKET, headers=ORIGIN) as ws:
        told = ws.receive_json()
        assert told["type"] == "failed" and f"No session: {type(raised).__name__}: {raised}" == told["error"]
        assert ws.receive()["code"] == 1011
    assert type(raised).__name__ in capsys.readouterr().err  # and whoever serves sees where


def test_the_page_shows_why_no_session_could_be_made(page) -> None:
    def fail() -> Session:
        raise RuntimeError("<b>no weights</b>")

    with serve(fail) as server:
        page.goto(server.url)
        line = page.get_by_text("No session: RuntimeError: <b>no weights</b>")
        line.wait_for()
        assert page.get_by_text("Loading").count() == 0


# -- work that nobody wants any more -----------------------------------------------------------------------------------


def collected(session: Session, message: dict[str, Any]) -> queue.Queue[dict[str, Any]]:
    box: queue.Queue[dict[str, Any]] = queue.Queue()
    session.receive(message, lambda a: box.put(a) if a["type"] != "progress" else None)
    return box


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion", "shapley_value_sampling", "lime", "guided_ig"])
def test_cancel_is_heard_within_a_sample(new_session, method: str) -> None:
    more = {"integrated_gradients": LONG["params"], "guided_ig": {"n_steps": 3000}, "lime": {"n_samples": 10**6}}
    more |= {"shapley_value_sampling": {"n_samples": 10**5}, "occlusion": {"sliding_window_shapes": "(1, 1, 1)"}}
    begun = threading.Event()

    class Watched(Squares):
        def forward(self, x: Tensor) -> Tensor:
            begun.set()
            time.sleep(0.02)
            return super().forward(x)

    session = new_session(model=Watched())
    begun.clear()
    box = collected(session, {**LONG, "samples": [0, 1, 2], "method": method, "params": more[method]})
    assert begun.wait(60)
    begin = time.perf_counter()
    session.receive({"id": 8, "type": "cancel", "job": 7}, box.put)
    answer = box.get(timeout=60)
    assert answer["type"] == "result" and answer["result"]["cancelled"] and answer["id"] == 7
    assert time.perf_counter() - begin < 10
    again = collected(session, {**EXPLAIN, "id": 7})  # the number alone is not what was cancelled
    assert again.get(timeout=60)["result"]["records"]


def test_a_map_that_was_cancelled_leaves_the_model_as_it_was(new_session) -> None:
    model = Slow()
    model.weight = torch.nn.Parameter(torch.ones(1))
    model.register_buffer("mean", torch.ones(1))
    model.train()
    session = new_session(model=model)
    before, mean = torch.get_rng_state(), model.mean
    box = collected(session, LONG)
    assert model.begun.wait(60)
    session.receive({"id": 8, "type": "cancel", "job": 7}, box.put)
    assert box.get(timeout=60)["result"]["cancelled"]
    assert model.training and model.weight.requires_grad and model.mean is mean
    assert torch.equal(before, torch.get_rng_state())


def test_a_page_that_is_closed_lets_its_model_go() -> None:
    model = Slow()
    with serve(lambda: Session(model, squares(2))) as server, contextlib.ExitStack() as stack:
        first, second = (opened(server, stack) for _ in range(2))
        first.recv(), second.recv()
        first.send(json.dumps(LONG))
        assert model.begun.wait(60)
        first.close()
        begin = time.perf_counter()
        second.send(json.dumps(EXPLAIN))
        found = [json.loads(second.recv(timeout=60)) for _ in range(2)]
        assert found[-1]["type"] == "result" and time.perf_counter() - begin < 10
    assert model.passes < 1000


def test_waiting_pages_do_not_keep_the_open_one_waiting() -> None:
    model = Slow()
    with serve(lambda: Session(model, squares(2))) as server, contextlib.ExitStack() as stack:
        first = opened(server, stack)
        first.recv()
        first.send(json.dumps(LONG))
        assert model.begun.wait(60)
        waiting = [opened(server, stack) for _ in range(8)]
        begin = time.perf_counter()
        first.send(json.dumps({"id": 9, "type": "input", "sample": 1}))
        answer = json.loads(first.recv(timeout=60))
        assert answer["id"] == 9 and time.perf_counter() - begin < 5
        for ws in waiting[:4]:  # some go while they wait
            ws.close()
        first.send(json.dumps({"id": 10, "type": "cancel", "job": 7}))
        assert json.loads(first.recv(timeout=60))["result"]["cancelled"]
        for ws in waiting[4:]:
            assert json.loads(ws.recv(timeout=60))["type"] == "hello"


def address(server: Any) -> str:
    return server.url.replace("http://", "ws://").replace("/?", "/ws?")


def origin(server: Any) -> Any:
    return server.url.split("/?")[0]


def opened(server: Any, stack: contextlib.ExitStack) -> Any:
    return stack.enter_context(connect(address(server), origin=origin(server)))


def workers() -> int:
    return sum(t.name.startswith("insights") and t.name != "insights-server" for t in threading.enumerate())


def test_dropped_connections_leave_nothing_running() -> None:
    """The line is cut at some moment of the talk: before hello, while a map is made, within an answer."""
    model, made = Slow(0.005), []

    def new() -> Session:
        made.append(Session(model, squares(4)))
        return made[-1]

    before = workers()
    with serve(new) as server, contextlib.ExitStack() as stack:
        for trial in range(times(12, 100)):
            ws = opened(server, stack)
            if trial % 3:
                ws.recv()
                ws.send(json.dumps({**LONG, "id": trial, "samples": [0, 1, 2, 3]}))
                ws.send(json.dumps({"id": 2, "type": "input", "sample": 0}))
            time.sleep(0.01 * (trial % 4))
            ws.socket.close() if trial % 2 else ws.close()
        until = time.monotonic() + 30
        while workers() > before and time.monotonic() < until:
            time.sleep(0.02)
        assert workers() == before
        with connect(address(server), origin=origin(server)) as ws:
            assert json.loads(ws.recv(timeout=30))["type"] == "hello"
            ws.send(json.dumps(EXPLAIN))
            assert [json.loads(ws.recv(timeout=30))["type"] for _ in range(2)] == ["progress", "result"]


ENDING = """
import sys, threading, time, torch
from interp_plugins.insights import Session

begun = threading.Event()

class Long(torch.nn.Module):
    def forward(self, x):
        if torch.is_grad_enabled():
            begun.set()
            {work}
        return x.sum((2, 3))

session = Session(Long(), torch.rand(1, 3, 8, 8))
ask = {{"id": 1, "type": "explain", "samples": [0], "method": "ig"}}
ask["params"] = {{"n_steps": 5000, "internal_batch_size": 1}}
session.receive(ask, lambda answer: None)
assert begun.wait(60)
time.sleep(0.2)
print(time.time(), flush=True)
{end}
"""
WORK = ["torch.rand(1500, 1500) @ torch.rand(1500, 1500)", "time.sleep(60)", "time.sleep(0.05)"]
ENDS = ["", "sys.exit(4)", "session.close()"]


@pytest.mark.parametrize("work, end", [(w, e) for w in WORK for e in ENDS] if THOROUGH else [(WORK[0], ENDS[1])])
def test_a_process_that_ends_does_not_wait_for_a_map(work: str, end: str) -> None:
    code = ENDING.format(work=work, end=end)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    took = time.time() - float(done.stdout)
    assert done.returncode == (4 if "exit" in end else 0) and done.stderr == "", done.stderr[-2000:]
    assert took < 20  # two seconds for the pass that runs, and the interpreter's own end


# -- bad will ----------------------------------------------------------------------------------------------------------

EVIL_HOSTS = [
    "evil.example", "127.0.0.1.evil.example", "127.0.0.1:80@evil.example", "127.0.0.1:8000; script-src *",
    "127.0.0.1:8000 http://evil.example", '127.0.0.1:8000"><script>alert(1)</script>', "localhost:port", "localhost:",
    "localhost:123456", "[::1]:8000 evil", "[::1]evil", "127.0.0.1:8000,evil", "LOCALHOST.", "127.0.0.1:8000/evil", "",
    "127.0.0.1:-1", "127.0.0.1:80:80", "user@localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", EVIL_HOSTS)
def test_a_host_is_matched_whole(new_session, host: str) -> None:
    client = TestClient(make_app(new_session, "right token"))
    assert client.get("/?token=right token", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "[::1]", "[::1]:65535"])
def test_this_machine_is_admitted_and_no_page_may_frame_it(new_session, host: str) -> None:
    found = TestClient(make_app(new_session, "right token")).get("/?token=right token", headers={"host": host})
    assert found.status_code == 200 and f"connect-src ws://{host};" in found.text
    assert found.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert found.headers["x-frame-options"] == "DENY" and found.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("port", [-1, 65536, 10**6, True, "8000", 8000.0, None])
def test_a_port_out_of_range_is_refused(new_session, port: Any) -> None:
    with pytest.raises(InputError, match="port must be a whole number from 0"):
        serve(new_session, port=port)


PAYLOADS = [
    "<script>window.hit=1</script>", "<img src=x onerror=window.hit=1>", '"><svg onload=window.hit=1>',
    "</script><script>window.hit=1</script>", "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "javascript:window.hit=1", "<a href=javascript:window.hit=1>x</a>", "'-window.hit=1-'", "${window.hit=1}",
    "<!--<script>window.hit=1</script>-->", "]]><script>window.hit=1</script>", "\u2028window.hit=1\u2029",
    "<style>@import 'http://127.0.0.1:9/x'</style>", "<base href=http://127.0.0.1:9/>", "{{window.hit=1}}",
    '<math><mtext><style><img src onerror="window.hit=1"></style></mtext></math>', "\x00<script>window.hit=1</script>",
    "</title><script>window.hit=1</script>",
]  # fmt: skip
MARKUP = ":is(script, iframe, base, object, embed, a, svg[onload], img[onerror])"
PLANTED = f"document.querySelectorAll('#insights {MARKUP}').length"


class Saying(Squares):
    """A model whose error is hostile text."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("".join(PAYLOADS))
        return super().forward(x)


def nothing_ran(page: Any) -> None:
    assert page.evaluate("window.hit") is None and page.evaluate(PLANTED) == 0


def test_hostile_text_runs_nothing_in_a_saved_file(page, tmp_path) -> None:
    n = len(PAYLOADS)
    spec = InputSpec(kind="image", vocab=PAYLOADS)
    told = tuple(PAYLOADS)
    hostile = {"prediction_label": told, "target_label": told, "names": told, "spec": spec, "title": PAYLOADS[3]}
    exps = [explained(n, **hostile, layer=PAYLOADS[0], params={PAYLOADS[1]: PAYLOADS[2]})]
    page.goto(write_report(exps, tmp_path / "report.html", labels=list(range(n)), title=PAYLOADS[-1]).as_uri())
    page.wait_for_selector(".card[data-ready]")
    page.mouse.wheel(0, 20_000)
    page.get_by_role("button", name="Next page").click()
    page.wait_for_selector(".card[data-ready]")
    nothing_ran(page)
    assert page.title() == PAYLOADS[-1]


def test_hostile_text_runs_nothing_in_a_live_page(new_session, page) -> None:
    n = len(PAYLOADS)
    session = {"n": n, "names": PAYLOADS, "labels": [0] * n, "title": PAYLOADS[-1], "model": {PAYLOADS[1]: Saying()}}
    session |= {
        "input_spec": InputSpec(kind="image", vocab=PAYLOADS[:3]),
        "baselines": {PAYLOADS[2]: torch.zeros(n, 3, 16, 16)},
    }
    with serve(lambda: new_session(**session), title=PAYLOADS[-1]) as server:
        page.goto(server.url)
        page.wait_for_selector(".card[data-ready]")
        page.get_by_text("Explain this page").click()
        page.locator(".method .failed:not([hidden])").wait_for()
        nothing_ran(page)
        assert "window.hit=1" in page.inner_text(".method .failed")
