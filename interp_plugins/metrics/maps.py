"""Maps of every method for a batch: explained once for all metrics, and no sample's map depends on its batch mates.

Methods that draw random numbers are asked about one sample at a time, by a seed made of the run's and the sample's id.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.asking import AskedBatch, Given, ask_once
from interp_plugins.api.binding import (
    DEFAULT_METHODS,
    DEFAULT_METHODS_OF_ROWS,
    arguments_of,
    as_pairs,
    canonical_name,
    draws,
    layer_variant,
    method_info,
)
from interp_plugins.api.explain import explain
from interp_plugins.api.samples import SampleBatch
from interp_plugins.attr.shared.defaults import path_defaults
from interp_plugins.core.baseline import IdBaseline, Sample, as_baselines
from interp_plugins.core.concat import joined
from interp_plugins.core.errors import InputError, InputTypeError, did_you_mean
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.random import make_generator, sample_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple, like, take_rows
from interp_plugins.metrics.asked_rows import PREDICTION, map_of
from interp_plugins.metrics.controls import control_maps, fits

_OWN = frozenset(inspect.signature(explain).parameters) - {"params"}
_ASKED = ("additional_forward_args", "forward_kwargs", "output", "input_spec", "activation", "threshold")
_OF_ONE = ("zero", "black", "mean", "blur")  # baselines that a sample decides by itself, also among others
Rows = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Method:
    """A method as it was named, with the parameters that it takes of those given.

    Attributes:
        what: a name or an object.
        params: its parameters.
        drawing: whether it is explained sample by sample.
    """

    what: Any
    params: Mapping[str, Any]
    drawing: bool


@dataclass(frozen=True)
class Mapped:
    """A batch with its maps.

    Attributes:
        batch: the samples.
        subject: the model as metrics ask it, and what is asked of each sample; None: there is no model.
        maps: label -> explanation, its inputs where the model is.
        methods: label -> how its maps are made; none for controls.
        references: what replaces the inputs where something is removed, in their layout.
        rows: what the maps cost, forward and backward.
    """

    batch: SampleBatch
    subject: AskedBatch | None
    maps: Mapping[str, Explanation]
    methods: Mapping[str, Method]
    references: Any
    rows: Rows


def mapped(batch: SampleBatch, methods: Any, controls: Sequence[str], options: Mapping[str, Any], seed: int) -> Mapped:
    """Explain a batch by every method, and add the controls.

    Args:
        batch: the samples.
        methods: as for `interp_plugins.explain`.
        controls: of `controls.CONTROLS`; those that do not fit the data are left out.
        options: further arguments of `interp_plugins.explain`, the methods' parameters among them.
        seed: of all draws.

    Raises:
        InputTypeError: a parameter that no method takes.
        InputError: a baseline that depends on the batch.
    """
    own = {k: v for k, v in options.items() if k in _OWN}
    params = {k: v for k, v in options.items() if k not in _OWN}
    subject = ask_once(batch.model, batch.inputs, batch.target, seed=seed, **asked_of(own))
    xs, n = as_tuple(subject.inputs), len(batch)
    many = _methods(methods, subject.spec or InputSpec.guess(xs[0]), own, params)
    exps, calls = _explained(batch, subject, many, own, seed)
    spec = exps[0].spec if len(exps) else subject.spec or InputSpec.guess(xs[0])
    references = references_of(own.get("baselines"), xs, spec, subject.inputs, batch, seed)
    maps = {label: replace(exp, inputs=subject.inputs) for label, exp in zip(exps.labels, exps)}
    rows = {PREDICTION: ((1 + calls) * n, 0)}
    for label, exp in maps.items():
        rows[map_of(label)] = (exp.meta.get("forward_passes", 0), exp.meta.get("backward_passes", 0))
    region = None if subject.asked.region is None else subject.asked.region.cpu()
    facts = {"target": subject.asked.indices, "target_label": subject.asked.labels, "spec": spec, "region": region}
    maps |= beside(controls, subject.inputs, references, facts, batch.keys, seed)
    named = dict(zip(exps.labels, many))
    return Mapped(batch, subject, maps, named, like(subject.inputs, references), rows)


def _methods(methods: Any, spec: InputSpec, own: Mapping[str, Any], params: Mapping[str, Any]) -> list[Method]:
    """The methods, each with what it takes of the shared parameters."""
    if methods is None:
        methods = DEFAULT_METHODS_OF_ROWS if spec.kind in ("tabular", "text") else DEFAULT_METHODS
    found: list[Method] = []
    taken: set[str] = set()
    known: set[str] = set()
    for what, given in as_pairs(methods):
        takes = _takes(what, own.get("layer"))
        mine = {k: v for k, v in params.items() if k in takes}
        found.append(Method(what, {**mine, **given}, draws([what], {**own, **mine, **given})))
        taken |= set(mine)
        known |= takes
    left = sorted(set(params) - taken)
    if left:
        raise InputTypeError(
            f"No method takes {left[0]!r}.{did_you_mean(left[0], known | _OWN)} What is no argument of "
            "interp_plugins.explain must be a parameter of one of the methods."
        )
    return found


def asked_methods(methods: Any, spec: InputSpec, options: Mapping[str, Any]) -> list[Method]:
    """Methods, each with those of the options that it takes and with those of `interp_plugins.explain`.

    Args:
        methods: as for `interp_plugins.explain`; None: its defaults for such data.
        spec: what is known of the inputs.
        options: arguments of `explain` and parameters of the methods.

    Raises:
        InputTypeError: a parameter that no method takes.
    """
    own = {k: v for k, v in options.items() if k in _OWN}
    params = {k: v for k, v in options.items() if k not in _OWN}
    return [replace(one, params={**own, **one.params}) for one in _methods(methods, spec, own, params)]


def taken(what: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of several methods' options that one method takes, and those of `interp_plugins.explain`.

    Args:
        what: a name or an object.
        options: arguments of `explain` and of methods.
    """
    takes = _OWN | _takes(what, options.get("layer"))
    return {k: v for k, v in options.items() if k in takes}


