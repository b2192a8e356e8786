"""A model run twice, on a baseline and on the input, call matched with call: the engine of DeepLift.

The runs are separate, so it does not matter where the batch stands, whether there are extra arguments, or how often a
module is used. They must take the same way through the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.attr.backward.rules.call import OpCall, Rule, SavedValue, flat_arguments, is_real, ruled
from interp_plugins.attr.backward.rules.decompose import ATTENTION, STATISTICS, divided, log_softmax
from interp_plugins.attr.backward.rules.mode import RuleMode
from interp_plugins.attr.backward.rules.names import (
    AFFINE_PRODUCTS,
    ELEMENTWISE,
    LARGEST,
    LINEAR,
    MOVES,
    NORMALIZATIONS,
    PLAIN,
    PRODUCTS,
    SMALLEST,
    WEIGHTED,
)
from interp_plugins.attr.backward.rules.reach import NONLINEAR, check_lost
from interp_plugins.attr.backward.rules.recurrent import RECURRENT
from interp_plugins.attr.backward.rules.rescale import (
    Rescale,
    Winner,
    along_the_way,
    half_way,
    logsumexp_rule,
    softmax_rule,
)
from interp_plugins.attr.backward.rules.scope import under
from interp_plugins.core.errors import ModelError
from interp_plugins.core.forward import Forward, Gradients, gradients
from interp_plugins.core.global_random import preserved_rng

_PRODUCTS = PRODUCTS | WEIGHTED | AFFINE_PRODUCTS
_KNOWN = ELEMENTWISE | _PRODUCTS | LARGEST | SMALLEST | {"softmax", "logsumexp"} | NORMALIZATIONS


class PairedMode(RuleMode):
    """Records the calls of the baseline's run, then gives those of the input's run DeepLIFT's rules.

    Args:
        eps: differences up to this size count as none; there the derivative is used.
    """

    title, belongs = "DeepLift", NONLINEAR
    needs_all = False
    decompositions = {
        **ATTENTION, **STATISTICS, **RECURRENT, "div": divided, "log_softmax": log_softmax,
    }  # fmt: skip
    ignored = PLAIN | MOVES | LINEAR

    def __init__(self, eps: float = 1e-10):
        super().__init__()
        self.recorded: list[tuple[str, list[SavedValue | None] | None]] = []
        self.position: int | None = None
        rescale, largest = Rescale(eps), Winner(eps)
        self.rules: dict[str, Rule] = {
            **dict.fromkeys(ELEMENTWISE, rescale),
            **dict.fromkeys(_PRODUCTS, half_way),
            **dict.fromkeys(LARGEST, largest),
            **dict.fromkeys(SMALLEST, Winner(eps, torch.minimum)),
            "softmax": softmax_rule,
            "logsumexp": logsumexp_rule,
        }

    def rewind(self) -> None:
        """The baseline's run is recorded; the next one is the input's."""
        self.position = 0

    def begin(self) -> None:
        """The input's run is matched from the first call on."""
        if self.position is not None:
            self.position = 0

    def seen(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record the call, or find the one it belongs to."""
        if self.position is None:
            leaves = None
            if not self._fixed(name, args, kwargs):
                leaves = [
                    self.shelf.keep(v) if is_real(v) and not isinstance(v, nn.Parameter) else None
                    for v in flat_arguments(args, kwargs)[0]
                ]
            self.recorded.append((name, leaves))
            return None
        if self.position >= len(self.recorded) or self.recorded[self.position][0] != name:
            raise _other_way(name, self.recorded[self.position : self.position + 1])
        self.position += 1
        return self.recorded[self.position - 1][1]

    def _fixed(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the call is linear by its parameters: a layer with its own weights, normalization with statistics."""
        if name in WEIGHTED:
            return isinstance(kwargs.get("weight", args[1] if len(args) > 1 else None), nn.Parameter)
        return name in NORMALIZATIONS and name in ("batch_norm", "instance_norm") and not _by_batch(args, kwargs)

    def choose(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], carrying: list[Tensor]) -> Rule | None:
        """DeepLIFT's rule; None where the call is linear."""
        if self.position is None or self._fixed(name, args, kwargs):
            return None
        rule = self.rules.get(name, along_the_way)
        if name in ELEMENTWISE and len(carrying) != 1:
            return along_the_way
        if name in _PRODUCTS and name != "einsum" and len(carrying) == 1:
            return None
        if name in ("einsum", "tensordot", "chain_matmul") and len(carrying) > 2:
            return along_the_way
        return rule

    def made(self, call: OpCall, seen: list[SavedValue | None] | None) -> Any:
        """The call by its rule, with the values of the baseline's run."""
        self.attach(call, seen)
        if call.name not in _KNOWN and not all(is_real(y) for y in call.run()):
            args, kwargs = call.arguments(call.operands)
            return call.func(*args, **kwargs)  # numbers, positions: nothing to differentiate by a rule
        return ruled(call)

    def attach(self, call: OpCall, seen: list[SavedValue | None] | None) -> None:
        """Attach the values of the baseline's run."""
        assert seen is not None
        found = [seen[i] for i in call.where]
        base = [k.value for k in found if k is not None]
        if [b.shape for b in base] != [x.shape for x in call.xs]:
            raise _other_way(call.name, [(call.name, None)])
        call.base = base


def _by_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    flags = [v for v in (*args, *kwargs.values()) if isinstance(v, bool)]
    return kwargs.get("training", kwargs.get("use_input_stats", flags[0] if flags else False)) is True


def _other_way(name: str, expected: Sequence[tuple[str, Any]]) -> ModelError:
    there = f"calls {expected[0][0]!r}" if expected and expected[0][0] != name else "stops or has other shapes"
    return ModelError(
        f"The model takes another way for the baseline than for the input: where the input's run calls {name!r}, the "
        f"baseline's run {there}. DeepLift compares the two call by call. Choose a baseline that takes the same way, "
        "or use integrated_gradients."
    )


def paired_gradients(
    forward: Forward,
    xs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    rows: Tensor,
    mode: PairedMode,
) -> tuple[Gradients, Tensor]:
    """DeepLIFT's multipliers (as gradients) with the scores at the inputs, and the scores at the baselines (R,).

    Args:
        forward: what is explained.
        xs: rows (R, ...) of every input.
        baselines: their baselines, of the same shapes.
        rows: the sample each row belongs to; always given, so that each run gets its own copy of the arguments.
        mode: the rules, not used before.
    """
    with under(forward, mode) as ruled_forward:
        with preserved_rng():  # a model that draws random numbers draws the same twice
            at_baselines = ruled_forward.scores(baselines, rows)
        mode.rewind()
        return check_lost(mode, gradients(ruled_forward, xs, rows)), at_baselines
