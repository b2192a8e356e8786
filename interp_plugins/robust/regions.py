"""`smallest_flip`: the fewest regions that turn a prediction when they are taken away."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.asking import Given
from interp_plugins.api.explain import explain
from interp_plugins.attr.shared.grid_features import cells
from interp_plugins.core.baseline import as_baselines
from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.enlarged import over_input
from interp_plugins.core.errors import InputError, InterpError, concise
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.features import MaskFeatures
from interp_plugins.core.random import make_generator
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked
from interp_plugins.core.tensors import is_float, like
from interp_plugins.robust.aim import Aim, ValueAim, aim_of
from interp_plugins.robust.opening import Asking, Opened, opened
from interp_plugins.robust.perturbed import Perturbed

EXACT = 16  # regions at most, for the exact search
_CELLS = 8  # of a grid, along an axis
_TOGETHER = 16  # sets of regions that are asked about before it is seen whether one of them suffices


def smallest_flip(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    *,
    target: Any = None,
    goal: Any = None,
    feature_mask: Any = "grid",
    baselines: Any = "auto",
    order: Any = "auto",
    search: str = "greedy",
    input_spec: InputSpec | None = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    output: Any = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Perturbed:
    """Take regions away, in the order of a map, until the prediction turns; then put back all that can be.

    What is left is irreducible: no single region of it can be put back without the prediction turning back. With
    `search="exact"` no smaller set of regions turns it at all.

    Args:
        model: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first, in the model's units.
        target: the class to be left, as for `attack`; None: what is predicted.
        goal: the class to be said instead; None: any other.
        feature_mask: which elements go together: numbers of regions from 0 in a shape that broadcasts over the inputs,
            "grid" (8 x 8 cells of a picture, each feature of a row) or "slic" (superpixels of each picture; needs
            scikit-image).
        baselines: what stands in a region that is taken away, as for `explain` ("blur", "black", a tensor);
            "auto": a blurred picture, zeros in other data.
        order: the method whose map says which region goes first, as for `explain`; "auto": Grad-CAM for pictures
            where the model has a map, else what each region alone takes away from the score.
        search: "greedy", or "exact" for 16 regions or fewer.
        input_spec: kind of data, normalisation and class names.
        activation: as for `explain`.
        output: as for `explain`.
        additional_forward_args: as for `explain`.
        forward_kwargs: as for `explain`.
        batch_size: rows per pass; None: automatic.
        seed: of random baselines and methods.
        progress: None: a bar for long work.

    Returns:
        `Perturbed`: `.regions` are the numbers of those taken away; "none found" where even all of them do not suffice.

    Raises:
        InputError: a mask that is none, too many regions for the exact search.

    Example:
        from interp_plugins.robust import smallest_flip

        found = smallest_flip(nn.Linear(4, 2), torch.randn(2, 4), baselines=0)
        len(found.regions)  # -> 2
    """
    with concise():
        if search not in ("greedy", "exact"):
            raise InputError(f"search must be 'greedy' or 'exact', got {search!r}.")
        asking = Asking(
            input_spec, None, None, activation, output, additional_forward_args, forward_kwargs, batch_size, seed
        )
        with opened(model, inputs, asking, ids=True) as subject:
            aim = aim_of(subject.prediction, subject.spec, target, goal, len(subject))
            features = _features(subject, feature_mask)
            if search == "exact" and len(features) > EXACT:
                raise InputError(
                    f"search='exact' tries every set of at most {EXACT} regions, and there are {len(features)}: give a "
                    "coarser feature_mask, or search='greedy'."
                )
            flip = _Flip(subject, aim, features, baselines)
            everyone = torch.arange(len(subject), device=subject.xs[0].device)
            done = aim.reached(subject.prediction.output, everyone).tolist()
            scores = flip.by_map(order) if search == "greedy" else torch.zeros(len(subject), flip.count)
            found: list[list[int] | None] = []
            with progress_bar(len(subject), "regions", progress) as bar:
                for i in range(len(subject)):
                    found.append([] if done[i] else flip.exact(i) if search == "exact" else flip.greedy(i, scores[i]))
                    bar.update(1)
            return flip.result(found, done, {"search": search, "regions": flip.count})


class _Flip:
    """Samples with regions that can be taken away."""

    def __init__(self, subject: Opened, aim: Aim | ValueAim, features: MaskFeatures, baselines: Any):
        self.subject, self.aim, self.masks, self.ids = subject, aim, features.positions(), features.ids
        self.count = len(features)
        if self.count < 2:
            raise InputError("feature_mask holds one region alone; give at least two.")
        if isinstance(baselines, str) and baselines == "auto":
            baselines = "blur" if subject.spec.kind == "image" else None
        self.base = as_baselines(
            baselines, subject.xs, subject.spec, template=subject.given, generator=make_generator(subject.asking.seed)
        )

    def without(self, i: int, taken: Tensor) -> list[Tensor]:
        """Sample i without sets of regions, bool (R, regions)."""
        made = []
        for x, b, m in zip(self.subject.xs, self.base, self.masks, strict=True):
            gone = taken.to(m.device)[:, m[i if len(m) > 1 else 0].expand(x.shape[1:])]  # (R, ...)
            made.append(torch.where(gone, b[i if len(b) > 1 else 0].to(x), x[i]))
        return made

    def looked(self, i: int, taken: Tensor) -> tuple[Tensor, Tensor]:
        """Of sets of regions taken from sample i: whether the prediction turns, and how far it is turned."""
        subject, found = self.subject, []
        rows = torch.full((len(taken),), i, device=subject.xs[0].device)

        def work(start: int, stop: int) -> Tensor:
            points = subject.func.raw(self.without(i, taken[start:stop]))
            with torch.no_grad():
                return subject.forward.raw(points, rows[start:stop])

        for _, _, output in chunks(len(taken), subject.forward.rows_per_pass(subject.raw, self._size()), work):
            found.append(output)
        output = torch.cat(found)
        return self.aim.reached(output, rows).cpu(), self.aim.height(output, rows).cpu()

    def _size(self) -> int | None:
        return self.subject.asking.batch_size

    def by_map(self, order: Any) -> Tensor:
        """How much a map gives to each region, (N, regions); the first to be taken away has most."""
        subject = self.subject
        if isinstance(order, str) and order == "auto":
            made = self._map("grad_cam") if subject.spec.kind == "image" else None
            return self.alone() if made is None else self._summed(made)
        return self._summed(self._map(order, strict=True))

    def alone(self) -> Tensor:
        """How far the prediction is turned by each region alone, (N, regions)."""
        single = torch.eye(self.count, dtype=torch.bool)
        return torch.stack([self.looked(i, single)[1] for i in range(len(self.subject))])

    def _map(self, order: Any, strict: bool = False) -> Explanation | None:
        subject = self.subject
        indices = tuple(int(c) for c in self.aim.left) if isinstance(self.aim, Aim) else None
        asked = None if indices is None else Given(Asked.of_classes(indices, subject.spec, subject.prediction))
        try:
            return explain(
                subject.model, subject.given, [order], target=asked, input_spec=subject.spec, progress=False,
                seed=subject.asking.seed, **subject.asking.for_explain(),
            )[0]  # fmt: skip
        except InterpError:
            if strict:
                raise
            return None

    def _summed(self, exp: Explanation | None) -> Tensor:
        assert exp is not None
        total = torch.zeros(len(self.subject), self.count, dtype=torch.float64)
        size = torch.zeros(len(self.subject), self.count, dtype=torch.float64)
        for attribution, x, m in zip(over_input(exp), self.subject.xs, self.masks, strict=True):
            values = attribution.double().expand(x.shape).flatten(1)
            numbers = m.expand(x.shape).flatten(1).cpu()
            total.scatter_add_(1, numbers, values)
            size.scatter_add_(1, numbers, torch.ones_like(values))
        return total / size.clamp_min(1)

    def greedy(self, i: int, scores: Tensor) -> list[int] | None:
        """Regions in the order of their scores until the prediction turns, without those that can be put back."""
        order = scores.argsort(descending=True, stable=True).tolist()
        taken = torch.zeros(self.count, self.count, dtype=torch.bool)
        for k in range(self.count):
            taken[k:, order[k]] = True
        for start in range(0, self.count, _TOGETHER):
            turned = self.looked(i, taken[start : start + _TOGETHER])[0]
            if bool(turned.any()):
                break
        else:
            return None
        chosen = order[: start + int(turned.int().argmax()) + 1]
        while len(chosen) > 1:  # the one without which the prediction stays turned most goes back
            less = torch.zeros(len(chosen), self.count, dtype=torch.bool)
            for k in range(len(chosen)):
                less[k, [r for j, r in enumerate(chosen) if j != k]] = True
            turned, height = self.looked(i, less)
            if not bool(turned.any()):
                break
            chosen.pop(int(torch.where(turned, height, -math.inf).argmax()))
        return sorted(chosen)

    def exact(self, i: int) -> list[int] | None:
        """The smallest set that turns the prediction; of several, the one that turns it most."""
        for size in range(1, self.count + 1):
            sets = list(itertools.combinations(range(self.count), size))
            taken = torch.zeros(len(sets), self.count, dtype=torch.bool)
            for k, one in enumerate(sets):
                taken[k, list(one)] = True
            turned, height = self.looked(i, taken)
            if bool(turned.any()):
                return list(sets[int(torch.where(turned, height, -math.inf).argmax())])
        return None

    def result(self, found: Sequence[list[int] | None], done: Sequence[bool], told: dict[str, Any]) -> Perturbed:
        """What was found of all samples."""
        subject, aim, n = self.subject, self.aim, len(self.subject)
        taken = torch.zeros(n, self.count, dtype=torch.bool)
        for i, chosen in enumerate(found):
            taken[i, chosen or []] = True
        parts = [self.without(i, taken[i : i + 1]) for i in range(n)]
        moved = [torch.cat(column) for column in zip(*parts, strict=True)]
        raw = subject.func.raw(moved)
        rows = torch.arange(n, device=raw[0].device)
        with torch.no_grad():
            output = subject.forward.raw(raw, rows)
        clean = subject.prediction.output
        change = [a - b for a, b in zip(raw, subject.raw, strict=True)]
        return Perturbed(
            inputs=like(subject.given, [x.cpu() for x in subject.xs]),
            perturbed=like(subject.given, [x.cpu() for x in moved]),
            delta=like(subject.given, [d.cpu() if is_float(d) else d.float().cpu() for d in change]),
            state=tuple(
                "already" if d else "none found" if f is None else "turned" for d, f in zip(done, found, strict=True)
            ),
            target_label=aim.words(aim.left),
            goal_label=None if aim.goal is None else aim.words(aim.goal),
            prediction=aim.said(clean),
            prediction_after=aim.said(output),
            margin=-aim.height(clean, rows).cpu(),
            margin_after=-aim.height(output, rows).cpu(),
            steps=taken.sum(1),
            success_after_rounding=None,
            params={"attack": "regions", "eps": math.inf, "norm": "L2", **told},
            spec=subject.spec,
            regions=tuple(tuple(self.ids[r] for r in f or ()) for f in found),
        )


def _features(subject: Opened, given: Any) -> MaskFeatures:
    """The regions of every input: disjoint, each element in one."""
    xs = subject.xs
    if isinstance(given, str) and given not in ("grid", "slic"):
        raise InputError(f"feature_mask must be numbers of regions, 'grid' or 'slic', got {given!r}.")
    if isinstance(given, str):
        given = _superpixels(subject) if given == "slic" else cells(xs, subject.spec, _CELLS).get("feature_mask")
    return MaskFeatures(xs, given)


def _superpixels(subject: Opened) -> Tensor:
    try:
        from skimage.segmentation import slic
    except ModuleNotFoundError:
        raise InputError("feature_mask='slic' needs scikit-image: pip install scikit-image; or take 'grid'.") from None
    x = subject.raw[0]
    if subject.spec.kind != "image" or x.ndim != 4 or len(subject.xs) > 1:
        raise InputError(f"Superpixels are of pictures (N, C, H, W), got shape {tuple(x.shape)}; take 'grid'.")
    low, high = subject.spec.value_range
    found = []
    for one in ((x - low) / (high - low)).double().cpu():
        labels = slic(one.movedim(0, -1).numpy(), n_segments=_CELLS**2, start_label=0, channel_axis=-1)
        found.append(torch.from_numpy(labels).long())
    return torch.stack(found)[:, None].to(x.device)
