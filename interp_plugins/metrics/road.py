"""ROAD: is the class still seen when the pixels that matter most, or least, are filled in from their neighbours?

What is removed leaves no edge of a constant colour behind, from which a model could read the removed shape.

Reference: Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, 2022, arXiv:2202.00449.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.metrics.asking import Questions, about, asking, check_values, probability_of
from interp_plugins.metrics.draws import mixed, sample_numbers
from interp_plugins.metrics.imputed import imputed
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.removed import feature_ranks
from interp_plugins.metrics.rows import as_rows
from interp_plugins.metrics.sheet import digest
from interp_plugins.metrics.undefined import defined

PERCENTAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
OPTIONS = ("target", "additional_forward_args", "reduce", "ties", "batch_size", "seed", "ids")
ORDERS, MEASURES = ("morf", "lerf", "both"), ("accuracy", "probability")


@dataclass(frozen=True)
class RoadCurves:
    """What `road_curves` gives; P percentages.

    Attributes:
        percentages: of the pixels that are filled in.
        morf: (N, P) float64, what is kept when the most relevant pixels go first: small is good. NaN where not asked.
        lerf: (N, P) float64, when the least relevant do: large is good.
    """

    percentages: tuple[float, ...]
    morf: Tensor
    lerf: Tensor


class _Fills:
    """Pictures with pixels filled in, numbered (sample, order, percentage).

    A picture begins from the one with the percentage before, so its sequence is run through from the first; what the
    last rows ended with is kept, for the next go on from there.

    Args:
        questions: the model and the batch.
        axis: where the channels are.
        ranks: int64 (N, H * W), when each pixel goes.
        counts: per percentage, pixels that go.
        least: per order, whether the least relevant go first.
        sd: of the noise, as a share of the sample's spread.
        numbers: of the samples, for their noise.
    """

    def __init__(
        self,
        questions: Questions,
        axis: int,
        ranks: Tensor,
        counts: Sequence[int],
        least: Sequence[bool],
        sd: float,
        numbers: Tensor,
    ):
        self.dtype = questions.xs[0].dtype
        wide = torch.promote_types(self.dtype, torch.float32)  # half precision does not solve the systems
        x, b = (t[0].movedim(axis, 1).to(wide) for t in (questions.xs, questions.references))
        self.axis, self.flat = axis, x.ndim == 3  # a series is a picture one pixel high
        self.x, self.b = ((t.unsqueeze(2) if self.flat else t).contiguous() for t in (x, b))
        self.ranks = ranks.to(x.device).reshape(-1, 1, *self.x.shape[2:])
        self.counts, self.least, self.places = counts, least, self.ranks[0].numel()
        flat = x.flatten(1)
        self.scale = (flat.amax(1) - flat.amin(1)) * sd
        n, orders, p = len(x), len(least), len(counts)
        self.rows = torch.arange(n).repeat_interleave(orders * p)
        draws = torch.arange(orders * p)
        self.seeds = mixed(numbers.expand(n)[:, None] + mixed(draws)[None]).flatten() & (2**63 - 1)
        self._last: dict[int, tuple[int, Tensor]] = {}

    def removed(self, pairs: Tensor, p: int) -> Tensor:
        """Which pixels go: pairs (sample, order) -> bool (R, 1, H, W)."""
        orders = len(self.least)
        ranks = self.ranks[(pairs // orders).to(self.ranks.device)]
        least = torch.tensor(self.least)[pairs % orders].to(ranks.device)[:, None, None, None]
        return torch.where(least, ranks >= self.places - self.counts[p], ranks < self.counts[p])

    def changed(self, at: Tensor) -> list[Tensor]:
        """The pictures of some rows, in ascending order."""
        per = len(self.counts)
        pairs, steps = at // per, at % per
        found = torch.empty(len(at), *self.x.shape[1:], dtype=self.x.dtype, device=self.x.device)
        everyone = pairs.unique()
        ends: dict[int, int] = {}
        for pair, step in zip(pairs.tolist(), steps.tolist()):
            ends[pair] = max(step, ends.get(pair, 0))
        begun = {pair: self._last[pair][0] + 1 for pair in ends if pair in self._last}
        firsts = {pair: int(steps[pairs == pair].min()) for pair in ends}
        begun = {pair: step for pair, step in begun.items() if step <= firsts[pair]}
        state = {pair: self._last[pair][1] for pair in begun}
        for p in range(per):
            now = [pair for pair in everyone.tolist() if begun.get(pair, 0) <= p <= ends[pair]]
            if not now:
                continue
            chosen = torch.tensor(now)
            who = (chosen // len(self.least)).to(self.x.device)
            start = torch.stack([state[pair] for pair in now]) if p else None
            filled = imputed(self.x[who], self.removed(chosen, p), self.b[who], start)
            state.update(zip(now, filled))
            for row in (steps == p).nonzero().flatten().tolist():
                found[row] = self._noisy(state[int(pairs[row])], int(at[row]), p)
        self._last = {pair: (ends[pair], state[pair]) for pair in ends}
        found = found.squeeze(2) if self.flat else found
        return [found.movedim(1, self.axis).to(self.dtype)]

    def _noisy(self, picture: Tensor, row: int, p: int) -> Tensor:
        """A picture with noise on what was filled in."""
        if not float(self.scale.max()):
            return picture
        generator = torch.Generator().manual_seed(int(self.seeds[row]))
        noise = torch.randn(picture.shape, generator=generator).to(picture)
        pair = torch.tensor([row // len(self.counts)])
        scale = self.scale[int(self.rows[row])]
        return torch.where(self.removed(pair, p)[0], picture + scale * noise, picture)


def road_curves(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    percentages: Sequence[float] = PERCENTAGES,
    order: str = "both",
    measure: str = "accuracy",
    sd: float = 0.01,
    target: Any = None,
    additional_forward_args: Any = None,
    reduce: str = "sum",
    ties: str = "random",
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> RoadCurves:
    """What of the class is kept when a growing share of the pixels is filled in from their neighbours.

    A removed pixel becomes the weighted mean of its eight neighbours (1/6 for sides, 1/12 for corners), which may be
    removed themselves: the linear system is solved, and noise is added.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: pictures (N, C, H, W) or series (N, C, T); or an `Explanation`.
        attributions: maps; None: the `Explanation`'s.
        baselines: what stands for a picture of which every pixel goes (100 %); None: the `Explanation`'s, or zeros.
        percentages: of the pixels that go, in (0, 100].
        order: "morf", the most relevant first; "lerf", the least; "both".
        measure: "accuracy": 1 where the largest output stays the same (of a single output, its sign); "probability":
            the score as a share of the clean one.
        sd: standard deviation of the noise, as a share of the sample's spread.
        target: the score, of "probability": a class, whose probability is the softmax over axis 1, or a function of
            the output.
        additional_forward_args: further arguments of the model.
        reduce: how channels become one value per pixel.
        ties: which of equal values goes first.
        batch_size: rows per pass.
        seed: of noise and ties.
        ids: int64 (N,), numbers of the samples for their draws.

    Raises:
        InputError: no pictures, or percentages outside of (0, 100].
        UnknownNameError: another order or measure.

    Example:
        road_curves(model, x, exp.attribution, percentages=(20, 50), order="morf").morf.shape  # -> (2, 2)
    """
    return _curves(
        (forward_func, inputs, attributions, baselines),
        percentages,
        order,
        measure,
        sd,
        target,
        reduce,
        {"additional_forward_args": additional_forward_args, "batch_size": batch_size, "seed": seed},
        (ties, seed, ids),
    )[0]


def class_number(output: Tensor) -> Tensor:
    """The largest output's number, float64 (R,); of a single output, whether it is positive.

    Args:
        output: of the model, (R, ...).
    """
    if output.ndim < 2 or output.shape[1] == 1:
        return (output.reshape(len(output), -1)[:, 0] > 0).to(torch.float64)
    return output.argmax(1).reshape(len(output), -1)[:, 0].to(torch.float64)


def _curves(
    given: tuple[Any, ...],
    percentages: Sequence[float],
    order: str,
    measure: str,
    sd: float,
    target: Any,
    reduce: str,
    options: dict[str, Any],
    draws: tuple[str, int, Tensor | None],
) -> tuple[RoadCurves, Tensor, Tensor]:
    """The curves, the maps as rows, and whether the clean score of "probability" is 0 (N,)."""
    shares = tuple(percentages)
    _check(shares, order, measure, sd)
    if measure == "accuracy":
        target = class_number
    what = about(given[1], given[2], given[3], target, reduce)
    axis = _channel_axis(given[1], what.maps)
    maps = as_rows(what.maps)
    if measure == "probability":
        what = what.with_target(probability_of(what.target, len(maps)))
    ranks, _ = feature_ranks(what.maps, None, *draws)
    least = {"morf": (False,), "lerf": (True,), "both": (False, True)}[order]
    counts = [max(1, round(maps.shape[1] * share / 100)) for share in shares]
    with asking(given[0], what, **options) as questions:
        check_values(questions.xs, "srg or sufficiency")
        fills = _Fills(questions, axis, ranks, counts, least, float(sd), sample_numbers(draws[1], draws[2]))
        name = ("road", digest((ranks, draws[2])), shares, least, sd, draws[1])
        clean = questions.whole([m.shape[1:] for m in what.maps])[:, None, None]
        found = questions.changed(name, fills.rows, fills.changed).reshape(-1, len(least), len(shares))
    kept = (found == clean).double() if measure == "accuracy" else found / clean
    nothing = torch.full_like(kept[:, 0], torch.nan)
    morf, lerf = kept[:, 0] if order != "lerf" else nothing, kept[:, -1] if order != "morf" else nothing
    return RoadCurves(shares, morf, lerf), maps, (clean == 0).flatten() & (measure == "probability")


def _check(shares: tuple[float, ...], order: str, measure: str, sd: Any) -> None:
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    if not shares or any(isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 < p <= 100 for p in shares):
        raise InputError(f"percentages must be numbers in (0, 100], at least one of them; got {shares!r}.")
    if list(shares) != sorted(shares):
        raise InputError(f"percentages must ascend, since each picture begins from the one before; got {shares!r}.")
    if isinstance(sd, bool) or not isinstance(sd, (int, float)) or not sd >= 0:
        raise InputError(f"sd must be a share of the sample's spread, from 0 up; got {sd!r}.")


def _channel_axis(inputs: Any, maps: tuple[Tensor, ...]) -> int:
    """Where the channels are."""
    shape = tuple(maps[0].shape)
    axis = inputs.spec.channel_axis(len(shape)) if isinstance(inputs, Explanation) else 1
    if len(maps) != 1 or len(shape) not in (3, 4) or axis is None or shape[axis] != 1:
        raise InputError(
            f"Pixels are filled in from their neighbours in pictures (N, C, H, W) or series (N, C, T), with one value "
            f"per place (reduce=); got maps of shapes {[tuple(m.shape) for m in maps]}."
        )
    return axis


@register_metric(
    "road",
    kind="faithfulness",
    needs="order",
    higher_is_better=True,
    chance=0.0,
    direction=lambda params: params.get("order", "both") != "morf",
    reference="Rong et al. 2022, arXiv:2202.00449",
    cost="2 percentages + 1",
    says="share still classified alike, pixels filled in from neighbours: least first - most first",
    options=OPTIONS,
)
def road(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    percentages: Sequence[float] = PERCENTAGES,
    order: str = "both",
    measure: str = "accuracy",
    sd: float = 0.01,
    **options: Any,
) -> Tensor:
    """Mean over percentages of what is kept with the least relevant pixels filled in, less that with the most relevant.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: pictures (N, C, H, W) or series (N, C, T); or an `Explanation`.
        attributions: maps; None: the `Explanation`'s.
        baselines: what stands for a picture of which every pixel goes (100 %).
        percentages: of the pixels that go, in (0, 100], ascending.
        order: "both"; "morf", the most relevant alone (small is good); "lerf", the least alone (large is good).
        measure: "accuracy": 1 where the largest output stays the same (of a single output, its sign); "probability":
            the score as a share of the clean one.
        sd: standard deviation of the noise, as a share of the sample's spread.
        **options: as for `road_curves`.

    Returns:
        (N,) float64, in [-1, 1] for accuracy of "both".

    Raises:
        InputError: no pictures, or percentages outside of (0, 100].
        UnknownNameError: another order or measure.

    Example:
        road(model, x, exp.attribution, percentages=(20, 50)).shape  # -> (2,)
    """
    known = {"target": None, "reduce": "sum", "ties": "random", "seed": 0, "ids": None, **options}
    passed = {k: v for k, v in options.items() if k in ("additional_forward_args", "batch_size", "seed")}
    curves, maps, nothing = _curves(
        (forward_func, inputs, attributions, baselines),
        percentages,
        order,
        measure,
        sd,
        known["target"],
        known["reduce"],
        passed,
        (known["ties"], known["seed"], known["ids"]),
    )
    count = len(curves.percentages)
    morf, lerf = (c.cumsum(1)[:, -1] / count for c in (curves.morf, curves.lerf))
    values = {"morf": morf, "lerf": lerf, "both": lerf - morf}[order]
    return defined(values, maps, {"the clean score is 0": nothing})
