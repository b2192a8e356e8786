"""`MostImportant`: an explanation as an attack, which takes away what a map calls important."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.explain import explain
from interp_plugins.core.baseline import as_baselines
from interp_plugins.core.enlarged import over_input
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import make_generator
from interp_plugins.core.spec import as_spec
from interp_plugins.core.tensors import InputsT, check_inputs, like
from interp_plugins.metrics.rows import element_rows
from interp_plugins.robust.perturbation import Perturbation


class MostImportant(Perturbation):
    """Replace the share of places that a map calls most important.

    For `MinParamPerturbation`: how much of what a map calls important has to go until the model says something else? A
    map that needs less has found what the model goes by (Captum's own example of a perturbation is of this kind).

    Args:
        forward_func: an `nn.Module` or any callable.
        method: whose map, one method as for `explain`.
        baselines: what is put there, as for `explain`; None: zeros.
        input_spec: facts about the inputs, as for `explain`.
        **params: the method's parameters, and further arguments of `explain`.

    Example:
        from interp_plugins.robust import MostImportant

        net = lambda v: v @ torch.tensor([[1.0], [3.0], [2.0]])
        MostImportant(net, "input_x_gradient").perturb(torch.ones(1, 3), 0.4).tolist()  # -> [[1.0, 0.0, 1.0]]
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        method: Any = "saliency",
        baselines: Any = None,
        input_spec: Any = None,
        **params: Any,
    ):
        self.forward_func, self.method, self.baselines, self.input_spec = forward_func, method, baselines, input_spec
        self.params = params
        self._known: tuple[tuple[Tensor, ...], Any, Tensor] | None = None  # the last inputs and their order

    def perturb(
        self, inputs: InputsT, share: float, target: Any = None, additional_forward_args: Any = None
    ) -> InputsT:
        """The inputs without their most important places.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            share: of the places, from 0 to 1, rounded; channels of a picture go together.
            target: what is explained, as for `explain`; None: what is predicted.
            additional_forward_args: further arguments of the model.

        Returns:
            Tensors of the inputs' shapes.

        Raises:
            InputError: a share outside of 0 to 1; several methods.

        Example:
            MostImportant(model).perturb(x, 0.1, target=3).shape == x.shape  # -> True
        """
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise InputError(f"share is a part of the places, from 0 to 1, got {share!r}.")
        xs = check_inputs(inputs)
        order = self._order(inputs, xs, target, additional_forward_args)
        count = round(share * order.shape[1])
        gone = torch.zeros(order.shape, dtype=torch.bool).scatter(1, order[:, :count], True)
        spec = as_spec(self.input_spec, xs[0])
        base = as_baselines(self.baselines, xs, spec, template=inputs, generator=make_generator(0))
        found, start = [], 0
        for k, (x, b) in enumerate(zip(xs, base, strict=True)):
            axis = spec.of_input(k, x).within_place(x.ndim) or (1 if x.ndim >= 3 else None)
            places = [size for a, size in enumerate(x.shape) if a not in (0, axis)]
            stop = start + math.prod(places)
            mask = gone[:, start:stop].reshape(len(x), *places).to(x.device)
            found.append(torch.where(mask if axis is None else mask.unsqueeze(axis), b.to(x), x))
            start = stop
        return like(inputs, found)

    def _order(self, inputs: Any, xs: tuple[Tensor, ...], target: Any, args: Any) -> Tensor:
        """The places from the most important on, (N, places)."""
        known, said = self._known, repr(target)
        if known is not None and known[1] == said and _same(known[0], xs):
            return known[2]
        made = explain(
            self.forward_func, inputs, [self.method], target=target, input_spec=self.input_spec,
            additional_forward_args=args, **{"progress": False, **self.params},
        )[0]  # fmt: skip
        maps = like(made.attributions, over_input(made))
        order = element_rows(replace(made, attributions=maps), "sum").argsort(dim=1, descending=True, stable=True)
        self._known = tuple(x.clone() for x in xs), said, order
        return order


def _same(before: tuple[Tensor, ...], now: tuple[Tensor, ...]) -> bool:
    """Whether inputs are those of the last time."""
    return len(before) == len(now) and all(
        a.shape == b.shape and a.device == b.device and torch.equal(a, b) for a, b in zip(before, now, strict=True)
    )
