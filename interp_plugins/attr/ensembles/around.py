"""What methods made of another method share: the method inside, and the mean of what it returns.

Like `NoiseTunnel`, each takes a method object and has `attribute` with that method's arguments. The model is as before
afterwards, whatever happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from interp_plugins.attr.shared.base import Attribution
from interp_plugins.core.errors import InputTypeError
from interp_plugins.core.multi_target import each_target, target_by_target
from interp_plugins.core.registry import family
from interp_plugins.core.tensors import as_tuple, describe, like


@family(wraps="attribution_method", inside="integrated_gradients", shares_targets=True, compiles=True)
class AroundMethod(Attribution):
    """A method object inside another."""

    def __init__(self, attribution_method: Any):
        if not callable(getattr(attribution_method, "attribute", None)):
            name = type(self).__name__
            raise InputTypeError(
                f"{name} needs a method object with `attribute(inputs, ...)`, got {describe(attribution_method)}. For "
                f"example {name}(IntegratedGradients(model))."
            )
        self.attribution_method = attribution_method
        super().__init__(getattr(attribution_method, "forward_func", attribution_method.attribute))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the inner method's maps multiply by the inputs."""
        return bool(getattr(self.attribution_method, "multiplies_by_inputs", False))

    def has_convergence_delta(self) -> bool:
        """Whether the inner method gives a completeness error."""
        inner = getattr(self.attribution_method, "has_convergence_delta", None)
        return bool(inner()) if inner is not None else False


class MeanOfRuns:
    """Running sums of what a method returns: its maps, and its deltas where they are asked for."""

    def __init__(self, kwargs: Mapping[str, Any]):
        self.kwargs, self.count = kwargs, 0
        self.with_delta = bool(kwargs.get("return_convergence_delta"))
        self.maps: list[Tensor] = []
        self.delta: Tensor | None = None

    def run(self, method: Any, inputs: Any) -> tuple[Tensor, ...]:
        """One call; its maps, flat over layers, of several targets (N * K, ...). The deltas are added up here."""
        found = method.attribute(inputs, **self.kwargs)
        if self.with_delta:
            found, delta = found
            self.delta = delta if self.delta is None else self.delta + delta
        self.count += 1
        maps = [t for part in (found if isinstance(found, list) else [found]) for t in as_tuple(part)]
        return tuple(target_by_target(maps, len(as_tuple(inputs)[0]), len(each_target(self.kwargs.get("target")))))

    def add(self, maps: Sequence[Tensor]) -> None:
        """Add maps to the sums."""
        self.maps = [a + b for a, b in zip(self.maps, maps, strict=True)] if self.maps else list(maps)

    def result(self, inputs: Any) -> Any:
        """The means: maps in the inputs' layout, or as a tuple of a layer's tensors; with the mean of the deltas."""
        means = [t / self.count for t in self.maps]
        out = like(inputs, means) if len(means) == len(as_tuple(inputs)) else tuple(means)
        return (out, self.delta / self.count) if self.delta is not None else out
