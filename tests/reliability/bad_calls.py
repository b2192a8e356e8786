"""The table of bad calls: doors x arguments x values that mean nothing there, generated.

Each entry is one call that has to be refused by an error of this package. `answer` says what came of a call.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins import attr, explain
from interp_plugins.core.errors import InterpError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.registry import list_methods, method_info
from interp_plugins.metrics.removal import removal_curves


class Net(nn.Module):
    """Four numbers in, three classes out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Pictures(nn.Module):
    """Small pictures in, three classes out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


@dataclass(frozen=True)
class BadCall:
    """A call, by door, argument and value."""

    door: str
    argument: str
    value: Any
    call: Callable[[], Any]

    @property
    def name(self) -> str:
        return f"{self.door}: {self.argument}={self.value!r}"[:100].replace("\n", " ")


def answer(bad: BadCall) -> tuple[str, str]:
    """ "ours", "foreign" or "silent", and what was said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            bad.call()
        except InterpError as error:
            return "ours", str(error)
        except Exception as error:
            return "foreign", f"{type(error).__name__}: {error}"
    return "silent", ""


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def pictures() -> Pictures:
    torch.manual_seed(0)
    return Pictures().eval()


X = torch.linspace(-1, 1, 8).reshape(2, 4)
IMAGES = torch.linspace(-1, 1, 2 * 2 * 6 * 6).reshape(2, 2, 6, 6)


def nothing(*args: Any, **kwargs: Any) -> None:
    """A function that forgot its return."""


class Plain:
    """An object that means nothing here."""

    def __repr__(self) -> str:
        return "Plain()"


COUNTS: list[Any] = [0, -1, 1.5, "many", True, float("nan"), Plain()]
INPUTS: list[Any] = [
    None, 3, "x", [[1.0, 2.0]], Plain(), (), torch.tensor(1.0), torch.zeros(0, 4), X.to_sparse(), X.to("meta"),
    X * float("nan"), (X, X[:1]), (X, "y"), {},
]  # fmt: skip
MODELS: list[Any] = [
    None, 3, "resnet18", [nn.Linear(4, 3)], Plain(), nothing, lambda x: None, lambda x: "three", lambda x: x > 0,
    lambda x: (x, x), lambda x: {"logits": x}, lambda x: x.to_sparse(), lambda x: x.to("meta"), lambda x: x[:0],
    lambda x: x * float("nan"),
]  # fmt: skip
METHODS: list[Any] = [
    attr.Saliency, attr.IntegratedGradients, nn.ReLU, "salience", "", 3, [], {}, [None], ["saliency", 3],
    {"saliency": 3}, {"saliency": {"step": 2}}, Plain(), [attr.Saliency], {attr.Saliency: {}}, "saliency,occlusion",
]  # fmt: skip
TARGETS: list[Any] = [
    99, -99, 1.5, "cat", (0, 0, 0), [0], [0, 1, 2], [0, 99], torch.tensor([0.5, 1.0]), torch.tensor([0, 1, 2]), Plain(),
    nothing, lambda out: None, lambda out: out.sum(), lambda out: "a", lambda out: out[:, 0] > 0, lambda out: out,
    lambda out: out[:1, 0], {}, (None,), ("label",), float("nan"),
]  # fmt: skip
BASELINES: list[Any] = [
    "blak", "", Plain(), [0, 1], X[:, :3], torch.zeros(3, 4), (0, 0), {}, nothing, lambda x: "a", X.to_sparse(),
    X.to("meta"), X * float("nan"), float("nan"), {"x": 0}, torch.zeros(4, 4, 4),
]  # fmt: skip
SEEDS: list[Any] = [-1, 2**64, 1.5, "seven", None, True, float("nan"), Plain()]
LAYERS: list[Any] = ["", "nope", 3, Plain(), nn.ReLU(), [], "fc1.weight", ["fc1", "nope"], ("fc1",)]
MASKS: list[Any] = [
    torch.tensor([[-1, 0, 0, 1]]), torch.tensor([[0.5, 0, 0, 1]]), torch.tensor([[0, 1]]), "a", 3, [0, 1, 2, 3],
    Plain(), (torch.zeros(1, 4).long(),) * 2, torch.zeros(3, 4).long(), torch.zeros(1, 4).long().to_sparse(),
]  # fmt: skip
THRESHOLDS: list[Any] = [-0.1, 1.1, 2, "half", float("nan"), Plain(), True]
ACTIVATIONS: list[Any] = [3, "softmax", Plain(), lambda out: "a", lambda out: out[:, :1].sum(), nn.ReLU]
OUTPUTS: list[Any] = ["logits", 7, Plain(), nothing, lambda out: "a"]
SWITCHES: list[Any] = ["yes", 3, Plain()]


