"""The names of Captum Insights (up to 0.8), for code that was written for it.

    AttributionVisualizer(models=[model], score_func=..., classes=[...], features=[ImageFeature(...)], dataset=batches)
    .render()          # in a notebook
    .serve()           # a local page

They stand on `Session`: the same viewer, with the methods, arguments and baselines of this library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple, describe
from interp_plugins.insights.server import Server, serve
from interp_plugins.insights.session import Session
from interp_plugins.insights.widget import widget

Transform = Callable[[Tensor], Tensor]


def _as_list(transforms: Transform | Sequence[Transform] | None) -> list[Transform]:
    if transforms is None:
        return []
    return [transforms] if callable(transforms) else list(transforms)


@dataclass
class Batch:
    """Samples and what belongs to them.

    Args:
        inputs: tensor or tuple of tensors, batch first.
        labels: tensor (N,) of class indices, or None.
        additional_args: further arguments of the model.
    """

    inputs: Tensor | tuple[Tensor, ...]
    labels: Tensor | None = None
    additional_args: Any = None


@dataclass
class Feature:
    """One input of the model and how it is shown.

    Args:
        name: heading of its map.
        baseline_transforms: functions of the raw input that give baselines to choose from.
        input_transforms: functions applied to the raw input before the model.
        visualization_transform: for text, one sample's ids -> its tokens. Other kinds accept it for Captum's sake; they
            are drawn from the input's own numbers.
    """

    name: str
    baseline_transforms: Transform | Sequence[Transform] | None = None
    input_transforms: Transform | Sequence[Transform] | None = None
    visualization_transform: Callable[..., Any] | None = None
    kind: str = field(default="generic", repr=False)

    def encode(self, raw: Tensor) -> Tensor:
        """The raw input through `input_transforms`."""
        for transform in _as_list(self.input_transforms):
            raw = transform(raw)
        return raw

    def baselines(self, raw: Tensor) -> list[Tensor]:
        """What `baseline_transforms` make of the raw input, encoded like it."""
        return [self.encode(transform(raw)) for transform in _as_list(self.baseline_transforms)]


@dataclass
class ImageFeature(Feature):
    """Pictures (N, C, H, W)."""

    kind: str = field(default="image", repr=False)


@dataclass
class TextFeature(Feature):
    """Token ids (N, T); `visualization_transform(ids)` gives one sample's tokens."""

    kind: str = field(default="text", repr=False)


@dataclass
class GeneralFeature(Feature):
    """Columns (N, F).

    Args:
        categories: one name per column.
    """

    categories: Sequence[str] = ()
    kind: str = field(default="tabular", repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.categories, (list, tuple)):
            raise InputTypeError(f"categories must be a list of names, got {describe(self.categories)}.")


@dataclass
class EmptyFeature(Feature):
    """An input that is explained but not drawn.

    Args:
        name: heading of its map.
    """

    name: str = "empty"


