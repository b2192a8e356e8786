"""Linear layers with their matrix in oneDNN's layout, forward and backward, on a CPU."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins.engine.kernels.guest import takes
from interp_plugins.engine.kernels.weight_cache import Matrix
from interp_plugins.engine.plan.linear_map import Candidate, LinearDirection, apply
from interp_plugins.engine.plan.tracer import Tracer, is_plain
from interp_plugins.engine.plan.view import with_class

_SMALLEST = 1 << 16  # elements of a matrix: products with smaller ones are faster as they are
_SAVED = 0.12  # of the time, as measured on AVX-512
_PREPARED = 500  # multiplications that take as long as laying out one element


class _DenseDirection(LinearDirection):
    """(..., I) to (..., O)."""

    name = "packed linear"

    def __init__(self, matrix: Matrix, bias: Tensor | None, opposite: _DenseDirection | None = None):
        super().__init__(opposite)
        self.bias, self._matrix = bias, matrix

    def _turned(self) -> _DenseDirection:
        return _DenseDirection(self._matrix, None, self)

    def __call__(self, x: Tensor, bias: bool) -> Tensor:
        """With or without the bias."""
        return self._matrix.form(back=self.is_back)(x, self.bias if bias else None)

    def direct(self, x: Tensor, bias: bool) -> Tensor:
        """The product as torch has it."""
        weight = self._matrix.weight
        return F.linear(x, weight.t() if self.is_back else weight, self.bias if bias else None)


class PackedLinear(nn.Linear):
    """Stands in for a linear layer in a private view."""

    direction: LinearDirection

    @classmethod
    def of(cls, linear: nn.Linear, matrix: Matrix) -> PackedLinear:
        """The same layer by its matrix in another layout."""
        mine = with_class(cls, linear)
        mine.direction = _DenseDirection(matrix, None if linear.bias is None else linear.bias.detach())
        return mine

    def enable_small_batches(self) -> None:
        """A product of few vectors runs as one of many does."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply and add the bias."""
        return apply(self.direction, x)


def may_pay(linear: nn.Module) -> bool:
    """Whether a module is a linear layer that is large enough, and can be."""
    return isinstance(linear, nn.Linear) and linear.weight.numel() >= _SMALLEST and takes(linear.weight)


def linear_candidates(
    probe: Tracer, stand_ins: Mapping[int, nn.Module], watched_rows: int, without: Container[int] = ()
) -> Iterator[Candidate[Matrix, PackedLinear]]:
    """Linear layers that could run faster.

    Args:
        probe: the watched pass, which tells how many vectors a row has.
        stand_ins: what stands in for probed modules.
        watched_rows: of that pass.
        without: ids of modules to leave alone.
    """
    for module in dict.fromkeys(visit.module for visit in probe.visits):
        linear = stand_ins.get(id(module), module)
        if id(module) in without or not is_plain(linear, (nn.Linear,)) or not may_pay(linear):
            continue
        assert isinstance(linear, nn.Linear)
        vectors = sum(v.gave[0].numel() for v in probe.calls(module) if v.gave) / linear.out_features / watched_rows
        yield Candidate(module, linear, Matrix, PackedLinear.of, _SAVED * vectors * linear.weight.numel(), _PREPARED)