def _entries(door: str, argument: str, values: list[Any], call: Callable[[Any], Any]) -> Iterator[BadCall]:
    for value in values:
        yield BadCall(door, argument, value, partial(call, value))


def of_explain() -> Iterator[BadCall]:
    """`explain`, argument by argument."""
    x = X
    yield from _entries("explain", "model", MODELS, lambda v: explain(v, x, "saliency", target=0))
    yield from _entries("explain", "inputs", INPUTS, lambda v: explain(net(), v, "saliency", target=0))
    yield from _entries("explain", "methods", METHODS, lambda v: explain(net(), x, v, target=0))
    yield from _entries(
        "explain",
        "target",
        [v for v in TARGETS if not isinstance(v, list) or 99 in v],
        lambda v: explain(net(), x, "saliency", target=v),
    )
    yield from _entries("explain", "baselines", BASELINES, lambda v: explain(net(), x, "ig", target=0, baselines=v))
    yield from _entries("explain", "layer", LAYERS, lambda v: explain(net(), x, "layer_activation", target=0, layer=v))
    yield from _entries(
        "explain", "feature_mask", MASKS, lambda v: explain(net(), x, "feature_ablation", target=0, feature_mask=v)
    )
    yield from _entries("explain", "threshold", THRESHOLDS, lambda v: explain(net(), x, "saliency", threshold=v))
    yield from _entries("explain", "activation", ACTIVATIONS, lambda v: explain(net(), x, "saliency", activation=v))
    yield from _entries("explain", "output", OUTPUTS, lambda v: explain(net(), x, "saliency", target=0, output=v))
    yield from _entries("explain", "batch_size", COUNTS, lambda v: explain(net(), x, "ig", target=0, batch_size=v))
    seeds = [s for s in SEEDS if s is not None]
    yield from _entries("explain", "seed", seeds, lambda v: explain(net(), x, "gradient_shap", target=0, seed=v))
    yield from _entries("explain", "n_steps", COUNTS, lambda v: explain(net(), x, "ig", target=0, n_steps=v))
    yield from _entries(
        "explain",
        "forward_kwargs",
        ["a", 3, [1], Plain()],
        lambda v: explain(net(), x, "saliency", target=0, forward_kwargs=v),
    )
    yield from _entries(
        "explain",
        "input_spec",
        ["image", 3, Plain(), {"kind": "image"}],
        lambda v: explain(net(), x, "saliency", target=0, input_spec=v),
    )
    yield from _entries(
        "explain", "body", ["fc1", 3, Plain()], lambda v: explain(pictures(), IMAGES, "grad_cam", target=0, body=v)
    )
    yield from _entries("explain", "n_step", [5], lambda v: explain(net(), x, "ig", target=0, n_step=v))


def of_methods() -> Iterator[BadCall]:
    """Every plain method by its own face."""
    for name in list_methods(site="input"):
        info = method_info(name)
        if info.applies_to == "transformer" or info.traits.wraps is not None or "layer" in info.constructor_takes:
            continue
        image = info.applies_to == "image"
        model, x = (pictures, IMAGES) if image else (net, X)
        more: dict[str, Any] = {"target": 0}
        if "sliding_window_shapes" in info.takes:
            more["sliding_window_shapes"] = (2,)
        if info.baselines == "distribution":
            more["baselines"] = X[:1]
        for k, least in (("n_steps", 2), ("n_samples", 2)):
            if k in info.takes:
                more[k] = least

        def run(v: Any, *, at: str, cls: Any = info.cls, model: Any = model, x: Any = x, more: Any = more) -> Any:
            given = {"inputs": x, **more, at: v}
            return cls(model()).attribute(**given)

        for argument, values in (
            ("inputs", [None, 3, "x", [[1.0, 2.0]], x.to_sparse(), x.to("meta"), x[:0]]),
            ("target", [99, "cat", Plain(), nothing]),
            ("n_steps", [0, 1.5, "many"]),
            ("n_samples", [0, -1, 1.5, "many"]),
            ("seed", [-1, 2**64, 1.5]),
            ("batch_size", [0, -1]),
            ("baselines", ["blak", Plain(), x.to_sparse()]),
        ):
            if argument in info.takes:
                yield from _entries(name, argument, values, partial(run, at=argument))
        yield from _entries(name, "model", [None, 3, "net"], lambda v, cls=info.cls: cls(v))