class AttributionVisualizer:
    """Captum Insights' entry: models, classes, features and a data set.

    Args:
        models: a model or a list of models of the same inputs.
        classes: class names.
        features: one per input of the model.
        dataset: an iterable of `Batch`.
        score_func: the model's output -> probabilities; None: softmax.
        use_label_for_attr: explain the true class instead of the predicted one, where it is known.
        max_samples: how many samples are read; the data set may be endless.

    Raises:
        InputError: features that do not fit the inputs, or an empty data set.
    """

    def __init__(
        self,
        models: Sequence[nn.Module] | nn.Module,
        classes: Sequence[str],
        features: Sequence[Feature] | Feature,
        dataset: Iterable[Batch],
        score_func: Callable[[Tensor], Tensor] | None = None,
        use_label_for_attr: bool = True,
        *,
        max_samples: int = 256,
    ):
        self.models: list[nn.Module] = [models] if isinstance(models, nn.Module) else list(models)
        self.features: list[Feature] = [features] if isinstance(features, Feature) else list(features)
        self.classes, self.score_func, self.use_label_for_attr = tuple(classes), score_func, use_label_for_attr
        self._read(dataset, max_samples)

    def _read(self, dataset: Iterable[Batch], most: int) -> None:
        columns: list[list[Tensor]] = [[] for _ in self.features]
        labels: list[int | None] = []
        extra: list[tuple[Any, ...]] = []
        self.raw: list[list[Tensor]] = [[] for _ in self.features]
        for batch in islice(dataset, most):
            many = as_tuple(batch.inputs)
            if len(many) != len(self.features):
                raise InputError(
                    f"A batch has {len(many)} inputs and there are {len(self.features)} features; give one per input."
                )
            for column, raw, feature, x in zip(columns, self.raw, self.features, many):
                raw.append(x)
                column.append(feature.encode(x))
            n = many[0].shape[0]
            labels += [None] * n if batch.labels is None else batch.labels.reshape(-1).tolist()
            extra.append(() if batch.additional_args is None else as_tuple(batch.additional_args))
            if len(labels) >= most:
                break
        if not labels:
            raise InputError("The data set gave no batch; it must be an iterable of Batch.")
        self.inputs = tuple(torch.cat(column)[:most] for column in columns)
        self.labels = labels[:most]
        self.args = _joined(extra, most)

    def session(self) -> Session:
        """The state behind a viewer of these models and samples."""
        first = self.features[0]
        x = self.inputs[0]
        names = getattr(first, "categories", ()) or None
        show = first.visualization_transform if first.kind == "text" else None
        tokens = [list(show(row)) for row in torch.cat(self.raw[0])[: len(x)]] if show is not None else None
        spec = InputSpec(
            kind=first.kind,
            vocab=self.classes,
            feature_names=tuple(names) if names else None,
            value_range=(float(x.min()), float(x.max())) if first.kind == "image" else (0.0, 1.0),
        )
        target: Any = "label" if self.use_label_for_attr and None not in self.labels else None
        return Session(
            {_name(model, i): model for i, model in enumerate(self.models)},
            self.inputs if len(self.inputs) > 1 else x,
            labels=self.labels,
            input_spec=spec,
            additional_forward_args=self.args,
            activation=self.score_func,
            tokens=tokens,
            baselines=self._baselines(),
            input_names=[feature.name for feature in self.features],
            target=target,
            title="Attribution visualizer",
        )

    def _baselines(self) -> Mapping[str, Any]:
        """The features' own baselines by name, where every feature has as many."""
        most = len(self.inputs[0])
        made = [
            [torch.cat(parts)[:most] for parts in zip(*(feature.baselines(x) for x in raw))]
            for feature, raw in zip(self.features, self.raw)
        ]
        count = min((len(one) for one in made), default=0)
        named = [tuple(one[k] for one in made) for k in range(count)]
        return {f"own {k + 1}": value if len(value) > 1 else value[0] for k, value in enumerate(named)}

    def render(self, debug: bool = True) -> Any:
        """What a notebook cell shows; `debug` is accepted for Captum's sake."""
        return widget(self.session())

    def serve(self, blocking: bool = False, debug: bool = False, port: int | None = None, **kwargs: Any) -> Server:
        """Serve the viewer on this machine; the returned server has the page's `url`.

        Args:
            blocking: wait until it is stopped.
            debug: accepted for Captum's sake.
            port: None = a free one.
            **kwargs: of `interp_plugins.insights.serve`.
        """
        server = serve(self.session, port=port or 0, **kwargs)
        print(server.url)
        if blocking:
            server.wait()
        return server


def _name(model: nn.Module, i: int) -> str:
    return f"{type(model).__name__} {i + 1}"


def _joined(extra: Sequence[tuple[Any, ...]], most: int) -> Any:
    """Additional arguments of all batches: tensors joined, the rest as the first batch has it."""
    if not extra or not extra[0]:
        return None
    return tuple(
        torch.cat(list(values))[:most] if isinstance(values[0], Tensor) else values[0] for values in zip(*extra)
    )
