"""Do samples with alike explanations get one class? A value needs all other samples: these metrics are of data sets.

`metric(name)` keeps what it needs of each sample (its class, and its map in short) and compares all pairs at the end,
so that nothing depends on batches; the plain function takes its batch for the data set.

Reference: Dasgupta, Frost and Moshkovitz, Framework for Evaluating Faithfulness of Local Explanations, 2022,
arXiv:2202.00734.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.asking import about, asking
from interp_plugins.metrics.feature_rows import feature_numbers, feature_sums
from interp_plugins.metrics.ranking import count_of, largest
from interp_plugins.metrics.registry import Record, register_metric
from interp_plugins.metrics.road import class_number
from interp_plugins.metrics.rows import as_rows
from interp_plugins.metrics.undefined import defined

Model = Callable[..., Any]
OPTIONS = ("additional_forward_args", "features", "reduce", "batch_size", "seed")
ALONE = "no other sample has an alike map"
_BLOCK = 512  # samples that are compared with all others at a time


def _classes_and_maps(
    given: tuple[Any, ...],
    *,
    additional_forward_args: Any = None,
    features: Any = None,
    reduce: str | None = "sum",
    batch_size: int | None = None,
    seed: int = 0,
) -> tuple[list[int], Tensor]:
    """The class of each sample, and its map's sum over each feature, (N, F)."""
    what = about(given[1], given[2], given[3], class_number, reduce)
    with asking(
        given[0], what, additional_forward_args=additional_forward_args, batch_size=batch_size, seed=seed
    ) as questions:
        classes = questions.whole([m.shape[1:] for m in what.maps]).long().tolist()
    rows = as_rows(what.maps)
    defined(torch.zeros(len(rows)), rows)  # says which maps are not finite
    return classes, feature_sums(rows, *feature_numbers(what.maps, features)).cpu()


def _records_by_set(given: tuple[Any, ...], *, k: int | float = 5, **options: Any) -> list[Record | None]:
    """Per sample its class and its k largest features with their signs; None where the map is not finite."""
    classes, sums = _classes_and_maps(given, **options)
    total = sums.shape[1]
    count = total if isinstance(k, int) and k > total else count_of(k, total)
    top = largest(sums.abs().nan_to_num(0.0), count, ties="index")
    signs = sums.gather(1, top).sign()
    keys = [tuple(sorted(zip(t, s))) for t, s in zip(top.tolist(), signs.tolist())]
    finite = sums.isfinite().all(1).tolist()
    return [(c, key) if ok else None for c, key, ok in zip(classes, keys, finite)]


