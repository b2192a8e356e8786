"""The way to torchmetrics: our metrics where Lightning and others log them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.accumulate import Metric

if TYPE_CHECKING:
    from interp_plugins.metrics.torchmetrics_class import RowwiseMetric


def as_torchmetric(name: str | Metric, *, options: dict[str, Any] | None = None, **params: Any) -> RowwiseMetric:
    """A registered metric as a `torchmetrics.Metric`, to be logged by `self.log`, in a `MetricCollection`, and so on.

    `update` takes what `Metric.update` takes; `compute` is the mean over all samples of all processes that have a
    value, each counted once where ids are given (`DistributedSampler` repeats some samples to fill up).

    Args:
        name: see `list_metrics`, or a `metric(...)`, whose samples so far are left out.
        options: of `torchmetrics.Metric`: `sync_on_compute`, `dist_sync_on_step`, ...
        **params: of the metric's function.

    Raises:
        UnknownNameError: a metric or a parameter that there is not, with the nearest known ones.
        InputError: a metric of whole data sets, whose values need all samples.
        ImportError: torchmetrics is missing (it comes with pytorch-lightning).

    Example:
        m = as_torchmetric("entropy", relative=True)
        m.update(exp)
        float(m.compute()) <= 1  # -> True
    """
    inner = Metric(name.name, **{**name.params, **params}) if isinstance(name, Metric) else Metric(name, **params)
    if inner.info.record is not None:
        raise InputError(
            f"{inner.name} compares all samples of a data set, and torchmetrics gathers values: use "
            f"metric({inner.name!r}), whose sync() gathers what it needs."
        )
    try:
        from interp_plugins.metrics.torchmetrics_class import RowwiseMetric
    except ModuleNotFoundError as err:
        how = "pip install 'interp-plugins[lightning]' brings it."
        raise ImportError(f"as_torchmetric needs {err.name}: {how}") from None
    return RowwiseMetric(inner, **(options or {}))
