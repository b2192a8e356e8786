"""`robustness`: how many samples a model still says right under attacks of growing size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.explain import explain
from interp_plugins.api.samples import SampleBatch, SampleStream
from interp_plugins.core.errors import InputError, InterpWarning, concise
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple
from interp_plugins.core.truth import Reading
from interp_plugins.metrics.rows import element_rows
from interp_plugins.metrics.similarity import spearman_correlation
from interp_plugins.robust.attacking import SMALLEST
from interp_plugins.robust.attacking import attack as core_attack
from interp_plugins.robust.bridge import as_attack
from interp_plugins.robust.measured import Robustness
from interp_plugins.robust.norms import check_norm
from interp_plugins.robust.opening import Asking, as_size
from interp_plugins.robust.perturbed import Perturbed, joined

SIZES = (0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
EXAMPLES = 8
_FAR = 10  # times the largest size: there nearly nothing may be right
_LEFT = 0.1  # of the samples: more than this is a sign
_CHECKED = 32  # samples at most, for the signs


def robustness(
    model: Callable[..., Any],
    data: Any,
    *,
    attack: str = "pgd",
    eps: Sequence[float | str] = SIZES,
    norm: str = "Linf",
    methods: Any = None,
    labels: Any = None,
    n: int | None = None,
    check: bool = True,
    input_spec: InputSpec | None = None,
    input_key: Any = None,
    label_key: Any = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    output: Any = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **params: Any,
) -> Robustness:
    """Attack samples with growing size, and tell how many the model still says right.

    A sample that a small change turns counts as turned by every larger one. Accuracy under attack is an upper bound: a
    better attack may turn more, so this is no certificate (`certify` gives one). Signs that the gradient is masked, so
    that the bound means little (Athalye et al. 2018, arXiv:1802.00420), are looked for and warned of: gradients of
    zero, samples that hold at ten times the largest size, samples that one step turns and many do not.

    Args:
        model: an `nn.Module` or any callable, whose outputs are classes.
        data: a tensor or a tuple of tensors (batch first), or a loader of batches, in the model's units.
        attack: "pgd" or "fgsm", for each size anew; "fmn" or "deepfool", one search for the smallest change; or what
            `as_attack` takes.
        eps: sizes in raw units, numbers or fractions as text.
        norm: "Linf", "L2" or "L1".
        methods: whose maps are compared before and after, as for `explain`; None: none.
        labels: true classes (N,) of a tensor; None: those of the loader, without which what the model says of the data
            as they are counts as right.
        n: samples at most; None: all.
        check: look for masked gradients; this attacks up to 32 samples twice more.
        input_spec: kind of data, normalisation and class names; guessed from the shape if None.
        input_key: which part of a loader's batch is the input.
        label_key: which is the label.
        activation: as for `explain`.
        output: as for `explain`.
        additional_forward_args: as for `explain`.
        forward_kwargs: as for `explain`.
        batch_size: rows per pass; None: automatic.
        seed: of random points.
        progress: None: a bar for long work.
        **params: further arguments of `attack` (`steps`, `restarts`, `bounds`, `mask`), and parameters of `methods` in
            `explain=`, a dict.

    Returns:
        `Robustness`: accuracy per size, what turned, smallest changes, likeness of maps, a curve and a page.

    Raises:
        InputError: no sizes, sizes that are none; labels that are not one per sample.
        TargetError: a model whose outputs are no classes.

    Example:
        from interp_plugins.robust import robustness

        found = robustness(model, x, eps=(0, 0.1, 0.5), steps=5, check=False)
        float(found.accuracy[0])  # -> 1.0
    """
    with concise():
        options = {
            "input_spec": input_spec, "activation": activation, "output": output, "batch_size": batch_size,
            "additional_forward_args": additional_forward_args, "forward_kwargs": forward_kwargs,
        }  # fmt: skip
        known = {name: value for name, value in options.items() if value is not None}
        whole = isinstance(data, (Tensor, tuple, Mapping))
        if labels is not None and not whole:
            raise InputError("labels= belong to tensors; a loader has its own: name them by label_key=.")
        reading = Reading(input_key=input_key, label_key=label_key)
        target = None if labels is None else torch.as_tensor(labels).long()
        stream = SampleStream(model, data, target, known, reading, n=n)
        plan = AttackedSizes(attack, eps, norm, methods, check, seed, progress, params)
        return plan.measured(stream)


@dataclass
class AttackedSizes:
    """An attack at several sizes, batch by batch.

    Attributes:
        attack: its name.
        eps: the sizes.
        norm: their norm.
        methods: whose maps are compared, or None.
        check: whether masked gradients are looked for.
        seed: of random points.
        progress: None: a bar for long work.
        params: further arguments of `attack`; "explain" holds those of `explain`.
    """

    attack: Any
    eps: Sequence[float | str]
    norm: str
    methods: Any = None
    check: bool = True
    seed: int = 0
    progress: bool | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.eps, (str, float, int)) or not len(tuple(self.eps)):
            raise InputError(f"eps are several sizes, eps=(0, '2/255', '8/255'), got {self.eps!r}.")
        self.norm = check_norm(self.norm)
        self.levels = tuple(sorted({0.0, *(as_size(e, 0.0) for e in self.eps)}))
        self.asked = {k: v for k, v in self.params.items() if k != "explain"}
        self.explained = dict(self.params.get("explain") or {})

    @property
    def name(self) -> str:
        """The attack by its registered or own name."""
        return self.attack if isinstance(self.attack, str) else as_attack(self.attack).name

    def measured(self, batches: Iterable[SampleBatch]) -> Robustness:
        """All batches.

        Raises:
            InputError: no samples.
        """
        found = [_Attacked(self, batch) for batch in batches]
        if not found:
            raise InputError("The data hold no samples.")
        right = torch.cat([one.right for one in found], 1)
        minimum = torch.cat([one.minimum for one in found])
        notes = self._signs(found, right)
        for note in notes:
            warnings.warn(note, InterpWarning, stacklevel=4)
        several = [one.turned for one in found if len(one.turned)]
        examples = joined(several) if several and len({_shape(p) for p in several}) == 1 else next(iter(several), None)
        if examples is not None:
            order = examples.norms[self.norm].argsort(stable=True).tolist()
            examples = examples[order[:EXAMPLES]]
        maps = self._maps(found[0].batch, examples)
        labels = list(dict.fromkeys(label for one in found for label in one.agreement))
        return Robustness(
            names=("clean",) + (self.name,) * (len(self.levels) - 1),
            levels=self.levels,
            right=right,
            labelled=all(one.labelled for one in found),
            keys=tuple(k for one in found for k in one.batch.keys),
            minimum=minimum,
            agreement={m: torch.cat([one.agreement[m] for one in found], 1) for m in labels},
            examples=examples,
            pictures={},
            maps=maps,
            notes=tuple(notes),
            params={"attack": self.name, "norm": self.norm, "seed": self.seed, **self.asked},
            spec=found[0].spec,
        )

    def run(self, batch: SampleBatch, name: Any, **asked: Any) -> Perturbed:
        """An attack on a batch."""
        taken = {k: v for k, v in batch.options.items() if k in Asking.__dataclass_fields__}
        options = {**taken, **self.asked, "norm": self.norm, "seed": self.seed, "progress": self.progress}
        if name == "fgsm":
            options = {k: v for k, v in options.items() if k not in ("steps", "restarts", "step_size")}
        return core_attack(batch.model, batch.inputs, name, **{**options, **asked})

    def explain(self, model: Any, batch: SampleBatch, inputs: Any, target: Any) -> Explanations:
        """Maps of some inputs."""
        options = {k: v for k, v in batch.options.items() if k != "threshold"}
        asked = {"seed": self.seed, "progress": False, **options, **self.explained}
        return explain(model, inputs, self.methods, target=target, **asked)

    def _maps(self, batch: SampleBatch, examples: Perturbed | None) -> tuple[Explanations, Explanations] | None:
        if self.methods is None or examples is None or any(k in batch.options for k in _PER_SAMPLE):
            return None
        return examples.explain(batch.model, self.methods, progress=False, seed=self.seed, **self.explained)

    def _signs(self, found: Sequence[_Attacked], right: Tensor) -> list[str]:
        """Signs of masked gradients, in words."""
        said = []
        flat = sum(one.flat for one in found)
        if flat:
            said.append(
                f"Masked gradients: the gradient is zero in {flat} of {right.shape[1]} samples, so that nothing is "
                "known of them."
            )
        if not self.check or self.attack != "pgd" or self.levels[-1] == 0 or not bool(right[0].any()):
            return said
        one, many = sum(f.by_one_step for f in found), sum(f.checked for f in found)
        if one:
            said.append(
                f"Masked gradients: one step (fgsm) turned {one} of {many} samples that pgd did not turn at "
                f"{self.levels[-1]:.3g}; more steps or restarts, or another attack, will find more."
            )
        far = sum(f.far for f in found)
        if many and far > _LEFT * int(right[0].sum()):
            said.append(
                f"Masked gradients: {far} of {many} samples hold at {_FAR} times the largest size; a model without a "
                "useful gradient looks robust to attacks that follow it."
            )
        return said


_PER_SAMPLE = ("additional_forward_args", "forward_kwargs")


def _shape(found: Perturbed) -> tuple[Any, ...]:
    return tuple(tuple(x.shape[1:]) for x in as_tuple(found.inputs))


class _Attacked:
    """What the sizes did to one batch."""

    def __init__(self, plan: AttackedSizes, batch: SampleBatch):
        self.plan, self.batch = plan, batch
        given = batch.target if isinstance(batch.target, Tensor) else batch.labels
        self.labelled = given is not None
        if self.labelled and len(torch.as_tensor(given)) != len(batch):
            raise InputError(f"labels hold {len(torch.as_tensor(given))} classes for {len(batch)} samples.")
        clean = plan.run(batch, "fgsm", eps=0, target=given)
        self.spec = clean.spec
        self.left = torch.tensor([clean.index(label) for label in clean.target_label])
        n = len(batch)
        self.right = torch.zeros(len(plan.levels), n, dtype=torch.bool)
        self.right[0] = torch.tensor([s != "already" for s in clean.state])
        self.minimum = torch.where(self.right[0], torch.inf, 0.0)
        self.changed = [x.detach().cpu().clone() for x in as_tuple(batch.inputs)]
        self.flat = self.by_one_step = self.far = self.checked = 0
        turned = self._smallest() if isinstance(plan.attack, str) and plan.attack in SMALLEST else self._sizes()
        self.turned = joined(turned) if turned else clean[:0]
        self.agreement = self._agreement() if plan.methods is not None else {}

    def _sizes(self) -> list[Perturbed]:
        """Each size, on what the smaller ones left."""
        plan, turned, state = self.plan, [], {}
        for k, size in enumerate(plan.levels[1:], 1):
            self.right[k] = self.right[k - 1]
            rows = self.right[k].nonzero().flatten().tolist()
            if not rows:
                continue
            found = plan.run(self.batch.rows(rows), plan.attack, eps=size, target=self.left[rows])
            state = dict(zip(rows, found.state, strict=True))
            self._take(rows, found)
            done = [j for j, s in enumerate(found.state) if s == "turned"]
            if done:
                turned.append(found[done])
            self.right[k, [rows[j] for j in done]] = False
        self.flat = sum(s == "masked" for s in state.values())
        if plan.check and plan.attack == "pgd" and plan.levels[-1] > 0:
            self._look_for_masks()
        return turned

    def _smallest(self) -> list[Perturbed]:
        """One search for the smallest change, which says of each size whether it suffices."""
        rows = self.right[0].nonzero().flatten().tolist()
        if not rows:
            return []
        found = self.plan.run(self.batch.rows(rows), self.plan.attack, target=self.left[rows])
        self._take(rows, found)
        self.flat = sum(s == "masked" for s in found.state)
        for k, size in enumerate(self.plan.levels[1:], 1):
            self.right[k] = self.right[0] & (self.minimum > size)
        done = [j for j, s in enumerate(found.state) if s == "turned"]
        return [found[done]] if done else []

    def _take(self, rows: list[int], found: Perturbed) -> None:
        for x, moved in zip(self.changed, as_tuple(found.perturbed), strict=True):
            x[rows] = moved.to(x)
        for j, r in enumerate(rows):
            if found.state[j] == "turned":
                self.minimum[r] = min(float(self.minimum[r]), float(found.norms[self.plan.norm][j]))

    def _look_for_masks(self) -> None:
        rows = self.right[-1].nonzero().flatten().tolist()[:_CHECKED]
        if not rows:
            return
        few, size = self.batch.rows(rows), self.plan.levels[-1]
        self.checked = len(rows)
        self.by_one_step = self.plan.run(few, "fgsm", eps=size, target=self.left[rows]).state.count("turned")
        self.far = len(rows) - self.plan.run(few, "pgd", eps=_FAR * size, target=self.left[rows]).state.count("turned")

    def _agreement(self) -> dict[str, Tensor]:
        """Likeness of maps at the largest size, of the class that is left."""
        inputs = self.batch.inputs
        moved = [c.to(x) for c, x in zip(self.changed, as_tuple(inputs), strict=True)]
        after = self.plan.explain(
            self.batch.model, self.batch, tuple(moved) if isinstance(inputs, tuple) else moved[0], self.left
        )
        before = self.plan.explain(self.batch.model, self.batch, inputs, self.left)
        found = {}
        for label, a, b in zip(before.labels, before, after, strict=True):
            alike = map_likeness(element_rows(a, "sum"), element_rows(b, "sum"))
            values = torch.full(self.right.shape, torch.nan, dtype=torch.float64)
            values[0], values[-1] = 1.0, alike
            found[label] = values
        return found


def map_likeness(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of the sizes of two maps (N, D); 1 where they are equal, also constant ones."""
    return torch.where((a == b).all(1), 1.0, spearman_correlation(a.abs(), b.abs()))
