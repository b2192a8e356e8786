"""What makes a concept's vector of activations: the closed form, scikit-learn's SGD, or one's own."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from interp_plugins.concept.vectors import DIRECTIONS, vectors
from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.random import make_generator


class Classifier(ABC):
    """Base class of what is fitted to activations of concepts, and whose weights are their vectors.

    Example:
        from interp_plugins.concept import Classifier

        class Means(Classifier):  # of each concept, less the mean of all
            def __init__(self):
                pass

            def train_and_eval(self, dataloader, **kwargs):
                x, y = (torch.cat(column) for column in zip(*dataloader))
                self.found = y.unique()
                self.means = torch.stack([x[y == c].mean(0) for c in self.found]) - x.mean(0)

            def weights(self):
                return self.means

            def classes(self):
                return self.found.tolist()
    """

    @abstractmethod
    def __init__(self) -> None:
        """Make one that is not fitted."""

    @abstractmethod
    def train_and_eval(self, dataloader: DataLoader[Any], **kwargs: Any) -> dict[str, Any] | None:
        """Fit to batches of activations (N, D) and concept ids (N,).

        Args:
            dataloader: gives the batches, in the order of the concepts.
            **kwargs: what `TCAV(..., **classifier_kwargs)` was given.

        Returns:
            Facts about the fit, such as "accs", an accuracy; or None.
        """

    @abstractmethod
    def weights(self) -> Tensor:
        """The vectors (C, D), one per class."""

    @abstractmethod
    def classes(self) -> list[int]:
        """The concept ids, in the order of `weights`."""


class ClosedFormClassifier(Classifier):
    """The vectors of `TCAV` where no classifier is given: no training, no draws, the same numbers every time.

    Args:
        direction: "mean", the difference between a concept's mean activation and that of the others; or "ridge", the
            ridge regression on labels of -1 and 1.

    Example:
        from interp_plugins.concept import ClosedFormClassifier

        fitted = ClosedFormClassifier()
        fitted.train_and_eval([(torch.randn(6, 4) + 3, torch.zeros(6)), (torch.randn(6, 4), torch.ones(6))])
        fitted.weights().shape  # -> (2, 4)
    """

    def __init__(self, direction: str = "mean") -> None:
        if direction not in DIRECTIONS:
            raise InputError(f"direction must be 'mean' or 'ridge', got {direction!r}.")
        self.direction = direction
        self._weights: Tensor | None = None
        self._classes: list[int] = []

    def train_and_eval(self, dataloader: Iterable[Any], **kwargs: Any) -> dict[str, Any]:
        """Solve for the vectors of batches of activations and ids.

        Args:
            dataloader: gives the batches.
            **kwargs: not used.

        Returns:
            "accs": the share of examples that a ridge regression tells right which was fitted without them (leave one
            out, in closed form).
        """
        x, y = gathered(dataloader)
        classes = y.unique()
        self._weights, accuracy = vectors(x, y, classes, self.direction)
        self._classes = classes.tolist()
        return {"accs": torch.tensor(accuracy)}

    def weights(self) -> Tensor:
        """The vectors (C, D).

        Raises:
            ModelError: `train_and_eval` has not been called.
        """
        if self._weights is None:
            raise ModelError("The classifier has not been fitted; call train_and_eval first.")
        return self._weights

    def classes(self) -> list[int]:
        """The concept ids, in the order of `weights`."""
        return self._classes


class DefaultClassifier(Classifier):
    """A linear classifier by stochastic gradient descent: Captum's default, with a seed; needs scikit-learn.

    Example:
        from interp_plugins.concept import DefaultClassifier

        fitted = DefaultClassifier()
        fitted.train_and_eval([(torch.randn(20, 4) + 3, torch.zeros(20)), (torch.randn(20, 4), torch.ones(20))])
        fitted.weights().shape  # -> (2, 4)
    """

    def __init__(self) -> None:
        self.lm: Any = None

    def train_and_eval(
        self, dataloader: DataLoader[Any], test_split_ratio: float = 0.33, **kwargs: Any
    ) -> dict[str, Any]:
        """Fit to a part of the examples and look at the rest.

        Args:
            dataloader: gives batches of activations and ids.
            test_split_ratio: the rest's share.
            **kwargs: `seed` (0) of the split and of the descent; others are not used.

        Returns:
            "accs": the share of the rest that is told right.

        Raises:
            ImportError: scikit-learn is missing.
            InputError: a ratio outside (0, 1).
        """
        if importlib.util.find_spec("sklearn") is None:
            raise ImportError(
                "DefaultClassifier needs scikit-learn, which is not installed: pip install 'interp-plugins[lime]'."
            )
        from sklearn.linear_model import SGDClassifier

        if not 0 < test_split_ratio < 1:
            raise InputError(f"test_split_ratio must lie between 0 and 1, got {test_split_ratio!r}.")
        x, y = gathered(dataloader)
        seed = kwargs.get("seed", 0)
        order = torch.randperm(len(x), generator=make_generator(seed))
        cut = max(1, round(len(x) * (1 - test_split_ratio)))
        train, rest = order[:cut], order[cut:]
        numbers, ids = x.detach().cpu().numpy(), y.cpu().numpy()
        self.lm = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=seed % 2**32)
        self.lm.fit(numbers[train], ids[train])
        right = self.lm.predict(numbers[rest]) == ids[rest] if len(rest) else []
        return {"accs": torch.tensor(right, dtype=torch.float32).mean()}

    def weights(self) -> Tensor:
        """The vectors (C, D).

        Raises:
            ModelError: `train_and_eval` has not been called.
        """
        if self.lm is None:
            raise ModelError("The classifier has not been fitted; call train_and_eval first.")
        found = torch.as_tensor(self.lm.coef_)
        return torch.cat([-found, found]) if len(found) == 1 else found

    def classes(self) -> list[int]:
        """The concept ids, in the order of `weights`."""
        return [] if self.lm is None else self.lm.classes_.tolist()


def gathered(batches: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """All activations (n, D) and ids (n,) of some batches."""
    found = list(batches)
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found]).long()
