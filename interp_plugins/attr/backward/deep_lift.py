"""DeepLift and DeepLiftShap: how far each input explains the change of the score from a baseline.

    sum over the input of m * (x - x') = F(x) - F(x'),     m by the rescale rule, call by call
    (`attr/backward/rules/rescale.py`)

or by RevealCancel (`attr/backward/rules/reveal_cancel.py`), which takes positive and negative contributions apart.

DeepLift: Shrikumar, Greenside, Kundaje 2017, arXiv:1704.02685. DeepLiftShap averages over a set of baselines (Lundberg
and Lee 2017, arXiv:1705.07874). Cost per sample and baseline: two forward passes and one backward pass.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.backward.rules.paired import PairedMode, paired_gradients
from interp_plugins.attr.backward.rules.reveal_cancel import RevealCancelMode
from interp_plugins.attr.shared.arguments import args_from, with_delta
from interp_plugins.attr.shared.base import GradientAttribution, MultipliesByInputs, completeness_error, prepared
from interp_plugins.attr.shared.draws import baseline_pool
from interp_plugins.attr.shared.path import RowSum, targets_of
from interp_plugins.core.baseline import as_starts, call_baseline
from interp_plugins.core.batching import check_chunk, chunks, progress_bar
from interp_plugins.core.differentiate import UnconnectedError
from interp_plugins.core.errors import ConvergenceWarning, InputError, InputTypeError, unknown
from interp_plugins.core.forward import Forward, Gradients
from interp_plugins.core.multi_target import repeated
from interp_plugins.core.registry import register
from interp_plugins.core.report import note
from interp_plugins.core.tensors import InputsT, as_tuple, check_float, check_readable, credit, describe, like, own
from interp_plugins.core.unused import zeros_at_start

CustomAttribution = Callable[..., tuple[Tensor, ...]]
RULES: dict[str, type[PairedMode]] = {"rescale": PairedMode, "reveal_cancel": RevealCancelMode}


def pooled(baselines: Any, inputs: Any, xs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Sets of baselines (1, B, ...) shared by all samples, or (N, B, ...) with one set per sample.

    Raises:
        InputTypeError, InputError: no tensors, other shapes than the inputs', or different numbers of rows.
    """
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = call_baseline(baselines, inputs)
    many = as_tuple(baselines)
    own_sets = [isinstance(b, Tensor) and b.ndim == x.ndim + 1 for b, x in zip(many, xs)]
    if not any(own_sets):
        return tuple(b[None] for b in baseline_pool(baselines, inputs, xs))
    for i, b in enumerate(many):
        if isinstance(b, Tensor):
            check_readable(b, f"baselines[{i}]")
    sets = [own(b).to(x) for b, x in zip(many, xs) if isinstance(b, Tensor)]
    wanted = [(x.shape[0], *x.shape[1:]) for x in xs]
    fits = [(b.shape[0], *b.shape[2:]) == w for b, w in zip(sets, wanted)]
    if not all(own_sets) or len(sets) != len(xs) or not all(fits) or len({b.shape[1] for b in sets}) != 1:
        raise InputError(
            f"Baselines of shapes {[tuple(b.shape) for b in sets]} came for inputs of shapes "
            f"{[tuple(x.shape) for x in xs]}; one set per sample has the shape (N, n_baselines, ...), with the same "
            "n_baselines for all inputs."
        )
    return tuple(sets)


