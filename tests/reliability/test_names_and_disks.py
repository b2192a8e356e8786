"""Names that are no UTF-8, full disks, places that cannot be written: a whole file, or an error and the old one."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins import Explanations, InputSpec, explain
from interp_plugins.core import files
from interp_plugins.core.errors import FileError, InterpError
from interp_plugins.core.text import all_legible, legible
from interp_plugins.insights import Session, report_html, write_report
from interp_plugins.insights.widget import widget
from interp_plugins.lightning import folder
from interp_plugins.viz.figure import png_of_figure

ODD = ["caf\udce9.png", "\udcff\udcfe", "plain", "é \udc80 ſß", "\ud83d"]  # as os.fsdecode and json.loads give them
OLD = "<p>the page of yesterday</p>"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))


@pytest.fixture(scope="module")
def exps() -> Explanations:
    spec = InputSpec("image", vocab=tuple(ODD))
    return explain(net(), torch.rand(5, 1, 8, 8), "saliency", target=0, input_spec=spec).annotated(names=ODD)


# -- names -------------------------------------------------------------------------------------------------------------


def test_what_is_no_character_becomes_a_mark() -> None:
    assert [legible(name) for name in ODD] == ["caf�.png", "��", "plain", "é � ſß", "�"]
    whole = ("a", ["b", ("ſß", 3)], None)
    assert all_legible(whole) is whole
    assert all_legible(("a", ["\udce9", ("ſß", 3)], None)) == ("a", ["�", ("ſß", 3)], None)


def test_names_and_classes_that_are_no_utf8_reach_every_page_and_picture(exps: Explanations, tmp_path: Path) -> None:
    assert exps[0].names == tuple(legible(n) for n in ODD)
    assert exps[0].target_label == ("caf�.png",) * 5
    page = tmp_path / "page.html"
    page.write_text(OLD)
    exps.to_html(page, title="\udce9")
    assert "caf�.png" in page.read_text("utf-8") and exps.to_html().encode()
    assert exps[0]._repr_html_().encode()
    assert png_of_figure(exps.plot().fig).startswith(b"\x89PNG")
    write_report(exps, page, title="\udce9")
    assert "caf\\ufffd.png" in page.read_text("utf-8")
    assert Explanations.load(exps.save(tmp_path / "x"))[0].names == exps[0].names
    exps[0].to_df().to_csv(tmp_path / "table.csv")


def test_a_class_is_found_by_a_name_that_is_no_utf8() -> None:
    spec = InputSpec("image", vocab=tuple(ODD))
    assert [spec.index_of(name) for name in ODD[:4]] == [0, 1, 2, 3]
    assert spec.index_of("caf�.png") == 0


def session() -> Session:
    given = {"a model \udce9": net()}
    return Session(given, torch.rand(5, 1, 8, 8), names=ODD, title="\udce9", input_spec=InputSpec("image", vocab=ODD))


def answers(one: Session, **message: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    one.receive({"id": 1, **message}, found.append)
    done = threading.Event()
    one._worker.submit(done.set)
    assert done.wait(60)
    return found


def test_every_message_of_the_viewer_can_be_sent() -> None:
    one = session()
    said = [one.catalogue]
    said += answers(one, type="notes", notes={"1": {"note": "seen \udce9"}})
    said += answers(one, type="explain", samples=[0, 1], method="saliency")
    said += [m for i in range(5) for kind in ("maps", "input") for m in answers(one, type=kind, sample=i)]
    said += answers(one, type="\udce9") + answers(one, type="explain", samples=[0], method="sal\udce9")
    for message in said:
        json.dumps(message, allow_nan=False, ensure_ascii=False).encode("utf-8")  # as Starlette and Jupyter send it
    assert sum(m.get("type") == "error" for m in said) == 2
    assert one.to_html().encode() and "caf\\ufffd.png" in one.to_html()
    one.close()


def test_the_widget_holds_what_can_be_sent() -> None:
    shown = widget(session())
    json.dumps(shown.get_state(), ensure_ascii=False, default=str).encode("utf-8")
    shown.close()


def test_a_server_that_cannot_greet_says_so_and_one_that_cannot_answer_goes_on(monkeypatch: Any) -> None:
    from starlette.testclient import TestClient
    from starlette.websockets import WebSocketDisconnect

    from interp_plugins.insights.server import make_app

    def client(one: Session) -> Any:
        return TestClient(make_app(lambda: one, "t"), base_url="http://127.0.0.1")

    head = {"host": "127.0.0.1", "origin": "http://127.0.0.1"}
    one = session()
    with client(one).websocket_connect("/ws?token=t", headers=head) as ws:
        assert ws.receive_json()["catalogue"]["samples"][0]["name"] == "caf�.png"
    broken = session()
    broken.catalogue["title"] = object()
    with client(broken).websocket_connect("/ws?token=t", headers=head) as ws, pytest.raises(WebSocketDisconnect) as end:
        ws.receive_json()
    assert end.value.code == 1011 and "could not send its answer: TypeError" in (end.value.reason or "")
    odd = session()
    monkeypatch.setattr(odd, "_input", lambda message, send: {"a": object()})
    with client(odd).websocket_connect("/ws?token=t", headers=head) as ws:
        ws.receive_json()
        ws.send_json({"id": 7, "type": "input", "sample": 0})
        said = ws.receive_json()
        assert said["id"] == 7 and "could not send its answer" in said["error"]
        ws.send_json({"id": 8, "type": "maps", "sample": 0})
        assert ws.receive_json() == {"id": 8, "type": "result", "result": []}


# -- files that appear whole -------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Explanations, Path], Any]] = {
    "to_html": lambda e, p: e.to_html(p),
    "save": lambda e, p: e.save(p),
    "write_report": lambda e, p: write_report(e, p),
    "files.write": lambda e, p: files.write(p, "text"),
    "lightning's page": lambda e, p: folder.write(folder.opened(str(p.parent))[0], str(p), b"text"),
}
NEW: dict[str, Callable[[Path], Any]] = {
    "files.write_new": lambda p: files.write_new(p, b"text"),
    "lightning's picture": lambda p: folder.add_file(str(p.parent), p.name, b"text"),
}


def full(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
    def fsync(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_fails_leaves_the_old_file_and_no_draft(
    exps: Explanations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    path = tmp_path / "page.html"
    path.write_text(OLD)
    with monkeypatch.context() as patch:
        full(patch, number)
        with pytest.raises(FileError, match=r"page.html could not be written: .*(Make room|Give a path)"):
            WRITERS[name](exps, path)
        with pytest.raises(FileError):
            WRITERS[name](exps, tmp_path / "new.html")
    assert path.read_text() == OLD and [p.name for p in tmp_path.iterdir()] == ["page.html"]
    WRITERS[name](exps, path)
    assert path.read_bytes() != OLD.encode() and [p.name for p in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("name", NEW)
def test_a_new_file_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / "map.png"
    assert [Path(NEW[name](path)).name for _ in range(3)] == ["map.png", "map-v1.png", "map-v2.png"]
    full(monkeypatch)
    with pytest.raises(FileError, match="Make room: the disk is full"):
        NEW[name](path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map-v1.png", "map-v2.png", "map.png"]


@pytest.mark.parametrize("name", WRITERS)
def test_places_that_cannot_be_written_are_said(exps: Explanations, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match=r"folder could not be written: .*directory.*Give the name of a file"):
        WRITERS[name](exps, tmp_path / "folder")
    if name != "lightning's page":  # fsspec makes the folder before
        with pytest.raises(FileError, match=r"file is a file, and a directory is needed there"):
            WRITERS[name](exps, tmp_path / "file" / "page.html")
    assert (tmp_path / "file").read_text() == "x"


def test_links_are_followed_permissions_kept_and_pipes_written_as_they_are(tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_text(OLD)
    real.chmod(0o640)
    link.symlink_to(real)
    files.write(link, "new")
    assert link.is_symlink() and real.read_text() == "new" and stat.S_IMODE(real.stat().st_mode) == 0o640
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write(pipe, "through")
    assert os.read(reader, 100) == b"through" and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
    long = tmp_path / ("é" * 120)
    assert files.write(long, "x").read_text() == "x"
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.html"))
    assert files.write(odd, "x").read_text() == "x"


def test_drafts_of_processes_that_are_gone_are_swept_and_others_are_left(tmp_path: Path) -> None:
    gone = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(gone, 0)
    here = files._here()
    names = {
        f".part[0].{here}-{gone}.{'ab' * 6}": False,
        f".part[0].{here}-{os.getpid()}.{'ab' * 6}": True,
        f".part[0].{here}-{os.getppid()}.{'ab' * 6}": True,
        f".part[0].elsewhere-1.{'ab' * 6}": True,
        f".part[0].old-2.{'ab' * 6}": False,
        f".nfs0000.{here}-{gone}": True,
        ".DS_Store": True,
        f"part[0].{here}-{gone}.{'ab' * 6}": True,
    }
    for name in names:
        (tmp_path / name).write_text("x")
    os.utime(tmp_path / f".part[0].old-2.{'ab' * 6}", (0, 0))
    files.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(name for name, left in names.items() if left)


def test_what_is_appended_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"one")
    system, _ = folder.opened(str(tmp_path))
    folder.append(system, str(path), b" two")
    full(monkeypatch)
    with pytest.raises(FileError, match="Make room"):
        folder.append(system, str(path), b" three")
    assert path.read_bytes() == b"one two"


# -- infinite outputs --------------------------------------------------------------------------------------------------


class Overflows(nn.Module):
    """The given value at some classes of samples that are brighter than 1/2."""

    def __init__(self, value: float, classes: slice = slice(None)):
        super().__init__()
        self.net, self.value, self.classes = net(), value, classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.net(x)
        mask = torch.zeros_like(out, dtype=torch.bool)
        mask[:, self.classes] = (x.flatten(1).mean(1) > 0.5)[:, None]
        return out.masked_fill(mask, self.value)


BRIGHT = torch.stack([torch.full((1, 8, 8), 0.2), torch.full((1, 8, 8), 0.9)])
METHODS = ("saliency", "ig", "occlusion", "gradcam", "lrp", "lime", "shapley_value_sampling", "nt")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), float("-inf")])
@pytest.mark.parametrize("method", METHODS)
def test_infinite_outputs_are_refused_as_nan_is(method: str, value: float) -> None:
    with pytest.raises(InterpError, match=r"(model returned|score that is explained is) (NaN|infinite) in 1 of"):
        explain(Overflows(value), BRIGHT, method, target=1, **({"layer": "net.0"} if method == "gradcam" else {}))


@pytest.mark.parametrize("method", ["saliency", "occlusion"])
def test_classes_that_are_ruled_out_by_minus_infinity_stay_ruled_out(method: str) -> None:
    masked = Overflows(float("-inf"), slice(3, 5))
    found = explain(masked, BRIGHT, method, target=1)[0]
    assert torch.allclose(found.attribution, explain(masked.net, BRIGHT, method, target=1)[0].attribution)
    with pytest.raises(InterpError, match=r"score that is explained is infinite in 1 of"):
        explain(masked, BRIGHT, method, target=3)


def test_an_infinite_input_is_named() -> None:
    x = BRIGHT.clone()
    x[1, 0, 2, 2] = float("inf")
    with pytest.raises(InterpError, match=r"contains infinity in sample\(s\) \[1\].*nan_to_num"):
        explain(net(), x, "saliency", target=0)


def test_one_infinite_sample_does_not_cost_the_file_of_a_session() -> None:
    one = Session(Overflows(float("inf")), torch.cat([BRIGHT, BRIGHT]))
    found = answers(one, type="explain", samples=[0, 1, 2], method="saliency")[-1]["result"]
    assert [f["sample"] for f in found["failures"]] == [1] and len(found["records"]) == 2
    page = answers(one, type="export", format="html")[-1]
    assert page["type"] == "result" and "NaN" not in json.dumps(page)
    one.close()


def test_no_number_of_a_page_is_infinite(exps: Explanations) -> None:
    odd = exps[0].annotated()
    object.__setattr__(odd, "score", torch.tensor([float("inf"), float("-inf"), float("nan"), 1.0, 2.0]))
    object.__setattr__(odd, "seconds", float("inf"))
    object.__setattr__(odd, "params", {"stdevs": float("nan")})
    text = report_html(Explanations([odd]))
    blocks = [b.split("</script>")[0].split(">", 1)[1] for b in text.split('<script type="application/json"')[1:]]

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert len(blocks) == 11 and [json.loads(block, parse_constant=refuse) for block in blocks]
