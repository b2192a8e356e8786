"""What is asked of a batch, found once: for whoever explains it several times, or asks the model about its maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from interp_plugins.api.arranged import arranged, positional
from interp_plugins.api.prediction import predict
from interp_plugins.core.errors import TargetError
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.multi_target import asked_targets
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.similar import activation_for
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.target import Asked, FromPrediction, Target
from interp_plugins.core.tensors import check_inputs

_NAMED = 4  # targets that an error names


class Given(FromPrediction):
    """A target that was resolved before, so that every call explains the same.

    Args:
        asked: what it was resolved to.
    """

    def __init__(self, asked: Asked):
        self.asked = asked

    def at(self, rows: torch.Tensor | None) -> Target:
        """The target of some of the samples."""
        return self if rows is None else Given(asked_of_rows(self.asked, rows.tolist()))

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """What it was resolved to."""
        return self.asked


def asked_of_rows(asked: Asked, rows: list[int]) -> Asked:
    """What is asked of some of the samples.

    Args:
        asked: of all of them.
        rows: their numbers.
    """
    index = torch.tensor(rows)
    region = asked.region
    return Asked(
        asked.target.at(index),
        None if asked.indices is None else tuple(asked.indices[r] for r in rows),
        tuple(asked.labels[r] for r in rows),
        None if asked.classes is None else tuple(asked.classes[r] for r in rows),
        None if region is None else region[index.to(region.device)],
    )


@dataclass(frozen=True)
class AskedBatch:
    """A model and a batch as `interp_plugins.explain` takes them, and as metrics do.

    Attributes:
        func: the model as a function of the inputs by position, which gives a tensor.
        inputs: a tensor, or a tuple for several.
        asked: what is asked of each sample.
        spec: what is known of the inputs; None: nothing was said.
    """

    func: Callable[..., Any]
    inputs: Any
    asked: Asked
    spec: InputSpec | None


def ask_each(
    model: Callable[..., Any],
    inputs: Any,
    target: Any = None,
    *,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
    input_spec: InputSpec | None = None,
    activation: Any = None,
    threshold: float | None = None,
    seed: int = 0,
    alone: bool = False,
) -> list[AskedBatch]:
    """Run the model once on every sample and settle what is asked: an entry per explanation of a sample, in order.

    Args:
        model: an `nn.Module` or any callable.
        inputs: a tensor, a tuple of tensors, or a dict of them by name, batch first.
        target: what is explained, in any form that `interp_plugins.explain` takes; several are several entries.
        additional_forward_args: further positional arguments of the model.
        forward_kwargs: keyword arguments of the model.
        output: which part of the model's output is the output.
        input_spec: kind of data, normalisation, class names; None: nothing is known.
        activation: output -> probabilities; None: softmax over dimension 1.
        threshold: the probability above which a label is predicted; None: labels exclude each other.
        seed: of models that draw random numbers.
        alone: where labels do not exclude each other and none is named, ask for each sample's most probable one, so
            that no sample depends on another; else for each label that is predicted of any.

    Raises:
        TargetError: there is nothing of the kind that is asked.
    """
    func, _, xs, kwargs = positional(model, inputs, forward_kwargs)
    plain = Call(func, kwargs, output) if kwargs or output is not None else func
    given = arranged(model, inputs, (), {}, input_spec, None, None, forward_kwargs, output)
    with frozen(given.func, seed=seed):
        checked = check_inputs(given.inputs)
        n = checked[0].shape[0]
        clean = Forward.of(given.func, n, additional_forward_args=additional_forward_args)
        clean.samples = checked
        spec = as_spec(given.spec, checked[0], aloud=False)
        prediction = predict(clean, checked, activation_for(target, activation), threshold, False, spec.vocab)
        if spec.vocab is not None and prediction.count not in (None, len(spec.vocab)):
            spec = replace(spec, vocab=None)  # `explain` says so
        one = alone and target is None and prediction.several is not None
        found = [_most_probable(prediction, spec)] if one else asked_targets(target, prediction, spec, n)
    return [AskedBatch(plain, xs, asked, input_spec) for asked in found]


def ask_once(model: Callable[..., Any], inputs: Any, target: Any = None, **options: Any) -> AskedBatch:
    """Run the model once on every sample and settle what is asked: one number per sample.

    Where labels do not exclude each other and none is named, it is each sample's most probable label, so that no sample
    depends on another.

    Args:
        model: an `nn.Module` or any callable.
        inputs: a tensor, a tuple of tensors, or a dict of them by name, batch first.
        target: what is explained, in any form that `interp_plugins.explain` takes for one explanation per sample.
        **options: further arguments of `ask_each`.

    Raises:
        TargetError: several explanations per sample.
    """
    found = ask_each(model, inputs, target, alone=True, **options)
    if len(found) != 1:
        names = [*(str(one.asked.labels[0]) for one in found[:_NAMED]), *["..."] * (len(found) > _NAMED)]
        raise TargetError(
            f"{len(found)} explanations per sample are asked for ({', '.join(names)}), and a score is of one. Name it: "
            "target= a class, an output's index or name, or a function output -> (N,)."
        )
    return found[0]


def _most_probable(prediction: Prediction, spec: InputSpec) -> Asked:
    assert prediction.classes is not None
    return Asked.of_classes(prediction.classes, spec, prediction)
