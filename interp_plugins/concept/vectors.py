"""Concept vectors in closed form, from activations (n, D) of examples: no training, no draws, no split.

`mean_difference` is the difference of class means, the linear discriminant where spread is equal in all directions;
`ridge` the ridge regression on labels of -1 and 1, solved in its dual, which asks for n x n numbers alone. `left_out`
gives what ridge regression would say of each example had it been fitted without it, exactly, from one such fit.

References:
    Kim et al. 2018, Interpretability beyond feature attribution, arXiv:1711.11279, section 3.2 (the vector); Schnoor et
    al. 2025, FastCAV, arXiv:2505.17883 (the mean difference).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError

DIRECTIONS = ("mean", "ridge")


@dataclass(frozen=True)
class Gram:
    """Products of centred activations, on which all here depends: rotating the layer's basis changes nothing.

    Attributes:
        rows: the activations less their mean (n, D).
        products: of each two rows (n, n), float64.
        penalty: of the ridge: the mean squared length of a row, so that scaling the layer changes nothing either.
    """

    rows: Tensor
    products: Tensor
    penalty: float

    @classmethod
    def of(cls, activations: Tensor) -> Gram:
        """From activations (n, D).

        Raises:
            InputError: fewer than two examples of each of two concepts, or activations that are all equal.
        """
        rows = activations - activations.mean(0)
        products = (rows @ rows.T).double()
        penalty = float(products.diagonal().mean())
        if not penalty > 0:
            raise InputError(
                "All examples of all concepts have equal activations at this layer: no direction is one's."
            )
        return cls(rows, products, penalty)

    def weights(self, signs: Tensor, direction: str) -> Tensor:
        """What each row weighs (n, V) in the vectors `rows.T @ weights`, for signs +-1 of the rows (n, V)."""
        ours = (signs > 0).double()
        if direction == "mean":
            return ours / ours.sum(0) - (1 - ours) / (1 - ours).sum(0)
        signed = signs.double() - signs.double().mean(0)
        return torch.linalg.solve(self.products + self.penalty * torch.eye(len(signed), dtype=torch.float64), signed)

    def left_out(self, signs: Tensor) -> Tensor:
        """What the ridge says of each row when it is fitted without that row (n, V)."""
        n = len(signs)
        eye = torch.eye(n, dtype=torch.float64)
        hat = torch.linalg.solve(self.products + self.penalty * eye, self.products) + 1 / n
        own = hat.diagonal()[:, None]
        values = signs.double()
        return (hat @ values - own * values) / (1 - own)


def one_against_rest(labels: Tensor, classes: Tensor) -> Tensor:
    """Signs +-1 (n, C): of each class against all others."""
    return torch.where(labels[:, None] == classes[None], 1.0, -1.0)


def vectors(
    activations: Tensor, labels: Tensor, classes: Tensor, direction: str = "mean", gram: Gram | None = None
) -> tuple[Tensor, float]:
    """A vector per class (C, D), each class against the others, and the share of examples that are told when left out.

    Args:
        activations: of examples (n, D).
        labels: the class of each (n,).
        classes: their numbers (C,).
        direction: "mean" or "ridge".
        gram: of the activations, where it is known.

    Raises:
        InputError: a class with fewer than two examples, or with all of them.

    Example:
        from interp_plugins.concept.vectors import vectors

        z = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        vectors(z, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1]))[0].tolist()  # -> [[2.0, -2.0], [-2.0, 2.0]]
    """
    counts = [(int(c), int((labels == c).sum())) for c in classes]
    few = [f"{c}: {n}" for c, n in counts if n < 2]
    if few or len(counts) < 2:
        raise InputError(
            "A concept's vector needs at least two concepts with two examples each (some of the concept, some of "
            f"something else); got {', '.join(f'{c}: {n}' for c, n in counts)}."
        )
    gram = Gram.of(activations) if gram is None else gram
    signs = one_against_rest(labels, classes)
    found = (gram.rows.T @ gram.weights(signs, direction).to(gram.rows)).T
    told = classes[gram.left_out(signs).argmax(1)]
    return found, float((told == labels).double().mean())
