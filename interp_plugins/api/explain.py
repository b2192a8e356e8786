"""`explain`: one call from model and inputs to explanations; every adapter ends here.

Prediction and targets are resolved once, on one clean forward pass shared by all methods; then each method runs on the
frozen model, and what it gives becomes an `Explanation` on the CPU.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.api.arranged import arranged, without_gaps
from interp_plugins.api.binding import DEFAULT_METHODS, Bound, bind_methods
from interp_plugins.api.checks import check_options
from interp_plugins.api.fingerprint import model_facts
from interp_plugins.api.nodes import as_graph, node_target
from interp_plugins.api.prediction import default_layer, predict, target_probability
from interp_plugins.core.baseline import IdBaseline, Sample, as_baselines
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.fixed import unmarked
from interp_plugins.core.forward import Forward, finite_scores, one_per_row
from interp_plugins.core.global_random import seeded_now
from interp_plugins.core.guard import frozen
from interp_plugins.core.layers import Layer, layer_name, resolve_layer
from interp_plugins.core.multi_target import AllClasses, MultiTarget, asked_targets, part_of
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.random import make_generator
from interp_plugins.core.report import collect
from interp_plugins.core.similar import activation_for
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.target import Asked
from interp_plugins.core.tensors import all_finite, as_tuple, check_inputs, is_float, like
from interp_plugins.core.two_classes import plain_index
from interp_plugins.engine import (
    acceleration,
    as_backend,
    check_methods,
    clean_scores,
    compilation,
    enabled,
    forget_first_pass,
    read_meter,
    share_passes,
)

_SEVERAL = (list, str, AllClasses)  # what may name several targets
_PASSES = ("forward_passes", "backward_passes", "compiled_rows", "shared_by_targets", "n_windows")
DEFAULT_METHOD = DEFAULT_METHODS[0]  # where there is room for one


def explain(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor],
    methods: Any = None,
    *,
    target: Any = None,
    baselines: Any = None,
    layer: Any = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
    feature_mask: Any = None,
    input_spec: InputSpec | None = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    threshold: float | None = None,
    body: nn.Module | None = None,
    batch_size: int | None = None,
    nodes: bool = False,
    seed: int = 0,
    budget: str = "normal",
    progress: bool | None = None,
    accelerate: bool = True,
    compile: bool | str = False,
    **params: Any,
) -> Explanations:
    """Explain a model's outputs for a batch of inputs; the model is left exactly as it was.

    Args:
        model: an `nn.Module` or any callable, called as `model(*inputs, *additional_forward_args, **forward_kwargs)`.
        inputs: tensor or tuple of tensors, batch first, on the model's device, in the model's own (normalised) units;
            or a dict of tensors by name, for a model that takes them as keyword arguments of these names, or all in one
            dict. The maps are then a tuple in the dict's order (`Explanation.by_input` names them), and `baselines` and
            `feature_mask` may be dicts, too.
            Integers are ids (tokens, categories): gradient methods explain them at the rows of the tables they are
            looked up in, jointly with float inputs, and give one number per id.
        methods: a name or alias (case-insensitive, see `list_methods()`), a method object (ours, or anything with
            Captum's `attribute(inputs, target=..., ...)`), a sequence of these, or a mapping name -> parameters. None:
            Integrated Gradients, NoiseTunnel around it, and Occlusion; for tables and texts Feature Ablation instead.
        target: None = the predicted class (with `threshold` all predicted labels; up to four outputs of a
            regression); int = index of the output; str, bool or ("label", entry) = entry of `input_spec.vocab`;
            tuple = index of the output's dimensions after the batch; tensor of N = one index per sample;
            `Contrast(this, that)` = why the one rather than the other; `SimilarTo(anchor)` = an embedding's likeness
            to another; a `core.region.ClassRegion` for a segmentation; a `core.detection.Detection` or `Box` for a
            detector (None = the box with the highest score); a function output -> (N,); a `core.target.Target`; a
            list = several explanations, "all" (or `core.multi_target.AllClasses()`) = one per class. Several targets
            share their passes where the method can: methods that evaluate the model need no more passes than for
            one, gradient methods a backward pass per target (`shares_targets`, docs/targets.md).
        baselines: None (black for path methods on normalised pictures, else zeros in the model's units), "zero",
            "black", "mean", "blur", "uniform", "gaussian", a number, a tensor, a tuple (one per input), a function of
            the inputs, or a `core.baseline.Sample` of data. For integer inputs (ids) numbers and tensors are ids; None
            is id 0 where a method replaces ids, and rows of zeros where it differentiates at the look-ups.
        layer: module, dotted name or `core.layers.Layer`, for methods at a layer; None: the last layer with a spatial
            output, where a method needs one.
        additional_forward_args: further positional arguments; tensors with N rows follow the batch, unless they are
            marked as `core.fixed.Fixed`.
        forward_kwargs: keyword arguments of the model, likewise.
        output: which part of a tuple, dict or `ModelOutput` is the output: key, attribute, position, or function.
        feature_mask: groups of elements for perturbation methods, see `FeatureAblation`.
        input_spec: kind of data, normalisation, class and feature names; guessed from the shape if None.
        activation: output -> probabilities, or None if the outputs are no classes (an embedding, of which `SimilarTo`
            explains a likeness); None: softmax over dimension 1 for outputs (N, C).
        threshold: the probability above which a label is predicted, for labels that do not exclude each other
            (multi-label); None: one class per sample.
        body: the part of the model to search first for the layer that a method needs where `layer` is None.
        batch_size: rows per pass; None = automatic, halved when memory runs out.
        nodes: the inputs are the features of one graph's nodes (nodes, F), and the graph is the sample: one graph goes
            through per pass, with `additional_forward_args` (edges) as they are, and maps are (1, nodes, F). An int, a
            tensor with a class per node or None (each node's predicted class) explains the sum over all nodes, a tuple
            (node, class) one node; where the model pools, targets are those of the graph.
        seed: seed of all random draws. The global generators are left as they were.
        budget: "fast" = a first map in seconds, with few steps, draws and windows; its errors stand in the result
            (`relative_delta`, `meta["per_sample"]`). "normal", or "thorough" for figures. It sets what is not given
            in `params`; docs/budget.md says what.
        progress: None = a bar for long work, True, False.
        accelerate: False runs the model as it is, without the exact accelerations of `engine.switch`.
        compile: True runs the methods' passes through `torch.compile` with its default backend (Inductor), a name with
            that one ("aot_eager", ...); for whole data sets of one shape, as compiling takes from seconds to minutes.
            The model itself is never compiled. Path, perturbation and coalition methods at the input can be compiled.
        **params: the methods' own parameters; with several methods, each goes to those that take it.

    Returns:
        Explanations, one per method and target, in this order; addressable by method name.

    Raises:
        InterpError: one of its kinds (each also ValueError, TypeError, IndexError or RuntimeError), saying what came,
            what was expected and what to do.

    Example:
        exps = explain(model, x, methods=("ig", "gradcam"), n_steps=100)
        exps["ig"].show()
    """
    check_options(layer, threshold, activation, forward_kwargs, body, seed, batch_size)
    given = arranged(model, inputs, methods, params, input_spec, baselines, feature_mask, forward_kwargs, output)
    given, additional_forward_args = without_gaps(*as_graph(given, additional_forward_args, nodes))
    func = given.func
    several = not (isinstance(methods, str) or hasattr(methods, "attribute")) or isinstance(target, _SEVERAL)
    with (
        acceleration(accelerate and enabled()),
        compilation(as_backend(compile)),
        frozen(func, seed=seed),
        share_passes(several),
    ):
        xs = check_inputs(given.inputs)
        n = xs[0].shape[0]
        spec = as_spec(given.spec, xs[0])
        clean = Forward.of(func, n, additional_forward_args=additional_forward_args)
        clean.samples = xs
        bound = bind_methods(
            given.methods, func, xs, spec, layer, given.params, lambda: default_layer(clean, xs, body), budget
        )
        if compile:
            check_methods([(one.name, one.traits.compiles) for one in bound])
        begins = bound[0].traits.begins_with_gradient and batch_size is None
        prediction = predict(clean, xs, activation_for(target, activation), threshold, begins, spec.vocab)
        if not begins:
            forget_first_pass()
        spec = _fitting(spec, prediction)
        target = node_target(target, prediction.output, xs[0].shape[1]) if nodes else target
        asked = asked_targets(target, prediction, spec, n)
        _check_scores(asked, prediction)
        job = _Job(
            func=func,
            inputs=given.inputs,
            xs=xs,
            spec=spec,
            args=_marked(clean, additional_forward_args),
            feature_mask=given.feature_mask,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
            baselines=given.baselines,
            model=_facts(model, prediction, given.names),
        )
        found = [exp for one in bound for exp in job.run(one, asked, prediction)]
        return Explanations([given.back(exp) for exp in found])


def _marked(clean: Forward, args: Any) -> Any:
    """The additional arguments, `Fixed` where they have as many rows as the batch by accident."""
    return clean.args if clean.n > 1 and clean.row_facts().fixed and clean.args else args


def _check_scores(asked: Sequence[Asked], prediction: Prediction) -> None:
    """Refuse to explain a class that is ruled out by -inf."""
    if not all_finite(prediction.output):
        for one in asked:
            finite_scores(one.target(prediction.output))


def _fitting(spec: InputSpec, prediction: Prediction) -> InputSpec:
    """The spec without class names where there are not as many as the model has classes: wrong names are worse."""
    shape = prediction.output.shape
    classes = 2 if prediction.two is not None else shape[1] if len(shape) in (2, 4) else None
    if spec.vocab is None or classes is None or classes == len(spec.vocab):
        return spec
    warnings.warn(
        f"{len(spec.vocab)} class names are known, but the model has {classes} outputs; results show numbers instead "
        "of names.",
        InterpWarning,
        stacklevel=3,
    )
    return replace(spec, vocab=None)


def _facts(model: Any, prediction: Prediction, names: Sequence[str] | None) -> dict[str, Any]:
    """The model's facts, how many classes it tells apart, where it does, and its inputs' names."""
    count = prediction.count
    return {
        **model_facts(model),
        **({"classes": count} if count else {}),
        **({"input_names": list(names)} if names else {}),
    }


@dataclass(frozen=True)
class _Job:
    """What all methods of one call share."""

    func: Callable[..., Any]
    inputs: Any
    xs: tuple[Tensor, ...]
    spec: InputSpec
    args: Any
    feature_mask: Any
    batch_size: int | None
    seed: int
    progress: bool | None
    baselines: Any
    model: dict[str, Any]

    def run(self, bound: Bound, asked: Sequence[Asked], prediction: Prediction) -> list[Explanation]:
        """One method for some targets: in shared passes where it can (`core.multi_target`), else one after another."""
        if len(asked) > 1 and bound.shares:
            return self._run(bound, asked, prediction)
        return [exp for one in asked for exp in self._run(bound, [one], prediction)]

    def _run(self, bound: Bound, asked: Sequence[Asked], prediction: Prediction) -> list[Explanation]:
        count, n = len(asked), self.xs[0].shape[0]
        together = asked[0] if count == 1 else Asked(MultiTarget(tuple(a.target for a in asked)), None, ())
        kwargs, baselines = self._arguments(bound, together)
        begin = time.perf_counter()
        seeded_now(bound.works.foreign)
        with collect() as report:
            found = bound.method.attribute(like(self.inputs, self.xs), **kwargs)
        forget_first_pass()
        seconds = (time.perf_counter() - begin) / count
        if count > 1:
            report["shared_by_targets"] = count
        parts = [(found, report)] if count == 1 else [part_of((found, report), k, count, n) for k in range(count)]
        return [
            self._explanation(bound, one, prediction, part, facts, kwargs, baselines, seconds)
            for one, (part, facts) in zip(asked, parts, strict=True)
        ]

    def _explanation(
        self,
        bound: Bound,
        asked: Asked,
        prediction: Prediction,
        result: Any,
        report: Mapping[str, Any],
        kwargs: Mapping[str, Any],
        baselines: tuple[Tensor, ...] | None,
        seconds: float,
    ) -> Explanation:
        """What a method gave for one target, on the CPU, with its scores."""
        delta = None
        if kwargs.get("return_convergence_delta"):
            result, delta = result
            delta = delta.reshape(self.xs[0].shape[0], -1).mean(1)
        score = asked.target(prediction.output)
        baseline_score = report.get("baseline_score")
        if baseline_score is None and delta is not None and baselines is not None:
            n = self.xs[0].shape[0]
            forward = Forward.of(self.func, n, asked.target, self.args)
            baseline_score = one_per_row(clean_scores(forward, baselines), n)
        labels = prediction.classes if prediction.several is None else None
        return Explanation(
            attributions=_cpu(result),
            inputs=_cpu(like(self.inputs, self.xs)),
            baselines=_cpu(like(self.inputs, baselines)) if baselines is not None else None,
            method=bound.name,
            title=bound.title,
            target=asked.indices,
            target_label=asked.labels,
            prediction=labels,
            prediction_label=prediction.in_words(self.spec),
            region=_cpu(asked.region) if asked.region is not None else None,
            probability=target_probability(asked, prediction),
            score=_cpu(score) if score.ndim == 1 else None,
            baseline_score=_cpu(baseline_score) if baseline_score is not None else None,
            convergence_delta=_cpu(delta) if delta is not None else None,
            params=self._params(bound),
            layer=self._layer(bound),
            spec=self.spec,
            seed=self.seed,
            seconds=seconds,
            meta=self._meta(report, bound),
        )

    def _arguments(self, bound: Bound, asked: Asked) -> tuple[dict[str, Any], tuple[Tensor, ...] | None]:
        takes, kwargs = bound.takes, dict(bound.params)
        optional = {
            "target": asked.target,
            "additional_forward_args": self.args,
            "feature_mask": self.feature_mask,
            "seed": self.seed,
            "progress": self.progress,
        }
        if bound.works.foreign and asked.indices is not None:
            optional["target"] = plain_index(asked)
        if bound.works.foreign:
            optional["additional_forward_args"] = unmarked(self.args)
        kwargs |= {k: v for k, v in optional.items() if k in takes and v is not None}
        for name in ("batch_size", "internal_batch_size"):
            if self.batch_size is not None and name in takes:
                kwargs[name] = self.batch_size
                break
        baselines: tuple[Tensor, ...] | None = None
        wanted = self.baselines if self.baselines is not None else kwargs.pop("baselines", None)
        if "baselines" in takes:
            if bound.works.baselines == "distribution":
                kwargs["baselines"] = self._distribution()
            else:
                rng = make_generator(self.seed)
                vectors = bound.traits.embeds_ids
                baselines = as_baselines(wanted, self.xs, self.spec, rng, template=self.inputs, vectors=vectors)
                given = wanted if isinstance(wanted, tuple) else (wanted,) * len(baselines)
                means = [vectors and isinstance(b, Sample) and not is_float(x) for b, x in zip(given, self.xs)]
                kwargs["baselines"] = like(
                    self.inputs, [g if mean else b for g, b, mean in zip(given, baselines, means, strict=True)]
                )
        if "return_convergence_delta" in takes and bound.traits.asks_delta:
            kwargs["return_convergence_delta"] = True
        return kwargs, baselines

    def _params(self, bound: Bound) -> dict[str, Any]:
        """The parameters as they can be shown and saved, with the baseline that was used."""
        params = {k: _readable(v) for k, v in bound.params.items()}
        if "baselines" in bound.takes:
            used = params.get("baselines", "zero") if self.baselines is None else self.baselines
            params["baselines"] = used if isinstance(used, (str, int, float)) else "given"
        return params

    def _distribution(self) -> Any:
        """Baselines as rows to draw from; a name or number gives one row per sample, None a single zero row."""
        if self.baselines is None:
            made = as_baselines(None, self.xs, vectors=True)
            return like(self.inputs, [b[:1] for b in made])
        if isinstance(self.baselines, (str, int, float)):
            made = as_baselines(self.baselines, self.xs, self.spec, make_generator(self.seed), vectors=True)
            return like(self.inputs, made)
        if not isinstance(self.baselines, (Sample, IdBaseline, tuple)):
            return self.baselines
        rows = [b.rows if isinstance(b, Sample) else b for b in as_tuple(self.baselines)]
        if not all(isinstance(b, Tensor) for b in rows):
            return like(self.inputs, as_baselines(self.baselines, self.xs, vectors=True))
        return like(self.inputs, rows)

    def _layer(self, bound: Bound) -> str | None:
        layer = getattr(bound.innermost, "layer", None)
        if layer is None or bound.works.site == "neuron":
            return None
        names = []
        for one in layer if isinstance(layer, list) else [layer]:
            module = resolve_layer(self.func, one).module
            side = " (input)" if isinstance(one, Layer) and one.io == "input" else ""
            names.append((layer_name(self.func, module) if isinstance(module, nn.Module) else str(module)) + side)
        return ", ".join(dict.fromkeys(names))

    def _meta(self, report: Mapping[str, Any], bound: Bound) -> dict[str, Any]:
        from interp_plugins import __version__

        n = self.xs[0].shape[0]  # a method inside NoiseTunnel reports noisy copies, which are no samples
        per_sample = {k: list(report[k]) for k in report.get("per_sample", ()) if len(report[k]) == n}
        passes = {k: report[k] for k in _PASSES if isinstance(report.get(k), int)}
        layer = getattr(bound.innermost, "layer", None)
        found = layer.found if isinstance(layer, Layer) else ""
        versions = {
            "interp_plugins": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        return {
            **self.model,
            **passes,
            "engine": read_meter(report),
            **{k: report[k] for k in ("rows", "entries_per_sample") if k in report},
            "versions": versions,
            **({"per_sample": per_sample} if per_sample else {}),
            **({"layer_found": found} if found else {}),
        }


def _cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor).cpu()
    if isinstance(value, list):
        if len(value) == 1:
            return _cpu(value[0])
        return tuple(_cpu(v) for one in value for v in as_tuple(one))
    if isinstance(value, tuple):
        return tuple(_cpu(v) for v in value)
    raise InputError(
        f"The method's attribute() returned a {type(value).__name__}; expected a tensor or tuple of tensors."
    )


def _readable(value: Any) -> Any:
    """Parameters as they can be shown and saved."""
    return value if isinstance(value, (bool, int, float, str, tuple, type(None))) else repr(value)[:200]
