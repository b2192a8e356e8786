"""TracIn under Captum's names: `TracInCP`, `TracInCPFast`; `projected.py` has `TracInCPFastRandProj`.

    score(q, i) = sum over checkpoints c of lr_c <gradient of q's loss, gradient of i's loss> at the weights of c

(Pruthi et al. 2020, "Estimating Training Data Influence by Tracing Gradient Descent", section 3.2): to first order, by
how much one step of gradient descent on i lowers the loss of q. Of a last linear layer with input a and gradient d at
its output the product is (a_q . a_i + 1)(d_q . d_i), the 1 for the bias.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset

from interp_plugins.core.errors import InputTypeError, LayerError, concise
from interp_plugins.core.tensors import describe
from interp_plugins.influence.captum import (
    DataInfluence,
    KMostInfluentialResults,
    check_k,
    load_weights,
    measure_of,
    passes_of,
    queries_of,
    top,
    walk_of,
)


class TracInCPBase(DataInfluence):
    """What the classes of TracIn have in common; use one of them.

    Args:
        model: an `nn.Module`; it is asked in eval mode and keeps its weights and mode.
        train_dataset: a data set whose items are (inputs, ..., label), or a loader of batches of such. Numbers of items
            are those of the data set, also where a loader shuffles.
        checkpoints: a folder, files, state dicts or `Checkpoint`s.
        checkpoints_load_func: (model, checkpoint) -> learning rate; the default reads files of torch, fastai and
            Lightning. It loads into private copies.
        loss_fn: (output, labels) -> loss; a reduction of "none", "sum" or "mean" gives the same scores. None: the
            output is the loss.
        batch_size: samples per pass; 1, the default, leaves it to what fits.
        test_loss_fn: the loss of queries; None: `loss_fn`.

    Raises:
        InputTypeError: a model that is no module, or no checkpoints.
    """

    def __init__(
        self,
        model: Module,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., float] = load_weights,
        loss_fn: Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        test_loss_fn: Module | Callable[..., Any] | None = None,
    ):
        with concise():
            self.model, self.loss_fn, self.batch_size = model, loss_fn, batch_size
            self.checkpoints_load_func, self.train_dataset = checkpoints_load_func, train_dataset
            self.test_loss_fn = loss_fn if test_loss_fn is None else test_loss_fn
            self._passes = passes_of(model, checkpoints, checkpoints_load_func, self._names(), batch_size)
            self._walk = walk_of(train_dataset, model, batch_size=batch_size)
            self._loss, self._asked = measure_of(loss_fn), measure_of(self.test_loss_fn)

    def _names(self) -> Any:
        """Layers whose weights count."""
        return None

    @property
    def checkpoints(self) -> list[Any]:
        """The checkpoints as they were given, a folder as its files in order; may be set."""
        return [c.source for c in self._passes.checkpoints]

    @checkpoints.setter
    def checkpoints(self, given: Any) -> None:
        self._passes = passes_of(self.model, given, self.checkpoints_load_func, self._names(), self.batch_size)

    def _scores(self, inputs: Any, progress: bool) -> Tensor:
        queries = queries_of(inputs, self.model)
        return self._passes.products(self._walk, queries, self._loss, self._asked, progress=progress)

    @abstractmethod
    def influence(self, inputs: Any = None, k: int | None = None, proponents: bool = True, **kwargs: Any) -> Any:
        """Scores of all training items, or the k highest or lowest.

        Args:
            inputs: queries.
            k: how many; None: all scores.
            proponents: the highest, else the lowest.
            **kwargs: of the class.
        """

    def self_influence(
        self,
        inputs: tuple[Any, ...] | DataLoader[Any] | None = None,
        show_progress: bool = False,
        outer_loop_by_checkpoints: bool = False,
    ) -> Tensor:
        """The score of each item on itself: sum of lr times the squared length of its gradient.

        Args:
            inputs: a batch (inputs, ..., labels) or a loader; None: the training data.
            show_progress: draw a progress bar.
            outer_loop_by_checkpoints: accepted; checkpoints are always the outer loop, each read once.

        Returns:
            (N,).
        """
        with concise():
            walk = self._walk if inputs is None else walk_of(inputs, self.model)
            return self._passes.reduced(walk, self._loss, lambda f, lr: lr * f.squares(), progress=show_progress)


class TracInCP(TracInCPBase):
    """Scores by the gradients of all weights, or of some layers'.

    Args:
        model: an `nn.Module`; it is asked in eval mode and keeps its weights and mode.
        train_dataset: a data set whose items are (inputs, ..., label), or a loader of batches of such. Numbers of items
            are those of the data set, also where a loader shuffles.
        checkpoints: a folder, files, state dicts or `Checkpoint`s.
        checkpoints_load_func: (model, checkpoint) -> learning rate; the default reads files of torch, fastai and
            Lightning. It loads into private copies.
        layers: names of modules whose weights count; None: all weights that require a gradient.
        loss_fn: (output, labels) -> loss; a reduction of "none", "sum" or "mean" gives the same scores. None: the
            output is the loss.
        batch_size: samples per pass; 1, the default, leaves it to what fits.
        test_loss_fn: the loss of queries; None: `loss_fn`.
        sample_wise_grads_per_batch: accepted; gradients of every sample are made in one pass either way, of every kind
            of layer.

    Example:
        import torch
        from interp_plugins.influence import TracInCP
        net = torch.nn.Sequential(torch.nn.Linear(4, 3))
        data = torch.utils.data.TensorDataset(torch.randn(20, 4), torch.randint(0, 3, (20,)))
        tracin = TracInCP(net, data, [net.state_dict()], loss_fn=torch.nn.CrossEntropyLoss())
        tuple(tracin.influence((torch.randn(2, 4), torch.tensor([0, 1])), k=3).indices.shape)  # -> (2, 3)
    """

    def __init__(
        self,
        model: Module,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., float] = load_weights,
        layers: list[str] | None = None,
        loss_fn: Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        test_loss_fn: Module | Callable[..., Any] | None = None,
        sample_wise_grads_per_batch: bool = False,
    ):
        self.layers, self.sample_wise_grads_per_batch = layers, sample_wise_grads_per_batch
        with concise():
            super().__init__(
                model, train_dataset, checkpoints, checkpoints_load_func, loss_fn, batch_size, test_loss_fn
            )

    def _names(self) -> Any:
        return self.layers

    def influence(  # type: ignore[override]
        self,
        inputs: tuple[Any, ...] | DataLoader[Any],
        k: int | None = None,
        proponents: bool = True,
        show_progress: bool = False,
        aggregate: bool = False,
    ) -> Tensor | KMostInfluentialResults:
        """Scores of all training items, or the k highest or lowest.

        Args:
            inputs: queries: a tuple (inputs, ..., labels), or a loader of such.
            k: how many; None: all scores.
            proponents: the highest, items that lowered the query's loss; else the lowest.
            show_progress: draw a progress bar.
            aggregate: the scores of all queries together, one row.

        Returns:
            (Q, N), or `KMostInfluentialResults`.
        """
        with concise():
            check_k(k)
            scores = self._scores(inputs, show_progress)
            return top(scores.sum(0, keepdim=True) if aggregate else scores, k, proponents)

    def compute_intermediate_quantities(
        self, inputs: tuple[Any, ...] | DataLoader[Any], aggregate: bool = False
    ) -> Tensor:
        """Vectors whose dot products are the scores: gradients times the root of the learning rate, side by side.

        Args:
            inputs: a tuple (inputs, ..., labels), or a loader of such.
            aggregate: their sum, one row.

        Returns:
            (N, P * C), P weights and C checkpoints.
        """
        with concise():
            found = self._passes.reduced(
                walk_of(inputs, self.model),
                self._loss,
                lambda f, lr: f.flat() * math.sqrt(lr),
                progress=False,
                inner=lambda per: torch.cat(per, 1),
            )
            return found.sum(0, keepdim=True) if aggregate else found


class TracInCPFast(TracInCPBase):
    """Scores by the gradients of the last linear layer, its bias among them: a forward pass and little more.

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
        bias: whether the layer's bias counts; False gives Captum's numbers.

    Raises:
        LayerError: the model has no such layer.

    Example:
        from interp_plugins.influence import TracInCPFast
        net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
        data = torch.utils.data.TensorDataset(torch.randn(20, 4), torch.randint(0, 3, (20,)))
        tracin = TracInCPFast(net, "2", data, [net.state_dict()], loss_fn=torch.nn.CrossEntropyLoss())
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
        *,
        bias: bool = True,
    ):
        self.vectorize, self.bias = vectorize, bias
        with concise():
            self._layer = _name_of(model, final_fc_layer)
            self.final_fc_layer = model.get_submodule(self._layer)
            super().__init__(
                model, train_dataset, checkpoints, checkpoints_load_func, loss_fn, batch_size, test_loss_fn
            )

    def _names(self) -> Any:
        layer = self._layer
        weight = f"{layer}.weight" if layer else "weight"
        if not self.bias:
            return [weight]
        return [layer]

    def influence(  # type: ignore[override]
        self, inputs: tuple[Any, ...], k: int | None = None, proponents: bool = True, show_progress: bool = False
    ) -> Tensor | KMostInfluentialResults:
        """Scores of all training items, or the k highest or lowest.

        Args:
            inputs: queries: a tuple (inputs, ..., labels), or a loader of such.
            k: how many; None: all scores.
            proponents: the highest, else the lowest.
            show_progress: draw a progress bar.

        Returns:
            (Q, N), or `KMostInfluentialResults`.
        """
        with concise():
            check_k(k)
            return top(self._scores(inputs, show_progress), k, proponents)


def _name_of(model: Any, layer: Any) -> str:
    """The dotted name of a layer."""
    if not isinstance(model, Module):
        raise InputTypeError(f"model must be an nn.Module, got {describe(model)}.")
    names = {id(m): name for name, m in model.named_modules()}
    if isinstance(layer, str) and layer in dict(model.named_modules()):
        return layer
    if isinstance(layer, Module) and id(layer) in names:
        return names[id(layer)]
    raise LayerError(f"The model has no layer {layer!r}; it has {', '.join(list(names.values())[1:12])}.")
