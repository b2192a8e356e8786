"""Telling an `Explanation` what only its user knows: tokens, names, readable values, the kind of its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.spec import InputSpec

if TYPE_CHECKING:
    from interp_plugins.core.explanation import Explanation

PER_SAMPLE = ("tokens", "names", "values", "target_label", "prediction_label")


def annotated(exp: Explanation, known: Mapping[str, Any]) -> Explanation:
    """A copy of exp with the facts in `known`; see `Explanation.annotated`."""
    facts = tuple(f.name for f in dataclasses.fields(InputSpec))
    for name in known:
        if name not in PER_SAMPLE + facts:
            raise unknown("fact", name, PER_SAMPLE + facts)
    lists: dict[str, Any] = {}
    for name in PER_SAMPLE:
        if known.get(name) is not None:
            lists[name] = tuple(known[name])
            if len(lists[name]) != len(exp):
                raise InputError(f"{name} has {len(lists[name])} entries for {len(exp)} samples; give one per sample.")
    spec = {name: _frozen(value) for name, value in known.items() if name in facts}
    if "tokens" in lists:
        lists["tokens"] = tuple([str(token) for token in row] for row in lists["tokens"])
        if not (isinstance(exp.inputs, tuple) and len(exp.inputs) > 1):  # else it is open which of them is the text
            longest, places = max(map(len, lists["tokens"])), exp.input.shape[1:2].numel()
            if longest > places:
                raise InputError(f"A text has {longest} tokens, but the input has {places} positions.")
            spec.setdefault("kind", "text")
    return dataclasses.replace(exp, **lists, spec=dataclasses.replace(exp.spec, **spec))


def _frozen(value: Any) -> Any:
    """Lists as tuples, as a frozen spec holds them."""
    return tuple(value) if isinstance(value, list) else value
