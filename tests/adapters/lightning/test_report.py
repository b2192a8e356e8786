"""`report="html"`: one file per stage that grows, holds every run, and changes nothing of the training."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.lightning.report import GrowingReport


def blocks(path: Any, kind: str) -> dict[str, Any]:
    found = re.findall(rf'id="insights-{kind}-?([-0-9]*)">(.*?)</script>', path.read_text(encoding="utf-8"))
    return {name: json.loads(text) for name, text in found}


def test_every_epoch_is_in_one_file(make_net, make_loader, make_trainer, make_callback, tmp_path) -> None:
    callback = make_callback(report="html", class_names=["a", "b", "c"])
    sizes = []

    class StageState(type(callback).__mro__[1]):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            sizes.append((tmp_path / "attributions" / "attribution-validate.html").stat().st_size)

    make_trainer(callback, StageState(), max_epochs=3).fit(make_net(), make_loader(), make_loader(seed=1))
    path = tmp_path / "attributions" / "attribution-validate.html"
    about, runs, maps = blocks(path, "data")[""], blocks(path, "run"), blocks(path, "maps")
    assert [about["run"], *(run["name"] for run in runs.values())] == [
        "epoch 0, step 4", "epoch 1, step 8", "epoch 2, step 12",
    ]  # fmt: skip
    assert list(maps) == [f"{run}-{i}" for run in range(3) for i in range(2)]
    assert list(blocks(path, "input")) == ["0-0", "0-1"]  # the samples are the same, so their pictures come once
    assert sizes[0] > 2 * (sizes[1] - sizes[0]) > 0  # only what is new is added
    last = callback.last[0]
    assert maps["2-1"][0]["score"] == pytest.approx(last.score[1].item())
    assert runs["2"]["samples"][1]["labelText"] in ("a", "b", "c")


def test_training_is_the_same_with_and_without(make_net, make_loader, make_trainer, make_callback) -> None:
    found = []
    for kwargs in ({}, {"report": "html"}):
        torch.manual_seed(3)
        net = make_net()
        make_trainer(make_callback("ig", n_samples=3, **kwargs), max_epochs=2).fit(net, make_loader(), make_loader())
        found.append((net.state_dict(), torch.rand(3)))
    (a, draws), (b, others) = found
    assert all(torch.equal(a[name], b[name]) for name in a) and torch.equal(draws, others)


def test_a_resumed_training_goes_on_in_the_file(make_net, make_loader, make_trainer, make_callback, tmp_path) -> None:
    kwargs = {"enable_checkpointing": False, "max_epochs": 1}
    trainer = make_trainer(make_callback(report="html"), **kwargs)
    trainer.fit(make_net(), make_loader(), make_loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = make_trainer(make_callback(report="html"), max_epochs=2)
    again.fit(make_net(), make_loader(), make_loader(), ckpt_path=tmp_path / "one.ckpt", weights_only=False)
    path = tmp_path / "attributions" / "attribution-validate.html"
    assert list(blocks(path, "run")) == ["1"]
    make_trainer(make_callback(report="html"), **kwargs).fit(make_net(), make_loader(), make_loader())
    other = path.with_name("attribution-validate-v1.html")  # another training leaves the file alone
    assert list(blocks(path, "run")) == ["1"] and not blocks(other, "run")


def test_new_samples_come_with_their_inputs_and_odd_labels_are_unknown(tmp_path) -> None:
    report = GrowingReport(str(tmp_path), "a tag/with slashes", "<title>")
    exp = Explanation(torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4), "saliency")
    for _ in range(2):
        path = report.add(Explanations([exp]), torch.tensor([1, -100]), "run", same=False, resumed=False)
    assert path == f"{tmp_path}/a-tag-with-slashes.html"
    file = tmp_path / "a-tag-with-slashes.html"
    assert list(blocks(file, "input")) == ["0-0", "0-1", "1-0", "1-1"]
    assert [s["labelText"] for s in blocks(file, "run")["1"]["samples"]] == ["1", None]
    assert "<title>" not in file.read_text().split("insights-data")[1]


def test_a_file_system_that_cannot_append_gets_the_whole_file() -> None:
    report = GrowingReport("memory://reports", "tag", "title")
    exp = Explanation(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4), "saliency")
    for _ in range(3):
        path = report.add(Explanations([exp]), None, "run", same=True, resumed=False)
    import fsspec

    assert fsspec.filesystem("memory").cat_file(path).count(b"insights-maps-") >= 3


def test_another_kind_of_report_is_refused(make_callback) -> None:
    with pytest.raises(InputError, match="report"):
        make_callback(report="pdf")
