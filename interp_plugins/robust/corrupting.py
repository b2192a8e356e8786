"""`corruptions`: what a model still says right, and how its maps change, when pictures get worse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.explain import explain
from interp_plugins.api.samples import SampleBatch, SampleStream
from interp_plugins.core.batching import progress_bar
from interp_plugins.core.errors import InputError, concise, unknown
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.truth import Reading
from interp_plugins.metrics.rows import element_rows
from interp_plugins.robust.corruption import CORRUPTIONS, Corruption, check_severity
from interp_plugins.robust.measured import Robustness
from interp_plugins.robust.measuring import map_likeness
from interp_plugins.robust.opening import Asking, opened


def corruptions(
    model: Callable[..., Any],
    data: Any,
    *,
    names: Any = "all",
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    methods: Any = None,
    labels: Any = None,
    n: int | None = None,
    input_spec: InputSpec | None = None,
    input_key: Any = None,
    label_key: Any = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    output: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **params: Any,
) -> Robustness:
    """Corrupt pictures as noise, blur, weather and files do, and tell what the model still says right.

    Fourteen corruptions in five severities, with the constants of ImageNet-C (Hendrycks and Dietterich 2019,
    arXiv:1903.12261) scaled to the pictures' size; `Corruption` says more. Maps are compared with the clean ones where
    the prediction stays.

    Args:
        model: an `nn.Module` or any callable, whose outputs are classes.
        data: pictures (N, C, H, W) in the model's units, or a loader of batches.
        names: corruptions, by name; "all".
        severities: whole numbers from 1 to 5.
        methods: whose maps are compared, as for `explain`; None: none.
        labels: true classes (N,) of a tensor; None: those of the loader, without which what is said of the clean
            pictures counts as right.
        n: pictures at most; None: all.
        input_spec: normalisation, range and class names.
        input_key: which part of a loader's batch is the input.
        label_key: which is the label.
        activation: as for `explain`.
        output: as for `explain`.
        batch_size: rows per pass; None: automatic.
        seed: of all draws.
        progress: None: a bar for long work.
        **params: the methods' own parameters, and further arguments of `explain`.

    Returns:
        `Robustness`: accuracy per corruption and severity, errors beside the clean one, likeness of maps, a page.

    Raises:
        InputError: no pictures, a severity that is none.
        UnknownNameError: a corruption that is none.

    Example:
        from interp_plugins.robust import corruptions

        found = corruptions(model, x.sigmoid(), names=["fog", "contrast"], severities=(1, 5))
        len(found.names)  # -> 5
    """
    with concise():
        known = {
            "input_spec": input_spec, "activation": activation, "output": output, "batch_size": batch_size,
        }  # fmt: skip
        if labels is not None and not isinstance(data, Tensor):
            raise InputError("labels= belong to tensors; a loader has its own: name them by label_key=.")
        target = None if labels is None else torch.as_tensor(labels).long()
        options = {k: v for k, v in known.items() if v is not None}
        reading = Reading(input_key=input_key, label_key=label_key)
        stream = SampleStream(model, data, target, options, reading, n=n)
        return Corrupted(names, severities, methods, seed, progress, params).measured(stream)


@dataclass
class Corrupted:
    """Corruptions in several severities, batch by batch.

    Attributes:
        names: of corruptions, or "all".
        severities: whole numbers from 1 to 5.
        methods: whose maps are compared, or None.
        seed: of all draws.
        progress: None: a bar for long work.
        params: further arguments of `explain`.
    """

    names: Any
    severities: Sequence[int]
    methods: Any = None
    seed: int = 0
    progress: bool | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = CORRUPTIONS if self.names == "all" else [self.names] if isinstance(self.names, str) else self.names
        for name in given:
            if name not in CORRUPTIONS:
                raise unknown("corruption", name, CORRUPTIONS)
        levels = [self.severities] if isinstance(self.severities, int) else list(self.severities)
        if not given or not levels:
            raise InputError("Name at least one corruption and one severity.")
        self.conditions = [(name, level) for name in given for level in sorted(map(check_severity, levels))]

    def measured(self, batches: Iterable[SampleBatch]) -> Robustness:
        """All batches.

        Raises:
            InputError: no samples, or no pictures.
        """
        found = []
        for number, batch in enumerate(batches):
            found.append(_Batch(self, batch, number))
        if not found:
            raise InputError("The data hold no samples.")
        right = torch.cat([one.right for one in found], 1)
        labels = list(found[0].agreement)
        grey = "saturate" in {name for name, _ in self.conditions} and found[0].channels == 1
        return Robustness(
            names=("clean", *(name for name, _ in self.conditions)),
            levels=(0.0, *(float(level) for _, level in self.conditions)),
            right=right,
            labelled=all(one.labelled for one in found),
            keys=tuple(k for one in found for k in one.keys),
            minimum=torch.full((right.shape[1],), torch.nan),
            agreement={m: torch.cat([one.agreement[m] for one in found], 1) for m in labels},
            examples=None,
            pictures=found[0].pictures,
            maps=None,
            notes=("saturate changes nothing: the pictures are grey.",) if grey else (),
            params={"attack": None, "seed": self.seed},
            spec=found[0].spec,
        )


class _Batch:
    """What corruptions do to one batch."""

    def __init__(self, plan: Corrupted, batch: SampleBatch, number: int):
        self.plan, self.batch, self.keys = plan, batch, batch.keys
        given = batch.target if isinstance(batch.target, Tensor) else batch.labels
        self.labelled = given is not None
        options = {k: v for k, v in batch.options.items() if k in Asking.__dataclass_fields__}
        self.right = torch.zeros(1 + len(plan.conditions), len(batch), dtype=torch.bool)
        self.agreement: dict[str, Tensor] = {}
        self.pictures: dict[str, Tensor] = {}
        with (
            opened(batch.model, batch.inputs, Asking(**{**options, "seed": plan.seed})) as subject,
            progress_bar(len(plan.conditions), "corruptions", plan.progress) as bar,
        ):
            self.spec, self.channels = subject.spec, subject.raw[0].shape[1]
            self.clean = torch.tensor(subject.prediction.classes or ())
            if len(self.clean) != len(batch):
                raise InputError(
                    f"The model's output of shape {tuple(subject.prediction.output.shape)} is no score per class."
                )
            truth = self.clean if given is None else torch.as_tensor(given).cpu()
            self.right[0] = self.clean == truth
            before = self._maps(batch.inputs) if plan.methods is not None else None
            if number == 0:
                self.pictures["clean"] = subject.xs[0][:1].cpu()
            for k, (name, level) in enumerate(plan.conditions, 1):
                made = Corruption(name, level, subject.spec.value_range)
                raw = made.perturb(subject.raw[0], seed=plan.seed, keys=batch.keys)
                with torch.no_grad():
                    output = torch.cat([subject.forward.raw([raw[i : i + 64]], torch.arange(i, min(i + 64, len(raw))))
                                        for i in range(0, len(raw), 64)])  # fmt: skip
                two = subject.prediction.two
                said = (output.argmax(1) if two is None else two.predicted(output).reshape(-1)).cpu()
                self.right[k] = said == truth
                (moved,) = subject.func.normalised([raw])
                if number == 0:
                    self.pictures[f"{name} {level}"] = moved[:1].cpu()
                if before is not None:
                    self._compare(before, moved, k, said)
                bar.update(1)

    def _maps(self, inputs: Tensor) -> Explanations:
        asked = {"seed": self.plan.seed, "progress": False, **self.batch.options, **self.plan.params}
        asked.pop("threshold", None)
        return explain(self.batch.model, inputs, self.plan.methods, target=self.clean, **asked)

    def _compare(self, before: Explanations, moved: Tensor, k: int, said: Tensor) -> None:
        after = self._maps(moved)
        for label, a, b in zip(before.labels, before, after, strict=True):
            values = self.agreement.setdefault(label, torch.full(self.right.shape, torch.nan, dtype=torch.float64))
            values[0] = 1.0
            alike = map_likeness(element_rows(a, "sum"), element_rows(b, "sum"))
            values[k] = torch.where(said == self.clean, alike, torch.nan)
