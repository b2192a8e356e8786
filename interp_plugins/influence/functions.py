"""Influence functions under Captum's names: `NaiveInfluenceFunction`, `ArnoldiInfluenceFunction`.

Both make vectors e(x) = R' gradient of l(x), whose products e(q) . e(i) are the scores, with R R' an inverse of the
Hessian H of the summed loss in the space of its largest eigenvalues. The naive one forms H (Koh and Liang 2017); the
other finds them by products with H alone (Schioppa et al. 2022), here by Lanczos' recurrence with full
orthogonalisation, since H is symmetric.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset

from interp_plugins.core.errors import InputError, ModelError, concise
from interp_plugins.core.random import check_seed
from interp_plugins.influence.captum import (
    DataInfluence,
    KMostInfluentialResults,
    check_k,
    load_weights,
    measure_of,
    passes_of,
    top,
    walk_of,
)
from interp_plugins.influence.curvature import LossCurvature, lanczos


class _InfluenceFunction(DataInfluence):
    """What both have in common."""

    def _set(
        self, model: Module, train_dataset: Any, checkpoint: Any, load: Any, layers: Any, loss_fn: Any, batch_size: Any,
        hessian_dataset: Any, test_loss_fn: Any, options: dict[str, Any],
    ) -> None:  # fmt: skip
        self.model, self.train_dataset, self.checkpoint, self.loss_fn = model, train_dataset, checkpoint, loss_fn
        self.test_loss_fn = loss_fn if test_loss_fn is None else test_loss_fn
        self.hessian_dataset = train_dataset if hessian_dataset is None else hessian_dataset
        for name, value in options.items():
            setattr(self, name, value)
        check_seed(options["seed"])
        if isinstance(options["projection_dim"], bool) or options["projection_dim"] < 1:
            raise InputError(f"projection_dim is a positive int, got {options['projection_dim']!r}.")
        self._passes = passes_of(model, [checkpoint], load, layers, batch_size)
        self._train = walk_of(train_dataset, model, batch_size=batch_size)
        self._loss, self._asked = measure_of(loss_fn), measure_of(self.test_loss_fn)
        (moment,) = self._passes.checkpoints
        with self._passes.at(moment) as (gradients, _):
            walk = walk_of(self.hessian_dataset, model, batch_size=batch_size)
            self.R = self._root(LossCurvature(gradients, walk, self._loss))

    @abstractmethod
    def _root(self, curvature: LossCurvature) -> Tensor:
        """The root R of the inverse, (P, r)."""

    def _kept(self, values: Tensor, vectors: Tensor, reg: float, tol: float, most: int) -> Tensor:
        values = values + reg
        order = values.argsort()[-most:]
        order = order[values[order] > tol]
        if not len(order):
            raise ModelError(
                "The Hessian has no positive eigenvalue, so it has no inverse root: the model is at no minimum of its "
                "loss. Raise hessian_reg."
            )
        return vectors[:, order] / values[order].sqrt()

    def compute_intermediate_quantities(
        self,
        inputs_dataset: tuple[Any, ...] | DataLoader[Any],
        aggregate: bool = False,
        show_progress: bool = False,
        return_on_cpu: bool = True,
        test: bool = False,
    ) -> Tensor:
        """Vectors whose dot products are the scores.

        Args:
            inputs_dataset: a tuple (inputs, ..., labels), or a loader of such.
            aggregate: their sum, one row.
            show_progress: draw a progress bar.
            return_on_cpu: accepted; vectors are on the CPU.
            test: by `test_loss_fn`.

        Returns:
            (N, r).
        """
        with concise():
            measure = self._asked if test else self._loss
            walk = walk_of(inputs_dataset, self.model)
            found = self._passes.reduced(walk, measure, lambda f, lr: f.flat() @ self.R, progress=show_progress)
            return found.sum(0, keepdim=True) if aggregate else found

    def influence(  # type: ignore[override]
        self, inputs: tuple[Any, ...], k: int | None = None, proponents: bool = True, show_progress: bool = False
    ) -> Tensor | KMostInfluentialResults:
        """Scores of all training items, or the k highest or lowest.

        Args:
            inputs: queries: a tuple (inputs, ..., labels), or a loader of such.
            k: how many; None: all scores.
            proponents: the highest, items that lowered the query's loss; else the lowest.
            show_progress: draw a progress bar.

        Returns:
            (Q, N), or `KMostInfluentialResults`.
        """
        with concise():
            check_k(k)
            asked = self.compute_intermediate_quantities(inputs, test=True)
            return top(asked @ self._vectors(show_progress).T, k, proponents)

    def _vectors(self, progress: bool) -> Tensor:
        return self._passes.reduced(self._train, self._loss, lambda f, lr: f.flat() @ self.R, progress=progress)

    def self_influence(
        self, inputs_dataset: tuple[Any, ...] | DataLoader[Any] | None = None, show_progress: bool = False
    ) -> Tensor:
        """The score of each item on itself.

        Args:
            inputs_dataset: a tuple (inputs, ..., labels) or a loader; None: the training data.
            show_progress: draw a progress bar.

        Returns:
            (N,).
        """
        with concise():
            if inputs_dataset is None:
                return self._vectors(show_progress).square().sum(1)
            return self.compute_intermediate_quantities(inputs_dataset).square().sum(1)


class NaiveInfluenceFunction(_InfluenceFunction):
    """Influence functions with the Hessian formed: for models, or layers, of few weights.

    Args:
        model: an `nn.Module`; it keeps its weights and mode.
        train_dataset: a data set whose items are (inputs, ..., label), or a loader of batches.
        checkpoint: a file, a state dict or a `Checkpoint`.
        checkpoints_load_func: (model, checkpoint) -> learning rate, which is not used.
        layers: names of modules whose weights count; None: all that require a gradient.
        loss_fn: (output, labels) -> loss, of any reduction.
        batch_size: samples per pass; 1 leaves it to what fits.
        hessian_dataset: the data of the Hessian; None: the training data.
        test_loss_fn: the loss of queries; None: `loss_fn`.
        sample_wise_grads_per_batch: accepted; it changes nothing.
        projection_dim: eigenvalues that are kept, the largest.
        seed: accepted; nothing is drawn.
        hessian_reg: added to the eigenvalues.
        hessian_inverse_tol: eigenvalues up to it are left out.
        projection_on_cpu: accepted; the projection lies beside the weights.
        show_progress: accepted.

    Raises:
        ModelError: no positive eigenvalue.

    Example:
        from interp_plugins.influence import NaiveInfluenceFunction
        net = torch.nn.Sequential(torch.nn.Linear(4, 3))
        data = torch.utils.data.TensorDataset(torch.randn(20, 4), torch.randint(0, 3, (20,)))
        found = NaiveInfluenceFunction(net, data, net.state_dict(), loss_fn=torch.nn.CrossEntropyLoss())
        tuple(found.influence((torch.randn(2, 4), torch.tensor([0, 1])), k=3).indices.shape)  # -> (2, 3)
    """

    def __init__(
        self,
        model: Module,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoint: Any,
        checkpoints_load_func: Callable[..., float] = load_weights,
        layers: list[str] | None = None,
        loss_fn: Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        hessian_dataset: Dataset[Any] | DataLoader[Any] | None = None,
        test_loss_fn: Module | Callable[..., Any] | None = None,
        sample_wise_grads_per_batch: bool = False,
        projection_dim: int = 50,
        seed: int = 42,
        hessian_reg: float = 1e-6,
        hessian_inverse_tol: float = 1e-5,
        projection_on_cpu: bool = True,
        show_progress: bool = False,
    ):
        with concise():
            self.hessian_reg, self.hessian_inverse_tol = hessian_reg, hessian_inverse_tol
            self.projection_dim, self.layers = projection_dim, layers
            options = {"projection_dim": projection_dim, "seed": seed, "batch_size": batch_size}
            self._set(
                model, train_dataset, checkpoint, checkpoints_load_func, layers, loss_fn, batch_size, hessian_dataset,
                test_loss_fn, options,
            )  # fmt: skip

    def _root(self, curvature: LossCurvature) -> Tensor:
        h = curvature.matrix() * curvature.items
        values, vectors = torch.linalg.eigh(h)
        return self._kept(values, vectors, self.hessian_reg, self.hessian_inverse_tol, self.projection_dim)


class ArnoldiInfluenceFunction(_InfluenceFunction):
    """Influence functions by products with the Hessian, in the space of its largest eigenvalues.

    Args:
        model: an `nn.Module`; it keeps its weights and mode.
        train_dataset: a data set whose items are (inputs, ..., label), or a loader of batches.
        checkpoint: a file, a state dict or a `Checkpoint`.
        checkpoints_load_func: (model, checkpoint) -> learning rate, which is not used.
        layers: names of modules whose weights count; None: all that require a gradient.
        loss_fn: (output, labels) -> loss, of any reduction.
        batch_size: samples per pass; 1 leaves it to what fits.
        hessian_dataset: the data of the Hessian; None: the training data.
        test_loss_fn: the loss of queries; None: `loss_fn`.
        sample_wise_grads_per_batch: accepted; it changes nothing.
        projection_dim: eigenvalues that are kept, the largest.
        seed: of the first vector.
        arnoldi_dim: products with the Hessian at most: dimensions of the space.
        arnoldi_tol: accepted; the space ends where nothing new is found.
        hessian_reg: added to the eigenvalues.
        hessian_inverse_tol: eigenvalues up to it are left out.
        projection_on_cpu: accepted; the projection lies beside the weights.
        show_progress: accepted.

    Raises:
        ModelError: no positive eigenvalue.

    Example:
        from interp_plugins.influence import ArnoldiInfluenceFunction
        net = torch.nn.Sequential(torch.nn.Linear(4, 3))
        data = torch.utils.data.TensorDataset(torch.randn(20, 4), torch.randint(0, 3, (20,)))
        loss = torch.nn.CrossEntropyLoss()
        found = ArnoldiInfluenceFunction(net, data, net.state_dict(), loss_fn=loss, arnoldi_dim=8)
        tuple(found.influence((torch.randn(2, 4), torch.tensor([0, 1])), k=3).indices.shape)  # -> (2, 3)
    """

    def __init__(
        self,
        model: Module,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoint: Any,
        checkpoints_load_func: Callable[..., float] = load_weights,
        layers: list[str] | None = None,
        loss_fn: Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        hessian_dataset: Dataset[Any] | DataLoader[Any] | None = None,
        test_loss_fn: Module | Callable[..., Any] | None = None,
        sample_wise_grads_per_batch: bool = False,
        projection_dim: int = 50,
        seed: int = 0,
        arnoldi_dim: int = 200,
        arnoldi_tol: float = 1e-1,
        hessian_reg: float = 1e-3,
        hessian_inverse_tol: float = 1e-4,
        projection_on_cpu: bool = True,
        show_progress: bool = False,
    ):
        with concise():
            self.hessian_reg, self.hessian_inverse_tol = hessian_reg, hessian_inverse_tol
            self.projection_dim, self.layers = projection_dim, layers
            self.arnoldi_dim, self.arnoldi_tol, self.seed = arnoldi_dim, arnoldi_tol, seed
            options = {"projection_dim": projection_dim, "seed": seed, "batch_size": batch_size}
            self._set(
                model, train_dataset, checkpoint, checkpoints_load_func, layers, loss_fn, batch_size, hessian_dataset,
                test_loss_fn, options,
            )  # fmt: skip

    def _root(self, curvature: LossCurvature) -> Tensor:
        like = curvature.params[0].detach()
        values, vectors = lanczos(curvature.times, curvature.count, self.arnoldi_dim, self.seed, like)
        values = values * curvature.items
        return self._kept(values, vectors, self.hessian_reg, self.hessian_inverse_tol, self.projection_dim)
