"""`explanation_robustness`: how much can a map change while the prediction stays?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import progress_bar
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.random import make_generator
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import ask
from interp_plugins.core.tensors import like
from interp_plugins.metrics.maps import asked_methods
from interp_plugins.metrics.rows import element_rows
from interp_plugins.robust.explained import ExplanationRobustness
from interp_plugins.robust.map_attack import MapAttack, Worst
from interp_plugins.robust.map_change import Likeness, Maps, SamePrediction, refuse_mates, wanted_rows
from interp_plugins.robust.norms import check_norm
from interp_plugins.robust.opening import Asking, Opened, as_size, opened
from interp_plugins.robust.smooth_maps import SmoothMaps

_SMALL = 0.1  # of a random change
HOW = ("auto", "gradient", "search")


def explanation_robustness(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    methods: Any = None,
    *,
    eps: float | str = 8 / 255,
    norm: str = "Linf",
    keep: float = 0.1,
    similarity: Any = "spearman",
    towards: Any = None,
    target: Any = None,
    n_random: int = 16,
    steps: int = 40,
    how: str = "auto",
    mask: Any = None,
    bounds: Any = "auto",
    input_spec: InputSpec | None = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    output: Any = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **params: Any,
) -> ExplanationRobustness:
    """How much a map can change within `eps` while the model says the same: by chance, and when somebody wants it to.

    A change counts where the predicted class stays and the explained score moves by at most `keep` of its distance
    from the mean of all outputs. Of each method three numbers are told: the mean likeness of its map to the clean one
    under random changes, the worst of these (what `sensitivity_max` looks for), and the worst that an attack finds. The
    attack begins at the worst random change, so it is never milder. What turned one method's map is shown to all
    others, so that none looks stable because it was attacked less well.

    Gradient methods (Saliency, Input x Gradient, Integrated Gradients, noise around them, Grad-CAM and its kin) are
    attacked along the slope of a private map in which rectifiers are rounded (Dombrowski et al. 2019, arXiv:1906.07983;
    Ghorbani et al. 2019, arXiv:1710.10547); others by a random search, which is weaker. All likenesses are of maps that
    `explain` makes of the model itself. They are upper bounds: a better attack may find less.

    Args:
        model: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first, in the model's own (normalised) units.
        methods: as for `explain`; None: its defaults.
        eps: largest change of a sample, in raw units: a number, or a fraction as text ("8/255").
        norm: "Linf", "L2" or "L1".
        keep: by how much the explained score may change, as a share, above 0.
        similarity: "spearman" (of sizes), "topk" (overlap of the largest tenth), "cosine", "centre" (1 less the way
            that the centre of mass moves, in halves of the diagonal), or a function of two tensors of maps (N, D), one
            number per place, that gives (N,).
        towards: a map or a region (ones where the map should lie) that the maps are drawn towards: a tensor of the
            maps' places (H, W), of any size, or one per sample; None: away from the clean map.
        target: what is explained, as for `explain`; None: the predicted class.
        n_random: random changes of each sample, at least 1.
        steps: steps of the attack; of a search as many pairs of maps.
        how: "auto", "gradient" (methods that cannot be attacked so are refused) or "search".
        mask: 1 where an element may change, 0 where not; shapes that broadcast over the inputs.
        bounds: (smallest, largest) raw value; "auto": the spec's range for pictures, none for others; None: none.
        input_spec: kind of data, normalisation and class names; guessed from the shape if None.
        activation: as for `explain`.
        output: as for `explain`.
        additional_forward_args: as for `explain`.
        forward_kwargs: as for `explain`.
        batch_size: rows per pass; None: automatic.
        seed: of all draws.
        progress: None: a bar for long work.
        **params: the methods' own parameters, and further arguments of `explain` (`budget`, `baselines`, `layer`).

    Returns:
        `ExplanationRobustness`: the numbers, the maps before and after, a table, a picture and a page.

    Raises:
        InputError: sizes, shares or counts that are none; a method that cannot be attacked as asked.
        ModelError: a model whose rows feel each other, with several samples.

    Example:
        from interp_plugins.robust import explanation_robustness

        found = explanation_robustness(model, x, "saliency", eps=0.2, n_random=2, steps=3)
        bool((found.attacked <= found.random_worst).all())  # -> True
    """
    with concise():
        size, norm = as_size(eps, 8 / 255), check_norm(norm)
        _check(keep, n_random, steps, how)
        plan = _Plan(size, norm, keep, Likeness(similarity), n_random, steps, how, towards)
        asking = Asking(
            input_spec, bounds, mask, activation, output, additional_forward_args, forward_kwargs, batch_size, seed
        )
        with opened(model, inputs, asking) as subject:
            refuse_mates(subject)
            return _Run(subject, plan, methods, target, params).result(progress)


def _check(keep: Any, n_random: Any, steps: Any, how: Any) -> None:
    if isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 < keep < math.inf:
        raise InputError(f"keep is the share by which the score may change, a number above 0, got {keep!r}.")
    for name, count in (("n_random", n_random), ("steps", steps)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{name} must be a positive int, got {count!r}.")
    if how not in HOW:
        raise InputError(f"how must be one of {', '.join(HOW)}, got {how!r}.")


@dataclass(frozen=True)
class _Plan:
    """How large changes are, what counts, and how hard is tried."""

    radius: float
    norm: str
    keep: float
    likeness: Likeness
    n_random: int
    steps: int
    how: str
    towards: Any


class _Run:
    """One question: all methods on all samples."""

    def __init__(self, subject: Opened, plan: _Plan, methods: Any, target: Any, params: dict[str, Any]):
        self.subject, self.plan = subject, plan
        self.asked = ask(target, subject.prediction, subject.spec, len(subject))
        self.kept, self.room = SamePrediction(subject, self.asked, plan.keep), subject.room()
        self.maps = [Maps(subject, self.asked, one) for one in asked_methods(methods, subject.spec, params)]
        rows = self.room.everyone
        self.clean = [one.at(subject.raw, rows) for one in self.maps]
        self.labels = Explanations(self.clean).labels
        for one in self.clean:
            plan.likeness.places(one)  # refuses maps without places where they are asked for
        drawn = plan.towards is not None
        self.wanted = [wanted_rows(plan.towards, one, len(subject)) if drawn else None for one in self.clean]
        self.smooth = [self._smooth(clean) for clean in self.clean]
        self.generator = make_generator(subject.asking.seed)

    def _smooth(self, clean: Explanation) -> SmoothMaps | None:
        if self.plan.how == "search":
            return None
        made = SmoothMaps.of(self.subject, self.asked, clean)
        if made is None and self.plan.how == "gradient":
            raise InputError(
                f"{clean.title} has no slope that an attack could climb on this model; how='auto' searches at random."
            )
        return made

    def result(self, progress: bool | None) -> ExplanationRobustness:
        """All of it: random changes, an attack on each method, and each method shown what turned the others."""
        plan, n, many = self.plan, len(self.subject), len(self.maps)
        attacks = [
            MapAttack(m, c, self.kept, plan.likeness, self.room, plan.radius, plan.norm, plan.steps, w)
            for m, c, w in zip(self.maps, self.clean, self.wanted, strict=True)
        ]
        with progress_bar(plan.n_random + many * 2, "explanation robustness", progress) as bar:
            drawn, share, worst = self._at_random(attacks, bar)
            random_worst = torch.where(drawn.isnan(), torch.inf, drawn).amin(2)
            random_worst = torch.where(random_worst.isinf(), math.nan, random_worst)
            for k, attack in enumerate(attacks):
                smooth = self.smooth[k]
                if smooth is None:
                    attack.search(worst[k], self.generator)
                else:
                    attack.climb(worst[k], smooth, self._start(worst[k]))
                bar.update(1)
            self._shown_to_others(attacks, worst)
        rows = self.room.everyone
        after = [m.at(self.room.points(rows, w.change), rows) for m, w in zip(self.maps, worst, strict=True)]
        counted = (~drawn.isnan()).sum(2)
        mean = torch.where(counted > 0, drawn.nansum(2) / counted.clamp_min(1), math.nan)
        spec, inputs = self.subject.spec, self.subject.given
        return ExplanationRobustness(
            methods=tuple(self.labels),
            random_mean=mean,
            random_worst=random_worst,
            attacked=self._alike(after, worst),
            kept=share,
            by=tuple(tuple(w.by) for w in worst),
            how=tuple("search" if s is None else "gradient" for s in self.smooth),
            inputs=like(inputs, [x.cpu() for x in self.subject.xs]),
            changed=tuple(self._inputs(w.change) for w in worst),
            before=tuple(self.clean),
            after=tuple(after),
            params={
                "eps": plan.radius, "norm": plan.norm, "keep": plan.keep, "similarity": plan.likeness.name,
                "n_random": plan.n_random, "steps": plan.steps, "how": plan.how, "seed": self.subject.asking.seed,
                "samples": n,
            },
            spec=spec,
            wanted_before=self._near(self.clean, None),
            wanted_after=self._near(after, worst),
        )  # fmt: skip

    def _alike(self, after: Sequence[Explanation], worst: Sequence[Worst]) -> Tensor:
        """Likeness of maps to the clean ones, (M, N); NaN where nothing was kept."""
        rows, alike = self.room.everyone, self.plan.likeness
        found = [
            w.likeness if wanted is None else torch.where(w.likeness.isnan(), math.nan, alike(a, c, rows))
            for a, c, w, wanted in zip(after, self.clean, worst, self.wanted, strict=True)
        ]
        return torch.stack(found)

    def _near(self, maps: Sequence[Explanation], worst: Sequence[Worst] | None) -> Tensor | None:
        """Likeness of maps to the wanted ones, (M, N); None without those."""
        if self.plan.towards is None:
            return None
        found = []
        for k, (one, wanted) in enumerate(zip(maps, self.wanted, strict=True)):
            assert wanted is not None
            alike = self.plan.likeness
            near = alike.between(element_rows(one, "sum"), wanted, alike.places(self.clean[k]))
            found.append(near if worst is None else torch.where(worst[k].likeness.isnan(), math.nan, near))
        return torch.stack(found)

    def _start(self, worst: Worst) -> Tensor:
        """The worst random changes; where none was kept, small ones, since a clean map has no way down."""
        small = _SMALL * self.room.drawn(self.plan.radius, self.plan.norm, self.generator)
        return torch.where(worst.likeness.isnan()[:, None].to(small.device), small, worst.change)

    def _inputs(self, change: Tensor) -> Any:
        points = self.subject.func.normalised(self.room.points(self.room.everyone, change))
        return like(self.subject.given, [p.detach().cpu() for p in points])

    def _at_random(self, attacks: Sequence[MapAttack], bar: Any) -> tuple[Tensor, Tensor, list[Worst]]:
        """Likenesses under random changes (M, N, draws), the share of them that is kept (N,), and the worst."""
        plan, n, rows = self.plan, len(self.subject), self.room.everyone
        worst = [
            Worst(torch.zeros_like(self.room.free), torch.full((n,), math.nan, dtype=torch.float64), ["none"] * n)
            for _ in attacks
        ]
        drawn = torch.full((len(attacks), n, plan.n_random), math.nan, dtype=torch.float64)
        held = torch.zeros(n, dtype=torch.float64)
        for d in range(plan.n_random):
            change = self.room.drawn(plan.radius, plan.norm, self.generator)
            known = self.kept.holds(self.room.points(rows, change), rows)
            held += known.cpu().double()
            for k, attack in enumerate(attacks):
                sought, drawn[k, :, d] = attack.compared(change, rows, known)
                worst[k].take(rows, change, sought, "random")
            bar.update(1)
        return drawn, held / plan.n_random, worst

    def _shown_to_others(self, attacks: Sequence[MapAttack], worst: list[Worst]) -> None:
        """Every method meets the changes that turned the maps of the others."""
        rows = self.room.everyone
        found = [(label, w.change.clone()) for label, w in zip(self.labels, worst, strict=True)]
        for k, attack in enumerate(attacks):
            for j, (label, change) in enumerate(found):
                if j != k:
                    worst[k].take(rows, change, attack.judged(change, rows), label)
