"""Which units are asked for: each an objective with a name, in rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError, TargetError
from interp_plugins.core.guard import modules_of
from interp_plugins.core.layers import layer_name, plain_name, resolve_layer
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe
from interp_plugins.optim import objectives as o
from interp_plugins.optim.objective import Objective

_KINDS = ("channel", "neuron", "direction", "target", "objective")


@dataclass(frozen=True, eq=False)
class FeatureUnit:
    """One thing that a picture is to excite.

    Attributes:
        name: as it stands in results, "layer4:3".
        objective: what is climbed.
        channel: its channel, or None where it is none.
    """

    name: str
    objective: Objective
    channel: int | None = None


@dataclass(frozen=True)
class AskedUnits:
    """What a call names: one of five kinds, and where.

    Attributes:
        kind: "channel", "neuron", "direction", "target" or "objective".
        value: what was given.
        layer: where, or None.
        token: of channels of a layer of tokens, which raw one.
    """

    kind: str
    value: Any
    layer: Any = None
    token: Any = None

    @classmethod
    def of(cls, layer: Any, token: Any = None, **given: Any) -> AskedUnits:
        """What is asked, checked for contradictions.

        Raises:
            InputError: none or several of the five, or a layer missing.
        """
        named = [name for name in _KINDS if given.get(name) is not None]
        if len(named) != 1:
            said = " and ".join(named) or "none of them"
            raise InputError(f"Say what the picture is to excite by one of {', '.join(_KINDS)}; got {said}.")
        kind = named[0]
        if kind in ("channel", "neuron", "direction") and layer is None:
            raise InputError(f"{kind}= is of a layer: give its name, module or Layer as well.")
        if kind in ("target", "objective") and layer is not None:
            raise InputError(f"{kind}= says by itself what is excited; leave layer out.")
        return cls(kind, given[kind], layer, token)

    @property
    def places(self) -> tuple[Any, ...]:
        """The layers that are read."""
        if self.kind == "objective":
            return tuple(dict.fromkeys(name for one in self._objectives() for name in one.layers))
        return () if self.layer is None else (self.layer,)

    @property
    def needs_output(self) -> bool:
        """Whether the model runs to its end."""
        return self.kind == "target" or (self.kind == "objective" and any(x.needs_output for x in self._objectives()))

    def _objectives(self) -> list[Objective]:
        found = list(self.value) if isinstance(self.value, (list, tuple)) else [self.value]
        if not found or not all(isinstance(one, Objective) for one in found):
            raise InputTypeError(f"objective= takes an Objective or a list of them; got {describe(self.value)}.")
        return found

    def units(self, func: Any, channels: int | None, spec: InputSpec) -> list[FeatureUnit]:
        """The units, in their order.

        Args:
            func: the model.
            channels: how many the layer has.
            spec: class names.
        """
        if self.kind == "objective":
            return [FeatureUnit(repr(one), one) for one in self._objectives()]
        if self.kind == "target":
            return [_of_target(one, spec) for one in _listed(self.value)]
        where = name_of_layer(func, self.layer)
        if self.kind == "channel":
            token = "" if self.token is None else f"@{self.token}"
            return [
                FeatureUnit(f"{where}:{c}{token}", o.channel(self.layer, c, self.token), c)
                for c in channel_numbers(self.value, channels or 0, where)
            ]
        if self.kind == "neuron":
            return [_of_neuron(self.layer, where, one) for one in _places(self.value)]
        vectors = torch.as_tensor(self.value).detach()
        rows = vectors[None] if vectors.ndim == 1 else vectors
        if rows.ndim != 2 or rows.shape[1] != channels:
            raise InputError(
                f"A direction in {where} has {channels} numbers, one per channel: (D,) or (K, D). Got "
                f"{tuple(vectors.shape)}."
            )
        return [FeatureUnit(f"{where}:direction {i}", o.direction(self.layer, v)) for i, v in enumerate(rows)]


def name_of_layer(func: Any, layer: Any) -> str:
    """A layer's dotted name, with its side and call where those are not the usual ones."""
    found = resolve_layer(func, layer)
    assert isinstance(found.module, nn.Module)
    side = "" if found.io == "output" else " input"
    call = "" if found.call is None else f" call {found.call}"
    return f"{layer_name(func, found.module)}{side}{call}"


def channel_numbers(given: Any, channels: int, where: str) -> list[int]:
    """Numbers of channels from an int, several, a slice, or "all".

    Raises:
        InputError: one that the layer does not have.
    """
    if isinstance(given, str):
        if given != "all":
            raise InputError(f"channel must be an int, several, a slice or 'all'; got {given!r}.")
        return list(range(channels))
    if isinstance(given, slice):
        return list(range(channels))[given]
    listed = given.tolist() if isinstance(given, Tensor) else given
    found = [listed] if isinstance(listed, int) else list(listed)
    bad = [c for c in found if isinstance(c, bool) or not isinstance(c, int) or not -channels <= c < channels]
    if bad or not found:
        raise InputError(
            f"{where} has {channels} channels, 0 to {channels - 1}; got {'none' if not found else bad[0]!r}."
        )
    return [c % channels for c in found]


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, range)) else [given]


def _of_target(given: Any, spec: InputSpec) -> FeatureUnit:
    index = spec.index_of(given) if isinstance(given, str) else given
    if isinstance(index, int) and not isinstance(index, bool):
        if spec.vocab is not None and not 0 <= index < len(spec.vocab):
            raise TargetError(f"The model has {len(spec.vocab)} classes, 0 to {len(spec.vocab) - 1}; got {index}.")
        label = str(spec.label(index)) if spec.vocab is not None else f"class {index}"
        return FeatureUnit(label, o.logit(index, label), index)
    return FeatureUnit(repr(given), o.logit(given))


def _places(given: Any) -> list[tuple[int, ...]]:
    listed = [given] if isinstance(given, int) or (given and isinstance(given[0], int)) else list(given)
    return [(one,) if isinstance(one, int) else tuple(one) for one in listed]


def _of_neuron(layer: Any, where: str, given: Sequence[int]) -> FeatureUnit:
    index, *place = given
    at = "centre" if not place else ",".join(map(str, place))
    return FeatureUnit(f"{where}:{index}@{at}", o.neuron(layer, index, *place), index)


def full_name(func: Any, layer: Any) -> Any:
    """A layer's whole name, where the end of one was given that only one module has; else as it came."""
    if not isinstance(layer, str):
        return layer
    names = {plain_name(name) for root in modules_of(func) for name, _ in root.named_modules()}
    ends = sorted(name for name in names if name.endswith(f".{layer}"))
    return ends[0] if layer not in names and len(ends) == 1 else layer
