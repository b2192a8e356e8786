"""A model with several inputs: an explanation for each of them, and each input's share of the whole.

Pictures that stand beside each other (a pair for a Siamese net) stay together: they are one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.layout import drawn
from interp_plugins.viz.pixels import pictures


class InputPart(NamedTuple):
    """One input of an explanation.

    Attributes:
        exp: the explanation of this input alone.
        name: the input's name; "" for the only one.
        shares: share of the sum of |attribution| over all inputs, per sample (N,); NaN where that sum is 0.
        sums: signed sum of the attributions, per sample (N,).
    """

    exp: Explanation
    name: str
    shares: np.ndarray
    sums: np.ndarray


def has_several(exp: Explanation) -> bool:
    """Whether the explanation has maps of several inputs that do not make one picture together."""
    maps, xs = exp.attributions, exp.inputs
    several = isinstance(maps, tuple) and isinstance(xs, tuple) and len(maps) == len(xs) > 1 and exp.layer is None
    return several and len(pictures(exp)) == 1


def by_input(exp: Explanation) -> list[InputPart]:
    """The explanation's inputs one by one; an explanation of one input stays whole; channels come first.

    Each gets its own spec (`InputSpec.of_input`). Tokens go to the first input that is a text (the first of all where
    none is), values to the first that is a table.
    """
    exp = drawn(exp)
    return apart(exp) if has_several(exp) else [_whole(exp)]


def apart(exp: Explanation, names: Sequence[str] | None = None) -> list[InputPart]:
    """All maps one by one, also those of pictures that `by_input` leaves together; a single map as it is.

    Args:
        exp: the explanation.
        names: a name per input; None, or too few: the spec's names, else the inputs' numbers.
    """
    exp = drawn(exp)
    if not isinstance(exp.attributions, tuple) or len(exp.attributions) == 1:
        return [_whole(exp)]
    several = isinstance(exp.inputs, tuple) and len(exp.inputs) == len(exp.attributions)
    xs = exp.inputs if isinstance(exp.inputs, tuple) and several else (exp.input,) * len(exp.attributions)
    specs = [exp.spec.of_input(k, x) for k, x in enumerate(xs)]
    given_names = [*(names or ()), *(spec.name for spec in specs[len(names or ()) :])]
    sizes = np.stack([_sum(a, True) for a in exp.attributions])
    total = sizes.sum(0)
    shares = np.divide(sizes, total, out=np.full_like(sizes, np.nan), where=total > 0)
    kinds = [spec.kind for spec in specs]
    first = {kind: k for k, kind in reversed(list(enumerate(kinds)))}
    owners = {"tokens": first.get("text", 0), "values": first.get("tabular")}
    parts = []
    for k, (a, x, spec) in enumerate(zip(exp.attributions, xs, specs, strict=True)):
        own = {name: getattr(exp, name) if owner == k else None for name, owner in owners.items()}
        base = exp.baselines[k] if isinstance(exp.baselines, tuple) and k < len(exp.baselines) else None
        region = exp.region if k == 0 else None
        changes: dict[str, Any] = {**own, "baselines": base, "spec": spec, "region": region}
        part = replace(exp, attributions=a, inputs=x, **changes)
        parts.append(InputPart(part, given_names[k] or f"input {k + 1}", shares[k], _sum(a, False)))
    return parts


def _whole(exp: Explanation) -> InputPart:
    return InputPart(exp, "", np.ones(len(exp)), _sum(exp.attributions, False))


def choose(exp: Explanation, which: int | str) -> InputPart:
    """The input of a number or a name. Raises InputError or UnknownNameError."""
    parts = by_input(exp)
    if isinstance(which, str):
        for part in parts:
            if part.name == which:
                return part
        raise unknown("input", which, [part.name for part in parts])
    if not -len(parts) <= which < len(parts):
        raise InputError(f"Input {which} asked for, but the explanation has maps of {len(parts)}.")
    return parts[which]


def part_text(part: InputPart, i: int) -> str:
    """The input's name and share, "question: 63 % of |attribution|"; "" for the only input."""
    if not part.name or np.isnan(part.shares[i]):
        return part.name
    return f"{part.name}: {part.shares[i]:.0%} of |attribution|".replace("%", " %")


def _sum(values: Tensor | tuple[Tensor, ...], absolute: bool) -> np.ndarray:
    """The sum of the attributions, or of their sizes, per sample."""
    tensors = values if isinstance(values, tuple) else (values,)
    flat = [t.detach().cpu().double().reshape(len(t), -1) for t in tensors if t.ndim]
    return sum((t.abs() if absolute else t).sum(1).numpy() for t in flat)  # type: ignore[return-value]
