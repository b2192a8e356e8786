"""Path integrals to a tolerance: fixed rules over the whole path, each twice as fine, until the map has settled.

The rules are Fejér's second with 7, 15, 31, 63, ... nodes: each has the nodes of the one before among its own, so no
gradient is wasted, and the map that is returned *is* the fixed rule of as many gradients, `method="fejer"` with
`n_steps` of that number. It cannot be worse than that rule, whatever the network does between the nodes; rules that
put nodes where the gradient was seen to change can, because a kink that no node has seen gets none.

How far off is the map? The smaller of two estimates, relative to the map's size:

- With the nodes' gradients g, the gap d between two of them and the border b of their weights in it,

      error^2 = |g_right - g_left|^2 * (integral over the gap of (u - b)^2 du) / d

  is the expected squared error if the gradient jumps anywhere in the gap alike, as that of a net with kinks does.
  Jumps are nearly independent, so squares add up. Before the first node and after the last nothing is seen; as much
  change as elsewhere on the path is assumed.
- Of smooth networks that is far too much: their rules converge exponentially, and what the finer of two rules changed
  is more than what it is off by itself.

Measured behaviour and the check of this estimate against long reference runs: docs/dev/performance.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_plugins.attr.shared.base import batch_scores
from interp_plugins.attr.shared.gradients_in_both import GradientsInBoth, in_lower
from interp_plugins.attr.shared.path import points, times_difference
from interp_plugins.attr.shared.quadrature import quadrature
from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.errors import ConvergenceWarning, InputError
from interp_plugins.core.forward import Forward, gradients
from interp_plugins.core.report import note
from interp_plugins.core.tensors import accumulation_dtype, credit
from interp_plugins.engine import planned

_START = 7  # nodes of the first rule; n nodes are followed by 2 n + 1
_KINKS = 1.4  # the expected error of a few kinks is often exceeded: this covers nine maps of ten
_SMOOTH = 3.0  # what a finer rule changed, and more, for kinks that it hit by luck as the coarser one did
_SLIGHT = 0.25  # of a map's size: where the score changes by less, a share of that change says little
_MEMORY = 2**30  # bytes of stored gradients that one group of samples may take

_Evaluate = Callable[[Sequence[int], Sequence[float]], list[Tensor]]  # samples, positions -> (positions, E) per sample


def check_path_tolerance(tol: float | None, max_steps: int) -> None:
    """Refuse tolerances and caps that make no sense."""
    if tol is not None and not (isinstance(tol, (int, float)) and 0 < tol < 1):
        raise InputError(f"tol must be a relative error between 0 and 1, such as 0.05, got {tol!r}.")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < _START:
        raise InputError(f"max_steps must be an int of at least {_START}, got {max_steps!r}.")


@dataclass
class _Sample:
    """One sample's integral: the finest rule so far, and what is known of its errors."""

    change: Tensor  # flat x - x', over all inputs
    span: float  # F(x) - F(x')
    grads: Tensor | None = None  # (nodes, E), in the order of the path
    mean: Tensor | None = None  # the rule's value
    error: float = math.inf  # estimated relative L2 error of the map
    incompleteness: float = math.inf  # the completeness error relative to the span, at least to a quarter of the size
    used: int = 0  # gradients

    def refine(self, new: Tensor, n: int) -> None:
        """Take the gradients at the n nodes that are not there yet: all at first, then each second one."""
        if self.grads is None:
            self.grads = new
        else:
            both = new.new_empty(n, new.shape[1])
            both[0::2], both[1::2] = new, self.grads
            self.grads = both
        self.used = n
        rule, before = quadrature("fejer", n), self.mean
        weights = torch.tensor(rule.weights, dtype=torch.float64)
        self.mean = weights.to(self.grads) @ self.grads
        size = max(float(credit(self.change, self.mean).norm()), 1e-30)
        moved = math.inf if before is None else float(credit(self.change, self.mean - before).norm())
        self.error = min(_KINKS * self._kinks(torch.tensor(rule.nodes, dtype=torch.float64), weights), _SMOOTH * moved)
        self.error /= size
        delta = float(credit(self.change, self.mean).double().sum()) - self.span
        self.incompleteness = abs(delta) / max(abs(self.span), _SLIGHT * size)

    def _kinks(self, nodes: Tensor, weights: Tensor) -> float:
        """The expected L2 error of the map if all change between two nodes is a jump somewhere between them."""
        assert self.grads is not None
        gaps, borders = nodes.diff(), weights.cumsum(0)[:-1]
        changes = credit(self.change, self.grads[1:] - self.grads[:-1]).norm(dim=1).double().cpu()
        inside = (borders - nodes[:-1]).abs() ** 3 + (nodes[1:] - borders).abs() ** 3
        squares = (changes**2 / gaps * inside / 3).sum()
        ends = 2 * (changes**2).sum() * nodes[0] ** 3 / 3
        return float((squares + ends).sqrt())