def asked_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments of `interp_plugins.explain` that say what is asked of the model."""
    return {k: options[k] for k in _ASKED if k in options}


def _takes(what: Any, layer: Any) -> frozenset[str]:
    if not isinstance(what, str):
        return arguments_of(what)
    info = method_info(layer_variant(canonical_name(what)) if layer is not None else what)
    return arguments_of(info.name) | info.constructor_takes


def _explained(
    batch: SampleBatch, subject: AskedBatch, methods: Sequence[Method], own: Mapping[str, Any], seed: int
) -> tuple[Explanations, int]:
    """An explanation per method in the order given, and how many clean passes were made for them."""
    found: dict[int, Explanation] = {}
    common = {**own, "progress": False}
    target = Given(subject.asked)
    groups = _groups([i for i, m in enumerate(methods) if not m.drawing], methods)
    for group in groups:
        made = _explain(batch, [methods[i] for i in group], target, common, seed)
        found.update(zip(group, made))
    alone = _groups([i for i, m in enumerate(methods) if m.drawing], methods)
    for group in alone:
        parts = []
        for at, key in enumerate(batch.keys):
            one = target.at(torch.tensor([at]))
            kept = {k: v for k, v in common.items() if k not in batch.options}
            row = batch.rows([at])
            parts.append(
                _explain(row, [methods[i] for i in group], one, {**kept, **row.options}, sample_seed(seed, key))
            )
        found.update(zip(group, (joined(column) for column in zip(*parts, strict=True))))
    return Explanations([found[i] for i in range(len(methods))]), len(groups) + len(alone)


def _groups(chosen: Sequence[int], methods: Sequence[Method]) -> list[list[int]]:
    """Methods that one call of `explain` can name: each once."""
    groups: list[list[int]] = []
    for i in chosen:
        free = next((g for g in groups if all(methods[j].what is not methods[i].what for j in g)), None)
        if free is None or (isinstance(methods[i].what, str) and any(methods[j].what == methods[i].what for j in free)):
            groups.append([i])
        else:
            free.append(i)
    return groups


def _explain(
    batch: SampleBatch, methods: Sequence[Method], target: Any, options: Mapping[str, Any], seed: int
) -> list[Explanation]:
    named = {m.what: dict(m.params) for m in methods}
    return list(explain(batch.model, batch.inputs, named, target=target, seed=seed, **options))


def references_of(
    baselines: Any, xs: tuple[Tensor, ...], spec: InputSpec, template: Any, batch: SampleBatch, seed: int
) -> tuple[Tensor, ...]:
    """What replaces the inputs, sample by sample where it depends on more than the sample."""
    if baselines is None:
        baselines = path_defaults(xs, spec).get("baselines")
    many = baselines if isinstance(baselines, tuple) else (baselines,) * len(xs)
    if any(isinstance(b, str) and b == "mean" and x.ndim < 3 for b, x in zip(many, xs)):
        raise InputError(
            "The baseline 'mean' of rows without places is that of the batch, and no score may depend on it: give the "
            "mean of the data as a tensor, or core.baseline.Sample(rows)."
        )
    known = (int, float, Tensor, Sample, IdBaseline)
    if all(b is None or isinstance(b, known) or b in _OF_ONE for b in many):
        return as_baselines(baselines, xs, spec, template=template)
    n, parts = len(batch), []
    for at, key in enumerate(batch.keys):
        row = torch.tensor([at])
        one = tuple(x[at : at + 1] for x in xs)
        rng = make_generator(sample_seed(seed, key))
        own = take_rows(baselines, row, n) if isinstance(baselines, (Tensor, tuple)) else baselines
        parts.append(as_baselines(own, one, spec, rng, template=like(template, one)))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def beside(
    controls: Sequence[str],
    inputs: Any,
    references: tuple[Tensor, ...],
    facts: Mapping[str, Any],
    keys: Sequence[Any],
    seed: int,
) -> dict[str, Explanation]:
    """Those of the controls that fit the data, as explanations.

    Args:
        controls: names.
        inputs: the samples, a tensor or a tuple.
        references: what replaces them where something is removed.
        facts: what an `Explanation` of these samples knows: `spec`, `target`, `target_label`, `region`.
        keys: ids of the samples.
        seed: of "control.random".
    """
    xs = [x.detach() for x in as_tuple(inputs)]
    made = {n: control_maps(n, xs, references, keys, seed) for n in controls if fits(n, xs, facts["spec"].kind)}
    return {
        name: Explanation(like(inputs, maps), inputs, name, title=name, seed=seed, **facts)
        for name, maps in made.items()
    }