def of_results() -> Iterator[BadCall]:
    """What is asked of an Explanation."""
    exps = explain(pictures(), IMAGES, ["saliency", "input_x_gradient"], target=0)
    exp: Explanation = exps[0]
    yield from _entries("Explanation", "heatmap", [9, 2, -3, 1.5, "a", None, True], exp.heatmap)
    yield from _entries("Explanation", "[]", ["a", 1.5, None, 2, -3, (0, 1), [0, 1], Plain()], lambda v: exp[v])
    yield from _entries("Explanations", "[]", ["nope", 1.5, None, 7, (0, 1), Plain()], lambda v: exps[v])
    yield from _entries("Explanation", "show index", [9, -3, 1.5, "a"], lambda v: exp.show(index=v))
    yield from _entries("Explanation", "show kind", ["nope", 3, None], lambda v: exp.show(kind=v))
    yield from _entries(
        "Explanation", "annotated names", [["one"], 3, ["a", "b", "c"]], lambda v: exp.annotated(names=v)
    )
    yield from _entries("Explanation", "annotated", ["nope"], lambda v: exp.annotated(**{v: 1}))
    folder = Path(tempfile.mkdtemp())
    (folder / "file").write_text("no folder")
    yield from _entries("Explanation", "save", [folder, folder / "file" / "a.safetensors", 3, None], exp.save)
    yield from _entries("Explanation", "load", [folder, folder / "file", folder / "none", 3, None], Explanation.load)
    yield from _entries("Explanation", "to_html", [folder, folder / "file" / "a.html", 3], exp.to_html)


def of_numbers() -> Iterator[BadCall]:
    """`removal_curves`."""
    maps = X.abs()

    def run(v: Any, at: str) -> Any:
        given = {"inputs": X, "attributions": maps, "target": 0, **{at: v}}
        return removal_curves(net(), **given)

    for argument, values in (
        ("inputs", INPUTS), ("attributions", [None, 3, "x", X[:1], X[:, :3], (X, X), [1, 2], X * float("nan")]),
        ("target", [99, "cat", Plain(), nothing]), ("baselines", BASELINES[:8]), ("steps", COUNTS),
        ("batch_size", COUNTS), ("seed", SEEDS[:4]),
    ):  # fmt: skip
        yield from _entries("removal_curves", argument, list(values), partial(run, at=argument))


def of_callbacks() -> Iterator[BadCall]:
    """The callbacks of both frameworks: refused when they are made, not in the middle of a training."""
    from interp_plugins.fastai import AttributionCallback as OfFastai
    from interp_plugins.lightning import AttributionCallback as OfLightning

    folder = Path(tempfile.mkdtemp())
    (folder / "file").write_text("no folder")
    seeds = [s for s in SEEDS if s is not None]
    lightning: list[tuple[str, list[Any]]] = [
        ("methods", ["salience", None, 3, [], {}, attr.Saliency, [attr.Saliency]]), ("n_samples", COUNTS),
        ("every_n_epochs", COUNTS), ("seed", seeds), ("dirpath", [3, folder / "file", Plain()]),
        ("class_names", [3, "cat", [1, 2], Plain()]), ("batch_size", COUNTS), ("on_error", ["ignore", None, 3]),
        ("target", [1.5, Plain()]), ("layer", ["", 3, Plain()]),
    ]  # fmt: skip
    for argument, values in lightning:
        yield from _entries("lightning callback", argument, values, lambda v, k=argument: OfLightning(**{k: v}))
    fastai: list[tuple[str, list[Any]]] = [
        ("methods", ["salience", None, 3, [], {}, attr.Saliency]), ("n", COUNTS), ("every_n_epochs", COUNTS),
        ("seed", seeds), ("path", [3, folder / "file", Plain()]), ("batch_size", COUNTS),
        ("on_error", ["ignore", None, 3]), ("log", ["nope", 3]),
    ]  # fmt: skip
    for argument, values in fastai:
        yield from _entries("fastai callback", argument, values, lambda v, k=argument: OfFastai(**{k: v}))


def table() -> list[BadCall]:
    """All of them."""
    return [*of_explain(), *of_methods(), *of_results(), *of_numbers(), *of_callbacks()]