def _compared_sets(records: Sequence[Record | None], **params: Any) -> tuple[list[float], list[str | None]]:
    """Per sample the share of those with an equal key that have its class."""
    members: dict[Any, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        if record is not None:
            members[record[1]][record[0]] += 1
    values = []
    for record in records:
        others = sum(members[record[1]].values()) - 1 if record is not None else 0
        values.append((members[record[1]][record[0]] - 1) / others if record is not None and others else torch.nan)
    return values, [ALONE if value != value else None for value in values]


def _records_by_map(given: tuple[Any, ...], *, alike: float = 0.9, **options: Any) -> list[Record | None]:
    """Per sample its class and its map, scaled to length 1, as bytes; None where it is not finite or zero."""
    classes, sums = _classes_and_maps(given, **options)
    scaled = sums / sums.abs().amax(1, keepdim=True)
    units = (scaled / scaled.norm(dim=1, keepdim=True)).float()
    finite = units.isfinite().all(1).tolist()
    defined(torch.zeros(len(sums)), None, {"the map is zero everywhere": (sums == 0).all(1)})
    return [(c, u.numpy().tobytes()) if ok else None for c, u, ok in zip(classes, units, finite)]


def _compared_maps(
    records: Sequence[Record | None], *, alike: float = 0.9, **params: Any
) -> tuple[list[float], list[str | None]]:
    """Per sample the share of those with a map alike that have its class."""
    if isinstance(alike, bool) or not isinstance(alike, (int, float)) or not -1 <= alike <= 1:
        raise InputError(f"alike must be a cosine from -1 to 1, got {alike!r}.")
    known = [i for i, record in enumerate(records) if record is not None]
    values = [torch.nan] * len(records)
    if known:
        own = [records[i] for i in known]
        units = torch.stack([torch.frombuffer(bytearray(r[1]), dtype=torch.float32) for r in own if r is not None])
        classes = torch.tensor([r[0] for r in own if r is not None])
        for at in torch.arange(len(known)).split(_BLOCK):
            near = units[at].double() @ units.double().T >= alike - 1e-6
            near[torch.arange(len(at)), at] = False
            same = (near & (classes[at][:, None] == classes[None])).sum(1).double() / near.sum(1)
            for i, value in zip(at.tolist(), same.tolist()):
                values[known[i]] = value
    return values, [ALONE if value != value else None for value in values]


def _of_batch(records: list[Record | None], compare: Any, **params: Any) -> Tensor:
    values, _ = compare(records, **params)
    found = torch.tensor(values, dtype=torch.float64)
    alone = found.isnan() & torch.tensor([record is not None for record in records])
    return defined(found, None, {ALONE: alone})


@register_metric(
    "consistency_classes",
    kind="faithfulness",
    needs="dataset",
    higher_is_better=True,
    sign_invariant=True,
    reference="Dasgupta et al. 2022, arXiv:2202.00734",
    cost="1",
    says="of samples with the same k largest features, signs included, the share with the same class",
    options=OPTIONS,
    record=_records_by_set,
    compare=_compared_sets,
)
def consistency_classes(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    k: int | float = 5,
    **options: Any,
) -> Tensor:
    """Of the other samples whose explanation names the same features, the share that gets the same class.

    Two explanations are the same where their k largest sizes stand at the same features, with the same signs.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: the data set: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: not used, but taken as by the other metrics that ask.
        k: how many features, or their share; all where there are fewer.
        **options: `features` (what goes together: a grid or superpixels, for pictures hardly ever agree pixel by
            pixel), `reduce` ("sum"), `additional_forward_args`, `batch_size`, `seed`.

    Returns:
        (N,) float64 in [0, 1]; NaN where no other sample has the same explanation. The class is the largest output (of
        a single output, its sign).

    Example:
        maps = torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        consistency_classes(lambda v: v, torch.tensor([[1.0, 0.0]] * 4), maps, k=1)[:2]  # -> [1.0, 1.0]
    """
    given = (forward_func, inputs, attributions, baselines)
    return _of_batch(_records_by_set(given, k=k, **options), _compared_sets)


@register_metric(
    "sufficiency_classes",
    kind="faithfulness",
    needs="dataset",
    higher_is_better=True,
    sign_invariant=True,
    reference="Dasgupta et al. 2022, arXiv:2202.00734",
    cost="1",
    says="of samples whose maps have a cosine of `alike` or more, the share with the same class",
    options=OPTIONS,
    record=_records_by_map,
    compare=_compared_maps,
)
def sufficiency_classes(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    alike: float = 0.9,
    **options: Any,
) -> Tensor:
    """Of the other samples whose maps are alike, the share that gets the same class.

    `metric("sufficiency_classes")` keeps the map of every sample, a number per feature: give `features` for pictures.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: the data set: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: not used, but taken as by the other metrics that ask.
        alike: the least cosine of the angle between two maps that are alike.
        **options: `features`, `reduce` ("sum"), `additional_forward_args`, `batch_size`, `seed`.

    Returns:
        (N,) float64 in [0, 1]; NaN where no other sample has a map alike, or the map is zero. The class is the largest
        output (of a single output, its sign).

    Example:
        maps = torch.tensor([[3.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.0, -1.0]])
        sufficiency_classes(lambda v: v, torch.tensor([[1.0, 0.0]] * 4), maps)[:2]  # -> [1.0, 1.0]
    """
    given = (forward_func, inputs, attributions, baselines)
    return _of_batch(_records_by_map(given, alike=alike, **options), _compared_maps, alike=alike)
