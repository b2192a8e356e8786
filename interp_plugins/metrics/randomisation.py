"""Does the map know the weights? Similarity to the maps of the same net with random weights, stage by stage.

A map that stays as it was while the upper half of the net is random shows the input, not what the net concludes from
it. The check can fail a method and cannot recommend one: noise passes it best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.other_weights import Held, other_weights
from interp_plugins.core.tensors import is_float
from interp_plugins.metrics.again import Again, asking_again
from interp_plugins.metrics.alike import CONSTANT, Original, check_similarity, constant, judged
from interp_plugins.metrics.neighbours import check_given
from interp_plugins.metrics.noise import keys, normal
from interp_plugins.metrics.redrawn import ORDERS, STAGES, Stage, drawn_anew, stages_of
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import as_rows
from interp_plugins.metrics.undefined import NOT_FINITE, defined

Model = Callable[..., Any]
ASKED = ("explain", "target", "additional_forward_args", "baselines", "batch_size", "seed", "ids")
OPTIONS = (*ASKED, "stages", "order", "draws", "mode", "smooth", "smooth_sd", "reduce", "sign")


@dataclass(frozen=True)
class RandomisationCurves:
    """How alike maps are before and after weights were drawn anew; see `randomisation_curves`.

    Attributes:
        stages: names of the stages, in the order in which they were drawn anew.
        similarity: by its name, float64 (N, number of stages): means over the draws. A map that is constant, of a net
            with random weights, is like nothing: 0. NaN where the trained net's own map is constant or not finite.
        why: text -> bool (N,), samples without a value.
    """

    stages: tuple[str, ...]
    similarity: Mapping[str, Tensor]
    why: Mapping[str, Tensor]

    def mean(self, by: str = "rank") -> Tensor:
        """(N,) mean over all stages."""
        return self._of(by, len(self.stages))

    def upper_half(self, by: str = "rank") -> Tensor:
        """(N,) mean over the first half of the stages, the middle one among them.

        Top down, the lower half is still trained meanwhile; `attr.evidence.randomised` calls a method blind above 0.5.
        """
        return self._of(by, (len(self.stages) + 1) // 2)

    def _of(self, by: str, count: int) -> Tensor:
        if by not in self.similarity:
            raise unknown("similarity", by, tuple(self.similarity))
        values = self.similarity[by][:, :count]
        return defined(values.cumsum(1)[:, -1] / count, None, dict(self.why))


def randomisation_curves(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    explain: Any = None,
    target: Any = None,
    additional_forward_args: Any = None,
    baselines: Any = None,
    order: str = "top_down",
    stages: int | str | Sequence[Any] | None = None,
    draws: int = 1,
    mode: str = "permute",
    smooth: int = 0,
    smooth_sd: float = 0.1,
    similarity: Sequence[str] = ("rank",),
    reduce: str | None = "sum",
    sign: str | None = "absolute",
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> RandomisationCurves:
    """Explain with the trained weights, and again after each stage of weights was drawn anew.

    The model's own tensors are never written to, and are in their places again at the end, whatever happens. Cost:
    (stages x draws + 1) maps per sample, `smooth` times that where it is given, and a forward row to see in which order
    the model calls its modules.

    Args:
        forward_func: an `nn.Module`, or a callable that holds one.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`, which knows its method and classes.
        attributions: the samples' maps, for a check; None: those of the `Explanation`, or no check.
        explain: how maps are made (`metrics.Explainer`); None: the method of the `Explanation`.
        target: as for a method's `attribute`; None: the classes of the `Explanation`, or the model's only output.
        additional_forward_args: further arguments of the model.
        baselines: for the method, as for `explain`.
        order: "top_down": each stage on top of those nearer the output; "bottom_up": on top of those nearer the input;
            "independent": each alone.
        stages: a number of stages, "all" modules with weights, or names of modules; None: five, the last layer alone
            and the rest in four parts.
        draws: of the weights; similarities are means over them.
        mode: "permute": a tensor's own numbers in another order; "init": as the module's initialiser draws them;
            "normal": normal numbers of the tensor's own root mean square. Norms' statistics are permuted in all modes.
        smooth: maps are means over so many noisy copies of the input (0: the map itself), so that noisy gradients do
            not pass for knowledge of the weights (sMPRT).
        smooth_sd: standard deviation of that noise, a share of the sample's largest value less its smallest.
        similarity: of "rank" (Spearman), "cosine", "ssim"; those to compute.
        reduce: how channels become one value per place; None: element by element.
        sign: what of the values is compared: "absolute", "positive", "negative"; None: signed.
        batch_size: rows per pass; None = automatic.
        seed: of the weights, of the noise, and of methods and models that draw.
        ids: int64 (N,), numbers of the samples for their noise.

    Raises:
        InputError: a callable without modules, or what `explained_neighbours` refuses.

    Example:
        curves = randomisation_curves(model, exp, stages=2)
        curves.stages, curves.similarity["rank"], curves.upper_half()
    """
    _check(order, draws, smooth, similarity, sign)
    if attributions is None and isinstance(inputs, Explanation) and explain is None and not smooth:
        attributions = inputs.attributions
    with asking_again(
        explain,
        forward_func,
        inputs,
        target=target,
        additional_forward_args=additional_forward_args,
        baselines=baselines,
        batch_size=batch_size,
        seed=seed,
    ) as again:
        copies = _copies(again, smooth, smooth_sd, ids)
        parts = stages_of(again, stages)
        parts = parts[::-1] if order == "bottom_up" else parts
        own = _maps(again, copies, seed)
        if not smooth:
            check_given(attributions, as_rows(own).double(), again)
        before = judged(again, own, reduce, sign)
        finite = as_rows(own).isfinite().all(1)
        found = {name: torch.zeros(again.n, len(parts), dtype=torch.float64) for name in similarity}
        original = Original(before)
        for k, after in _redrawn(again, copies, parts, order, draws, mode):
            for name in similarity:
                found[name][:, k] += original.alike(name, judged(again, after, reduce, sign))
    flat = constant(before) & finite
    found = {name: torch.where((flat | ~finite)[:, None], torch.nan, v / draws) for name, v in found.items()}
    return RandomisationCurves(tuple(p.name for p in parts), found, {NOT_FINITE: ~finite, CONSTANT: flat})


def _redrawn(
    again: Again, copies: Sequence[tuple[Tensor, ...]], parts: Sequence[Stage], order: str, draws: int, mode: str
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """The number of each stage, and the maps once its weights were drawn anew; draw by draw."""
    for draw in range(draws):
        places: list[Held] = []
        new: dict[int, Tensor] = {}
        for k, part in enumerate(parts):
            if order == "independent":
                places, new = [], {}
            places += part.places
            new = drawn_anew(part.places, mode, again.seed, draw, new)
            with other_weights(again.func, places, new):
                maps = _maps(again, copies, again.seed + 1 + draw)
            yield k, maps


def _check(order: str, draws: Any, smooth: Any, similarity: Sequence[str], sign: str | None) -> None:
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    for name, value, least in (("draws", draws, 1), ("smooth", smooth, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be an int from {least} up, got {value!r}.")
    check_similarity(similarity, sign)


def _copies(again: Again, smooth: int, sd: float, ids: Tensor | None) -> list[tuple[Tensor, ...]]:
    """The samples, or noisy copies of them."""
    if not smooth:
        return [again.xs]
    who = torch.zeros(again.n, dtype=torch.int64) if ids is None else ids
    found = []
    for draw in range(smooth):
        copy = []
        for k, x in enumerate(again.xs):
            if is_float(x):
                flat = x.reshape(again.n, -1).double().cpu()
                noise = normal(keys(again.seed, who, draw * len(again.xs) + k), flat.shape[1])
                noise = noise * sd * (flat.amax(1) - flat.amin(1))[:, None]
                x = (flat + noise).reshape(x.shape).to(x)
            copy.append(x)
        found.append(tuple(copy))
    return found


def _maps(again: Again, copies: Sequence[tuple[Tensor, ...]], seed: int) -> tuple[Tensor, ...]:
    """Maps of all samples with the weights as they are now, the mean over the copies."""
    total: list[Tensor] = []
    for xs in copies:
        maps = again.all_maps(xs, seed=seed)
        total = [a + b for a, b in zip(total, maps, strict=True)] if total else list(maps)
    return tuple(t / len(copies) for t in total)


def _rows(n: int, own: tuple[int, int], params: Mapping[str, Any]) -> tuple[int, int]:
    given, layers = params.get("stages"), params["layers"]
    if given is None or isinstance(given, int):
        count = min(given or STAGES, layers)
    else:
        count = layers if given == "all" else len(given)
    maps = n * (count * params.get("draws", 1) + 1) * max(1, params.get("smooth", 0))
    return maps * own[0] + n, maps * own[1]


@register_metric(
    "parameter_randomisation",
    kind="randomisation",
    needs="weights",
    higher_is_better=False,
    sign_invariant=True,
    chance_text="0 for noise, 1 for a map that ignores the weights",
    reference="Adebayo et al. 2018, arXiv:1810.03292; smooth: Hedstroem et al. 2024, arXiv:2401.06465",
    cost="1, and stages x draws + 1 E",
    says="similarity of the maps before and after weights are drawn anew",
    options=OPTIONS,
    rows=_rows,
)
def parameter_randomisation(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    similarity: str = "rank",
    upto: str = "upper_half",
    **options: Any,
) -> Tensor:
    """Similarity of a map to the maps of the same net with random weights (MPRT): the mean over stages.

    Args:
        forward_func: an `nn.Module`, or a callable that holds one.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        similarity: "rank" (Spearman), "cosine" or "ssim".
        upto: "upper_half": the first half of the stages, the middle one among them; "all": all stages.
        **options: as for `randomisation_curves`.

    Returns:
        (N,) float64, at most 1; NaN where the trained net's map is constant.

    Raises:
        InputError: a callable without modules.

    Example:
        parameter_randomisation(model, exp, stages=2)  # (2,)
    """
    if upto not in ("upper_half", "all"):
        raise unknown("upto", upto, ("upper_half", "all"))
    curves = randomisation_curves(forward_func, inputs, attributions, similarity=(similarity,), **options)
    return curves.upper_half(similarity) if upto == "upper_half" else curves.mean(similarity)
