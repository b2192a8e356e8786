"""`explain`: one call from model and inputs to explanations; every adapter ends here.

Prediction and targets are resolved once, on one clean forward pass shared by all methods; then each method runs on the
frozen model, and what it gives becomes an `Explanation` on the CPU.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from interp_plugins.api.arranged import arranged, without_gaps
from interp_plugins.api.binding import DEFAULT_METHODS, bind_methods, layers_read
from interp_plugins.api.checks import check_options
from interp_plugins.api.fingerprint import model_facts
from interp_plugins.api.growing import Growing
from interp_plugins.api.method_run import MethodRun
from interp_plugins.api.nodes import as_graph, node_target
from interp_plugins.api.prediction import default_layer, predict
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.errors import InterpWarning, concise
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.forward import Forward, finite_scores
from interp_plugins.core.guard import frozen
from interp_plugins.core.literals import rather_than
from interp_plugins.core.multi_target import AllClasses, asked_targets
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.registry import Budget
from interp_plugins.core.similar import activation_for
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.target import Asked
from interp_plugins.core.tensors import all_finite, check_inputs
from interp_plugins.engine import (
    acceleration,
    as_backend,
    check_methods,
    compilation,
    enabled,
    forget_first_pass,
    share_passes,
)

_SEVERAL = (list, str, AllClasses)  # what may name several targets
DEFAULT_METHOD = DEFAULT_METHODS[0]  # where there is room for one


def explain(
    model: Callable[..., Any],
    inputs: Any,
    methods: Methods | None = None,
    *,
    target: Any = None,
    against: Any = None,
    baselines: Any = None,
    layer: Any = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
    feature_mask: Any = None,
    input_spec: InputSpec | None = None,
    preprocess: Any = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    threshold: float | None = None,
    body: nn.Module | None = None,
    batch_size: int | None = None,
    nodes: bool = False,
    seed: int = 0,
    budget: Budget = "normal",
    progress: bool | None = None,
    accelerate: bool = True,
    compile: bool | str = False,
    precision: str | None = None,
    **params: Any,
) -> Explanations:
    """Explain a model's outputs for a batch of inputs; the model is left exactly as it was.

    Args:
        model: an `nn.Module` or any callable, called as `model(*inputs, *additional_forward_args, **forward_kwargs)`.
        inputs: tensor or tuple of tensors, batch first, on the model's device, in the model's own (normalised) units;
            or a dict of tensors by name, for a model that takes them as keyword arguments of these names, or all in one
            dict. The maps are then a tuple in the dict's order (`Explanation.by_input` names them), and `baselines` and
            `feature_mask` may be dicts, too.
            Pictures may be given raw, as paths, PIL images or arrays, one or a list of them: see `preprocess`.
            Integers are ids (tokens, categories): gradient methods explain them at the rows of the tables they are
            looked up in, jointly with float inputs, and give one number per id.
        methods: a name or alias (case-insensitive, see `list_methods()`), a method object (ours, or anything with
            Captum's `attribute(inputs, target=..., ...)`), a sequence of these, or a mapping name -> parameters. None:
            Integrated Gradients, NoiseTunnel around it, and Occlusion; for tables and texts Feature Ablation instead.
        target: None = the predicted class (with `threshold` all predicted labels; up to four outputs of a
            regression); int = index of the output; str, bool or ("label", entry) = entry of `input_spec.vocab`;
            tuple = index of the output's dimensions after the batch; tensor of N = one index per sample;
            `SimilarTo(anchor)` = an embedding's likeness to another; a `core.region.ClassRegion` for a segmentation; a
            `core.detection.Detection` or `Box` for a detector (None = the box with the highest score); a function
            output -> (N,); a `core.target.Target`; a list = several explanations, "all" (or
            `core.multi_target.AllClasses()`) = one per class. Several targets share their passes where the method can:
            methods that evaluate the model need no more passes than for one, gradient methods a backward pass per
            target (`shares_targets`, docs/targets.md).
        against: why `target` rather than this: one target of any kind, whose score is subtracted; None: nothing is.
        baselines: None (black for path methods on normalised pictures, else zeros in the model's units), "zero",
            "black", "mean", "blur", "uniform", "gaussian", a number, a tensor, a tuple (one per input), a function of
            the inputs, or a `core.baseline.Sample` of data. For integer inputs (ids) numbers and tensors are ids; None
            is id 0 where a method replaces ids, and rows of zeros where it differentiates at the look-ups.
        layer: module, dotted name or `core.layers.Layer`, for methods at a layer; None: the last layer with a spatial
            output, where a method needs one.
        additional_forward_args: further positional arguments; tensors with N rows follow the batch, unless they are
            marked as `core.fixed.Fixed`.
        forward_kwargs: keyword arguments of the model; tensors with N rows follow the batch, unless they are `Fixed`.
        output: which part of a tuple, dict or `ModelOutput` is the output: key, attribute, position, or function.
        feature_mask: groups of elements for perturbation methods, see `FeatureAblation`.
        input_spec: kind of data, normalisation, class and feature names; guessed from the shape if None.
        preprocess: how raw pictures become the model's input: a function PIL image -> tensor (C, H, W), such as
            torchvision's `weights.transforms()`, or the weights themselves, which know the classes, too. Files are
            opened as RGB. Mean and std are read from it where it has a `Normalize`, or has them as attributes. None:
            what a model of timm says of itself (`pretrained_cfg`).
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
        progress: None = a bar for work longer than two seconds, over all methods, with an estimate of the rest; in
            notebooks the results appear beside it one by one. True: at once; False: never.
        accelerate: False runs the model as it is, without the exact accelerations of `engine.switch`.
        compile: True runs the methods' passes through `torch.compile` with its default backend (Inductor), a name with
            that one ("aot_eager", ...); for whole data sets of one shape, as compiling takes from seconds to minutes.
            The model itself is never compiled. Path, perturbation and coalition methods at the input can be compiled.
        precision: of the passes in loops: "float32" (the default of `acceleration`); "bfloat16" or "float16", faster on
            CPUs with AMX or AVX-512 BF16 and on tensor cores; "auto", what is faster here and keeps the map's error
            below `tol`, or 1 %. Perturbation methods run their forward passes in it, path methods their gradients; some
            rows run in both precisions, and `meta["precision"]` states the error (docs/runtimes.md). None: as
            `acceleration(precision=...)` around the call says.
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
    with concise():
        target = rather_than(target, against)
        check_options(layer, threshold, activation, forward_kwargs, body, seed, batch_size)
        given = arranged(
            model, inputs, methods, params, input_spec, baselines, feature_mask, forward_kwargs, output, preprocess
        )
        given, additional_forward_args = without_gaps(*as_graph(given, additional_forward_args, nodes))
        func = given.func
        several = not (isinstance(methods, str) or hasattr(methods, "attribute")) or isinstance(target, _SEVERAL)
        with _lower(precision, params.get("tol")), _safely(func, seed, accelerate, compile, several):
            xs = check_inputs(given.inputs)
            n = xs[0].shape[0]
            spec = as_spec(given.spec, xs[0], aloud=False)
            clean = Forward.of(func, n, additional_forward_args=additional_forward_args)
            clean.samples = xs
            bound = bind_methods(
                given.methods, func, xs, spec, layer, given.params, lambda: default_layer(clean, xs, body), budget
            )
            if compile:
                check_methods([(one.name, one.traits.compiles) for one in bound])
            begins = bound[0].traits.begins_with_gradient and batch_size is None
            graph = any(one.works.needs == "gradient" for one in bound)
            activate, read = activation_for(target, activation), layers_read(bound) if begins else None
            prediction = predict(clean, xs, activate, threshold, begins, spec.vocab, graph, read)
            if not begins:
                forget_first_pass()
            spec = _fitting(spec, prediction)
            target = node_target(target, prediction.output, xs[0].shape[1]) if nodes else target
            asked = asked_targets(target, prediction, spec, n)
            _check_scores(asked, prediction)
            job = MethodRun(
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
            growing = Growing(bound, xs, progress, len(asked))
            return growing.results(lambda one: [given.back(exp) for exp in job.run(one, asked, prediction)])


def _lower(precision: str | None, tol: Any) -> acceleration:
    """The precision that loops run in; what "auto" may cost is the tolerance, where there is one."""
    return acceleration(precision=precision, limit=tol if isinstance(tol, float) and tol > 0 else None)


@contextlib.contextmanager
def _safely(func: Any, seed: int, accelerate: bool, compile: bool | str, several: bool) -> Iterator[None]:
    """The model as it was afterwards, with the accelerations that are wanted."""
    with (
        acceleration(accelerate and enabled()),
        compilation(as_backend(compile)),
        frozen(func, seed=seed),
        share_passes(several),
    ):
        yield


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
