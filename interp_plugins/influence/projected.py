"""`TracInCPFastRandProj`: TracIn of the last layer with the training items' vectors stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset

from interp_plugins.core.errors import InputError, LayerError, concise
from interp_plugins.core.factors import Factors, Outer
from interp_plugins.core.random import check_seed, make_generator
from interp_plugins.influence.captum import KMostInfluentialResults, check_k, load_weights, top, walk_of
from interp_plugins.influence.tracin import TracInCPFast


class TracInCPFastRandProj(TracInCPFast):
    """Scores of the last linear layer by stored vectors: training items are read once, a query costs one product.

    Args:
        model: an `nn.Module`; it is asked in eval mode and keeps its weights and mode.
        final_fc_layer: the last linear layer, or its name.
        train_dataset: a data set whose items are (inputs, ..., label), or a loader of batches of such. Numbers of items
            are those of the data set, also where a loader shuffles.
        checkpoints: a folder, files, state dicts or `Checkpoint`s.
        checkpoints_load_func: (model, checkpoint) -> learning rate; the default reads files of torch, fastai and
            Lightning. It loads into private copies.
        loss_fn: (output, labels) -> loss; a reduction of "none", "sum" or "mean" gives the same scores. None: the
            output is the loss.
        batch_size: samples per pass; 1, the default, leaves it to what fits.
        test_loss_fn: the loss of queries; None: `loss_fn`.
        vectorize: accepted; it changes nothing.
        nearest_neighbors: an object with `setup(vectors)` and `get_nearest_neighbors(queries, k)`, by which the k
            highest are found; None: exactly, by one product.
        projection_dim: numbers per item and checkpoint, to which random matrices project input and gradient apart;
            None: all of them, and then scores are exact.
        seed: of the random matrices; torch's generator stays as it is.
        bias: whether the layer's bias counts.

    Raises:
        LayerError: the model has no such layer.

    Example:
        from interp_plugins.influence import TracInCPFastRandProj
        net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
        data = torch.utils.data.TensorDataset(torch.randn(20, 4), torch.randint(0, 3, (20,)))
        tracin = TracInCPFastRandProj(net, "2", data, [net.state_dict()], loss_fn=torch.nn.CrossEntropyLoss())
        tuple(tracin.influence((torch.randn(2, 4), torch.tensor([0, 1])), k=3).indices.shape)  # -> (2, 3)
    """

    def __init__(
        self,
        model: Module,
        final_fc_layer: Module | str,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[Any],
        checkpoints_load_func: Callable[..., float] = load_weights,
        loss_fn: Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        test_loss_fn: Module | Callable[..., Any] | None = None,
        vectorize: bool = False,
        nearest_neighbors: Any = None,
        projection_dim: int | None = None,
        seed: int = 0,
        *,
        bias: bool = True,
    ):
        with concise():
            if projection_dim is not None and (isinstance(projection_dim, bool) or projection_dim < 1):
                raise InputError(f"projection_dim is a positive int or None, got {projection_dim!r}.")
            self.projection_dim, self.seed, self.nearest_neighbors = projection_dim, check_seed(seed), nearest_neighbors
            self._matrices: dict[tuple[str, int, int], Tensor] = {}
            super().__init__(
                model,
                final_fc_layer,
                train_dataset,
                checkpoints,
                checkpoints_load_func,
                loss_fn,
                batch_size,
                test_loss_fn,
                vectorize,
                bias=bias,
            )
            self._stored = self._vectors(self._walk, self._loss)
            if nearest_neighbors is not None:
                nearest_neighbors.setup(self._stored)

    def _matrix(self, kind: str, size: int, like: Tensor) -> Tensor:
        """A random matrix (size, r) whose product with its transpose has the identity as its mean."""
        assert self.projection_dim is not None
        r = max(1, min(size, math.isqrt(self.projection_dim)))
        key = (kind, size, r)
        if key not in self._matrices:
            generator = make_generator(self.seed + (kind == "d"))
            self._matrices[key] = torch.randn(size, r, generator=generator, dtype=torch.float64) / math.sqrt(r)
        return self._matrices[key].to(like)

    def _vector(self, factors: Factors, lr: float) -> Tensor:
        weight = self._names()[0] if not self.bias else f"{self._layer}.weight" if self._layer else "weight"
        (part,) = factors.parts[weight] or (None,)
        if not isinstance(part, Outer) or part.a.shape[1] != 1 or part.a.shape[2] != 1:
            raise LayerError(f"{self._layer} is no linear layer that sees one vector per sample: use TracInCP.")
        a, d = part.a[:, 0, 0], part.d[:, 0, 0]
        if self.bias and part.bias is not None:
            a = torch.cat([a, a.new_ones(len(a), 1)], 1)
        if self.projection_dim is not None and a.shape[1] * d.shape[1] > self.projection_dim:
            a, d = a @ self._matrix("a", a.shape[1], a), d @ self._matrix("d", d.shape[1], d)
        return (math.sqrt(lr) * d[:, :, None] * a[:, None]).flatten(1)

    def _vectors(self, walk: Any, measure: Any, progress: bool = False) -> Tensor:
        return self._passes.reduced(walk, measure, self._vector, progress=progress, inner=lambda per: torch.cat(per, 1))

    def influence(  # type: ignore[override]
        self, inputs: tuple[Any, ...] | None = None, k: int = 5, proponents: bool = True
    ) -> Tensor | KMostInfluentialResults:
        """The k training items with the highest or lowest scores.

        Args:
            inputs: queries: a tuple (inputs, ..., labels), or a loader of such.
            k: how many; None: all scores (Q, N).
            proponents: the highest, else the lowest.

        Raises:
            InputError: no queries.
        """
        with concise():
            check_k(k)
            if inputs is None:
                raise InputError("inputs are the queries: a tuple (inputs, ..., labels), or a loader of such.")
            asked = self._vectors(walk_of(inputs, self.model), self._asked)
            if self.nearest_neighbors is None or k is None:
                return top(asked @ self._stored.T, k, proponents)
            found, scores = self.nearest_neighbors.get_nearest_neighbors(asked if proponents else -asked, k)
            return KMostInfluentialResults(found, scores if proponents else -scores)

    def self_influence(
        self,
        inputs: tuple[Any, ...] | DataLoader[Any] | None = None,
        show_progress: bool = False,
        outer_loop_by_checkpoints: bool = False,
    ) -> Tensor:
        """The score of each item on itself, by the stored vectors.

        Args:
            inputs: a batch (inputs, ..., labels) or a loader; None: the training data.
            show_progress: draw a progress bar.
            outer_loop_by_checkpoints: accepted; it changes nothing.

        Returns:
            (N,).
        """
        with concise():
            vectors = (
                self._stored
                if inputs is None
                else self._vectors(walk_of(inputs, self.model), self._loss, show_progress)
            )
            return vectors.square().sum(1)

    def compute_intermediate_quantities(self, inputs: tuple[Any, ...] | DataLoader[Any]) -> Tensor:
        """Vectors whose dot products are the scores, (N, D * C).

        Args:
            inputs: a tuple (inputs, ..., labels), or a loader of such.
        """
        with concise():
            return self._vectors(walk_of(inputs, self.model), self._loss)
