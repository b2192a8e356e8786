"""The loop: every row's picture climbs its own objective, leaves when it is done, and is woken where it is flat.

Nothing of a row depends on the others: it has its own leaves, its own generator, its own objective and its own end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.spec import InputSpec
from interp_plugins.optim.capture import Capture, Running
from interp_plugins.optim.colour import Colour
from interp_plugins.optim.objective import Objective, Seen, numbers
from interp_plugins.optim.params import Param
from interp_plugins.optim.steps import Adam, UsersOptimiser
from interp_plugins.optim.transforms import Transform, UsersTransform, resized
from interp_plugins.optim.waking import waking

BLOCK = 16  # steps between looks at the scores: a look waits for the device
_WINDOW = 64  # steps over which a score has to rise
_AWAKE = 128  # steps with redirected rectifiers at most
_REACH = 0.1  # how far a picture may go from where it began at a penalty of 1, as a share of the range
_MEAN = 0.9  # of the running mean of a score


@dataclass(frozen=True)
class Ascending:
    """What is climbed and how; the same for all rows.

    Attributes:
        plain: the model at its layers.
        fast: the same on a faster view, for the loop.
        param: what leaves are.
        colour: from image to picture.
        space: the picture's sizes.
        size: the model's.
        channels: of a picture.
        spec: normalisation and layout of the model's input.
        place: of the picture among the model's inputs.
        beside: the other inputs, one row each.
        transform: views of the picture.
        dtype: of the climb.
        given: of the model's input, which may be half of that.
        sign: 1, or -1 to descend.
        steps: at most.
        min_steps: before a row may leave.
        tol: a row leaves when the running mean of its score rose by less than this share of its range; None: never.
        lr: size of a step.
        optimizer: the user's factory, or None.
        snapshots: steps after which pictures are kept.
        init: a picture (1 or R, C, *space) in raw units to begin from; "grey"; None: noise.
        alpha: whether the importance of each place is summed up.
        penalty: how much the distance from where it began counts, see `Climber._prices`.
        group: rows of a unit, which leave together where their objective compares them.
    """

    plain: Capture
    fast: Capture
    param: Param
    colour: Colour
    space: tuple[int, ...]
    size: tuple[int, ...]
    channels: int
    spec: InputSpec
    place: int
    beside: tuple[Tensor, ...]
    transform: Transform | UsersTransform
    dtype: torch.dtype
    given: torch.dtype
    device: torch.device
    sign: float = 1.0
    steps: int = 512
    min_steps: int = 128
    tol: float | None = 0.005
    lr: float = 0.05
    optimizer: Callable[[list[Tensor]], Any] | None = None
    snapshots: tuple[int, ...] = ()
    init: Any = None
    alpha: bool = False
    penalty: float = 0.0
    group: int = 1

    @property
    def views(self) -> int:
        """Views of a picture per step."""
        return self.transform.views if isinstance(self.transform, Transform) else 1

    def leaves_of(self, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """The first leaves of rows."""
        if self.init is None:
            found = self.param.start(self.channels, self.space, generators)
        else:
            shape = (len(generators), self.channels, *self.space)
            if isinstance(self.init, Tensor):
                picture = self.init.to(self.dtype).expand(shape)
            else:
                picture = self.colour.grey(torch.zeros(shape, dtype=self.dtype)).expand(shape)
            found = self.param.leaves(self.colour.image(picture), self.space)
        return [x.to(self.device, self.dtype).contiguous() for x in found]

    def pictures(self, leaves: Sequence[Tensor]) -> Tensor:
        """Pictures (R, C, *space) in raw units."""
        return self.colour.picture(self.param.image(leaves, self.space))

    def span(self) -> Tensor:
        """Width of the range per channel, to broadcast over pictures."""
        return (self.colour.high - self.colour.low).reshape(1, -1, *[1] * len(self.space)).to(self.device, self.dtype)

    def model_inputs(self, views: Tensor) -> list[Tensor]:
        """Views as the model takes them, with the further inputs."""
        axis = self.spec.channel_axis(views.ndim)
        placed = views if axis in (None, 1) else views.movedim(1, axis)
        rows = len(views)
        found = [x.expand(rows, *x.shape[1:]) for x in self.beside]
        found.insert(self.place, self.spec.normalise(placed).to(self.given))
        return found

    def shown(self, run: Running, views: Tensor, pictures: Tensor, per_row: int) -> Seen:
        """What a pass of these views shows."""
        rows = torch.zeros(len(views), dtype=torch.long, device=views.device)
        output = run(self.model_inputs(views), rows)
        of_views = pictures if per_row == 1 else pictures.repeat_interleave(per_row, 0)
        return Seen(run.seen(), of_views, output)

    def clean(self, pictures: Tensor, objectives: Sequence[Objective], chunk: int, group: int = 1) -> Tensor:
        """The scores of pictures as they are, (R,)."""
        found = []
        graph = any(one.graph for one in objectives)
        with torch.set_grad_enabled(graph), self.plain.running() as run:
            for start in range(0, len(pictures), max(1, chunk // group) * group):
                some = slice(start, start + max(1, chunk // group) * group)
                views = resized(pictures[some], self.size).detach().requires_grad_(graph)
                found.append(numbers(objectives[some], self.shown(run, views, pictures[some], 1)).detach())
        return torch.cat(found)


@dataclass
class Rows:
    """Rows that climb together: what is known of each, in their order."""

    objectives: list[Objective]
    generators: list[torch.Generator]
    place: list[int]  # of each active row among all of the chunk
    history: Tensor = field(default_factory=lambda: torch.zeros(0))  # (R, steps)
    smooth: Tensor = field(default_factory=lambda: torch.zeros(0))  # (R, steps), the running mean
    steps: list[int] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    woken: set[int] = field(default_factory=set)
    pictures: list[Tensor | None] = field(default_factory=list)
    films: dict[int, Tensor] = field(default_factory=dict)
    alpha: Tensor | None = None


class Climber:
    """One chunk of rows on their way up.

    Args:
        problem: what is climbed.
        objectives: one per row.
        generators: of random numbers, one per row.
        bar: progress bar.
    """

    def __init__(
        self,
        problem: Ascending,
        objectives: Sequence[Objective],
        generators: Sequence[torch.Generator],
        bar: Any = None,
    ):
        n, p = len(objectives), problem
        self.problem, self.bar = p, bar
        nan = torch.full((n, p.steps), torch.nan, dtype=torch.float64)
        self.rows = Rows(list(objectives), list(generators), list(range(n)), nan, nan.clone())
        self.rows.steps, self.rows.state, self.rows.pictures = [0] * n, ["steps"] * n, [None] * n
        leaves = p.leaves_of(generators)
        self.origin = p.pictures(leaves).detach() if p.penalty else None
        self.price = torch.zeros(n, device=p.device, dtype=p.dtype)  # of squared distance, per row
        if p.optimizer is not None:
            self.optimiser: Any = UsersOptimiser(leaves, p.optimizer)
        else:
            self.optimiser = Adam(leaves, p.lr, p.param.nesterov)
        self.rows.alpha = torch.zeros(n, *p.space, device=p.device, dtype=p.dtype) if p.alpha else None

    def run(self) -> Rows:
        """Climb to the end; Ctrl-C ends it where it is."""
        p, rows = self.problem, self.rows
        self.films()
        step = 0
        try:
            with p.fast.running() as run:
                step = self._begin(run)
                while step < p.steps and rows.place:
                    ahead = min([BLOCK, p.steps - step, *(s - step for s in p.snapshots if s > step)])
                    step = self._block(run, step, ahead)
        except KeyboardInterrupt:
            for i in rows.place:
                rows.state[i] = "interrupted"
            self._leave(range(len(rows.place)))
        else:
            self._leave(range(len(rows.place)))
        return rows

    def films(self) -> None:
        """Make room for the pictures that are kept on the way."""
        p = self.problem
        for step in p.snapshots:
            self.rows.films[step] = torch.full((len(self.rows.state), p.channels, *p.space), torch.nan)

    def _begin(self, run: Running) -> int:
        """Wake rows that a first look finds flat."""
        if self.problem.penalty:
            self.price = self._prices(run)
        flat = self._flat(self.gradient(run, self._draws(1)[0])[1])
        if flat:
            self._wake(flat)
        return 0

    def _block(self, run: Running, step: int, ahead: int) -> int:
        """Some steps, then one look at all scores."""
        rows = self.rows
        before = [x.clone() for x in self.optimiser.leaves]
        draws, scores, grads = self._draws(ahead), [], list[Tensor]()
        for i in range(ahead):
            score, grads = self.gradient(run, draws[i])
            scores.append(score)
            self.optimiser.step(grads)
            if self.bar is not None:
                self.bar.update(len(rows.place))
        found = torch.stack(scores, 1).double().cpu() * self.problem.sign
        self._note(found, step)
        self._broken(found, before)
        step += ahead
        for film in [f for s, f in rows.films.items() if s == step]:
            film[rows.place] = self.problem.pictures(self.optimiser.leaves).detach().cpu().to(film)
        asleep = self._flat(grads) if len(grads[0]) == len(rows.place) else []  # not where rows have left
        flat = [r for r in asleep if rows.place[r] not in rows.woken]
        if flat:
            self._wake(flat)
        self._settle(step)
        return step

    def gradient(self, run: Running, draws: Any, mode: Any = None) -> tuple[Tensor, list[Tensor]]:
        """Scores (R,), signed so that up is better, and the gradients of the leaves."""
        p, rows = self.problem, self.rows
        leaves = [x.detach().requires_grad_() for x in self.optimiser.leaves]
        pictures = p.pictures(leaves)
        views = self._views(pictures, draws)
        if mode is None:
            seen = p.shown(run, views, pictures, p.views)
        else:
            with mode:
                seen = p.shown(run, views, pictures, p.views)
        scores = numbers(rows.objectives, seen, p.views) * p.sign
        if self.origin is not None:
            away = (pictures - self.origin) / p.span()
            scores = scores - self.price * away.square().flatten(1).mean(1)
        sources = [*leaves, pictures] if p.alpha else leaves
        grads = torch.autograd.grad(scores.sum(), sources, allow_unused=True, materialize_grads=True)
        if p.alpha and rows.alpha is not None and mode is None:
            rows.alpha[rows.place] += grads[-1].abs().mean(1)
        return scores.detach(), list(grads[: len(leaves)])

    def _prices(self, run: Running) -> Tensor:
        """What a squared change of the mean square 1 costs each row.

        With g the gradient at the picture, in shares of the range, and D numbers, a change of root mean square r gains
        at most |g| sqrt(D) r; this price makes r = 0.1 / penalty the best.
        """
        p = self.problem
        pictures = p.pictures(self.optimiser.leaves).detach().requires_grad_()
        seen = p.shown(run, self._views(pictures, self._draws(1)[0]), pictures, p.views)
        scores = numbers(self.rows.objectives, seen, p.views)
        (grad,) = torch.autograd.grad(scores.sum(), pictures, allow_unused=True, materialize_grads=True)
        slope = (grad * p.span()).flatten(1)
        return p.penalty * slope.norm(dim=1) * slope.shape[1] ** 0.5 / (2 * _REACH)

    def _views(self, pictures: Tensor, draws: Any) -> Tensor:
        p, generators = self.problem, self.rows.generators
        if isinstance(p.transform, UsersTransform):
            return p.transform.function(resized(pictures, p.size), generators)
        if pictures.ndim < 3:
            return pictures
        views = p.transform.view(pictures, draws, p.size, p.colour.grey(pictures))
        return p.transform.noisy(views, generators, p.span())

    def _draws(self, steps: int) -> Any:
        transform = self.problem.transform
        if isinstance(transform, UsersTransform):
            return [None] * steps
        return transform.draws(self.rows.generators, steps)

    @staticmethod
    def _flat(grads: Sequence[Tensor]) -> list[int]:
        """Rows without any gradient."""
        zero = torch.stack([(g == 0).flatten(1).all(1) for g in grads]).all(0)
        return torch.nonzero(zero).flatten().tolist()

    def _note(self, found: Tensor, step: int) -> None:
        """Write scores (R, steps) down, and their running mean."""
        rows, at = self.rows, torch.tensor(self.rows.place)
        rows.history[at, step : step + found.shape[1]] = found
        last = rows.smooth[at, step - 1] if step else found[:, 0]
        for i in range(found.shape[1]):
            last = _MEAN * last + (1 - _MEAN) * found[:, i]
            rows.smooth[at, step + i] = last
        for i in rows.place:
            rows.steps[i] = step + found.shape[1]

    def _broken(self, found: Tensor, before: Sequence[Tensor]) -> None:
        """Let rows with NaN go, with the pictures from before the block."""
        bad = torch.nonzero(~found.isfinite().all(1)).flatten().tolist()
        if bad:
            for r in bad:
                self.rows.state[self.rows.place[r]] = "nan"
            self._leave(bad, before)

    def _settle(self, step: int) -> None:
        """Let rows go whose score no longer rises."""
        p, rows = self.problem, self.rows
        if p.tol is None or step < max(p.min_steps, _WINDOW) or not rows.place:
            return
        done = []
        for r, i in enumerate(rows.place):
            past = rows.smooth[i, :step] * p.sign
            rise, reach = past[-1] - past[-_WINDOW], past.max() - past.min()
            if bool(rise < p.tol * reach) or not bool(reach > 0):
                done.append(r)
        if p.group > 1:  # rows that are compared leave together
            whole = [r // p.group for r in done]
            done = [r for r in done if whole.count(r // p.group) == p.group]
        for r in done:
            if rows.state[rows.place[r]] == "steps":
                rows.state[rows.place[r]] = "converged"
        self._leave(done)

    def _leave(self, gone: Sequence[int], leaves: Sequence[Tensor] | None = None) -> None:
        """Keep the pictures of rows, and go on without them."""
        rows, gone = self.rows, list(gone)
        if not gone:
            return
        kept = [r for r in range(len(rows.place)) if r not in set(gone)]
        now = self.optimiser.leaves if leaves is None else leaves
        final = self.problem.pictures([x[gone] for x in now]).detach()
        for r, picture in zip(gone, final, strict=True):
            rows.pictures[rows.place[r]] = picture
        index = torch.tensor(kept, dtype=torch.long, device=self.problem.device)
        self.optimiser.keep(index)
        self.origin = self.origin[index] if self.origin is not None else None
        self.price = self.price[index]
        rows.objectives, rows.generators = [rows.objectives[r] for r in kept], [rows.generators[r] for r in kept]
        rows.place = [rows.place[r] for r in kept]

    def _wake(self, flat: Sequence[int]) -> None:
        """Climb with redirected rectifiers until the plain gradient is there; rows for which it never is are dead."""
        p, rows = self.problem, self.rows
        inner = Climber(p, [rows.objectives[r] for r in flat], [rows.generators[r] for r in flat])
        index = torch.tensor(list(flat), device=p.device)
        inner.optimiser = Adam([x[index] for x in self.optimiser.leaves], p.lr, p.param.nesterov)
        inner.origin = None
        dead = inner.woken_rows()
        for x, y in zip(self.optimiser.leaves, inner.optimiser.leaves, strict=True):
            x[index] = y.detach()
        for r, gone in zip(flat, dead, strict=True):
            rows.woken.add(rows.place[r])
            rows.state[rows.place[r]] = "dead" if gone else "woken"
        self._leave([r for r, gone in zip(flat, dead, strict=True) if gone])

    def woken_rows(self) -> list[bool]:
        """Climb under redirected rectifiers; whether each row stayed without a gradient."""
        p = self.problem
        dead = [True] * len(self.rows.place)
        with p.plain.running() as run:
            for _ in range(min(_AWAKE, p.steps)):
                mode = waking()
                _, grads = self.gradient(run, self._draws(1)[0], mode)
                mode.release()
                self.optimiser.step([self._of_dead(g, dead) for g in grads])
                flat = set(self._flat(self.gradient(run, self._draws(1)[0])[1]))
                dead = [gone and r in flat for r, gone in enumerate(dead)]
                if not any(dead) or not any(bool(self._of_dead(g, dead).any()) for g in grads):
                    break
        return dead

    @staticmethod
    def _of_dead(grad: Tensor, dead: Sequence[bool]) -> Tensor:
        """The gradient of rows that are still asleep; zero for the others."""
        mask = torch.tensor(list(dead), device=grad.device).reshape(-1, *[1] * (grad.ndim - 1))
        return torch.where(mask, grad, torch.zeros_like(grad))
