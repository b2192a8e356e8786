"""Linear layers with their matrix in oneDNN's layout, forward and backward, on a CPU."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from torch import Tensor, nn

from ..product import Product
from ..transformed import Matrix
from .linear_map import Candidate, apply
from .probe import Probe, is_plain
from .view import shallow

_SMALLEST = 1 << 16  # elements of a matrix: products with smaller ones are faster as they are
_SAVED = 0.12  # of the time, as measured on AVX-512
_PREPARED = 500  # multiplications that take as long as laying out one element


class _Way:
    """One direction, (..., I) to (..., O), and the other one."""

    def __init__(self, matrix: Matrix, bias: Tensor | None, opposite: _Way | None = None):
        self.bias, self._matrix, self._opposite, self._is_back = bias, matrix, opposite, opposite is not None

    @property
    def back(self) -> _Way:
        """From the gradient at the output to the one at the input."""
        if self._opposite is None:
            self._opposite = _Way(self._matrix, None, self)
        return self._opposite

    def __call__(self, x: Tensor, bias: bool) -> Tensor:
        """With or without the bias."""
        return self._matrix.form(back=self._is_back)(x, self.bias if bias else None)


class PackedLinear(nn.Linear):
    """Stands in for a linear layer in a private view."""

    way: _Way

    @classmethod
    def of(cls, linear: nn.Linear, matrix: Matrix) -> PackedLinear:
        """The same layer by its matrix in another layout."""
        mine = shallow(linear)
        mine.__class__ = cls
        assert isinstance(mine, PackedLinear)
        mine.way = _Way(matrix, None if linear.bias is None else linear.bias.detach())
        return mine

    def forward(self, x: Tensor) -> Tensor:
        """Multiply and add the bias."""
        return apply(self.way, x)


def linear_candidates(
    probe: Probe, stand_ins: Mapping[int, nn.Module], watched_rows: int, without: Container[int] = ()
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
        if id(module) in without or not isinstance(linear, nn.Linear) or not is_plain(linear, (nn.Linear,)):
            continue
        size = linear.weight.numel()
        if size < _SMALLEST or not Product.suits(linear.weight):
            continue
        vectors = sum(v.gave[0].numel() for v in probe.calls(module) if v.gave) / linear.out_features / watched_rows
        yield Candidate(module, linear, Matrix, PackedLinear.of, _SAVED * vectors * size, size, _PREPARED)
