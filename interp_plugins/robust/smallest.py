"""`FMN` and `DeepFool`: the smallest change that turns a model, as classes beside `FGSM` and `PGD`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import concise
from interp_plugins.core.tensors import InputsT
from interp_plugins.robust.attacking import attack
from interp_plugins.robust.perturbation import Perturbation


class _Smallest(Perturbation):
    """Base class of what `attack` does under a name.

    Args:
        forward_func: an `nn.Module` or any callable.
        lower_bound: smallest value of the inputs; None: none.
        upper_bound: largest value.
    """

    name = ""

    def __init__(
        self, forward_func: Callable[..., Any], lower_bound: float | None = None, upper_bound: float | None = None
    ):
        self.forward_func = forward_func
        self.bounds = None if lower_bound is None or upper_bound is None else (lower_bound, upper_bound)

    def perturb(
        self,
        inputs: InputsT,
        target: Any = None,
        additional_forward_args: Any = None,
        targeted: bool = False,
        norm: str = "L2",
        mask: Any = None,
        *,
        steps: int | None = None,
        seed: int = 0,
    ) -> InputsT:
        """The inputs with the smallest change that was found; as they were where none was.

        Args:
            inputs: tensor or tuple of tensors, batch first, between the bounds.
            target: the class to be left, for all or one per sample; with `targeted` the class to be reached; None: to
                leave what is predicted.
            additional_forward_args: further arguments of the model.
            targeted: go to the target.
            norm: "Linf", "L2" or "L1".
            mask: 1 where an element may change, 0 where not.
            steps: number of steps; None: as for `attack`.
            seed: of random points.

        Returns:
            Tensors of the inputs' shapes.

        Raises:
            InputError: values outside of the bounds, an unknown norm, a mask that is none.

        Example:
            from interp_plugins.robust import DeepFool

            DeepFool(nn.Linear(4, 3)).perturb(torch.randn(2, 4)).shape  # -> (2, 4)
        """
        with concise():
            aim = {"goal": target} if targeted else {"target": target}
            found = attack(
                self.forward_func, inputs, self.name, norm=norm, mask=mask, steps=steps, bounds=self.bounds, seed=seed,
                additional_forward_args=additional_forward_args, progress=False, **aim,
            )  # fmt: skip
            return _placed(found.perturbed, inputs)


def _placed(found: Any, inputs: Any) -> Any:
    """Where the inputs are."""
    if isinstance(found, Tensor):
        return found.to(inputs.device)
    return tuple(f.to(x.device) for f, x in zip(found, inputs, strict=True))


class FMN(_Smallest):
    """The smallest change by a ball that shrinks and grows (Pintor et al. 2021, arXiv:2102.12827).

    Args:
        forward_func: an `nn.Module` or any callable.
        lower_bound: smallest value of the inputs; None: none.
        upper_bound: largest value.

    Example:
        from interp_plugins.robust import FMN

        FMN(model).perturb(x, norm="Linf").shape == x.shape  # -> True
    """

    name = "fmn"


class DeepFool(_Smallest):
    """A small change by steps to the nearest face (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599).

    Args:
        forward_func: an `nn.Module` or any callable.
        lower_bound: smallest value of the inputs; None: none.
        upper_bound: largest value.

    Example:
        from interp_plugins.robust import DeepFool

        DeepFool(model).perturb(x, norm="L2").shape == x.shape  # -> True
    """

    name = "deepfool"
