"""How metrics ask a model: what is asked about, and the scores of rows that are the sample in part, or changed.

A part of a row that is not the sample is the baseline. `Questions` cuts the rows into passes, counts them, and inside
`shared_rows` asks each but once. Where there are many, they go through the planned view of the model
(`engine.planned`): so a score may differ by its rounding from that of the same row among few.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import NO_ID, as_baselines, widened
from interp_plugins.core.batching import check_chunk, chunks
from interp_plugins.core.enlarged import over_input
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.forward import Forward, one_per_row
from interp_plugins.core.guard import frozen
from interp_plugins.core.random import check_seed
from interp_plugins.core.report import note
from interp_plugins.core.target import Probability, Target, as_target
from interp_plugins.core.tensors import as_tuple, check_inputs, is_float, widest
from interp_plugins.engine import acceleration, planned
from interp_plugins.metrics.rows import checked, reduced
from interp_plugins.metrics.sheet import Sheet, problem_key, scope

_BLOCK = 2**24  # switches that are made at a time


@dataclass(frozen=True)
class About:
    """What a metric is asked about.

    Attributes:
        inputs: as the caller gave them.
        maps: one per input, with a channel axis of size 1 where channels were reduced.
        baselines: what stands for nothing.
        target: the score.
    """

    inputs: Any
    maps: tuple[Tensor, ...]
    baselines: Any
    target: Any

    def with_target(self, target: Any) -> About:
        """What is asked about, with another score."""
        return replace(self, target=target)


def about(inputs: Any, attributions: Any, baselines: Any, target: Any, reduce: str | None) -> About:
    """Inputs, maps, baselines and target; of an `Explanation` what it knows.

    Args:
        inputs: tensor or tuple of tensors, batch first, or an `Explanation`.
        attributions: one map per input; None: those of the `Explanation`.
        baselines: what replaces the input; None: those of the `Explanation`.
        target: the score; None: the classes of the `Explanation`.
        reduce: how channels become one value per place; None: the maps as they are.

    Raises:
        InputError: no maps, or an `Explanation` whose target is not known.
    """
    exp = inputs if isinstance(inputs, Explanation) else None
    if exp is None:
        if attributions is None:
            raise InputError("attributions are missing: give the maps of these inputs, or an Explanation as inputs.")
        maps = as_tuple(attributions)
        axes = [1 if getattr(one, "ndim", 0) > 2 else None for one in maps]
    else:
        many = as_tuple(exp.inputs)
        axes = [exp.spec.of_input(i, x).within_place(x.ndim) for i, x in enumerate(many)]
        maps = as_tuple(exp.attributions if attributions is None else attributions)
        if attributions is None and len(maps) == 1 and exp.layer is not None:
            maps = over_input(exp)
        baselines = as_ids(exp.baselines) if baselines is None else baselines
        target = known_target(exp, target)
        inputs = exp.inputs
    checked(maps)
    return About(inputs, tuple(_by_place(one, axis, reduce) for one, axis in zip(maps, axes)), baselines, target)


def known_target(exp: Explanation | None, target: Any) -> Any:
    """The target, or the classes that an explanation knows.

    Raises:
        InputError: it knows none, and no target is given.
    """
    if exp is None or target is not None:
        return target
    if exp.target is None:
        raise InputError(
            "The Explanation knows no class index (its target is a function, or the model's only output): give target= "
            "once more, lambda output: output for a model that returns one number per sample."
        )
    return list(exp.target)


def probability_of(target: Any, n: int) -> Any:
    """A class as its probability; other targets as they are.

    Args:
        target: as for a method's `attribute`.
        n: number of samples.
    """
    if target is None or isinstance(target, Target) or callable(target):
        return target
    return Probability(as_target(target, n))


def as_ids(baselines: Any) -> Any:
    """Baselines of an `Explanation` as inputs that a model takes: id 0 where rows of zeros stand for no id."""
    if isinstance(baselines, tuple):
        return tuple(map(as_ids, baselines))
    return baselines.clamp_min(0) if no_ids(baselines) else baselines


def no_ids(baselines: Any) -> bool:
    """Whether ids among them stand for rows of zeros at the look-ups (`NO_ID`), which no input is."""
    if isinstance(baselines, tuple):
        return any(map(no_ids, baselines))
    return isinstance(baselines, Tensor) and not is_float(baselines) and bool((baselines == NO_ID).any())


def _by_place(one: Tensor, axis: int | None, reduce: str | None) -> Tensor:
    """A map with a channel axis of size 1."""
    if reduce is None:
        return one
    wide = one.detach().as_subclass(Tensor).to(widest(one.device))
    if axis is None or axis >= one.ndim or one.shape[axis] == 1:
        return reduced(wide, (), reduce)
    return reduced(wide, (axis,), reduce).unsqueeze(axis)


class Questions:
    """A model inside `frozen`, a batch and its baselines.

    Args:
        forward: the model call, whose samples are known.
        references: the baselines, of the samples' shapes.
        batch_size: rows per pass; None: automatic.
        sheet: where scores are kept, inside `shared_rows`.
    """

    def __init__(self, forward: Forward, references: Sequence[Tensor], batch_size: int | None, sheet: Sheet | None):
        self.forward, self.xs, self.references = forward, forward.samples, tuple(references)
        self.n, self.device, self._batch_size = forward.n, forward.samples[0].device, batch_size
        self.sheet, self._shared = sheet, scope()

    def masked(self, rows: Tensor, kept: Callable[[Tensor], Tensor], shapes: Sequence[torch.Size]) -> Tensor:
        """Scores of samples in part, the rest being the baseline: float64 (R,) on the CPU.

        Args:
            rows: int64 (R,), the sample of each row.
            kept: numbers of rows (B,) -> bool (B, D), which elements are the sample's.
            shapes: the shapes that the D elements have, one per input, broadcastable to it.
        """
        sizes = [shape.numel() for shape in shapes]
        bases = [b[:1] if torch.equal(b, b[:1].expand_as(b)) else b for b in self.references]  # one for all: no copies

        def made(at: Tensor, switches: Tensor, chosen: Tensor) -> list[Tensor]:
            who = rows[at[chosen]].to(self.device)
            parts = switches[chosen.to(self.device)].split(sizes, dim=1)
            return [
                torch.where(part.reshape(-1, *shape), x[who], base if len(base) == 1 else base[who])
                for part, shape, x, base in zip(parts, shapes, self.xs, bases)
            ]

        found = []
        for at in torch.arange(len(rows)).split(max(1, _BLOCK // sum(sizes))):
            switches = kept(at).to(self.device)
            keys = _contents(rows[at].tolist(), switches, tuple(shapes)) if self.sheet is not None else None
            found.append(self._asked(rows[at], keys, partial(made, at, switches)))
        return torch.cat(found)

    @property
    def counting(self) -> bool:
        """Whether rows are only counted, and scores mean nothing."""
        return self._shared is not None and self._shared.dry_run

    def whole(self, shapes: Sequence[torch.Size]) -> Tensor:
        """Scores of the samples as they are: float64 (N,) on the CPU."""
        size = sum(shape.numel() for shape in shapes)
        return self.masked(torch.arange(self.n), lambda at: torch.ones(len(at), size, dtype=torch.bool), shapes)

    def changed(self, name: Hashable, rows: Tensor, make: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """Scores of samples that were changed: float64 (R,) on the CPU.

        Args:
            name: what tells this set of rows from others of the same samples: the draws and their seed.
            rows: int64 (R,), the sample of each row.
            make: numbers of rows (B,) -> the changed samples, (B, ...) per input.
        """
        keys: list[Hashable] | None = None
        if self.sheet is not None:
            keys = [(name, r) for r in range(len(rows))]
        return self._asked(rows, keys, make)

    def _asked(self, rows: Tensor, keys: list[Hashable] | None, make: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """Scores of rows; those whose key stands in the sheet are read there."""
        if keys is None or self.sheet is None:
            return self._run(rows, torch.arange(len(rows)), make)
        known = self.sheet.scores
        new = {key: r for r, key in enumerate(keys) if key not in known}
        if new:
            chosen = torch.tensor(list(new.values()))
            known.update(zip(new, self._run(rows, chosen, make).tolist()))
        return torch.tensor([known[key] for key in keys], dtype=torch.float64)

    def _run(self, rows: Tensor, chosen: Tensor, make: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        if self._shared is not None:
            self._shared.rows += len(chosen)
            if self.counting:
                self.forward.passes["forward"] += len(chosen)
                return torch.zeros(len(chosen), dtype=torch.float64)

        per_pass = self.forward.rows_per_pass(self.xs, self._batch_size)
        with acceleration(precision="float32"):  # differences of scores would drown in less
            forward, _ = planned(self.forward, self.xs, rows=len(chosen), chunk=per_pass)

        def work(start: int, stop: int) -> Tensor:
            at = chosen[start:stop]
            who = rows[at].to(self.device)
            return one_per_row(forward.changed(make(at), who), len(at)).detach().cpu().double()

        return torch.cat([scores for _, _, scores in chunks(len(chosen), per_pass, work)])


def _contents(samples: list[int], switches: Tensor, shapes: tuple[torch.Size, ...]) -> list[Hashable]:
    """What rows hold, in few bytes: all or nothing of a sample, or a digest of which elements are kept."""
    rows = switches.cpu().contiguous().view(torch.uint8).numpy()
    ends = {hashlib.blake2b(bytes([k]) * rows.shape[1], digest_size=16).digest(): k for k in (0, 1)}
    found: list[Hashable] = []
    for i, row in zip(samples, rows):
        held = hashlib.blake2b(row, digest_size=16).digest()
        found.append((i, ("nothing", "all")[ends[held]]) if held in ends else (i, held, shapes))
    return found


@contextlib.contextmanager
def asking(
    forward_func: Callable[..., Any],
    given: About,
    *,
    additional_forward_args: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Iterator[Questions]:
    """Make a model ready to be asked; it is frozen meanwhile, and the rows that were asked are reported.

    Args:
        forward_func: an `nn.Module` or any callable.
        given: what it is asked about.
        additional_forward_args: further arguments of the model.
        batch_size: rows per pass; None: automatic.
        seed: of models that draw random numbers.

    Raises:
        InputError: inputs that are none, or maps that do not fit them.
    """
    check_chunk("batch_size", batch_size)
    check_seed(seed)
    shared = scope()
    with frozen(forward_func, seed=seed):
        xs = check_inputs(given.inputs)
        n = xs[0].shape[0]
        fitting(given.maps, xs)
        references = as_baselines(given.baselines, xs, template=given.inputs)
        target = as_target(given.target, n)
        forward = Forward.of(forward_func, n, target, additional_forward_args)
        if shared is not None and shared.dry_run:
            forward.passes["forward"] += 2 * n * any(b.dtype != x.dtype for b, x in zip(references, xs))
            shared.rows += forward.passes["forward"]
            forward.samples = tuple(x.to(b.dtype) for b, x in zip(references, xs))
        else:
            forward.samples = xs
            forward.samples = widened(xs, references, forward.selected)
        sheet = None
        if shared is not None:
            arguments = (forward.args, dict(forward.kwargs), forward.output)
            tensors = (*forward.samples, *references)
            key = problem_key(forward.func, tensors, target, given.target, arguments, seed)
            sheet = shared.sheet(key, (forward.func, given.target, arguments))
        yield Questions(forward, references, batch_size, sheet)
        note(forward_passes=forward.passes["forward"])


def check_values(xs: Sequence[Tensor], advice: str) -> None:
    """Refuse integers where values are drawn or scaled.

    Args:
        xs: the inputs.
        advice: what to do.

    Raises:
        InputTypeError: an input that holds no floating-point numbers.
    """
    for i, x in enumerate(xs):
        if not x.is_floating_point():
            raise InputTypeError(
                f"inputs[{i}] is {str(x.dtype).removeprefix('torch.')}, which new values do not fit: give x.float() "
                f"for quantities; for ids, {advice}."
            )


def fitting(maps: tuple[Any, ...], xs: tuple[Tensor, ...]) -> list[torch.Size]:
    """The maps' shapes behind the batch.

    Args:
        maps: one per input.
        xs: the inputs.

    Raises:
        InputError: not one map per input, or one that does not broadcast to it.
    """
    shapes = [tuple(getattr(m, "shape", ())) for m in maps]
    fits = len(maps) == len(xs) and all(
        len(shape) == x.ndim and all(a in (1, b) for a, b in zip(shape[1:], x.shape[1:])) and shape[0] == x.shape[0]
        for shape, x in zip(shapes, xs)
    )
    if not fits:
        raise InputError(
            f"Maps of shapes {shapes} do not fit inputs of shapes {[tuple(x.shape) for x in xs]}: give one map per "
            "input, of its shape, or with size 1 where elements are removed together (attribution.sum(1, keepdim=True) "
            "for whole pixels). The map of a layer is enlarged where an Explanation is given; else first: "
            "torch.nn.functional.interpolate(attribution, x.shape[2:], mode='linear' ('bilinear', 'trilinear'))."
        )
    return [torch.Size(shape[1:]) for shape in shapes]
