"""From what is asked to pictures: units into rows, rows into chunks that climb, and all that is known of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import auto_chunk, chunks
from interp_plugins.core.errors import InputError
from interp_plugins.core.progress import progress_bar
from interp_plugins.core.random import sample_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.optim import objectives as o
from interp_plugins.optim.capture import Capture
from interp_plugins.optim.colour import Colour
from interp_plugins.optim.loop import Ascending, Climber, Rows
from interp_plugins.optim.params import Fourier, Param, Phases, Pixels, measured_magnitudes
from interp_plugins.optim.subject import PictureSubject, check_size, colour_of, subject_of
from interp_plugins.optim.transforms import STILL, as_transform, resized
from interp_plugins.optim.units import FeatureUnit
from interp_plugins.optim.visualization import Visualization

LIKE = "like"  # as a beginning: the example of the model's input itself


@dataclass(frozen=True)
class ModelCall:
    """A model and how it is called, as the user says it.

    Attributes:
        model: an `nn.Module` or any callable around one.
        like: an example of its inputs, or None.
        input_spec: what is known of the first one.
        output: which part of the output is meant.
        args: further positional arguments.
        kwargs: keyword arguments.
    """

    model: Callable[..., Any]
    like: Any = None
    input_spec: InputSpec | None = None
    output: Any = None
    args: Any = None
    kwargs: Mapping[str, Any] | None = None

    def subject(self, size: Any) -> PictureSubject:
        """What is known of the input, inside `frozen`."""
        return subject_of(self.model, self.like, self.input_spec, size, self.output, self.args, self.kwargs)


@dataclass(frozen=True, eq=False)
class Recipe:
    """How pictures climb; arguments as of `visualize`."""

    param: Param
    magnitude: Any = "natural"
    colour: Any = "natural"
    squash: Any = "auto"
    size: Any = None
    init: Any = None
    transform: Any = None
    steps: int = 512
    min_steps: int = 128
    tol: float | None = 0.005
    lr: float | None = None
    optimizer: Any = None
    sign: float = 1.0
    n: int = 1
    diversity: float = 0.0
    snapshots: tuple[int, ...] = ()
    seed: int = 0
    chunk: int | None = None
    penalty: float = 0.0

    def facts(self) -> dict[str, Any]:
        """What results tell of it."""
        told = {"param": self.param.name, "steps": self.steps, "tol": self.tol, "seed": self.seed}
        told |= {"lr": self.param.lr if self.lr is None else self.lr, "n": self.n}
        if self.sign < 0:
            told["minimise"] = True
        return told


@dataclass(frozen=True, eq=False)
class Making:
    """A subject with its layers, ready to climb."""

    subject: PictureSubject
    capture: Capture
    recipe: Recipe
    colour: Colour
    space: tuple[int, ...]

    @classmethod
    def of(cls, subject: PictureSubject, capture: Capture, recipe: Recipe, sample: Tensor | None) -> Making:
        """What is measured before the climb.

        Args:
            subject: the model and its input.
            capture: its layers.
            recipe: how pictures climb.
            sample: data (N, C, *space) in raw units, or None.
        """
        space = subject.size if recipe.size is None else check_size(recipe.size, len(subject.size))
        return cls(subject, capture, recipe, colour_of(subject, recipe.colour, recipe.squash, sample), space)

    def problem(self, sample: Tensor | None, rows: int) -> Ascending:
        """What the loop is to climb."""
        s, r = self.subject, self.recipe
        transform = as_transform(r.transform, r.param.crops) if self.space else STILL
        init = s.raw() if isinstance(r.init, str) and r.init == LIKE else r.init
        if isinstance(init, Tensor):
            init = resized(init.to(s.dtype), self.space) if init.ndim > 2 else init
            if tuple(init.shape[1:]) != (s.channels, *self.space):
                raise InputError(f"init must be a picture (1, {s.channels}, H, W) in raw units; got {init.shape}.")
        elif init not in (None, "noise", "grey"):
            raise InputError(f"init must be a picture in raw units, 'noise', 'grey' or None; got {init!r}.")
        param = r.param
        if isinstance(param, Fourier) and not self.space:
            param = Pixels()  # columns of a table are no neighbours: there are no frequencies
        if isinstance(param, Phases):
            if not self.space:
                raise InputError("param='maco' is of pictures and series; rows of a table take param='pixel'.")
            param = self._phases(param, sample, init)
        beside = (*s.row[: s.place], *s.row[s.place + 1 :])
        problem = Ascending(
            plain=self.capture, fast=self.capture, param=param, colour=self.colour, space=self.space, size=s.size,
            channels=s.channels, spec=s.spec, place=s.place, beside=beside, transform=transform,
            dtype=s.dtype, given=s.row[s.place].dtype, device=s.device, sign=r.sign, steps=r.steps,
            min_steps=r.min_steps, tol=r.tol, lr=param.lr if r.lr is None else r.lr,
            optimizer=r.optimizer, snapshots=tuple(t for t in r.snapshots if t <= r.steps),
            init=None if isinstance(init, str) and init == "noise" else init, alpha=isinstance(param, Phases),
            penalty=r.penalty, group=r.n if r.n > 1 else 1,
        )  # fmt: skip
        fast = self.capture.faster(s.row, rows * r.steps * problem.views, rows * problem.views)
        object.__setattr__(problem, "fast", fast)
        return problem

    def _phases(self, param: Phases, sample: Tensor | None, init: Any) -> Phases:
        """Phases with the magnitudes of the data, or of the picture that is begun from."""
        if isinstance(init, Tensor):
            images = self.colour.image(init.cpu())
        elif isinstance(self.recipe.magnitude, str) and self.recipe.magnitude == "data":
            if sample is None:
                raise InputError("magnitude='data' measures the spectrum of data=; give some.")
            images = self.colour.image(resized(sample.to(self.subject.dtype), self.space))
        else:
            return param
        return Phases(measured_magnitudes(images, self.space))


def _row_seeds(seed: int, units: int, n: int) -> list[torch.Generator]:
    """A generator per row: row j of every unit has the same stream, so that a unit's picture is its own."""
    return [torch.Generator().manual_seed(sample_seed(seed, j)) for _ in range(units) for j in range(n)]