def nested_path_gradients(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    tol: float,
    max_steps: int,
    *,
    chunk: int | None = None,
    progress: bool | None = None,
) -> tuple[Tensor, ...]:
    """The mean gradient along the path per input, by rules ever finer until the map's estimated error is below tol."""
    n, device = inputs[0].shape[0], inputs[0].device
    sizes = [x[0].numel() for x in inputs]
    dtype = accumulation_dtype(inputs[0].dtype)
    size = forward.rows_per_pass(inputs, chunk)
    forward, _ = planned(forward, inputs, rows=n * _START, chunk=size, backward=True, states=True)
    group = max(1, int(_MEMORY // (max_steps * sum(sizes) * 4)))
    start, end = (scores.double().tolist() for scores in (batch_scores(forward, b, chunk) for b in (baselines, inputs)))
    first_rule = quadrature("fejer", _START)

    def at(rows: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        return points(inputs, baselines, rows, torch.tensor(first_rule.nodes, dtype=torch.float64)[steps].to(inputs[0]))

    def evaluate(active: Sequence[int], places: Sequence[float]) -> list[Tensor]:
        """The gradients of each of some samples at all these places, (places, E)."""
        samples = torch.tensor(active, device=device).repeat_interleave(len(places))
        alphas = torch.tensor(places, dtype=torch.float64).to(inputs[0].real.dtype).to(device).repeat(len(active))

        def work(first: int, stop: int) -> Tensor:
            rows = samples[first:stop]
            got = gradients(forward, points(inputs, baselines, rows, alphas[first:stop]), rows)
            # (R, ...) per input -> (R, elements of all inputs)
            return torch.cat([g.reshape(stop - first, -1).to(dtype) for g in got.grads], 1)

        return list(torch.cat([part for _, _, part in chunks(len(samples), size, work, bar=bar)]).split(len(places)))

    def run() -> tuple[tuple[Tensor, ...], list[_Sample]]:
        done: list[_Sample] = []
        for first in range(0, n, group):
            some = range(first, min(n, first + group))
            states = {i: _Sample(_change(inputs, baselines, i, dtype), end[i] - start[i]) for i in some}
            _refine_all(states, tol, max_steps, evaluate)
            for state in states.values():
                state.grads = None
            done += states.values()
        flat = torch.stack([state.mean for state in done if state.mean is not None])
        return tuple(p.reshape(x.shape) for p, x in zip(flat.split(sizes, 1), inputs, strict=True)), done

    of_first = first_rule, None, times_difference(inputs, baselines), device
    with progress_bar(0, "gradients", progress) as bar:
        means, done = in_lower(forward, run, lambda lower: GradientsInBoth(forward, lower, at, *of_first))
    errors, used = [state.error for state in done], [state.used for state in done]
    note(map_error=errors, n_gradients=used, per_sample=("map_error", "n_gradients"))
    _warn_unreached(errors, [state.incompleteness for state in done], used, tol, max_steps)
    return means


def _change(inputs: Sequence[Tensor], baselines: Sequence[Tensor], i: int, dtype: torch.dtype) -> Tensor:
    """What sample i is off its baseline, flat, all inputs together."""
    return torch.cat([(x[i] - b[i]).reshape(-1).to(dtype) for x, b in zip(inputs, baselines, strict=True)])


def _refine_all(states: dict[int, _Sample], tol: float, max_steps: int, evaluate: _Evaluate) -> None:
    """Rules of 7, 15, 31, ... nodes for the samples that have not settled."""
    active, n = list(states), _START
    while active and n <= max_steps:
        nodes = quadrature("fejer", n).nodes
        for i, new in zip(active, evaluate(active, nodes if n == _START else nodes[0::2]), strict=True):
            states[i].refine(new, n)
        active = [i for i in active if max(states[i].error, states[i].incompleteness) > tol]
        n = 2 * n + 1


def _warn_unreached(errors: list[float], deltas: list[float], used: list[int], tol: float, max_steps: int) -> None:
    worst = [max(pair) for pair in zip(errors, deltas, strict=True)]
    missed = [i for i, e in enumerate(worst) if e > tol]
    if missed:
        i = max(missed, key=worst.__getitem__)
        what = "estimated error of the map" if errors[i] >= deltas[i] else "completeness error"
        warnings.warn(
            f"tol={tol} was not reached for {len(missed)} of {len(errors)} samples within max_steps={max_steps} "
            f"gradients: the worst {what} is {worst[i]:.3g} (sample {i}, {used[i]} gradients). Raise max_steps or tol.",
            ConvergenceWarning,
            stacklevel=4,
        )
