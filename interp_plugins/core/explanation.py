"""`Explanation`: the frozen result of one method on a batch, and `Explanations`, a sequence of them.

Everything that shows, judges or stores an attribution depends on this noun and on nothing else. Tensors are
plain CPU tensors, batch first; drawing lives in `interp_plugins.viz` and is loaded when first asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core import files, saving
from interp_plugins.core.enlarged import enlarged
from interp_plugins.core.errors import InputError, InputTypeError, SampleError, unknown
from interp_plugins.core.fields import LISTED, TENSORS, listed, names_of, tensors
from interp_plugins.core.frame import frame
from interp_plugins.core.layout import drawn
from interp_plugins.core.padding import cropped, trimmed
from interp_plugins.core.registry import canonical_name, variant
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import Inputs, Maps, describe
from interp_plugins.core.text import all_legible

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = ("title", "target_label", "prediction_label", "names", "tokens", "values")  # what people read


def _viz() -> Any:
    """The drawing room, loaded late so that the core needs no matplotlib."""
    try:
        return importlib.import_module("interp_plugins.viz")
    except ModuleNotFoundError as err:
        if err.name and err.name.startswith("matplotlib"):
            raise ImportError("Pictures need matplotlib: pip install 'interp-plugins[viz]'.") from err
        raise


@dataclass(frozen=True, repr=False, eq=False)
class Explanation:
    """One method's attributions for a batch of N samples, with all that is needed to read and repeat them.

    Attributes:
        attributions: plain CPU tensor (or tuple, one per input), of the inputs' or the layer's shape, batch first.
        inputs: the model's inputs as the network saw them, same layout.
        baselines: the reference inputs, or None for methods without one.
        target: resolved output index per sample (None where the target is a function).
        target_label: class name (or description) of the target per sample.
        prediction: predicted class index per sample, or None for outputs without a class axis, and for labels that
            do not exclude each other.
        prediction_label: its class name; several labels are one text, "cat, dog".
        probability: the model's probability of the target per sample (N,), or None where it has none; the mean over
            the region for a segmentation.
        region: where the target lies in the model's output, bool (N, H, W) or (N, D, H, W), for a class of a
            segmentation; else None.
        score: the explained scalar F(x) per sample (N,).
        baseline_score: F(baseline) per sample (N,), or None.
        convergence_delta: sum(attributions) - (F(x) - F(baseline)) per sample (N,), or None.
        method: registered name of the method.
        title: the method's name for people.
        params: the method's parameters as used.
        layer: dotted name of the layer explained, or None for the input.
        spec: kind of data, normalisation, class and feature names.
        names: one name per sample (file name, row label), or None.
        tokens: one list of tokens per sample, or None; inputs and attributions of shorter texts are padded, and those
            of `exp[i]` are as long as its tokens.
        values: the features' values as people read them, one tuple per sample (the categories and numbers of a table
            row), or None.
        seed: the seed of the random draws.
        seconds: wall-clock seconds of the whole batch.
        meta: versions, model fingerprint, passes used, error reached; "engine" says in short texts what ran faster
            than the plain model ("used"), and what was left to it and why ("dropped").
    """

    attributions: Maps = field(metadata=tensors(fill="zero"))
    inputs: Inputs = field(metadata=tensors(fill="pad"))
    method: str
    title: str = ""
    baselines: Inputs | None = field(default=None, metadata=tensors(fill="pad"))
    target: tuple[Any, ...] | None = field(default=None, metadata=listed(column=True))
    target_label: tuple[Any, ...] | None = field(default=None, metadata=listed(told=True, column=True))
    prediction: tuple[int, ...] | None = field(default=None, metadata=listed(column=True))
    prediction_label: tuple[Any, ...] | None = field(default=None, metadata=listed(told=True, column=True))
    probability: Tensor | None = field(default=None, metadata=tensors(column=True))
    region: Tensor | None = field(default=None, metadata=tensors())
    score: Tensor | None = field(default=None, metadata=tensors(column=True))
    baseline_score: Tensor | None = field(default=None, metadata=tensors(column=True))
    convergence_delta: Tensor | None = field(default=None, metadata=tensors(column=True))
    params: Mapping[str, Any] = field(default_factory=dict)
    layer: str | None = None
    spec: InputSpec = field(default_factory=InputSpec)
    names: tuple[str, ...] | None = field(default=None, metadata=listed(told=True))
    tokens: tuple[list[str], ...] | None = field(default=None, metadata=listed(told=True))
    values: tuple[tuple[Any, ...], ...] | None = field(default=None, metadata=listed(told=True))
    seed: int | None = None
    seconds: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _TEXTS:
            value = getattr(self, name)
            if value is not None and (legible := all_legible(value)) is not value:
                object.__setattr__(self, name, legible)

    # -- reading -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.attribution.shape[0]

    @property
    def attribution(self) -> Tensor:
        """The attributions of the first (usually the only) input."""
        return self.attributions[0] if isinstance(self.attributions, tuple) else self.attributions

    @property
    def input(self) -> Tensor:
        """The first (usually the only) input."""
        return self.inputs[0] if isinstance(self.inputs, tuple) else self.inputs

    @property
    def by_input(self) -> dict[str, Tensor]:
        """The attributions by the name of their input: those of the dict that was explained, else "input 0", ..."""
        many = self.attributions if isinstance(self.attributions, tuple) else (self.attributions,)
        names = self.meta.get("input_names") or [f"input {i}" for i in range(len(many))]
        return dict(zip(names, many))

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the input's features, where the adapter knows them."""
        return self.spec.feature_names

    @property
    def relative_delta(self) -> Tensor | None:
        """|convergence delta| divided by |F(x) - F(baseline)|, per sample: the completeness error (0 is exact)."""
        if self.convergence_delta is None or self.score is None or self.baseline_score is None:
            return None
        span = (self.score - self.baseline_score).abs().clamp_min(torch.finfo(self.score.dtype).tiny)
        return self.convergence_delta.abs() / span

    def relative_error(self, i: int = 0) -> float | None:
        """Entry i of `relative_delta`, for pages and tables; None if there is none, or if it would say nothing.

        It says nothing where |F(x) - F(baseline)| is at most a thousandth of the larger of both scores, or at most
        eight roundings of it (lower precision), or 0: `convergence_delta` is what to look at then.
        """
        if self.relative_delta is None or self.score is None or self.baseline_score is None:
            return None
        one, other = float(self.score.reshape(-1)[i]), float(self.baseline_score.reshape(-1)[i])
        least = max(1e-3, 8 * torch.finfo(self.score.dtype).eps) * max(abs(one), abs(other))
        return None if abs(one - other) <= least else float(self.relative_delta.reshape(-1)[i])

    def __getitem__(self, i: int | slice) -> Explanation:
        """Sample i (or a slice of samples) as an Explanation of its own."""
        n = len(self)
        if isinstance(i, slice):
            rows = range(*i.indices(n))
        else:
            start = self.number(i)
            rows = range(start, start + 1)
        if len(rows) == 0:
            raise SampleError(f"The slice {i} selects none of the {n} samples.")
        pick = torch.tensor(list(rows))

        def cut(v: Any) -> Any:
            if isinstance(v, Tensor):
                return v[pick] if v.ndim and v.shape[0] == n else v
            if isinstance(v, tuple) and v and all(isinstance(e, Tensor) for e in v):
                return tuple(cut(e) for e in v)
            return v

        def cut_list(v: Any) -> Any:
            return None if v is None else tuple(v[r] for r in rows)

        changes = {k: cut_list(getattr(self, k)) for k in names_of(self, LISTED)}
        changes |= {k: cut(getattr(self, k)) for k in names_of(self, TENSORS)}
        per_sample = self.meta.get("per_sample", {})
        meta = {**self.meta, "per_sample": {k: [v[r] for r in rows] for k, v in per_sample.items()}}
        found = dataclasses.replace(self, **changes, meta=meta if per_sample else self.meta)
        return trimmed(found) if self.spec.kind == "text" and self.tokens is not None else cropped(found)

    def number(self, i: Any) -> int:
        """The number of a sample counted from 0. Raises InputTypeError, SampleError: there is no such sample."""
        n = len(self)
        if isinstance(i, bool) or not hasattr(i, "__index__"):
            raise InputTypeError(f"A sample is chosen by its number, an int (or a slice), got {describe(i)}.")
        if not -n <= int(i) < n:
            raise SampleError(f"Sample {i} asked for, but this explanation holds {n} samples.")
        return int(i) % n

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def heatmap(self, i: int = 0) -> np.ndarray:
        """Signed map (H, W) of sample i: the attributions summed over channels, at the input's size.

        Layer maps are enlarged to the input's height and width (bilinear).
        Raises InputError for data without two spatial axes.
        """
        if (first := drawn(self)) is not self:
            return first.heatmap(i)
        a = self.attribution[self.number(i)].float()
        if a.ndim == 3:
            a = a.sum(0)
        if a.ndim != 2 or self.input.ndim != 4:
            raise InputError(
                f"heatmap() needs image-like attributions (N, C, H, W), got {tuple(self.attribution.shape)} for an "
                f"input of shape {tuple(self.input.shape)}. Use .attributions or .to_df()."
            )
        size = self.input.shape[2:]
        if a.shape != size:
            a = enlarged(a[None, None], size)[0, 0]
        return a.numpy()

    # -- showing (drawn by interp_plugins.viz) ---------------------------------------------------------------

    def annotated(self, **known: Any) -> Explanation:
        """A copy that knows more of its samples.

        Args:
            **known: `tokens` (a list per text; the kind of data becomes "text"), `names` (one per sample), `values` (a
                tuple of readable values per table row), `target_label`, `prediction_label`, and any field of
                `InputSpec`: `kind`, `feature_names`, `mean`, `std`, `value_range`, `vocab`, `name`, `others`.

        Raises:
            InputError: not one entry per sample, or more tokens than positions.
            UnknownNameError: for another name.

        Example:
            exp.annotated(names=["left.png", "right.png"]).to_df()["sample"].tolist()  # -> ['left.png', 'right.png']
        """
        return _annotated(self, known)

    def show(self, ctx: Any = None, kind: str = "side", **kwargs: Any) -> Any:
        """Draw one sample into `ctx` (a matplotlib axis) or a new figure; returns the axis.

        See `interp_plugins.viz.show` for the kinds of pictures and the arguments.

        Example:
            exp.show(index=1, kind="overlay")
        """
        return _viz().show(self, ctx=ctx, kind=kind, **kwargs)

    def plot(self, **kwargs: Any) -> Any:
        """Draw all samples, or an overview of them (`kind="beeswarm"`, say); returns (figure, axes).

        See `interp_plugins.viz.plot` for the kinds of pictures and the arguments.

        Example:
            fig, axes = exp.plot(max_n=2)
        """
        return _viz().plot(Explanations([self]), **kwargs)

    @overload
    def to_html(self, path: None = None, **kwargs: Any) -> str: ...
    @overload
    def to_html(self, path: str | Path, **kwargs: Any) -> files.Page: ...
    def to_html(self, path: str | Path | None = None, **kwargs: Any) -> str | files.Page:
        """One self-contained HTML page: its text, or, where `path` is given, the file that was written, with a link.

        See `interp_plugins.viz.to_html` for the arguments (kinds of pictures, scale, number of samples, title).

        Example:
            exp.to_html("page.html", title="Two pictures")
        """
        return Explanations([self]).to_html(path, **kwargs)

    def _repr_html_(self) -> str | None:
        return Explanations([self])._repr_html_()

    def __repr__(self) -> str:
        a = self.attribution
        bits = [f"{self.method}{tuple(a.shape)}"]
        if self.layer:
            bits.append(f"layer={self.layer}")
        if self.target_label:
            labels = [str(t) for t in self.target_label[:3]]
            bits.append("target=" + ",".join(labels) + (",..." if len(self.target_label) > 3 else ""))
        for name, value in (
            ("p", self.probability),
            ("score", self.score),
            ("completeness error", self.relative_delta),
        ):
            if value is not None and value.numel():
                bits.append(f"{name}={value.reshape(-1)[0].item():.3g}")
        bits.append(f"range=[{a.min().item():.3g}, {a.max().item():.3g}]" if a.numel() else "empty")
        return f"Explanation({' '.join(bits)})"

    # -- saving and tables -----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file (tensors and JSON metadata, no pickle). Returns the path.

        Example:
            path = exp.save("map.safetensors")
            Explanation.load(path).attribution.equal(exp.attribution)  # -> True
        """
        return Explanations([self]).save(path)

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """Read what `save` wrote. Raises InputError if the file holds several explanations."""
        found = Explanations.load(path)
        if len(found) != 1:
            raise InputError(f"{path} holds {len(found)} explanations; use Explanations.load.")
        return found[0]

    def to_df(self) -> pd.DataFrame:
        """A table with a row per sample (needs pandas).

        Columns: names, target, probability, score, errors, and one per feature for tabular data.

        Example:
            exp.to_df()[["target", "score"]].shape  # -> (2, 2)
        """
        return Explanations([self]).to_df()


def _annotated(exp: Explanation, known: Mapping[str, Any]) -> Explanation:
    """A copy of exp with the facts in `known`; see `Explanation.annotated`."""
    told, facts = names_of(exp, LISTED, told=True), tuple(f.name for f in dataclasses.fields(InputSpec))
    for name in known:
        if name not in told + facts:
            raise unknown("fact", name, told + facts)
    lists: dict[str, Any] = {}
    for name in told:
        if known.get(name) is not None:
            if isinstance(known[name], str) or not isinstance(known[name], Iterable):
                raise InputTypeError(f"{name} must be a list with one entry per sample, got {describe(known[name])}.")
            lists[name] = tuple(known[name])
            if len(lists[name]) != len(exp):
                raise InputError(f"{name} has {len(lists[name])} entries for {len(exp)} samples; give one per sample.")
    spec: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in known.items() if k in facts
    }  # a spec is frozen
    if "tokens" in lists:
        lists["tokens"] = tuple([str(token) for token in row] for row in lists["tokens"])
        if not (isinstance(exp.inputs, tuple) and len(exp.inputs) > 1):  # else it is open which of them is the text
            longest, places = max(map(len, lists["tokens"])), exp.input.shape[1:2].numel()
            if longest > places:
                raise InputError(f"A text has {longest} tokens, but the input has {places} positions.")
            spec.setdefault("kind", "text")
    return dataclasses.replace(exp, **lists, spec=dataclasses.replace(exp.spec, **spec))


class Explanations(Sequence[Explanation]):
    """A sequence of `Explanation`, one per method (and target), addressable by number or method name."""

    def __init__(self, items: Sequence[Explanation] = ()):
        self._items = list(items)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, key: int | str) -> Explanation: ...
    @overload
    def __getitem__(self, key: slice) -> Explanations: ...
    def __getitem__(self, key: int | str | slice) -> Explanation | Explanations:
        if isinstance(key, str):
            name = canonical_name(key, default=key)
            asked = {key, name, variant(name, "layer") or name}  # "ig" at a layer is the layer's variant
            for exp in self._items:
                if asked & {exp.method, exp.title}:
                    return exp
            raise unknown("method in this result", key, self.methods)
        if isinstance(key, slice):
            return Explanations(self._items[key])
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise InputTypeError(f"A result is chosen by its number or its method's name, got {describe(key)}.")
        if not -len(self) <= int(key) < len(self):
            raise SampleError(f"Result {key} asked for, but there are {len(self)}: {', '.join(self.methods)}.")
        return self._items[key]

    @property
    def methods(self) -> list[str]:
        """The method names, in order."""
        return [e.method for e in self._items]

    @property
    def labels(self) -> list[str]:
        """A name per explanation: the method's, and a number behind it where a method stands here several times."""
        several = {method for method, count in Counter(self.methods).items() if count > 1}
        seen: Counter[str] = Counter()
        names = []
        for method in self.methods:
            names.append(f"{method}.{seen[method]}" if method in several else method)
            seen[method] += 1
        return names

    def __repr__(self) -> str:
        return "Explanations([\n" + "".join(f"  {e!r},\n" for e in self._items) + "])"

    def annotated(self, **known: Any) -> Explanations:
        """Copies that know more of their samples, see `Explanation.annotated`."""
        return Explanations([exp.annotated(**known) for exp in self._items])

    def show(self, **kwargs: Any) -> Any:
        """Draw a grid: a row per sample, a column per method. Returns the figure's axes."""
        return _viz().show_grid(self, **kwargs)

    def plot(self, **kwargs: Any) -> Any:
        """Draw a grid: a row per sample, a column per method, or an overview; returns (figure, axes).

        See `interp_plugins.viz.plot` for the kinds of pictures and the arguments.
        """
        return _viz().plot(self, **kwargs)

    @overload
    def to_html(self, path: None = None, **kwargs: Any) -> str: ...
    @overload
    def to_html(self, path: str | Path, **kwargs: Any) -> files.Page: ...
    def to_html(self, path: str | Path | None = None, **kwargs: Any) -> str | files.Page:
        """One self-contained HTML page: its text, or, where `path` is given, the file that was written, with a link.

        See `interp_plugins.viz.to_html` for the arguments (kinds of pictures, scale, number of samples, title).
        """
        html: str = _viz().to_html(self, **kwargs)
        return html if path is None else files.Page(files.write(path, html))

    def _repr_html_(self) -> str | None:
        with contextlib.suppress(ImportError):
            return str(_viz().notebook_html(self))
        return None

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file (tensors and JSON metadata, no pickle). Returns the path."""
        return saving.save(self._items, path)

    @classmethod
    def load(cls, path: str | Path) -> Explanations:
        """Read an explanation that `save` wrote."""
        return cls(saving.load(path, Explanation))

    def to_df(self) -> pd.DataFrame:
        """A table (needs pandas) with a row per method and sample."""
        return frame(self._items)
