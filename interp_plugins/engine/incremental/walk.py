"""`Walk`: coalitions that differ by one feature from the one before, each computed as the change of one feature.

A random order of the features switches them on one after the other. So a row keeps the activations of the coalition
that it stands at, and a step sends the change of one feature's box through the network, as `engine` does it against the
unperturbed picture, and adds it to them. A row begins with a full pass; rounding adds up along its few dozen steps.

The first rows' last coalition is compared with the plain model; what does not agree is left to the plain engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from interp_plugins.core.batching import chunks
from interp_plugins.core.forward import Forward, select_output
from interp_plugins.engine.incremental.boxes import Boxes
from interp_plugins.engine.incremental.change import Change, FeatureMap, Geometry, as_map
from interp_plugins.engine.incremental.checks import off, prepared
from interp_plugins.engine.incremental.run import ChangeRun
from interp_plugins.engine.incremental.trace import Unfit
from interp_plugins.engine.incremental.traced_model import TracedModel
from interp_plugins.engine.incremental.workers import Workers
from interp_plugins.engine.meter import PIECE_BY_PIECE, dropped, reason, used
from interp_plugins.engine.switch import enabled

MIN_FEATURES = 16  # with fewer, boxes are large and coalitions come again
MIN_ELEMENTS = 10**7  # of perturbed inputs (67 pictures of 224 x 224 pixels): fewer do not pay for the preparation
MIN_GAIN = 1.3  # multiplications of a planned forward over those done
MAX_STEPS = 32  # behind a full pass
MIN_STEPS = 8
PIECE = 16  # rows run together by one thread, where their maps
BYTES = 2**28  # need no more than this
_NAME = "walker"


@dataclass(frozen=True)
class Steps:
    """A coalition of a sample's features, and those that join it one after the other.

    Attributes:
        sample: number of the sample.
        begin: (d,) bool.
        joining: numbers of the features.
        places: where the scores belong, of `begin` and of each step: len(joining) + 1 numbers.
    """

    sample: int
    begin: Tensor
    joining: Sequence[int]
    places: Sequence[int]


class Standing(FeatureMap):
    """A map of each row, (R, H, W, C), that moves on with it.

    Args:
        data: the maps.
        kept: whether anybody asks for their values; else they are shapes alone.
    """

    def __init__(self, data: Tensor, kept: bool):
        super().__init__(data if kept else data.new_empty(()).expand(data.shape))
        if not kept:
            self.data = data.new_empty(()).expand(data.shape)
        self.kept = kept

    @property
    def extents(self) -> tuple[int, int]:
        """The height and width of the maps."""
        return self.data.shape[1], self.data.shape[2]

    def of_rows(self, rows: int) -> Tensor:
        """The maps of all rows, (R, H, W, C)."""
        return self.data

    def crop(
        self,
        geometry: Geometry,
        y: Any,
        x: Any,
        *,
        outside: float = 0.0,
        name: str = "",
        derive: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The box of each row's map, (R, h, w, C); arguments as in `FeatureMap.crop`."""
        assert self.kept
        if y.full and x.full:
            return self.data if derive is None else derive(self.data)
        index, bad = geometry.apart(y, x, self.data.device)
        made = self.data.view(-1, self.data.shape[3]).index_select(0, index).view(len(y.start), y.size, x.size, -1)
        made = made if derive is None else derive(made)
        return made if bad is None else made.masked_fill_(bad, outside)

    def move(self, geometry: Geometry, by: Change) -> None:
        """Move the maps on: add a change of each row."""
        if by.full:
            self.data += by.delta
            return
        by = geometry.clean(by)
        index, _ = geometry.apart(by.y, by.x, self.data.device)
        self.data.view(-1, self.data.shape[3]).index_add_(0, index, by.delta.reshape(-1, self.data.shape[3]))


class _Step(ChangeRun):
    """A step of some rows: maps are moved once nobody asks for what they were."""

    maps: Mapping[fx.Node, Standing]

    def done(self, node: fx.Node, value: Any) -> None:
        """Move the maps of a node on to its new values."""
        standing = self.maps.get(node)
        if standing is None or not standing.kept:
            return
        if isinstance(value, Change):
            standing.move(self.geometry, value)
        else:
            standing.data.copy_(as_map(value, self.plan.layouts[node]))