def climbed(
    making: Making, units: Sequence[FeatureUnit], sample: Tensor | None, progress: bool | None
) -> Visualization:
    """The pictures of some units.

    Args:
        making: what is climbed in.
        units: what is climbed for.
        sample: data in raw units, or None.
        progress: None: a bar for long work.
    """
    began = time.perf_counter()
    recipe = making.recipe
    objectives = [one for unit in units for one in [_repelling(unit, recipe)] * recipe.n]
    total = len(objectives)
    group = recipe.n if any(one.mates for one in objectives) else 1
    chunk = _rows_at_once(making, recipe, total, group)
    problem = making.problem(sample, min(chunk, total))
    generators = _row_seeds(recipe.seed, len(units), recipe.n)
    bar = progress_bar(total * recipe.steps, "pictures", progress)
    done: list[tuple[Rows, Tensor]] = []

    def work(start: int, stop: int) -> tuple[Rows, Tensor]:
        fresh = [torch.Generator().set_state(g.get_state()) for g in generators[start:stop]]
        rows = Climber(problem, objectives[start:stop], fresh, bar).run()
        pictures = torch.stack([p for p in rows.pictures if p is not None])
        return rows, pictures

    with bar:
        for _, _, found in chunks(total, chunk, work, step=group):
            done.append(found)
            if "interrupted" in found[0].state:
                break
    return _result(making, problem, units, done, objectives, chunk, group, time.perf_counter() - began)


def _repelling(unit: FeatureUnit, recipe: Recipe) -> Any:
    if not recipe.diversity or recipe.n < 2:
        return unit.objective
    places = unit.objective.layers
    if not places:
        raise InputError("diversity compares pictures at a layer, and a target has none: use objectives.diversity.")
    return unit.objective + recipe.diversity * o.diversity(places[0])


def _rows_at_once(making: Making, recipe: Recipe, total: int, group: int) -> int:
    """How many pictures go through together."""
    facts = making.subject.forward.row_facts(making.subject.row)
    if facts.together or facts.single:
        return group
    transform = as_transform(recipe.transform, recipe.param.crops)
    views = getattr(transform, "views", 1)
    if recipe.chunk is not None:
        return max(group, recipe.chunk)
    auto = auto_chunk(list(making.subject.row))
    if auto // views > group:
        auto_rows = type(auto)(auto // views)
        auto_rows.shapes, auto_rows.own, auto_rows.limited = auto.shapes, auto.own, auto.limited
        return auto_rows
    return group


def _result(
    making: Making,
    problem: Ascending,
    units: Sequence[FeatureUnit],
    done: Sequence[tuple[Rows, Tensor]],
    objectives: Sequence[Any],
    chunk: int,
    group: int,
    seconds: float,
) -> Visualization:
    n, recipe = making.recipe.n, making.recipe
    pictures = torch.cat([p for _, p in done])
    count = len(pictures)
    clean = problem.clean(pictures, objectives[:count], chunk, group)
    own = [units[i // n] for i in range(count)]
    names = [u.name if n == 1 else f"{u.name} ({i % n + 1})" for i, u in enumerate(own)]
    alpha = None
    if problem.alpha:
        alpha = torch.cat([rows.alpha for rows, _ in done if rows.alpha is not None]).float().cpu()
    films = {s: torch.cat([rows.films[s] for rows, _ in done]).float() for s in problem.snapshots}
    with torch.no_grad():
        inputs = torch.cat([problem.model_inputs(resized(p[None], problem.size))[problem.place] for p in pictures])
    return Visualization(
        images=pictures.float().cpu(),
        inputs=inputs.float().cpu(),
        names=tuple(names),
        unit=tuple(i // n for i in range(count)),
        objective=tuple(repr(u.objective) for u in own),
        activation=clean.double().cpu(),
        history=torch.cat([rows.history for rows, _ in done]),
        steps=torch.tensor([s for rows, _ in done for s in rows.steps]),
        state=tuple(s for rows, _ in done for s in rows.state),
        alpha=alpha,
        films=films,
        spec=making.subject.spec,
        params=recipe.facts(),
        seconds=seconds,
        engine=making.capture.forward.passes["forward"],
    )
