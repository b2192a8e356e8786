"""Files of explanations that are damaged, crafted or old: none loads as other numbers, none ends in a foreign error."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from interp_plugins import Explanation, Explanations, InputSpec, explain
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.metadata import from_json, to_json
from tests.thorough import times


@pytest.fixture(scope="module")
def exps() -> Explanations:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    spec = InputSpec("image", mean=(0.5,), std=(0.25,), vocab=("cat", "dog", "fox"), feature_names=("grey",))
    made = explain(net, torch.rand(2, 1, 8, 8), {"ig": {"n_steps": 3}, "saliency": {}}, target=1, input_spec=spec)
    return made.annotated(names=["one.png", "two.png"])


def header_of(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    return json.loads(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["interp_plugins"])


@pytest.mark.parametrize("width", [1, 2, 8, 64])
def test_flipped_bits_never_load(exps: Explanations, tmp_path: Path, width: int) -> None:
    """One bit, neighbouring bits, a byte, eight bytes: wherever they lie, the file is refused by name."""
    path = exps.save(tmp_path / "maps")
    whole, draw = path.read_bytes(), random.Random(width)
    for _ in range(times(60, 400)):
        damaged = bytearray(whole)
        begin = draw.randrange(8 * len(whole) - width)
        for bit in range(begin, begin + width):
            damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"maps is not a file written by Explanation.save, or it is damaged"):
            Explanations.load(path)
    path.write_bytes(whole)
    assert torch.equal(Explanations.load(path)[0].attribution, exps[0].attribution)


def test_files_that_were_cut_or_grew_never_load(exps: Explanations, tmp_path: Path) -> None:
    path = exps.save(tmp_path / "maps")
    whole, draw = path.read_bytes(), random.Random(0)
    cuts = [whole[: draw.randrange(len(whole))] for _ in range(times(30, 200))]
    swapped = whole[:-512] + whole[-256:] + whole[-512:-256]
    zeros = whole[:-300] + bytes(300)
    for damaged in (b"", b"\0", *cuts, whole + b"\0", whole + whole, swapped, zeros, whole[::-1]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            Explanations.load(path)


# -- crafted files: tensors and metadata that do not fit ---------------------------------------------------------------


def _set(*place: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        inner: Any = header
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = to

    return change


def _drop(*place: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        inner: Any = header
        for key in place[:-1]:
            inner = inner[key]
        del inner[place[-1]]

    return change


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"tuple": [value]}
    return value


FIELDS, LAYOUT = ("items", 0, "fields"), ("items", 0, "layout")
CRAFTED = {
    "items a number": _set("items", to=3),
    "items null": _set("items", to=None),
    "items a dict": _set("items", to={"0": 1}),
    "an item a text": _set("items", 0, to="x"),
    "an item null": _set("items", 0, to=None),
    "no items": _drop("items"),
    "no fields": _drop("items", 0, "fields"),
    "no layout": _drop("items", 0, "layout"),
    "fields a list": _set("items", 0, "fields", to=[1]),
    "layout a list": _set("items", 0, "layout", to=[1]),
    "layout of what is not there": _set(*LAYOUT, "region", to=None),
    "layout too long": _set(*LAYOUT, "inputs", to=7),
    "layout endless": _set(*LAYOUT, "inputs", to=10**12),
    "layout negative": _set(*LAYOUT, "inputs", to=-1),
    "layout empty": _set(*LAYOUT, "inputs", to=0),
    "layout a text": _set(*LAYOUT, "inputs", to="2"),
    "layout true": _set(*LAYOUT, "inputs", to=True),
    "layout of another field": _set(*LAYOUT, "title", to=None),
    "no attributions": _drop(*LAYOUT, "attributions"),
    "no inputs": _drop(*LAYOUT, "inputs"),
    "an unknown field": _set(*FIELDS, "code", to="import os"),
    "no method": _drop(*FIELDS, "method"),
    "no spec": _drop(*FIELDS, "spec"),
    "method a number": _set(*FIELDS, "method", to=3),
    "method null": _set(*FIELDS, "method", to=None),
    "title a list": _set(*FIELDS, "title", to=["a"]),
    "layer a number": _set(*FIELDS, "layer", to=4),
    "seed a text": _set(*FIELDS, "seed", to="0"),
    "seconds a text": _set(*FIELDS, "seconds", to="fast"),
    "params a list": _set(*FIELDS, "params", to=[1]),
    "params null": _set(*FIELDS, "params", to=None),
    "meta a text": _set(*FIELDS, "meta", to="x"),
    "per_sample too long": _set(*FIELDS, "meta", to={"dict": {"per_sample": {"dict": {"e": [1, 2, 3]}}}}),
    "per_sample a number": _set(*FIELDS, "meta", to={"dict": {"per_sample": 4}}),
    "target too short": _set(*FIELDS, "target", to={"tuple": [1]}),
    "target a number": _set(*FIELDS, "target", to=1),
    "target a list": _set(*FIELDS, "target", to=[1, 1]),
    "labels too long": _set(*FIELDS, "target_label", to={"tuple": ["a"] * 9}),
    "labels a text": _set(*FIELDS, "target_label", to="ab"),
    "prediction too long": _set(*FIELDS, "prediction", to={"tuple": [1, 2, 3]}),
    "names too short": _set(*FIELDS, "names", to={"tuple": ["a"]}),
    "tokens numbers": _set(*FIELDS, "tokens", to={"tuple": [1, 2]}),
    "tokens too many": _set(*FIELDS, "tokens", to={"tuple": [["a"], ["b"], ["c"]]}),
    "values numbers": _set(*FIELDS, "values", to={"tuple": [1, 2]}),
    "spec a text": _set(*FIELDS, "spec", to="image"),
    "spec null": _set(*FIELDS, "spec", to=None),
    "spec of unknown facts": _set(*FIELDS, "spec", to={"dict": {"colour": 1}}),
    "kind a number": _set(*FIELDS, "spec", "dict", "kind", to=3),
    "kind null": _set(*FIELDS, "spec", "dict", "kind", to=None),
    "mean without std": _set(*FIELDS, "spec", "dict", "std", to=None),
    "mean a text": _set(*FIELDS, "spec", "dict", "mean", to={"tuple": ["a"]}),
    "std zero": _set(*FIELDS, "spec", "dict", "std", to={"tuple": [0.0]}),
    "vocab a number": _set(*FIELDS, "spec", "dict", "vocab", to=3),
    "vocab a text": _set(*FIELDS, "spec", "dict", "vocab", to="cat"),
    "feature names a number": _set(*FIELDS, "spec", "dict", "feature_names", to=1.5),
    "value range of three": _set(*FIELDS, "spec", "dict", "value_range", to={"tuple": [0, 1, 2]}),
    "value range null": _set(*FIELDS, "spec", "dict", "value_range", to=None),
    "others numbers": _set(*FIELDS, "spec", "dict", "others", to={"tuple": [1]}),
    "a dict without a mark": _set(*FIELDS, "params", to={"a": 1}),
    "a slice of five": _set(*FIELDS, "params", to={"dict": {"a": {"slice": [1, 2, 3, 4, 5]}}}),
    "a float that is none": _set(*FIELDS, "seconds", to={"float": "fast"}),
    "a tuple of a number": _set(*FIELDS, "target", to={"tuple": 3}),
    "nested too deeply": _set(*FIELDS, "target", to=_nested(400)),
    "another format": _set("format", to=99),
    "format a list": _set("format", to=[1]),
    "format true": _set("format", to=True),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_metadata_are_refused_by_name(exps: Explanations, tmp_path: Path, name: str) -> None:
    path = exps.save(tmp_path / "maps")
    header = {**header_of(path), "format": 1}  # as files without a digest, where nothing else would notice
    CRAFTED[name](header)
    save_file(load_file(path), path, metadata={"interp_plugins": json.dumps(header)})
    with pytest.raises(InputError, match="is damaged") as caught:
        Explanations.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"0/score/0": torch.zeros(3)},
        {"0/score/0": torch.zeros(())},
        {"0/inputs/0": torch.zeros(5, 1, 8, 8)},
        {"0/inputs/0": torch.zeros(())},
        {"0/attributions/0": torch.zeros(())},
        {"0/probability/0": torch.zeros(0)},
        {"1/baseline_score/0": torch.zeros(1), "1/convergence_delta/0": torch.zeros(1)},
    ],
)
def test_crafted_tensors_are_refused_by_name(exps: Explanations, tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = exps.save(tmp_path / "maps")
    header = {**header_of(path), "format": 1}
    for name in wrong:
        header["items"][int(name[0])]["layout"][name.split("/")[1]] = None
    save_file({**load_file(path), **wrong}, path, metadata={"interp_plugins": json.dumps(header)})
    with pytest.raises(InputError, match="is damaged"):
        Explanations.load(path)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3", '"x"', "[" * 20_000, '{"format": ' + "9" * 5000 + "}"])
def test_metadata_that_are_no_header_are_refused(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x", metadata={"interp_plugins": text})
    with pytest.raises(InputError, match="is damaged"):
        Explanations.load(tmp_path / "x")


def test_files_without_a_digest_still_load_and_say_so(exps: Explanations, tmp_path: Path) -> None:
    path = exps.save(tmp_path / "maps")
    header = copy.deepcopy(header_of(path))
    del header["digest"]
    save_file(load_file(path), path, metadata={"interp_plugins": json.dumps({**header, "format": 1})})
    with pytest.warns(InterpWarning, match=r"maps was written without a digest.*Saving it anew adds one"):
        old = Explanations.load(path)
    assert torch.equal(old[0].attribution, exps[0].attribution) and old[0].names == exps[0].names
    old.save(path)
    assert Explanations.load(path)[1].params == exps[1].params


def test_numbers_that_json_does_not_have_come_back(tmp_path: Path) -> None:
    inf, nan = float("inf"), float("nan")
    value = {"a": (inf, -inf, [nan, 1.5]), "b": torch.tensor([inf, 2.0])}
    made = json.loads(json.dumps(to_json(value), allow_nan=False))
    assert repr(from_json(made)) == repr({"a": (inf, -inf, [nan, 1.5]), "b": [inf, 2.0]})
    exp = Explanation(
        attributions=torch.zeros(1, 2), inputs=torch.zeros(1, 2), method="mine", meta={"per_sample": {"e": [nan]}}
    )
    assert str(Explanation.load(exp.save(tmp_path / "x")).meta["per_sample"]["e"]) == "[nan]"


def test_the_same_explanations_are_the_same_bytes(exps: Explanations, tmp_path: Path) -> None:
    assert exps.save(tmp_path / "a").read_bytes() == exps.save(tmp_path / "b").read_bytes()
