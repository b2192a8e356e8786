"""`Perturbation`: what changes inputs, under Captum's name."""

from __future__ import annotations

from typing import Any


class Perturbation:
    """Base class of everything that changes inputs; a subclass writes `perturb`, and an object is called like it.

    Example:
        class Darker(Perturbation):
            def perturb(self, inputs, factor=0.5):
                return inputs * factor

        Darker()(torch.ones(1, 2)).tolist()  # -> [[0.5, 0.5]]
    """

    def perturb(self, *args: Any, **kwargs: Any) -> Any:
        """The changed inputs.

        Raises:
            NotImplementedError: the subclass has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no perturb method.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`perturb`, with the same arguments."""
        return self.perturb(*args, **kwargs)
