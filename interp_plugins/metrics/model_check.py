"""Is there anything to explain? A net that has learnt nothing is explained as faithfully as any other, and in vain.

Two checks. With labels: is the model right more often than the most frequent class would be? Without: do its answers
tell the samples apart better than the same net does with its weights shuffled? What an answer says of its sample is the
mutual information of sample and class, H(mean p) - mean H(p): 0 where all samples get the same probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.prediction import predict
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.other_weights import held_by, is_drawable, other_weights
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.tensors import check_inputs
from interp_plugins.metrics.comparison import Check
from interp_plugins.metrics.redrawn import drawn_anew

SHUFFLES = 4
FACTOR = 2.0  # what the model says must be so many times what its shuffled weights say
LEARNT = "has learnt something"


def asked_again(
    func: Callable[..., Any], inputs: Any, args: Any = None, *, shuffles: int = SHUFFLES, seed: int = 0, **known: Any
) -> list[Tensor] | None:
    """Probabilities (N, C) by the model, then by so many copies with shuffled weights; None: it gives no classes.

    Args:
        func: the model as a function of the inputs by position.
        inputs: a tensor or a tuple of them.
        args: further arguments of the model.
        shuffles: how often the weights are shuffled.
        seed: of the shuffles.
        **known: `activation` and `threshold`, as for `interp_plugins.explain`.
    """
    with frozen(func, seed=seed):
        xs = check_inputs(inputs)

        def answer() -> Tensor | None:
            forward = Forward.of(func, xs[0].shape[0], additional_forward_args=args)
            forward.samples = xs
            return _classes(predict(forward, xs, known.get("activation"), known.get("threshold")))

        first = answer()
        if first is None:
            return None
        found = [first]
        places = [place for place in held_by(func) if is_drawable(place)]
        for draw in range(shuffles):
            with other_weights(func, places, drawn_anew(places, "permute", seed, draw)):
                again = answer()
            found.append(torch.full_like(first, 1 / first.shape[1]) if again is None else again)
    return found


def _classes(prediction: Prediction) -> Tensor | None:
    p = prediction.probabilities
    return None if p is None or p.ndim != 2 or p.shape[1] < 2 else p.detach().double().cpu()


def told_apart(probabilities: Tensor) -> float:
    """What a class says of its sample, in nats: H(mean p) - mean H(p), over rows (N, C) that sum to one.

    Example:
        told_apart(torch.eye(2))  # -> 0.6931472
    """
    rows = probabilities.double()
    rows = rows / rows.sum(1, keepdim=True)
    mean = torch.special.entr(rows.mean(0)).sum()
    return max(0.0, (mean - torch.special.entr(rows).sum(1).mean()).item())


def learnt(answers: Sequence[Tensor] | None, labels: Tensor | None, why_not: str = "") -> list[Check]:
    """The checks of the model.

    Args:
        answers: probabilities by the model, then by shuffled copies; None: they could not be had.
        labels: the class of each sample, -1 without one; None: not known.
        why_not: what kept the answers from being had.
    """
    if answers is None:
        return [Check(LEARNT, None, f"Whether the model has learnt anything was not tested: {why_not}.")]
    own, shuffled = told_apart(answers[0]), [told_apart(one) for one in answers[1:]]
    most = max(shuffled, default=0.0)
    passed = own > FACTOR * most and own > 1e-6
    verb = "tell" if passed else "do not tell"
    found = [
        Check(
            LEARNT,
            passed,
            f"The model's answers {verb} the {len(answers[0])} samples apart better than those of the same net with "
            f"shuffled weights: a class says {own:.2g} nats of its sample, and at most {most:.2g} after each of "
            f"{len(shuffled)} shuffles (asked for: {FACTOR:g} times as much).",
        )
    ]
    return found + ([] if labels is None else [_right(answers[0], labels)])


def _right(probabilities: Tensor, labels: Tensor) -> Check:
    """Whether the model is right more often than the most frequent class: a one-sided binomial test."""
    known = labels >= 0
    n = int(known.sum())
    if n == 0:
        return Check("is right", None, "Whether the model is right was not tested: no sample has a label.")
    hits = int((probabilities.argmax(1)[known] == labels[known]).sum())
    share = torch.bincount(labels[known]).max().item() / n
    p = _at_least(hits, n, share)
    return Check(
        "is right",
        p < 0.05,
        f"The model is right on {hits} of {n} samples ({hits / n:.0%}); the most frequent class would be on "
        f"{share:.0%} (p = {p:.2g}, binomial test).",
    )


def _at_least(hits: int, n: int, share: float) -> float:
    """The chance of so many hits or more in n trials of this share."""
    if share >= 1:
        return 1.0
    whole = math.lgamma(n + 1)
    ways = ((k, whole - math.lgamma(k + 1) - math.lgamma(n - k + 1)) for k in range(hits, n + 1))
    logs = [log + k * math.log(share) + (n - k) * math.log1p(-share) for k, log in ways]
    return min(1.0, math.fsum(math.exp(v) for v in logs))


def not_had(error: InputError) -> str:
    """Why answers could not be had, as part of a sentence."""
    return " ".join(str(error).split()).rstrip(".")
