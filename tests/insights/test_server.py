"""The local server: who may come in, and that each connection has a session of its own."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from interp_plugins.insights.server import make_app, serve

HOST = {"host": "127.0.0.1:8000"}
ORIGIN = {**HOST, "origin": "http://127.0.0.1:8000"}


@pytest.fixture
def client(new_session):
    return TestClient(make_app(new_session, "right token"))


def test_the_page_needs_the_token(client):
    assert client.get("/?token=right token", headers=HOST).status_code == 200
    for wrong in ("/", "/?token=wrong", "/?token=right%20toke", "/?token=%C3%A9"):
        assert client.get(wrong, headers=HOST).status_code == 403


def test_a_name_that_only_resolves_here_is_refused(client):
    assert client.get("/?token=right token", headers={"host": "evil.example:8000"}).status_code == 403


def test_the_page_may_run_its_own_script_alone(client):
    html = client.get("/?token=right token", headers=HOST).text
    assert "script-src 'sha256-" in html and "connect-src ws://127.0.0.1:8000;" in html


@pytest.mark.parametrize(
    "url, headers",
    [
        ("/ws?token=wrong", ORIGIN),
        ("/ws", ORIGIN),
        ("/ws?token=right token", HOST),
        ("/ws?token=right token", {**HOST, "origin": "http://evil.example"}),
        ("/ws?token=right token", {"host": "evil.example", "origin": "http://evil.example"}),
    ],
)
def test_a_wrong_token_or_a_foreign_origin_gets_no_socket(client, url, headers):
    with pytest.raises(WebSocketDisconnect) as err, client.websocket_connect(url, headers=headers):
        pass
    assert err.value.code == 4403


def test_messages_are_answered_over_the_socket(client):
    with client.websocket_connect("/ws?token=right token", headers=ORIGIN) as ws:
        hello = ws.receive_json()
        assert hello["type"] == "hello" and len(hello["catalogue"]["samples"]) == 6
        ws.send_json({"id": 3, "type": "explain", "samples": [0], "method": "saliency"})
        assert [ws.receive_json()["type"] for _ in range(2)] == ["progress", "result"]


def test_it_listens_on_the_loopback_interface_and_stops(new_session):
    with serve(new_session) as server:
        assert server.url.startswith("http://127.0.0.1:") and "token=" in server.url
    assert not server._thread.is_alive()
