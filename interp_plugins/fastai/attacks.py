"""`Learner.attack` and `Learner.certify`: can this prediction be turned, by how little, and within what can it not?

Items go through the same validation transforms as in `learn.explain`; the answers are those of `interp_plugins.robust`.
"""

from __future__ import annotations

from typing import Any

import torch
from fastai.learner import Learner
from fastcore.basics import patch

from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.errors import InputTypeError, TargetError, concise
from interp_plugins.core.tensors import as_tuple, is_float
from interp_plugins.fastai import learner as _learner  # noqa: F401 - the readers
from interp_plugins.fastai.items import SampleSource
from interp_plugins.fastai.reader import reader_of
from interp_plugins.fastai.sample_stream import named_or_first, sample_stream
from interp_plugins.robust.aim import is_value
from interp_plugins.robust.attacking import attack as core_attack
from interp_plugins.robust.certificate import Certificate, joined_certificates
from interp_plugins.robust.certifying import certify as core_certify
from interp_plugins.robust.perturbed import Perturbed, joined

_TAKEN = ("input_spec", "activation", "additional_forward_args", "forward_kwargs", "output")


@patch
def attack(
    self: Learner,
    item: Any = None,  # items as for `explain`; None: the first `n` rows of the validation set
    attack: str = "pgd",  # of a given size "pgd" or "fgsm"; the smallest change: "fmn", or quicker "deepfool"
    *,
    eps: float | str | None = None,  # largest change, in raw units: of a picture from 0 to 1, "8/255"; None: that
    norm: str = "Linf",  # or "L2", "L1"
    target: Any = None,  # the class to be left: a name, an index, "label": ground truth; None: what is predicted
    goal: Any = None,  # the class to be said instead, or ("below", value) of a score; None: any other class
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split
    n: int = 64,  # rows where none are named
    mask: Any = None,  # 1 where a pixel may change, 0 where not; shapes that broadcast over the encoded inputs
    steps: int | None = None,  # None: 40, of "deepfool" 50
    restarts: int = 1,  # how often what was not turned begins anew at a random point
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    seed: int = 0,  # of the random points
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # `step_size`, `stop_early`, `bounds`, `batch_size` of `interp_plugins.robust.attack`
) -> Perturbed:
    """Change items by at most `eps`, or as little as can be, so that the Learner says another class.

    Sizes are those of the pictures themselves: the data's normalisation is undone first. The attacks that search the
    smallest change have no limit where no `eps` is given. The Learner stays as it was.

    Returns:
        `Perturbed`: `.state`, `.to_df()`, `.show()`, `.norms`, `.explain(learn.model, methods)`.

    Raises:
        InputTypeError: categories, words or other ids, which do not change by a little.
        TargetError: labels that do not exclude each other, or no classes.

    Example:
        learn.attack(eps="2/255", n=4, steps=5).to_df()
    """
    with concise():
        reader = reader_of(self)
        source = named_or_first(reader, SampleSource(item, dl, ds_idx, idxs), n)
        beside = {"masks": None, "truth": None, "output": output, "label_key": label_key, "baselines": None}
        asked = {"eps": eps, "norm": norm, "goal": goal, "mask": mask, "steps": steps, "restarts": restarts}
        asked |= {"seed": seed, "progress": progress, **params}
        with reader.unchanged():
            found = []
            for batch in sample_stream(reader, source, target, **beside):
                check_numbers(batch, of_score=is_value(goal))
                options = {name: batch.options[name] for name in _TAKEN if name in batch.options}
                left = None if target is None else batch.target
                found.append(core_attack(batch.model, batch.inputs, attack, target=left, **options, **asked))
        return joined(found)


@patch
def certify(
    self: Learner,
    item: Any = None,  # items as for `explain`; None: the first `n_items` rows of the validation set
    method: str = "smoothing",  # or "region": within it the gradient map is constant
    *,
    sigma: float = 0.25,  # of the noise, in raw units: of a picture from 0 to 1
    n: int = 1000,  # draws that bound the class's probability
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split
    n_items: int = 4,  # rows where none are named
    output: Any = None,  # as for `explain`
    seed: int = 0,  # of the noise
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # `n0`, `alpha`, `norm`, `batch_size` of `interp_plugins.robust.certify`
) -> Certificate:
    """How far items can be changed, in any way, without what holds of them ceasing to hold.

    Sizes are those of the pictures themselves, before the data's normalisation. The Learner stays as it was.

    Returns:
        `Certificate`: `.radius`, `.prediction`, `.to_df()`.

    Raises:
        InputTypeError: categories, words or other ids, which do not change by a little.
        TargetError: labels that do not exclude each other, or no classes.

    Example:
        learn.certify(sigma=0.1, n=50, n_items=2).to_df()
    """
    with concise():
        reader = reader_of(self)
        source = named_or_first(reader, SampleSource(item, dl, ds_idx, idxs), n_items)
        beside = {"masks": None, "truth": None, "output": output, "label_key": None, "baselines": None}
        with reader.unchanged():
            found = []
            for batch in sample_stream(reader, source, None, **beside):
                check_numbers(batch)
                options = {name: batch.options[name] for name in _TAKEN if name in batch.options}
                asked = {"method": method, "sigma": sigma, "n": n, "seed": seed, "progress": progress, **params}
                found.append(core_certify(batch.model, batch.inputs, **options, **asked))
        return joined_certificates(found)


def check_numbers(batch: SampleBatch, of_score: bool = False) -> None:
    """Refuse what an attack by gradients cannot be of.

    Args:
        batch: of the data.
        of_score: whether the value of one score is what is wanted, and no other class.

    Raises:
        TargetError: several labels.
        InputTypeError: ids.
    """
    if batch.options.get("threshold") is not None and not of_score:
        raise TargetError(
            "The labels of these data do not exclude each other, so there is no other class to be said. Name a label "
            "and what its score (a logit) is to become: learn.attack(item, target='label', goal=('below', 0))."
        )
    if not isinstance(batch.inputs, (torch.Tensor, tuple)) or not all(is_float(x) for x in as_tuple(batch.inputs)):
        raise InputTypeError(
            "These data hold categories, words or other ids, which do not change by a little: attacks are of numbers, "
            "as pictures are. See learn.explain(methods='feature_ablation') for what removing a column or word does."
        )
