"""`SimilarityInfluence` under Captum's name: training items that look alike to a layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import Dataset

from interp_plugins.core.errors import InputError, LayerError, concise
from interp_plugins.core.files import replacing
from interp_plugins.core.guard import frozen
from interp_plugins.core.hooks import hooked
from interp_plugins.core.other_weights import held_by
from interp_plugins.core.tensors import as_tuple
from interp_plugins.influence.captum import DataInfluence, check_k
from interp_plugins.influence.walk import ItemWalk


def euclidean_distance(test: Tensor, train: Tensor) -> Tensor:
    """Distances of every query to every item, (Q, N), of flattened activations.

    Args:
        test: (Q, ...).
        train: (N, ...).
    """
    return torch.cdist(test.flatten(1), train.flatten(1))


def cosine_similarity(test: Tensor, train: Tensor, replace_nan: int = 0) -> Tensor:
    """Cosines of every query with every item, (Q, N), of flattened activations.

    Args:
        test: (Q, ...).
        train: (N, ...).
        replace_nan: what stands where one of both is zero.
    """
    a, b = test.flatten(1), train.flatten(1)
    lengths = a.norm(dim=1)[:, None] * b.norm(dim=1)
    return (a @ b.T / lengths).nan_to_num(nan=float(replace_nan))


class SimilarityInfluence(DataInfluence):
    """The training items whose activations at a layer are most like a query's.

    Args:
        module: an `nn.Module`; it keeps its mode.
        layers: name of a layer, or several.
        influence_src_dataset: data set whose items are inputs, tensors or tuples of them.
        activation_dir: folder where activations are kept, by the content of the weights and the first and last item:
            after a training they are made anew.
        model_id: a folder inside it.
        similarity_metric: (queries' activations, items' activations) -> (Q, N).
        similarity_direction: "max" or "min": which values are most alike.
        batch_size: items per pass; 1 leaves it to what fits.
        **kwargs: `replace_nan`: what a cosine with a zero vector counts.

    Raises:
        InputError: a direction that is neither.
    """

    def __init__(
        self,
        module: Module,
        layers: str | list[str],
        influence_src_dataset: Dataset[Any],
        activation_dir: str,
        model_id: str = "",
        similarity_metric: Callable[..., Tensor] = cosine_similarity,
        similarity_direction: str = "max",
        batch_size: int = 1,
        **kwargs: Any,
    ):
        with concise():
            if similarity_direction not in ("max", "min"):
                raise InputError(f"similarity_direction is 'max' or 'min', got {similarity_direction!r}.")
            self.module, self.layers = module, [layers] if isinstance(layers, str) else list(layers)
            known = dict(module.named_modules())
            for layer in self.layers:
                if layer not in known:
                    raise LayerError(f"The model has no layer {layer!r}; it has {', '.join(list(known)[1:12])}.")
            self.influence_src_dataset, self.model_id = influence_src_dataset, model_id
            self.activation_dir = activation_dir
            self.similarity_direction, self.batch_size = similarity_direction, batch_size
            if similarity_metric is cosine_similarity:
                self.replace_nan = kwargs.get("replace_nan", -2 if similarity_direction == "max" else 2)
                similarity_metric = partial(cosine_similarity, replace_nan=self.replace_nan)
            self.similarity_metric = similarity_metric
            size = None if batch_size == 1 else batch_size
            self._walk = ItemWalk(influence_src_dataset, module, size, labelled=False)

    def influence(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        top_k: int = 1,
        additional_forward_args: Any = None,
        load_src_from_disk: bool = True,
        **kwargs: Any,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The items most like each query, at every layer.

        Args:
            inputs: queries, as the module takes them.
            top_k: how many.
            additional_forward_args: further arguments of the module.
            load_src_from_disk: use activations that were kept for these weights.
            **kwargs: accepted.

        Returns:
            Per layer ((Q, k) numbers, (Q, k) values).
        """
        with concise():
            check_k(top_k)
            more = () if additional_forward_args is None else as_tuple(additional_forward_args)
            own = self._activations([(*as_tuple(inputs), *more)])
            source = self._source(load_src_from_disk, more)
            found = {}
            for layer in self.layers:
                values = self.similarity_metric(own[layer], source[layer])
                order = values.sort(dim=1, descending=self.similarity_direction == "max", stable=True)
                found[layer] = (order.indices[:, :top_k], order.values[:, :top_k])
            return found

    def _activations(self, batches: Any) -> dict[str, Tensor]:
        modules = dict(self.module.named_modules())
        kept: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}

        def reader(layer: str) -> Callable[..., None]:
            def read(module: Any, args: Any, output: Any) -> None:
                kept[layer].append(as_tuple(output)[0].detach().cpu().clone())

            return read

        with frozen(self.module), hooked() as hooks, torch.no_grad():
            for layer in self.layers:
                hooks.behind(modules[layer], reader(layer))
            for batch in batches:
                self.module(*batch)
        empty = [layer for layer, values in kept.items() if not values]
        if empty:
            raise LayerError(f"The layer {empty[0]!r} did not run.")
        return {layer: torch.cat(values) for layer, values in kept.items()}

    def _source(self, load: bool, more: tuple[Any, ...]) -> dict[str, Tensor]:
        folder = Path(self.activation_dir) / self.model_id
        key = self._key()
        files = {layer: folder / f"{layer or 'model'}-{key}.pt" for layer in self.layers}
        if load and all(f.exists() for f in files.values()):
            return {layer: torch.load(f, weights_only=True) for layer, f in files.items()}
        found = self._activations((*items.inputs, *more) for items in self._walk)
        for layer, file in files.items():
            with replacing(file) as draft:
                torch.save(found[layer], draft)
        return found

    def _key(self) -> str:
        """What activations belong to: weights and data."""
        made = hashlib.blake2b(digest_size=12)
        for place in held_by(self.module):
            made.update(place.path.encode() + _bytes(place.tensor))
        data: Any = self.influence_src_dataset
        n = len(data)
        for item in (data[0], data[n - 1]):
            for x in as_tuple(item):
                if isinstance(x, Tensor):
                    made.update(_bytes(x))
        made.update(str(n).encode())
        return made.hexdigest()


def _bytes(x: Tensor) -> bytes:
    found: bytes = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return found