class Walk:
    """Rows on their way.

    Args:
        plan: the model.
        x: the inputs that they begin with, (R, C, H, W).

    Attributes:
        output: what the model returns for where they stand, until the next step.
    """

    def __init__(self, plan: TracedModel, x: Tensor):
        self.plan = plan
        self.maps: dict[fx.Node, Standing] = {}
        held: set[int] = set()

        def found(node: fx.Node, value: Tensor) -> None:
            kept = node in plan.asked_for
            if kept:
                value = value.contiguous()
                if value.untyped_storage().data_ptr() in held:  # a call that gives back what it gets
                    value = value.clone()
                held.add(value.untyped_storage().data_ptr())
            self.maps[node] = Standing(value, kept)

        self.output = plan.run(x, found)

    def keep(self, rows: int) -> None:
        """Go on with the first so many rows."""
        for standing in self.maps.values():
            standing.data = standing.data[:rows]

    def step(self, change: Change) -> float:
        """Change the inputs, and all that follows from them; multiplications done."""
        run = _Step(self.plan, self.maps, change)
        self.output = run.output()
        return sum(run.products.values()) + self.plan.others * run.rows


class Walker:
    """Scores of the coalitions that orders of the features pass through.

    Args:
        plan: the traced model.
        forward: what selects the scores.
        boxes: where the features lie, and what they are replaced by.
        inputs: function (coalitions (R, d) bool, samples (R,)) -> inputs (R, C, H, W).
        features: their number d.
        size: rows run together by one thread.
    """

    def __init__(
        self,
        plan: TracedModel,
        forward: Forward,
        boxes: Boxes,
        inputs: Callable[[Tensor, Tensor], Tensor],
        features: int,
        size: int,
    ):
        self.plan, self.forward, self.boxes, self.inputs = plan, forward, boxes, inputs
        self.features, self.size = features, size
        self._checked = False

    def scores(self, orders: Tensor, samples: Sequence[int], size: int | None, bar: Any) -> Tensor | None:
        """What the target selects for the first 1 .. a - 1 features of orders (P, a): (P * (a - 1) * samples, ...).

        None where steps turn out not to pay, or do not give what the model gives.

        Args:
            orders: numbers of the features, of all or of some.
            samples: numbers of the samples.
            size: rows per pass, where the caller has a say.
            bar: progress bar.
        """
        with_threads = Workers(self.boxes.x.device)
        at_once = min(size or len(orders) * orders.shape[1] * len(samples), self.size * with_threads.count)
        rows = _cut(orders, self.features, samples, at_once)
        found: list[Tensor] = []
        places: list[int] = []

        def work(start: int, stop: int) -> list[list[tuple[Steps, Tensor]]]:
            mine = sorted(rows[start:stop], key=lambda row: -len(row.joining))
            count = min(len(mine), max(with_threads.count, -(-len(mine) // self.size)))
            return with_threads.map(self._run, [mine[i::count] for i in range(count)])

        try:
            for _, _, pieces in chunks(len(rows), at_once, work):
                made = [pair for piece in pieces for pair in piece]
                self._check(*made[0])
                outputs = torch.cat([output for _, output in made]).clone()
                who = [row.sample for row, output in made for _ in output]
                found.append(self.forward.select(outputs, torch.tensor(who)))
                places += [place for row, _ in made for place in row.places]
                if bar is not None:
                    bar.update(len(who))
        except Unfit as error:
            dropped(_NAME, str(error))
            return None
        except Exception as error:
            dropped(_NAME, f"raised {reason(error, _NAME, PIECE_BY_PIECE)}")
            return None
        finally:
            with_threads.end()
        used(_NAME, f"orders in parts of {max(len(row.joining) for row in rows)} steps")
        back = torch.empty(len(places), dtype=torch.long)
        back[torch.tensor(places)] = torch.arange(len(places))
        return torch.cat(found).index_select(0, back)

    @torch.inference_mode()
    def _run(self, rows: Sequence[Steps]) -> list[tuple[Steps, Tensor]]:
        """Each row's outputs (steps + 1, ...); the rows with the most steps come first."""
        walk = Walk(
            self.plan, self.inputs(torch.stack([r.begin for r in rows]), torch.tensor([r.sample for r in rows]))
        )
        outputs = [[row] for row in select_output(walk.output, self.forward.output).clone()]
        full, whole = sum(self.plan.products.values()) + self.plan.others, self.plan.planned
        for k in range(len(rows[0].joining)):
            now = [row for row in rows if len(row.joining) > k]
            walk.keep(len(now))
            off, y, x = self.boxes.changes([row.joining[k] for row in now], [row.sample for row in now])
            products = walk.step(Change(off.neg_(), y, x))
            if k == 0 and MIN_GAIN * (full + len(rows[0].joining) * products / len(now)) > whole * len(rows[0].places):
                raise Unfit("does not pay")
            for row, output in zip(outputs, select_output(walk.output, self.forward.output)):
                row.append(output)
        return [(row, torch.stack(out)) for row, out in zip(rows, outputs, strict=True)]

    def _check(self, row: Steps, outputs: Tensor) -> None:
        """Compare the last of the first row's outputs with the model's.

        Raises:
            Unfit: they differ.
        """
        if self._checked:
            return
        if len(outputs) != len(row.places):
            raise Unfit("outputs and steps are not as many")
        last = row.begin.clone()
        last[list(row.joining)] = True
        sample = torch.tensor([row.sample])
        with torch.no_grad():
            truth = self.forward.raw([self.inputs(last[None], sample)], sample)
        differ = off(outputs[-1:].clone(), truth, outputs[:1].clone())
        if differ is not None:
            raise Unfit(f"scores are off by {differ}")
        self._checked = True


def walker_for(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    features: Any,
    perturbed: Callable[[Tensor, Tensor], Tensor],
    coalitions: int,
) -> Walker | None:
    """The walker for a model and features, or None where the plain model has to do it.

    On CUDA the plain model is faster: steps wait for each other, and a pass is short.

    Args:
        forward: the model call.
        inputs: the inputs.
        baselines: what replaces a missing feature, of their shapes.
        features: `MaskFeatures`.
        perturbed: function (coalitions (R, d) bool, samples (R,)) -> inputs (R, C, H, W).
        coalitions: how many are going to be asked for, times samples.
    """
    why = _refused_at_once(inputs[0], len(features), coalitions) or forward.rows_apart()
    if why is None:
        try:
            plan, first, boxes = prepared(forward, inputs, baselines, features)
            why = None if first.finite() else "activations are not finite"
        except Unfit as error:
            why = str(error)
        except Exception as error:
            why = f"raised {reason(error, _NAME, PIECE_BY_PIECE)}"
    if why is not None:
        dropped(_NAME, why)
        return None
    row = sum(first.maps[node].data.nbytes for node in plan.asked_for)
    return Walker(plan, forward, boxes, perturbed, len(features), max(1, min(PIECE, BYTES // max(1, row))))


def _refused_at_once(x: Tensor, features: int, coalitions: int) -> str | None:
    """Why it cannot pay, seen without looking at the model."""
    if not enabled():
        return "switched off"
    if features < MIN_FEATURES:
        return f"{features} features, and {MIN_FEATURES} are the fewest that pay"
    if coalitions * x[0].numel() < MIN_ELEMENTS:
        return f"{coalitions} pictures of {x[0].numel()} numbers, too few to pay"
    return None if x.device.type == "cpu" else f"on {x.device.type} passes are short"


def _cut(orders: Tensor, features: int, samples: Sequence[int], at_once: int) -> list[Steps]:
    """Orders in parts of like length: short enough for rounding, and enough of them to run `at_once` rows."""
    count, inner = len(orders), orders.shape[1] - 1
    parts = max(-(-inner // MAX_STEPS), min(-(-at_once // (count * len(samples))), inner // MIN_STEPS))
    bounds = [round(i * inner / parts) for i in range(parts + 1)]
    found = []
    for p, order in enumerate(orders.tolist()):
        for first, last in itertools.pairwise(bounds):
            begin = torch.zeros(features, dtype=torch.bool)
            begin[order[: first + 1]] = True
            for s, sample in enumerate(samples):
                places = [(p * inner + c) * len(samples) + s for c in range(first, last)]
                found.append(Steps(sample, begin, order[first + 1 : last], places))
    return found
