"""`Incremental`: the scores of perturbed inputs, computing only what the perturbation can reach.

A window of 15 x 15 pixels changes few positions of a network's first maps, and all of its last ones. So the unperturbed
pass is kept, and each perturbation runs as the *change* it makes: a small box that grows from layer to layer
(receptive-field projection: Nakandala, Kumar, Papakonstantinou, SIGMOD 2019), until it covers the map.

Exact: nothing is left out, and rounding is relative to the change instead of to the activations. One or two
perturbations are compared with the plain model first; whatever does not agree, or cannot be traced, is left to the
plain engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.forward import Forward, select_output
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.engine.incremental.boxes import Boxes
from interp_plugins.engine.incremental.change import Change
from interp_plugins.engine.incremental.checks import off, prepared
from interp_plugins.engine.incremental.run import ChangeRun
from interp_plugins.engine.incremental.trace import Unfit
from interp_plugins.engine.incremental.traced_model import Reference, TracedModel
from interp_plugins.engine.incremental.workers import Workers
from interp_plugins.engine.meter import PIECE_BY_PIECE, dropped, reason, used
from interp_plugins.engine.switch import enabled

MIN_FEATURES = 8  # fewer perturbations than this do not pay for the preparation,
MIN_ELEMENTS = 10**6  # nor do fewer elements of perturbed inputs (a hundred pictures of 64 x 64 pixels),
MIN_ELEMENTS_CUDA = 5 * 10**7  # (there so many pass before the preparation is over)
MIN_PRODUCTS = 5 * 10**8  # or fewer multiplications in all
MIN_GAIN = 1.15  # multiplications of a planned forward over those done
MANY = 200  # features from which two are compared with the plain model, not one
PIECE = 16  # rows run together by one thread
_NAME = "incremental"


class Incremental:
    """Scores of perturbations of one picture after the other.

    Args:
        plan: the traced model.
        first: the unperturbed pass of the first sample.
        forward: what selects the scores.
        x: the input (N, C, H, W).
        boxes: where the features lie and what they are replaced by.

    Attributes:
        order: features, neighbours close to each other.
        chunk: rows that one call should get.
        gain: multiplications of a planned forward over those done.
    """

    def __init__(self, plan: TracedModel, first: Reference, forward: Forward, x: Tensor, boxes: Boxes):
        self.plan, self.forward, self.boxes, self._x = plan, forward, boxes, x
        self.order = boxes.order()
        self._reference: tuple[int, Reference] | None = (0, first)
        self._clean: dict[int, Tensor] = {}
        self._known: dict[int, Tensor] = {}  # outputs of the first features that were run, of sample 0
        self.gain = 1.0
        self._workers = Workers(x.device)
        self.chunk = PIECE * self._workers.count * (2 if self._workers.count > 1 else 1)

    def refused(self) -> str | None:
        """Why it does not pay, or how a few perturbations differ from what the model gives; None: neither."""
        chosen = [self.order[len(self.order) // 2], self.order[0]]
        with torch.inference_mode():
            if not self._of(0).finite():
                return "activations are not finite"
            rows = self.rows(0, chosen)
            made = select_output(self._workers.one(torch.inference_mode()(rows.output)), self.forward.output).clone()
        if made.ndim == 0 or len(made) != len(chosen):
            return "the model merges the batch"
        self._known = dict(zip(chosen, made))
        with torch.inference_mode():
            clean = select_output(self._of(0).output, self.forward.output).clone()
        everything = self.plan.planned
        if everything * len(self.order) * len(self._x) < MIN_PRODUCTS:
            return "too few multiplications to pay"
        done = sum(rows.products.values()) + self.plan.others * len(chosen)
        self.gain = everything * len(chosen) / max(done, 1.0)
        if self.gain < MIN_GAIN:
            return f"does not pay, {self.described()}"
        if len(self.order) < MANY:
            chosen, made = chosen[:1], made[:1]
        with torch.no_grad():
            same = torch.zeros(len(chosen), dtype=torch.long, device=self._x.device)
            truth = self.forward.raw([torch.cat([self.boxes.perturbed(k, 0) for k in chosen])], same)
        differ = off(made, truth, clean)
        return None if differ is None else f"scores are off by {differ}"

    def described(self) -> str:
        """How much it saves, and what changes do not go through."""
        left = f", whole tensors in {', '.join(self.plan.left)}" if self.plan.left else ""
        return f"{self.gain:.1f} times fewer multiplications{left}"

    def _of(self, sample: int) -> Reference:
        if self._reference is None or self._reference[0] != sample:
            self._reference = None  # the old maps go before the new ones come
            self._reference = (sample, Reference.of(self.plan, self._x[sample : sample + 1]))
        return self._reference[1]

    def rows(self, sample: int, features: Sequence[int]) -> ChangeRun:
        """The run of some features of one sample, not yet started."""
        reference = self._of(sample)
        delta, y, x = self.boxes.changes(features, [sample] * len(features))
        return ChangeRun(self.plan, reference.maps, Change(delta, y, x))

    def row(self, r: int) -> tuple[int, int, int]:
        """Feature, sample and sample + 1 of row r: all features of the first sample, then those of the next."""
        sample, i = divmod(r, len(self.order))
        return self.order[i], sample, sample + 1

    def selected(self, rows: Sequence[tuple[int, int, int]]) -> Tensor:
        """What the target selects for some rows, as `row` names them; those of a sample, and neighbours, together."""
        parts: list[Tensor] = []
        for sample, group in itertools.groupby(rows, key=lambda row: row[1]):
            self.clean(sample)
            parts.append(self._outputs(sample, [k for k, *_ in group]))
        # Ordinary tensors again: a target may do with them as it likes.
        return self.forward.select(
            torch.cat(parts).clone(), torch.tensor([s for _, s, _ in rows], device=self._x.device)
        )

    def clean(self, sample: int) -> Tensor:
        """What the target selects for the unperturbed sample (1, ...), from the same pass as the changes."""
        if sample not in self._clean:
            with torch.inference_mode():
                output = select_output(self._of(sample).output, self.forward.output)
            self._clean[sample] = self.forward.select(output.clone(), torch.tensor([sample], device=self._x.device))
        return self._clean[sample]

    def _outputs(self, sample: int, features: Sequence[int]) -> Tensor:
        known = self._known if sample == 0 else {}
        todo = [k for k in features if k not in known]
        with torch.inference_mode():
            self._of(sample)

        def run(piece: Sequence[int]) -> Tensor:
            with torch.inference_mode():
                return select_output(self.rows(sample, piece).output(), self.forward.output)

        size = max(1, min(PIECE, -(-len(todo) // self._workers.count)))
        made = self._workers.map(run, [todo[i : i + size] for i in range(0, len(todo), size)])
        if len(todo) == len(features):
            return torch.cat(made)
        fresh = iter([row for part in made for row in part])
        return torch.stack([known[k] if k in known else next(fresh) for k in features])

    def __enter__(self) -> Incremental:
        """Enter a block at whose end the threads are ended; they start when needed."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the threads that were started inside the `with` block."""
        self._workers.end()


