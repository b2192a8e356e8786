"""Truth is checked when a problem is built, not assumed: each check gives its numbers or refuses the problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.benchmark.games import Values, in_double
from interp_plugins.benchmark.problem import TaskError

FLIPS = 0.99  # share of samples whose output has to change with the planted thing
STAYS = 0.01  # share whose output may change with everything else
_CLOSE = 1e-4


def accuracy(model: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor, at_least: float) -> float:
    """The share of samples that are classified rightly, all at once.

    Raises:
        TaskError: it is below `at_least`.
    """
    with torch.no_grad():
        found = float((model(inputs).argmax(1) == labels).double().mean())
    if found < at_least:
        raise TaskError(f"The net is right in {found:.1%} of {len(labels)} samples; the task asks for {at_least:.0%}.")
    return found


def games(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    baseline: Tensor,
    truth: Mapping[str, Tensor],
    dummies: Sequence[int] = (),
    twins: Sequence[tuple[int, int]] = (),
) -> dict[str, Any]:
    """Check known values: they add up, what never matters has none, and twins have the same.

    Args:
        model: (rows, D) -> (rows, outputs).
        x: (N, D).
        targets: (N,).
        baseline: (1, D).
        truth: game -> (N, D).
        dummies: columns that never matter, which is tried on the model as well.
        twins: pairs of columns that the model cannot tell apart; samples and baseline hold the same in both.

    Returns:
        The largest relative error of the sum.

    Raises:
        TaskError: one of them does not hold.
    """
    values, b = in_double(model, targets), baseline.double().expand(x.shape[0], -1)
    everyone = torch.arange(len(x))
    with torch.no_grad():
        change = values(x.double(), everyone) - values(b, everyone)
    scale = change.abs().max().clamp_min(1e-12)
    worst = 0.0
    for game, one in truth.items():
        error = float((one.double().sum(1) - change).abs().max() / scale)
        worst = max(worst, error)
        if error > _CLOSE:
            raise TaskError(f"The {game} values do not add up: relative error {error:.2g}.")
        for i in dummies:
            if float(one[:, i].abs().max() / scale) > _CLOSE:
                raise TaskError(
                    f"Column {i} never matters, and its {game} value is {float(one[:, i].abs().max()):.2g}."
                )
        for i, j in twins:
            if float((one[:, i] - one[:, j]).abs().max() / scale) > _CLOSE:
                raise TaskError(f"Columns {i} and {j} are twins with other {game} values.")
    never_matter(values, x.double(), dummies, float(scale))
    return {"efficiency_error": worst}


def never_matter(values: Values, x: Tensor, columns: Sequence[int], scale: float) -> None:
    """Refuse columns that move the output when other samples' values are put there, or large ones."""
    everyone = torch.arange(len(x))
    with torch.no_grad():
        clean = values(x, everyone)
        for i in columns:
            for put in (x[:, i].roll(1), torch.full_like(x[:, i], 7.0), torch.full_like(x[:, i], -7.0)):
                other = x.clone()
                other[:, i] = put
                moved = float((values(other, everyone) - clean).abs().max())
                if moved > _CLOSE * scale:
                    raise TaskError(f"Column {i} should never matter, and moves the output by {moved:.2g}.")


def planted(
    model: Callable[[Tensor], Tensor], inputs: Tensor, without: Tensor, rest_swapped: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Whether the planted thing decides: without it the output flips, with everything else exchanged it stays.

    Args:
        model: gives (N, classes).
        inputs: (N, ...) with the planted thing.
        without: the same, the planted thing exchanged.
        rest_swapped: the planted thing as it is, everything else exchanged.

    Returns:
        (N,) bool, the samples of which both are true, and the two shares.

    Raises:
        TaskError: fewer than 99 % flip, or more than 1 % of those that should stay do not.
    """
    with torch.no_grad():
        before, flipped, stayed = (model(v).argmax(1) for v in (inputs, without, rest_swapped))
    flips, moves = before != flipped, before != stayed
    shares = {"flips": float(flips.double().mean()), "rest_flips": float(moves.double().mean())}
    if shares["flips"] < FLIPS or shares["rest_flips"] > STAYS:
        raise TaskError(
            f"The planted thing does not decide: without it {shares['flips']:.1%} of {len(inputs)} outputs flip (at "
            f"least {FLIPS:.0%} have to), with everything else exchanged {shares['rest_flips']:.1%} (at most "
            f"{STAYS:.0%} may)."
        )
    return flips & ~moves, shares


def impossible(model: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, can: Tensor, other: Tensor) -> None:
    """Check that elements outside `can` cannot matter: exchanging them leaves the targets' outputs exactly as they are.

    Args:
        model: gives (N, outputs).
        inputs: (N, ...).
        targets: (N,).
        can: bool of the inputs' shape.
        other: what the elements outside are exchanged for.

    Raises:
        TaskError: an output moves.
    """
    with torch.no_grad():
        pair = [model(v).gather(1, targets[:, None]) for v in (inputs, torch.where(can, inputs, other))]
    if not torch.equal(*pair):
        moved = float((pair[0] - pair[1]).abs().max())
        raise TaskError(f"Elements that cannot matter move the output by {moved:.2g}.")