def contributions(
    forward: Forward,
    xs: tuple[Tensor, ...],
    sets: tuple[Tensor, ...],
    *,
    mode: Callable[[], PairedMode] = PairedMode,
    multiply: bool = True,
    custom: CustomAttribution | None = None,
    chunk: int | None = None,
    progress: bool | None = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Mean over the baselines, and the completeness errors (N * B,), sample by sample.

    Args:
        forward: what is explained.
        xs: inputs (N, ...).
        sets: baselines (1 or N, B, ...) per input.
        mode: makes the rules of a pass.
        multiply: multiply by (input - baseline).
        custom: Captum's `custom_attribution_func`.
        chunk: pairs of sample and baseline per pass.
        progress: None = a bar for long work.
    """
    n, count, device = xs[0].shape[0], sets[0].shape[1], xs[0].device
    targets = forward.target.count
    sums = RowSum(n * targets)
    kept: list[Tensor] = []
    ends: list[tuple[Tensor, Tensor]] = []

    def work(lo: int, hi: int) -> tuple[Tensor, tuple[Tensor, ...], Tensor, tuple[Tensor, Tensor]]:
        here = torch.arange(lo, hi, device=device)
        rows, which = here // count, here % count
        inputs = [x.index_select(0, rows) for x in xs]
        bases = [b[rows if b.shape[0] == n else rows * 0, which] for b in sets]
        got, at_baselines = _paired(forward, inputs, bases, rows, mode())
        if custom is not None:
            maps = custom_maps(custom, got.grads, tuple(inputs), tuple(bases))
        elif multiply:
            change = repeated([x - b for x, b in zip(inputs, bases, strict=True)], targets)
            maps = tuple(credit(d, g) for g, d in zip(got.grads, change, strict=True))
        else:
            maps = got.grads
        delta = completeness_error(maps, got.scores, at_baselines)
        return targets_of(rows, targets), maps, delta, (got.scores, at_baselines)

    size = pairs_per_pass(forward, xs, chunk)
    with progress_bar(n * count, "DeepLift", progress) as bar:
        for _, _, (rows, maps, delta, scores) in chunks(n * count, size, work, bar=bar):
            sums.add(maps, rows)
            kept.append(delta)
            ends.append(scores)
    score, baseline_score = (torch.cat(column) for column in zip(*ends, strict=True))
    deltas = torch.cat(kept)
    if count == 1:
        note(score=score, baseline_score=baseline_score)
    if multiply and custom is None:
        _warn_if_incomplete(deltas, score, baseline_score)
    deltas = deltas.reshape(n, count, targets).transpose(1, 2).reshape(-1)  # sample by sample, target by target
    return tuple(t / count for t in sums.result()), deltas


def _paired(
    forward: Forward, inputs: Sequence[Tensor], bases: Sequence[Tensor], rows: Tensor, mode: PairedMode
) -> tuple[Gradients, Tensor]:
    """`paired_gradients`; zeros, with a warning, at a layer that the score does not use."""
    try:
        return paired_gradients(forward, inputs, bases, rows, mode)
    except UnconnectedError:
        found = zeros_at_start(forward, inputs, rows)
        if found is None:
            raise
        return Gradients(*found), forward.scores(bases, rows)


def pairs_per_pass(forward: Forward, inputs: Sequence[Tensor], asked: int | None) -> int:
    """How many pairs of a sample and a baseline are run at a time: as asked, or automatic."""
    size = forward.rows_per_pass(inputs, asked)
    return size if asked is not None or forward.whole else max(1, size // 2)


def _warn_if_incomplete(delta: Tensor, score: Tensor, baseline_score: Tensor) -> None:
    """A delta that is no rounding means that something in the model has no rule."""
    if score.dtype in (torch.float16, torch.bfloat16):
        return
    scale = (score - baseline_score).abs() + 1e-2 * (score.abs() + baseline_score.abs())
    bad = delta.abs() > 1e-2 * scale
    if bool(bad.any()):
        share = (delta.abs() / scale)[bad].max()
        warnings.warn(
            f"DeepLift's maps do not add up to the change of the score for {int(bad.sum())} of {len(delta)} rows (off "
            f"by up to {float(share):.1%}). The model contains steps that have no multipliers: custom autograd "
            "functions, TorchScript, values that are detached, or `torch.where` with a condition that differs between "
            "input and baseline; or numbers so large that their sums lose all digits, as in a softmax written out as "
            "exp and sum (use torch.softmax, or float64). Check with integrated_gradients.",
            ConvergenceWarning,
            stacklevel=4,
        )


def custom_maps(
    function: CustomAttribution, multipliers: tuple[Tensor, ...], inputs: tuple[Tensor, ...], bases: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Captum's `custom_attribution_func(multipliers[, inputs[, baselines]])`.

    Raises:
        InputTypeError, InputError: it is not callable, or takes another number of arguments.
    """
    if not callable(function):
        raise InputTypeError(f"`custom_attribution_func` must be a callable function but {describe(function)} provided")
    takes = len(inspect.signature(function).parameters)
    if not 1 <= takes <= 3:
        raise InputError(
            f"`custom_attribution_func` must take at least one and at most 3 arguments (multipliers, inputs, "
            f"baselines); it takes {takes}."
        )
    return as_tuple(function(*(multipliers, inputs, bases)[:takes]))


@register(
    "deep_lift",
    aliases=("deeplift", "dl"),
    title="DeepLIFT",
    reference="Shrikumar et al. 2017, arXiv:1704.02685",
    shares_targets=True,
    alone_with=("custom_attribution_func",),
    cost="2 forward, 1 backward",
    axioms=("completeness", "dummy"),
    assumes="the baseline stands for nothing",
)
class DeepLift(MultipliesByInputs, GradientAttribution):
    """DeepLIFT, with the rescale rule for whatever functions and modules the model is made of.

    Args:
        model: model or callable; modules may be reused, nonlinearities may be functions.
        multiply_by_inputs: multiply by (input - baseline), "global" attribution (default); False gives the multipliers.
        eps: differences of activations up to this size count as none, and get the derivative.

    Example:
        maps, delta = DeepLift(model).attribute(x, baselines=0, target=3, return_convergence_delta=True)
        (delta.abs() < 1e-5).all()  # -> True
    """

    def __init__(self, model: Callable[..., Any], multiply_by_inputs: bool = True, eps: float = 1e-10):
        super().__init__(model, multiply_by_inputs)
        self.eps = eps

    def _mode(self, rule: str) -> Callable[[], PairedMode]:
        if rule not in RULES:
            raise unknown("rule", rule, RULES)
        return lambda: RULES[rule](self.eps)

    @with_delta
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        *,
        rule: str = "rescale",
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT | tuple[InputsT, Tensor]:
        """DeepLIFT contributions.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
            baselines: the reference: None (zeros), number, name, tensor, tuple or function; see `as_baselines`.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model; batched tensors follow the batch.
            return_convergence_delta: also return sum(attributions) - (F(x) - F(x')) per sample: rounding only, unless
                the model has steps without a rule (see docs/rules.md; a `ConvergenceWarning` says so).
            custom_attribution_func: `f(multipliers[, inputs[, baselines]])` on tuples of tensors, instead of
                multipliers * (inputs - baselines).
            rule: "rescale", or "reveal_cancel" (section 3.5.3 of the paper), which also sees contributions that cancel
                before a nonlinearity, wherever linear steps of any kind add them up (see docs/rules.md).
            batch_size: samples per pass; None = automatic.
            progress: None = a bar for long work, True, False.

        Returns:
            Attributions in the inputs' layout, or (attributions, delta (N,)).

        Raises:
            InputTypeError, InputError, TargetError, ModelError: each says what came and what was expected.
        """
        chunk, mode = check_chunk("batch_size", batch_size), self._mode(rule)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            sets = tuple(b[:, None] for b in as_starts(baselines, xs, template=inputs))
            maps, delta = contributions(
                forward,
                xs,
                sets,
                mode=mode,
                multiply=self._multiply_by_inputs,
                custom=custom_attribution_func,
                chunk=chunk,
                progress=progress,
            )
            return (like(inputs, maps), delta) if return_convergence_delta else like(inputs, maps)


@register(
    "deep_lift_shap",
    aliases=("deepliftshap", "dls"),
    baselines="distribution",
    title="DeepLIFT SHAP",
    reference="Lundberg and Lee 2017, arXiv:1705.07874",
    alone_with=("custom_attribution_func",),
    cost="2n forward, n backward for n baselines",
    axioms=("completeness", "dummy"),
    assumes="baselines from the data",
)
class DeepLiftShap(DeepLift):
    """DeepLIFT averaged over a set of baselines: an approximation of Shapley values.

    Args:
        model: model or callable.
        multiply_by_inputs: multiply by (input - baseline), the default.

    Example:
        baselines = torch.rand(5, 3, 24, 24)
        DeepLiftShap(model).attribute(x, baselines, target=3).shape  # -> (2, 3, 24, 24)
    """

    def __init__(self, model: Callable[..., Any], multiply_by_inputs: bool = True):
        super().__init__(model, multiply_by_inputs)

    @with_delta
    @args_from(DeepLift.attribute)
    def attribute(  # type: ignore[override]  # the baselines are required, as in Captum
        self,
        inputs: InputsT,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        *,
        rule: str = "rescale",
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT | tuple[InputsT, Tensor]:
        """Mean of the contributions over all baselines, of the inputs' shapes; arguments as in `DeepLift.attribute`.

        Args:
            baselines: the set: tensor (n_baselines, ...), a tuple of these (row i of all inputs belongs together), or a
                function `f(inputs)` or `f()` returning one. (N, n_baselines, ...) gives each sample a set of its own.
            return_convergence_delta: also return the deltas of all pairs (N * n_baselines,), sample by sample.
            batch_size: pairs of sample and baseline per pass; None = automatic. Only the running mean is kept.
        """
        chunk, mode = check_chunk("batch_size", batch_size), self._mode(rule)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            maps, delta = contributions(
                forward,
                xs,
                pooled(baselines, inputs, xs),
                mode=mode,
                multiply=self._multiply_by_inputs,
                custom=custom_attribution_func,
                chunk=chunk,
                progress=progress,
            )
            return (like(inputs, maps), delta) if return_convergence_delta else like(inputs, maps)