def incremental_for(forward: Forward, inputs: Sequence[Tensor], baselines: Any, features: Any) -> Incremental | None:
    """What computes the perturbations of a model's inputs from their changes; None where the plain model has to do it.

    Args:
        forward: the model call.
        inputs: the inputs of the batch.
        baselines: what replaces a feature: tensors, or an object with `at(k, i)`.
        features: masks or windows.
    """
    why = _refused_at_once(inputs[0], len(features)) or forward.rows_apart()
    if why is None:
        try:
            plan, first, boxes = prepared(forward, inputs, baselines, features)
            with preserved_rng():
                made = Incremental(plan, first, forward, inputs[0], boxes)
                with made:
                    why = made.refused()
        except Unfit as error:
            why = str(error)
        except Exception as error:
            why = f"raised {reason(error, _NAME, PIECE_BY_PIECE)}"
    if why is not None:
        dropped(_NAME, why)
        return None
    used(_NAME, made.described())
    return made


def _refused_at_once(x: Tensor, features: int) -> str | None:
    """Why it cannot pay, seen without looking at the model."""
    if not enabled():
        return "switched off"
    if features < MIN_FEATURES:
        return f"{features} features, and {MIN_FEATURES} are the fewest that pay"
    fewest = MIN_ELEMENTS_CUDA if x.device.type == "cuda" else MIN_ELEMENTS
    return f"{features} pictures of {x.numel()} numbers, too few to pay" if features * x.numel() < fewest else None
