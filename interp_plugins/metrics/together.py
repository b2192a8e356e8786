"""Several metrics of several methods on one batch: `judge_together` asks each row once and says what each cost."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.guard import frozen
from interp_plugins.metrics.accumulate import Metric
from interp_plugins.metrics.planning import planned_passes
from interp_plugins.metrics.registry import ASKING, GIVEN, REPEATING, MetricInfo, metric_info
from interp_plugins.metrics.rows import Judged, maps_of
from interp_plugins.metrics.sheet import shared_rows

ByMethod = Mapping[str, Judged]


@dataclass(frozen=True)
class Together:
    """What `judge_together` gives, metric by metric and method by method.

    Attributes:
        values: metric -> method -> float64 (N,); empty after a dry run.
        metrics: metric -> method -> the updated `Metric`, whose `compute` gives a `Score`; empty after a dry run.
        passes: metric -> method -> forward passes; a row that several share counts where it was asked first.
    """

    values: dict[str, dict[str, Tensor]]
    metrics: dict[str, dict[str, Metric]]
    passes: dict[str, dict[str, int]]

    @property
    def forward_passes(self) -> int:
        """Forward passes of everything."""
        return sum(count for counts in self.passes.values() for count in counts.values())


def judge_together(
    forward_func: Any,
    inputs: Any,
    maps: ByMethod,
    metrics: Sequence[str] | Mapping[str, Mapping[str, Any]],
    *,
    ids: Sequence[Any] | Tensor | None = None,
    seed: int = 0,
    dry_run: bool = False,
    into: Mapping[str, Mapping[str, Metric]] | None = None,
    **given: Any,
) -> Together:
    """Judge the maps of several methods by several metrics; a row that they ask for in common is asked once.

    Five methods cost as much as one where rows do not follow the map (a metric that needs "scores"); where they do
    (needs "order"), the ends of the curves and whatever else agrees is shared. Values are those of each metric alone.

    Args:
        forward_func: an `nn.Module` or any callable; None where no metric asks it.
        inputs: tensor or tuple of tensors, batch first; None where every map is an `Explanation`.
        maps: method -> its maps, or its `Explanation`, of the same samples.
        metrics: names, or name -> parameters.
        ids: one per sample, the same for a sample wherever it arrives; None: samples are numbered.
        seed: of the draws of metrics that take one and were given no other.
        dry_run: ask nothing, and tell how many passes it would take: exactly, but for the probe that sees whether a
            model's rows feel each other (`row_probe`), which takes six rows once, for models whose rows do, and for the
            few rows by which a faster view of the model is compared with it (`acceleration`).
        into: metric -> method -> a `Metric` to go on with; None: new ones.
        **given: what metrics take beside the maps: `target=`, `baselines=`, `features=`, `masks=`, `truth=`, ...; each
            metric gets what it takes.

    Raises:
        InputError: no maps or no metrics, or inputs are missing.
        UnknownNameError: something given that none of the metrics takes.

    Example:
        maps = {"map": x, "noise": torch.randn_like(x)}
        found = judge_together(model, x, maps, ["srg", "faithfulness_correlation"], target=0)
        found.values["srg"]["noise"].shape, found.metrics["srg"]["map"].compute()
        plan = judge_together(model, x, maps, {"faithfulness_correlation": {"n_subsets": 10}}, target=0, dry_run=True)
        plan.passes["faithfulness_correlation"]["map"], plan.passes["faithfulness_correlation"]["noise"]  # -> (22, 0)
    """
    wanted = {m: dict(metrics[m]) if isinstance(metrics, Mapping) else {} for m in metrics}
    infos = {name: metric_info(name) for name in wanted}
    if not maps or not wanted:
        raise InputError("Give the maps of one method at least, and one metric.")
    for key in given:
        if not any(key in _takes(info) for info in infos.values()):
            raise unknown("argument of these metrics", key, {k: None for info in infos.values() for k in _takes(info)})
    found = Together({}, {}, {name: {} for name in wanted})
    with contextlib.ExitStack() as open_scopes:
        if forward_func is not None:
            open_scopes.enter_context(frozen(forward_func, seed=seed))
        open_scopes.enter_context(shared_rows(dry_run=dry_run))
        for name, info in infos.items():
            params = {**({"seed": seed} if "seed" in info.parameters else {}), **wanted[name]}
            known = {key: value for key, value in given.items() if key in _takes(info)}
            for method, judged in maps.items():
                one = None if into is None or dry_run else into.get(name, {}).get(method)
                one = Metric(name, **params) if one is None else one
                before = one.passes
                more = {**known, **_asked(info, forward_func, inputs, judged)}
                if dry_run and info.needs in REPEATING:
                    about = {key: v for key, v in (params | known).items() if key != "ids"}
                    asked = more.get("inputs", judged)
                    found.passes[name][method] = planned_passes(name, forward_func, asked, **about).forward
                    continue
                if info.needs in ASKING or not dry_run:
                    values = one.update(judged, ids=ids, **more)
                found.passes[name][method] = one.passes - before
                if not dry_run:
                    found.values.setdefault(name, {})[method] = values
                    found.metrics.setdefault(name, {})[method] = one
    return found


def _takes(info: MetricInfo) -> set[str]:
    """What can be given to a metric beside the model and the maps."""
    own = {*info.parameters, "baselines"} if info.needs in ASKING else {*info.parameters}
    return own | ({GIVEN[info.needs]} if info.needs in GIVEN else set()) - {"ids", "model"}


def _asked(info: MetricInfo, forward_func: Any, inputs: Any, judged: Judged) -> dict[str, Any]:
    """The model and the inputs, for metrics that ask."""
    if info.needs not in ASKING:
        return {}
    explained = maps_of(judged) is not judged
    if inputs is None and not explained:
        raise InputError(f"{info.name} asks the model about its inputs: give them, or an Explanation per method.")
    return {"model": forward_func, **({} if explained else {"inputs": inputs})}
