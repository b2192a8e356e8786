"""Models that work on their input in place, as many do to normalise it: the same maps, and nobody's tensors changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.cases import ATTENTION, BY_NAME, VARIANTS, Case, applies, attribute, distance, label

NAMES = ("conv", "two inputs, tensor argument", "tuple of arguments", "token ids", "in-place ReLU behind the layer")


def normalised(x: Any, in_place: bool) -> Any:
    """(x - 0.3) / 0.7 of a float tensor, another id of an integer one; everything else as it is."""
    if not isinstance(x, Tensor):
        return x
    if x.is_floating_point():
        return x.sub_(0.3).div_(0.7) if in_place else (x - 0.3) / 0.7
    return x.add_(1).remainder_(7) if in_place else (x + 1) % 7


def normalising(case: Case, in_place: bool) -> Case:
    """A case whose model normalises all its arguments first."""

    def build() -> nn.Module:
        net = case.net()
        plain = type(net)

        def forward(self: nn.Module, *args: Any) -> Any:
            return plain.forward(self, *(normalised(a, in_place) for a in args))

        net.__class__ = type(plain.__name__, (plain,), {"forward": forward})
        return net

    return replace(case, net=build)


CASES = [BY_NAME[name] for name in NAMES] + [ATTENTION]
PAIRS = [(variant, case) for variant in VARIANTS for case in CASES if applies(variant, case)]


@pytest.mark.parametrize(("variant", "case"), PAIRS, ids=label)
@pytest.mark.filterwarnings("ignore:.* met no rectifier")
def test_maps_are_those_of_the_model_that_works_on_a_copy(variant: str, case: Case) -> None:
    seeds = {"seed": 3} if "seed" in seeded(variant) else {}
    found, plain = normalising(case, in_place=True).build(), normalising(case, in_place=False).build()
    before = [x.clone() for x in found.xs]
    maps = attribute(variant, found, **seeds)
    assert distance(maps, attribute(variant, plain, **seeds)) < 1e-9
    assert all(torch.equal(x, y) for x, y in zip(found.xs, before, strict=True))


def seeded(variant: str) -> Any:
    import inspect

    from interp_plugins.api.binding import method_info

    return inspect.signature(method_info(variant.partition("/")[0]).cls.attribute).parameters
