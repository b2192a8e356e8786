"""Insertion and deletion curves of an explanation, as the page draws them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.prediction import predict
from interp_plugins.core.baseline import BASELINES, as_baselines
from interp_plugins.core.enlarged import over_input
from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.multi_target import asked_targets
from interp_plugins.core.random import make_generator
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Probability
from interp_plugins.core.tensors import check_inputs
from interp_plugins.metrics import removal_curves

STEPS = 20


def curves_of(
    exp: Explanation,
    which: int,
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    *,
    target: Any = None,
    baselines: Any = None,
    input_spec: InputSpec | None = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
    activation: Any = None,
    threshold: float | None = None,
    seed: int = 0,
    **rest: Any,
) -> dict[str, Any]:
    """Curves of the explanation of one sample; the arguments are those of `interp_plugins.explain`.

    They are of the probability of the explained class, or of the explained score where the outputs are no classes. What
    is removed becomes the baseline: that which is given, else black for pictures and zero for anything else.

    Args:
        exp: the explanation.
        which: its number among the targets of its question.
        model: the model.
        inputs: the sample, a batch of one.
        target: what was asked for.
        baselines: what replaces the parts that are removed.
        input_spec: kind of data, normalisation and class names.
        additional_forward_args: further arguments.
        forward_kwargs: further arguments by name.
        output: which part of the output is explained.
        activation: output -> probabilities.
        threshold: of labels that do not exclude each other.
        seed: of random baselines and models.
        **rest: not used.

    Raises:
        InputError: a map that does not lie on the inputs.
    """
    func = Call(model, forward_kwargs, output) if forward_kwargs or output is not None else model
    with frozen(func, seed=seed):
        xs = check_inputs(inputs)
        spec = input_spec or InputSpec.guess(xs[0])
        forward = Forward.of(func, 1, additional_forward_args=additional_forward_args)
        prediction = predict(forward, xs, activation, threshold, names=spec.vocab)
        asked = asked_targets(target, prediction, spec, 1)[which]
    likely = asked.indices is not None and prediction.probabilities is not None
    score = asked.target
    if likely:
        score = Probability(score.of_probabilities(), prediction.activation)
    if baselines is None and spec.kind == "image":
        baselines = "black"
    references = as_baselines(baselines, xs, spec, make_generator(seed), template=inputs)
    found = removal_curves(
        func,
        xs,
        tuple(maps_on(exp, xs)),
        references,
        target=score,
        additional_forward_args=additional_forward_args,
        steps=STEPS,
        seed=seed,
    )
    return {
        "of": "probability" if likely else "score",
        "baseline": _name(baselines),
        "fraction": found.fraction.tolist(),
        "deletion": found.deletion[0].tolist(),
        "insertion": found.insertion[0].tolist(),
        "deletionArea": float(found.deletion_auc[0]),
        "insertionArea": float(found.insertion_auc[0]),
    }


def _name(baselines: Any) -> str:
    if baselines is None:
        return "zero"
    return baselines if isinstance(baselines, str) and baselines in BASELINES else "the baseline"


def maps_on(exp: Explanation, xs: tuple[Tensor, ...]) -> list[Tensor]:
    """One map per input, whose elements can be removed: pixels of a picture, tokens, columns.

    Raises:
        InputError: a map of another shape (a layer's units).
    """
    maps = exp.attributions if isinstance(exp.attributions, tuple) else (exp.attributions,)
    if len(maps) == len(xs) and len(maps) > 1 and all(_lies_on(a, x) for a, x in zip(maps, xs)):
        return [_shared(a, x) for a, x in zip(maps, xs)]
    if len(xs) == 1 and xs[0].ndim == 4 and exp.attribution.ndim in (3, 4):
        return [torch.from_numpy(exp.heatmap(0).copy())[None, None]]
    if len(xs) == 1 and len(maps) == 1 and _lies_on(over := over_input(exp)[0], xs[0]):
        return [_shared(over, xs[0])]
    columns = [x.shape[1] for x in xs if x.ndim == 2]
    if len(columns) == len(xs) and len(maps) == 1 and maps[0].ndim == 2 and maps[0].shape[1] == sum(columns):
        return list(maps[0].split(columns, dim=1))
    raise InputError(
        f"The map of shape {tuple(exp.attribution.shape)} does not lie on the input "
        f"({', '.join(str(tuple(x.shape)) for x in xs)}), so no part of the input can be removed by it."
    )


def _lies_on(a: Tensor, x: Tensor) -> bool:
    return a.ndim == x.ndim and all(m in (1, n) for m, n in zip(a.shape, x.shape))


def _shared(a: Tensor, x: Tensor) -> Tensor:
    """Pixels of a picture are removed with all their channels."""
    return a.sum(1, keepdim=True) if x.ndim == 4 else a
