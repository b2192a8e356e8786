"""Attribution of a metric over a whole data set: what a feature is worth to the accuracy, not to one prediction.

A feature is replaced in every batch of a DataLoader, the outputs are reduced over the batches, and the change of the
result is the feature's. Cost: one pass over the data per feature (ablation), plus one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from interp_plugins.attr.perturbation.ablation import FeatureAblation
from interp_plugins.attr.perturbation.kernel_shap import KernelShap
from interp_plugins.attr.perturbation.shapley import ShapleyValueSampling
from interp_plugins.attr.shared.base import Attribution
from interp_plugins.core.baseline import as_baselines, widened
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, ModelError
from interp_plugins.core.features import MaskFeatures
from interp_plugins.core.forward import Call, select_output
from interp_plugins.core.guard import frozen
from interp_plugins.core.tensors import as_tuple, describe, like
from interp_plugins.core.wrapper import Wrapper


class InputRole:
    """What an entry of a batch is for."""

    need_attr = 0  # given to the model, and explained
    need_forward = 1  # given to the model
    no_forward = 2  # for `reduce` alone, such as labels


def _concatenated(state: Any, output: Tensor, inputs: Any) -> Tensor:
    return output if state is None else torch.cat([state, output])


class DataLoaderAttribution(Attribution):
    """A perturbation method over a data set.

    Args:
        attr_method: FeatureAblation, ShapleyValueSampling, ShapleyValues or KernelShap on the model.
    """

    def __init__(self, attr_method: Attribution):
        if type(attr_method) is not FeatureAblation and not isinstance(attr_method, (ShapleyValueSampling, KernelShap)):
            raise InputTypeError(
                f"DataLoaderAttribution does not support {type(attr_method).__name__}; use FeatureAblation, "
                "ShapleyValueSampling, ShapleyValues or KernelShap."
            )
        super().__init__(attr_method.forward_func)
        self.attr_method = copy(attr_method)

    def attribute(
        self,
        dataloader: DataLoader[Any],
        input_roles: tuple[int, ...] | None = None,
        baselines: Any = None,
        feature_mask: Any = None,
        reduce: Callable[..., Any] | None = None,
        to_metric: Callable[[Any], Tensor] | None = None,
        perturbations_per_pass: int = 1,
        show_progress: bool = False,
        return_input_shape: bool = True,
        *,
        progress: bool | None = None,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, ...]:
        """The change of the metric when a feature is missing everywhere.

        Args:
            dataloader: gives tensors, or tuples or lists of tensors, in the same order each time.
            input_roles: a role of `InputRole` per entry of a batch: 0 explained, 1 given to the model, 2 only for
                `reduce`. None: all are explained.
            baselines: numbers or tensors with batch dimension 1, per explained entry; None: zeros.
            feature_mask: integers with batch dimension 1, per explained entry; None: every element is a feature.
            reduce: function (state or None, output, the batch's entries as a tuple) -> state, called batch by batch;
                None concatenates the outputs.
            to_metric: function state -> tensor; None: the state itself.
            perturbations_per_pass: features per pass over the data; more means fewer passes and as many states held.
            show_progress: always show a progress bar.
            return_input_shape: maps of a row's shape, (1, ...), (K, ...) for a metric of K values; False: (K, d).
            progress: None = a bar for long work, True, False.
            **kwargs: the method's own arguments (n_samples, seed, tol).

        Raises:
            InputError: roles, baselines or masks that do not fit a batch.
        """
        check_chunk("perturbations_per_pass", perturbations_per_pass)
        batch = next(iter(dataloader))
        entries = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        roles = (InputRole.need_attr,) * len(entries) if input_roles is None else tuple(input_roles)
        _check_roles(roles, entries)
        explained = [e for e, role in zip(entries, roles, strict=True) if role == InputRole.need_attr]
        if reduce is None and isinstance(getattr(dataloader, "sampler", None), RandomSampler):
            warnings.warn(
                "The DataLoader shuffles, so outputs of different passes do not line up when concatenated. Use "
                "shuffle=False, or give reduce= a function that does not depend on the order.",
                InterpWarning,
                stacklevel=2,
            )
        rows = [e[:1] for e in explained]
        passes = _Passes(
            self.forward_func,
            dataloader,
            roles,
            _broadcast("baselines", baselines, rows),
            MaskFeatures(rows, _broadcast_mask(feature_mask, rows)),
            _concatenated if reduce is None else reduce,
            to_metric,
        )
        widened(explained, [b.expand_as(e) for b, e in zip(passes.baselines, explained)], passes.of(entries))
        self.attr_method.forward_func = passes
        switches = torch.ones(1, len(passes.features), device=rows[0].device)
        values = self.attr_method.attribute(
            switches,
            batch_size=perturbations_per_pass,
            progress=True if show_progress else progress,
            **kwargs,
        ).reshape(-1, len(passes.features))
        if not return_input_shape:
            return values
        maps = [values.index_select(1, p.reshape(-1)).reshape(len(values), *p.shape[1:]) for p in passes.positions]
        return like(entries if isinstance(batch, (tuple, list)) else batch, maps)


def _check_roles(roles: Sequence[int], entries: Sequence[Any]) -> None:
    if len(roles) != len(entries):
        raise InputError(
            f"input_roles must have the same size as the return of the dataloader: {len(roles)} roles for "
            f"{len(entries)} entries."
        )
    if InputRole.need_attr not in roles:
        raise InputError(f"input_roles must contain at least one element that needs attribution (0), got {roles}.")
    for i, (role, entry) in enumerate(zip(roles, entries, strict=True)):
        if role == InputRole.need_attr and not isinstance(entry, Tensor):
            raise InputTypeError(f"Entry {i} of a batch is to be explained; expected a tensor, got {describe(entry)}.")


def _broadcast(name: str, values: Any, rows: Sequence[Tensor]) -> list[Tensor]:
    many = as_tuple(values) if isinstance(values, tuple) else (values,) * len(rows)
    if len(many) != len(rows):
        raise InputError(f"{name} has {len(many)} entries for {len(rows)} inputs that need attribution; give one each.")
    out = []
    for i, (value, row) in enumerate(zip(many, rows, strict=True)):
        if isinstance(value, Tensor) and value.ndim and value.shape[0] != 1:
            raise InputError(
                f"{name}[{i}] has shape {tuple(value.shape)}; its first dimension must be 1, so that it fits every "
                "batch of the dataloader."
            )
        out.append(as_baselines(value, (row,))[0])
    return out


def _broadcast_mask(mask: Any, rows: Sequence[Tensor]) -> Any:
    if mask is None:
        return None
    for i, m in enumerate(as_tuple(mask)):
        if isinstance(m, Tensor) and m.ndim and m.shape[0] != 1:
            raise InputError(
                f"feature_mask[{i}] has shape {tuple(m.shape)}; its first dimension must be 1, so that it fits every "
                "batch of the dataloader."
            )
    return mask


class _Passes(Wrapper):
    """The metric as a function of switches (R, d): one pass over the data for R perturbations."""

    def __init__(
        self,
        func: Callable[..., Any],
        loader: DataLoader[Any],
        roles: Sequence[int],
        baselines: Sequence[Tensor],
        features: MaskFeatures,
        reduce: Callable[..., Any],
        to_metric: Callable[[Any], Tensor] | None,
    ):
        self.func, self.loader, self.roles, self.baselines = func, loader, roles, baselines
        self.features, self.reduce, self.to_metric = features, reduce, to_metric
        self.positions = features.positions()

    def __call__(self, switches: Tensor) -> Tensor:
        """The metric (R, ...) for each row of switches."""
        call = self.func if isinstance(self.func, Call) else Call(self.func)
        states: list[Any] = [None] * len(switches)
        for batch in self.loader:
            entries = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            for i, row in enumerate(switches):
                seen = self._perturbed(entries, row.bool())
                given = [e for e, role in zip(seen, self.roles, strict=True) if role != InputRole.no_forward]
                states[i] = self.reduce(states[i], select_output(call(*given)), seen)
        results = [s if self.to_metric is None else self.to_metric(s) for s in states]
        wrong = next((r for r in results if not isinstance(r, Tensor)), None)
        if wrong is not None:
            raise ModelError(
                f"Accumulated metrics for attribution must be a Tensor, received {describe(wrong)}. Return a tensor "
                "from to_metric (or reduce)."
            )
        return torch.stack(results)

    def of(self, entries: tuple[Any, ...]) -> Callable[[tuple[Tensor, ...]], Tensor]:
        """The model's output for a batch, as a function of the entries that need attribution."""

        def outputs(explained: tuple[Tensor, ...]) -> Tensor:
            left = iter(explained)
            seen = [next(left) if role == InputRole.need_attr else e for e, role in zip(entries, self.roles)]
            call = self.func if isinstance(self.func, Call) else Call(self.func)
            with frozen(self.func), torch.no_grad():
                return select_output(call(*[e for e, role in zip(seen, self.roles) if role != InputRole.no_forward]))

        return outputs

    def _perturbed(self, entries: tuple[Any, ...], row: Tensor) -> tuple[Any, ...]:
        out, k = [], 0
        for entry, role in zip(entries, self.roles, strict=True):
            if role == InputRole.need_attr:
                keep = row[self.positions[k].to(row.device)].to(entry.device)
                entry = torch.where(keep, entry, self.baselines[k].to(entry.device))  # the wider dtype of both
                k += 1
            out.append(entry)
        return tuple(out)
