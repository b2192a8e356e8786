"""`attack`: inputs changed within a size, or by as little as can be, so that the model says another class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.differentiate import UnconnectedError
from interp_plugins.core.errors import InputError, ModelError, concise
from interp_plugins.core.forward import Forward
from interp_plugins.core.random import make_generator
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import like
from interp_plugins.engine import planned
from interp_plugins.robust.aim import Aim, ValueAim, aim_of
from interp_plugins.robust.ascent import Ascent
from interp_plugins.robust.bounds import Bounds
from interp_plugins.robust.bridge import Outside, OutsideAttack, as_attack
from interp_plugins.robust.climb import Climb, Look
from interp_plugins.robust.deep_fool import DeepFoolSearch
from interp_plugins.robust.nearest import Nearest
from interp_plugins.robust.norms import check_norm, check_size
from interp_plugins.robust.opening import Asking, Opened, as_size, opened
from interp_plugins.robust.perturbed import Perturbed
from interp_plugins.robust.search import AttackPlan, Search
from interp_plugins.robust.shortened import Shortened

STEPS = {"pgd": 40, "fgsm": 1, "fmn": 40, "deepfool": 50}
SMALLEST: dict[str, type[Shortened]] = {"fmn": Nearest, "deepfool": DeepFoolSearch}
_MUCH = 1 << 22  # elements of all points that are asked about, from which a faster view is looked for
_SHARE = 2.5  # of the radius, over all steps: far enough to cross the ball and come back


def attack(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attack: Any = "pgd",
    *,
    eps: float | str | None = None,
    norm: str = "Linf",
    target: Any = None,
    goal: Any = None,
    mask: Any = None,
    steps: int | None = None,
    step_size: float | None = None,
    restarts: int = 1,
    stop_early: bool = True,
    bounds: Any = "auto",
    input_spec: InputSpec | None = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    output: Any = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Perturbed:
    """Change inputs by at most `eps`, or as little as can be, so that a classifier says another class.

    Sizes are in raw units: an `input_spec` with a normalisation is undone first, so that 8/255 is eight grey levels of
    a picture from 0 to 1. Each sample is attacked by itself, in any batch.

    A sample that is not turned is no proof that none of this size turns it, and the smallest change that is found is
    an upper bound of the smallest there is. The model is left as it was.

    Args:
        model: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first, in the model's own (normalised) units.
        attack: of a given size "pgd", steps along the gradient (Madry et al. 2018, arXiv:1706.06083), or "fgsm", one
            of them; for the smallest change "fmn" (Pintor et al. 2021, arXiv:2102.12827; in L2 as Rony et al. 2019,
            arXiv:1811.09600) or "deepfool", less work and larger changes (Moosavi-Dezfooli et al. 2016,
            arXiv:1511.04599). Each change of these is made shorter along its own line as far as the model stays turned.
            Or an attack of another package or a function, as `as_attack` takes it.
        eps: largest change of a sample, over all its inputs, in raw units: a number, or a fraction as text ("8/255");
            None: 8/255, and no limit where the smallest change is searched.
        norm: "Linf", "L2" or "L1".
        target: the class that the model is to leave: an index or a name of `input_spec.vocab`, for all, or one per
            sample; None: what it predicts.
        goal: the class that it is to say instead, an index or a name, for all or one per sample; None: any other. Or
            what a score is to become:
            ("below", value), ("above", value) or ("change", difference); the score is what `target` selects, as for
            `explain`: the number of a regression, one label of several, a class's region, a detector's box.
        mask: 1 where an element may change, 0 where not; shapes that broadcast over the inputs.
        steps: number of steps; None: 40 of "pgd", 40 of "fmn", 50 of "deepfool".
        step_size: size of a step of "pgd", in the norm; None: 2.5 eps / steps.
        restarts: how often a sample that "pgd" does not turn begins anew, after the first time at a random point; of
            "fmn", how often a smaller change is searched, after the first time at a random point.
        stop_early: leave a sample of "pgd" as it is once it is turned; False: go on to where it is turned most.
        bounds: (smallest, largest) raw value; "auto": the spec's range for pictures, none for others; None: none.
        input_spec: kind of data, normalisation and class names; guessed from the shape if None.
        activation: as for `explain`.
        output: as for `explain`.
        additional_forward_args: further positional arguments; tensors with N rows follow the batch.
        forward_kwargs: keyword arguments of the model; tensors with N rows follow the batch.
        batch_size: rows per pass; None: automatic.
        seed: of the random points.
        progress: None: a bar for long work.

    Returns:
        `Perturbed`: the changed inputs, what the model says before and after, sizes of the changes, pictures.

    Raises:
        InputError: a negative size, no steps, an unknown norm or attack, values outside of the bounds.
        TargetError: a model whose outputs are no classes; a goal that is the class to leave.

    Example:
        from interp_plugins.robust import attack

        found = attack(model, x, eps=0.5, norm="L2", steps=10)
        len(found)  # -> 2
    """
    with concise():
        outside = None if isinstance(attack, str) else as_attack(attack)
        name, norm = _name(attack) if outside is None else outside.name, check_norm(norm)
        radius = as_size(eps, 8 / 255 if name not in SMALLEST else torch.inf)
        plan = _plan(name, radius, norm, steps, step_size, restarts, stop_early)
        asking = Asking(
            input_spec, bounds, mask, activation, output, additional_forward_args, forward_kwargs, batch_size, seed
        )
        with opened(model, inputs, asking) as subject:
            aim = aim_of(subject.prediction, subject.spec, target, goal, len(subject), name in SMALLEST)
            plan = replace(plan, bounds=subject.bounds, generator=make_generator(seed))
            found, after, done = _searched(subject, aim, plan, name, outside, progress)
            told = {"attack": name, "eps": radius, "norm": norm, "steps": plan.steps, "restarts": restarts}
            if name not in SMALLEST:
                told["step_size"] = plan.step_size
            if isinstance(aim, ValueAim):
                told["goal"] = f"{goal[0]} {goal[1]:g}"
            return _result(subject, found, aim, done, after, told)


def _search(outside: OutsideAttack | None, name: str, aim: Aim | ValueAim) -> Callable[..., Search]:
    """What searches: by name, or an attack that was made elsewhere."""
    if outside is None:
        return SMALLEST.get(name, Ascent)
    if aim.goal is not None or isinstance(aim, ValueAim):
        raise InputError("Attacks of other packages leave a class; a goal is of the attacks by name.")
    return lambda *args: Outside(*args).asked(outside, torch.tensor(aim.left, device=args[1][0].device))


def _searched(
    subject: Opened,
    aim: Aim | ValueAim,
    plan: AttackPlan,
    name: str,
    outside: OutsideAttack | None,
    progress: bool | None,
) -> tuple[Search, Look, Tensor]:
    """What was found, what the model itself says of it, and which samples needed nothing, bool (N,)."""
    raw, rows = subject.raw, torch.arange(len(subject), device=subject.raw[0].device)
    climb = Climb(subject.forward, aim.loss, aim.sign, chunk=subject.asking.batch_size)
    climb = climb if outside is not None else replace(climb, fast=_faster(subject, plan))
    made = _search(outside, name, aim)
    found = made(climb, raw, subject.free, plan, aim.reached)
    done = aim.reached(aim.prediction.output, rows)
    try:
        found.run(done, progress)
    except UnconnectedError as error:
        raise ModelError(
            "No gradient leads from the model's output to its inputs, so there is nothing to climb: somewhere it "
            "detaches, rounds, runs under torch.no_grad(), or is no network. smallest_flip and, of tables, "
            "counterfactual(kind='row') ask by forward passes alone; so do attacks of other packages (Square, "
            "boundary attacks), as_attack(...)."
        ) from error
    after = _seen_after(found, aim)
    unsure = found.fooled & ~aim.reached(after.output, rows)
    if climb.fast is not None and bool(unsure.any()):  # the faster view was off by its rounding
        again = made(replace(climb, fast=None), raw, subject.free, plan, aim.reached)
        again.run(~unsure, False)
        found.adopt(again, unsure)
        after = _seen_after(found, aim)
    return found, after, done


def _faster(subject: Opened, plan: AttackPlan) -> Forward | None:
    """A faster view of the model for the steps, where it has one."""
    forward, raw = subject.forward, subject.raw
    n = len(subject)
    if forward.row_facts(raw).together:
        return None
    rows = n * plan.steps * plan.restarts
    if rows * sum(x[0].numel() for x in raw) < _MUCH:
        return None
    found, _ = planned(
        forward, raw, rows=rows, chunk=forward.samples_per_pass(raw, subject.asking.batch_size), backward=True
    )
    return None if found is forward else found


def _seen_after(found: Search, aim: Aim | ValueAim) -> Look:
    """What the model itself says of the changed samples."""
    return replace(found.climb, loss=aim.margin).look(found.points(found.everyone, found.change), None, ahead=False)


def _result(
    subject: Opened, found: Search, aim: Aim | ValueAim, done: Tensor, after: Look, params: dict[str, Any]
) -> Perturbed:
    xs, inputs, n = subject.xs, subject.given, len(subject)
    rows = torch.arange(n, device=xs[0].device)
    points = found.points(rows, found.change)
    still = (found.change == 0).all(1)
    moved = [  # what was not changed stays as it was, bit for bit
        torch.where(still.reshape(-1, *[1] * (x.ndim - 1)), x, p)
        for x, p in zip(xs, subject.func.normalised(points), strict=True)
    ]
    before = aim.sign * aim.margin(aim.prediction.output, rows)
    reached = aim.reached(after.output, rows)
    state = tuple(
        "already" if bool(done[i]) else "turned" if bool(reached[i]) else "masked" if bool(found.flat[i]) else "held"
        for i in range(n)
    )
    return Perturbed(
        inputs=like(inputs, [x.cpu() for x in xs]),
        perturbed=like(inputs, [x.cpu() for x in moved]),
        delta=like(inputs, [(p - x).cpu() for p, x in zip(points, found.inputs, strict=True)]),
        state=state,
        target_label=aim.words(aim.left),
        goal_label=aim.words(aim.goal) if aim.goal is not None else None,
        prediction=aim.said(aim.prediction.output),
        prediction_after=aim.said(after.output),
        margin=-before.cpu(),
        margin_after=-after.height.cpu(),
        steps=found.steps.cpu(),
        success_after_rounding=_rounded(found, points, aim, rows),
        params=params,
        spec=aim.spec,
    )


def _rounded(found: Search, points: Sequence[Tensor], aim: Aim | ValueAim, rows: Tensor) -> Tensor | None:
    """Whether a picture of 8 bits turns the model as well; None for what is no picture."""
    low, high = aim.spec.value_range
    if aim.spec.kind != "image" or len(points) > 1:
        return None
    levels = ((points[0] - low) / (high - low) * 255).round() / 255
    look = found.climb.look([low + levels * (high - low)], None, ahead=False)
    return aim.reached(look.output, rows).cpu()


def _name(attack: Any) -> str:
    if not isinstance(attack, str) or attack.lower() not in STEPS:
        raise InputError(f"attack must be one of {', '.join(STEPS)}, got {attack!r}.")
    return attack.lower()


def _plan(
    name: str, radius: float, norm: str, steps: Any, step_size: Any, restarts: Any, stop_early: bool
) -> AttackPlan:
    """How an attack goes; between which bounds is told later."""
    for word, count in (("steps", STEPS.get(name, 1) if steps is None else steps), ("restarts", restarts)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{word} must be a positive int, got {count!r}.")
    if name in SMALLEST and step_size is not None:
        raise InputError(f"step_size is of 'pgd'; {name!r} chooses its own steps.")
    if restarts > 1 and name not in ("pgd", "fmn"):
        raise InputError(f"{name!r} is the same each time; restarts are of 'pgd' and 'fmn'.")
    many = STEPS.get(name, 1) if steps is None or name == "fgsm" else steps
    step = _SHARE * radius / many if step_size is None else check_size("step_size", step_size)
    step = radius if name == "fgsm" else step
    return AttackPlan(radius, norm, many, step, restarts, stop_early, Bounds(-torch.inf, torch.inf), make_generator(0))
