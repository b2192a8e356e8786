"""`Learner.robustness`, `.explanation_robustness`, `.counterfactual`, `.corruptions`; `RobustnessCallback`.

Items go through the same validation transforms as in `learn.explain`; what is done is `interp_plugins.robust`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.learner import Learner, Recorder
from fastai.torch_core import rank_distrib
from fastcore.basics import patch

from interp_plugins.api.callbacks import ON_ERROR, check_choice, check_count, contained
from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.tensors import as_tuple
from interp_plugins.fastai import learner as _learner  # noqa: F401 - the readers
from interp_plugins.fastai.attacks import check_numbers
from interp_plugins.fastai.items import SampleSource
from interp_plugins.fastai.loggers import log_numbers
from interp_plugins.fastai.reader import Reader, reader_of
from interp_plugins.fastai.sample_stream import named_or_first, sample_stream
from interp_plugins.fastai.tabular import TabularReader
from interp_plugins.robust.corrupting import Corrupted
from interp_plugins.robust.counterfactuals import counterfactual as core_counterfactual
from interp_plugins.robust.explained import ExplanationRobustness
from interp_plugins.robust.explaining import explanation_robustness as core_explanation_robustness
from interp_plugins.robust.measured import Robustness
from interp_plugins.robust.measuring import SIZES, AttackedSizes
from interp_plugins.robust.perturbed import Perturbed, joined
from interp_plugins.robust.watching import RobustnessWatch

_TAKEN = ("input_spec", "activation", "additional_forward_args", "forward_kwargs", "output")
_ROWS = 5000  # of the training data, for the values that a column takes


def _stream(
    reader: Reader, source: SampleSource, n: int, output: Any, label_key: Any, target: Any = None
) -> list[SampleBatch]:
    beside = {"masks": None, "truth": None, "output": output, "label_key": label_key, "baselines": None}
    return list(sample_stream(reader, named_or_first(reader, source, n), target, **beside))


def _taken(batch: SampleBatch) -> dict[str, Any]:
    return {name: batch.options[name] for name in _TAKEN if name in batch.options}


@patch
def robustness(
    self: Learner,
    item: Any = None,  # items as for `explain`; None: the first `n` rows of the validation set
    attack: str = "pgd",  # or "fgsm", for each size anew; "fmn", "deepfool": one search for the smallest change
    *,
    eps: Sequence[float | str] = SIZES,  # sizes in raw units: of a picture from 0 to 1, "2/255"
    norm: str = "Linf",  # or "L2", "L1"
    methods: Any = None,  # whose maps are compared before and after, as for `explain`
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split
    n: int = 64,  # rows where none are named
    check: bool = True,  # look for masked gradients
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    seed: int = 0,  # of random points
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # `steps`, `restarts` of `interp_plugins.robust.attack`; `explain=` a dict for the methods
) -> Robustness:
    """Attack samples with growing size, and tell how many the Learner still says right.

    Accuracy under attack is an upper bound: a better attack may turn more. The Learner stays as it was.

    Returns:
        `Robustness`: `.to_df()`, `.show()`, `.to_html(path)`, `.minimum`, `.examples`.

    Raises:
        InputTypeError: categories, words or other ids.
        TargetError: labels that do not exclude each other, or no classes.

    Example:
        learn.robustness(n=4, eps=("2/255",), steps=3, check=False).to_df()
    """
    with concise():
        plan = AttackedSizes(attack, eps, norm, methods, check, seed, progress, params)
        reader = reader_of(self)
        with reader.unchanged():
            batches = _stream(reader, SampleSource(item, dl, ds_idx, idxs), n, output, label_key)
            for batch in batches:
                check_numbers(batch)
            return plan.measured(batches)


@patch
def corruptions(
    self: Learner,
    item: Any = None,  # pictures as for `explain`; None: the first `n` rows of the validation set
    names: Any = "all",  # corruptions of `interp_plugins.robust.CORRUPTIONS`
    *,
    severities: Sequence[int] = (1, 2, 3, 4, 5),  # of 1 to 5
    methods: Any = None,  # whose maps are compared with the clean ones, as for `explain`
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split
    n: int = 64,  # rows where none are named
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    seed: int = 0,  # of all draws
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # further arguments of `explain`, and the methods' own
) -> Robustness:
    """Corrupt pictures as noise, blur, weather and files do, and tell what the Learner still says right.

    Returns:
        `Robustness`: `.to_df()`, `.show()`, `.to_html(path)`.

    Raises:
        InputError: no pictures.

    Example:
        learn.corruptions(names=["fog", "jpeg"], severities=(1, 3), n=4).to_df()
    """
    with concise():
        plan = Corrupted(names, severities, methods, seed, progress, params)
        reader = reader_of(self)
        with reader.unchanged():
            batches = _stream(reader, SampleSource(item, dl, ds_idx, idxs), n, output, label_key)
            for batch in batches:
                check_numbers(batch)
            return plan.measured(batches)


@patch
def explanation_robustness(
    self: Learner,
    item: Any = None,  # items as for `explain`; None: the first `n` rows of the validation set
    methods: Any = None,  # as for `explain`
    *,
    eps: float | str = 8 / 255,  # largest change, in raw units: of a picture from 0 to 1, "8/255"
    norm: str = "Linf",  # or "L2", "L1"
    keep: float = 0.1,  # by how much the explained score may change, as a share
    similarity: Any = "spearman",  # or "topk", "cosine", a function
    target: Any = None,  # what is explained, as for `explain`
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split
    n: int = 4,  # rows where none are named
    n_random: int = 16,  # random changes of each sample
    steps: int = 40,  # of the attack
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    seed: int = 0,  # of all draws
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # `how`, `mask`, `bounds`; further arguments of `explain`, and the methods' own
) -> ExplanationRobustness:
    """How much maps can change within `eps` while the Learner says the same: by chance, and when somebody wants it to.

    Returns:
        `ExplanationRobustness`: `.summary()`, `.to_df()`, `.show()`, `.to_html(path)`.

    Raises:
        InputError: items of different sizes.

    Example:
        learn.explanation_robustness(methods="gradcam", n=1, n_random=2, steps=2).summary()
    """
    with concise():
        reader = reader_of(self)
        with reader.unchanged():
            batches = _stream(reader, SampleSource(item, dl, ds_idx, idxs), n, output, label_key, target)
            for batch in batches:
                check_numbers(batch)
            if len(batches) != 1:
                raise InputError(
                    f"These are {len(batches)} batches (more than 64 samples, or samples of different sizes); attacks "
                    "on maps take many passes: name fewer, or those of one size."
                )
            (batch,) = batches
            return core_explanation_robustness(
                batch.model, batch.inputs, methods, eps=eps, norm=norm, keep=keep, similarity=similarity,
                target=batch.target, n_random=n_random, steps=steps, seed=seed, progress=progress,
                **{**_taken(batch), **params},
            )  # fmt: skip


@patch
def counterfactual(
    self: Learner,
    item: Any = None,  # items as for `explain`; None: the first `n` rows of the validation set
    *,
    goal: Any = None,  # the class to be said instead, by name or index; None: any other
    target: Any = None,  # the class to be left; "label": ground truth; None: what is predicted
    kind: str = "auto",  # "row" for tables, "visible" for pictures; "regions", "minimal"
    many: int = 1,  # of rows: counterfactuals of each, by different columns
    max_changes: int = 3,  # of rows: columns that change at most
    immutable: Sequence[Any] = (),  # of rows: columns that stay
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split
    n: int = 4,  # rows where none are named
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    seed: int = 0,  # of random draws
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # `steps`, `smoothness`, `mask`; of "regions" those of `smallest_flip`
) -> Perturbed:
    """What would have to be different for the Learner to say something else.

    Rows of a table change in few columns, to values of the training data; pictures smoothly and to be seen, or by the
    fewest regions that would have to go.

    Returns:
        `Perturbed`: `.to_df()`, `.changes`, `.show()`.

    Raises:
        InputError: arguments of another kind.
        InputTypeError: words.

    Example:
        learn.counterfactual(kind="regions", n=1).to_df()
    """
    with concise():
        reader = reader_of(self)
        asked: dict[str, Any] = {"goal": goal, "kind": kind, "seed": seed, "progress": progress, **params}
        if many != 1 or max_changes != 3 or immutable:
            asked |= {"n": many, "max_changes": max_changes, "immutable": immutable}
        found = []
        with reader.unchanged():
            if isinstance(reader, TabularReader) and kind in ("auto", "row"):
                asked |= {"data": _known_rows(reader), "words": reader.raw, "kind": "row"}
            for batch in _stream(reader, SampleSource(item, dl, ds_idx, idxs), n, output, label_key, target):
                left = None if target is None else batch.target
                found.append(core_counterfactual(batch.model, batch.inputs, target=left, **_taken(batch), **asked))
        return joined(found)


def _known_rows(reader: Reader) -> Any:
    """Rows of the training data as the model takes them."""
    batches = _stream(reader, SampleSource(ds_idx=0), _ROWS, None, None)
    parts = list(zip(*(as_tuple(b.inputs) for b in batches), strict=True))
    whole = tuple(torch.cat(part) for part in parts)
    return whole if isinstance(batches[0].inputs, tuple) else whole[0]


class RobustnessCallback(Callback):
    """Attack the same samples while the Learner trains, and log a few numbers.

    Training is bit-identical with and without it. It does nothing in `lr_find`, `validate`, `get_preds` and `predict`.

    Args:
        n_samples: the first rows of the validation set.
        eps: sizes of attacks in Linf, in raw units.
        steps: of each attack.
        every_n_epochs: every n-th epoch from the first, and always the last.
        min_norm: search the smallest changes in L2 as well.
        explanations: a method whose maps are compared before and after the largest attack, or None.
        seed: of all draws.
        on_error: "warn": an error is a warning, and training goes on; "raise".

    Attributes:
        history: a dict per measured epoch: "epoch", "robust_acc@0", "robust_acc@2/255", "median_l2", "map_stability".

    Raises:
        InputError: sizes or counts that are none.

    Example:
        from interp_plugins.fastai import RobustnessCallback

        watch = RobustnessCallback(n_samples=4, steps=2)
        learn.fit(1, cbs=watch)
        watch.to_df()
    """

    order = Recorder.order + 5  # after those that log numbers, so that their steps are up to date
    remove_on_fetch = True

    def __init__(
        self,
        n_samples: int = 64,
        eps: Sequence[float | str] = (2 / 255,),
        steps: int = 10,
        every_n_epochs: int = 1,
        min_norm: bool = True,
        explanations: Any = None,
        seed: int = 0,
        on_error: str = "warn",
    ):
        super().__init__()
        check_count("n_samples", n_samples, 1)
        check_count("every_n_epochs", every_n_epochs, 1)
        check_choice("on_error", on_error, ON_ERROR)
        self.n_samples, self.every_n_epochs, self.on_error = n_samples, every_n_epochs, on_error
        self.watch = RobustnessWatch(eps, steps, min_norm, explanations, seed)
        self.history: list[dict[str, float]] = []
        self._trained = False

    def before_fit(self) -> None:
        """Stay out of `lr_find` and `get_preds`, and of all processes but the first."""
        self.run = not hasattr(self.learn, "lr_finder") and not hasattr(self, "gather_preds") and rank_distrib() == 0
        self._trained = False

    def after_train(self) -> None:
        """Only epochs that train are measured."""
        self._trained = True

    def after_epoch(self) -> None:
        """Measure after an epoch."""
        trained, self._trained = self._trained, False
        epoch = self.learn.epoch
        if not trained or not (epoch % self.every_n_epochs == 0 or epoch == self.learn.n_epoch - 1):
            return
        with contained("RobustnessCallback", self.on_error):
            reader = reader_of(self.learn)
            with reader.unchanged():
                batches = _stream(reader, SampleSource(ds_idx=1), self.n_samples, None, None)
                for batch in batches:
                    check_numbers(batch)
                numbers = self.watch.numbers(batches)
            self.history.append({"epoch": epoch, **numbers})
            log_numbers(self.learn.cbs, numbers, self.learn.train_iter)

    def to_df(self) -> Any:
        """A row per measured epoch."""
        import pandas as pd

        return pd.DataFrame(self.history)
