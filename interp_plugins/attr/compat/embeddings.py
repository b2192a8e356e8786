"""Helpers around embeddings and arguments: reference tokens, an embedding swapped for its vectors, arguments as layers.

Token ids carry no gradient. A layer method on the embedding needs none of this. To feed a model with vectors instead,
`configure_interpretable_embedding_layer` swaps its embedding for a layer that passes them through.
`ModelInputWrapper` makes each argument of a model a layer of its own, so
that layer methods can explain several arguments together with layers.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InterpWarning, LayerError, did_you_mean
from interp_plugins.core.tensors import describe


class TokenReferenceBase:
    """References made of one token (padding, mask), as baselines for token ids.

    Args:
        reference_token_idx: its id.
    """

    def __init__(self, reference_token_idx: int = 0):
        self.reference_token_idx = reference_token_idx

    def generate_reference(self, sequence_length: int, device: torch.device) -> Tensor:
        """The token `sequence_length` times, (sequence_length,)."""
        return torch.full((sequence_length,), self.reference_token_idx, dtype=torch.long, device=device)


class InterpretableEmbeddingBase(nn.Module):
    """Stands in for an embedding and passes vectors through; the embedding itself stays inside.

    Args:
        embedding: the embedding it replaces.
        full_name: its dotted name in the model.
    """

    def __init__(self, embedding: nn.Module, full_name: str):
        super().__init__()
        self.num_embeddings = getattr(embedding, "num_embeddings", None)
        self.embedding_dim = getattr(embedding, "embedding_dim", None)
        self.embedding, self.full_name = embedding, full_name

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The first argument, unchanged.

        Raises:
            InputError: no argument.
        """
        if not inputs and not kwargs:
            raise InputError(
                "No input arguments are provided to `InterpretableEmbeddingBase`; give it the embedding vectors."
            )
        return inputs[0] if inputs else next(iter(kwargs.values()))

    def indices_to_embeddings(self, *input: Any, **kwargs: Any) -> Any:
        """What the embedding gives for ids."""
        return self.embedding(*input, **kwargs)


def _owner(model: nn.Module, name: str) -> tuple[Any, str]:
    path, _, last = name.rpartition(".")
    try:
        owner = reduce(getattr, path.split("."), model) if path else model
        getattr(owner, last)
    except AttributeError as err:
        known = [n for n, _ in model.named_modules() if n]
        raise LayerError(
            f"No layer named {name!r}.{did_you_mean(name, known)} See dict(model.named_modules())."
        ) from err
    return owner, last


def configure_interpretable_embedding_layer(
    model: nn.Module, embedding_layer_name: str = "embedding"
) -> InterpretableEmbeddingBase:
    """Swap a model's embedding for a layer that passes vectors through; undo it with `remove_...`.

    Args:
        model: the model; it is changed until `remove_interpretable_embedding_layer` is called.
        embedding_layer_name: dotted name of the embedding.

    Raises:
        InputError: it is swapped already.
        LayerError: there is no such layer.
    """
    owner, last = _owner(model, embedding_layer_name)
    found = getattr(owner, last)
    if isinstance(found, InterpretableEmbeddingBase):
        raise InputError(
            f"InterpretableEmbeddingBase has already been configured for layer {embedding_layer_name}; call "
            "remove_interpretable_embedding_layer first."
        )
    warnings.warn(
        f"The layer {embedding_layer_name!r} now takes vectors instead of ids, in every use of this model. Put it back "
        "with remove_interpretable_embedding_layer, or use the context manager interpretable_embedding_layer. A layer "
        "method on the embedding needs no such change.",
        InterpWarning,
        stacklevel=2,
    )
    return _swap(owner, last, embedding_layer_name)


def _swap(owner: Any, last: str, name: str) -> InterpretableEmbeddingBase:
    wrapper = InterpretableEmbeddingBase(getattr(owner, last), name)
    wrapper.train(getattr(owner, last).training)
    setattr(owner, last, wrapper)
    return wrapper


def remove_interpretable_embedding_layer(model: nn.Module, interpretable_emb: InterpretableEmbeddingBase) -> None:
    """Put the model's own embedding back.

    Raises:
        InputError: the layer is not the one that was swapped in, so putting it back would lose what is there.
    """
    if not isinstance(interpretable_emb, InterpretableEmbeddingBase):
        raise InputError(
            "interpretable_emb is what configure_interpretable_embedding_layer returned; got "
            f"{describe(interpretable_emb)}."
        )
    owner, last = _owner(model, interpretable_emb.full_name)
    found = getattr(owner, last)
    if found is interpretable_emb.embedding:
        return
    if found is not interpretable_emb:
        raise InputError(
            f"The layer {interpretable_emb.full_name!r} is {type(found).__name__}, not the interpretable layer of this "
            "call; nothing was changed."
        )
    setattr(owner, last, interpretable_emb.embedding)


@contextlib.contextmanager
def interpretable_embedding_layer(
    model: nn.Module, embedding_layer_name: str = "embedding"
) -> Iterator[InterpretableEmbeddingBase]:
    """`configure_interpretable_embedding_layer` for the length of a `with` block; undone also after an exception."""
    owner, last = _owner(model, embedding_layer_name)
    wrapper = _swap(owner, last, embedding_layer_name)
    try:
        yield wrapper
    finally:
        setattr(owner, last, wrapper.embedding)


class InputIdentity(nn.Module):
    """A layer that passes one argument of a model.

    Args:
        input_name: the argument's name.
    """

    def __init__(self, input_name: str):
        super().__init__()
        self.input_name = input_name

    def forward(self, x: Any) -> Any:
        """Give the argument back as it came."""
        return x


class ModelInputWrapper(nn.Module):
    """A model whose arguments are layers: `wrapper.input_maps["ids"]` for the argument `ids`.

    Args:
        module_to_wrap: the model; it is not changed.
    """

    def __init__(self, module_to_wrap: nn.Module):
        super().__init__()
        self.module = module_to_wrap
        kinds = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        parameters = inspect.signature(module_to_wrap.forward).parameters.values()
        self.arg_name_list = [p.name for p in parameters if p.kind in kinds]
        self.input_maps = nn.ModuleDict({name: InputIdentity(name) for name in self.arg_name_list})
        self.train(module_to_wrap.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output; each argument goes through its layer."""
        named = zip(self.arg_name_list, args)
        passed = [self.input_maps[name](arg) for name, arg in named] + list(args[len(self.arg_name_list) :])
        more = {k: self.input_maps[k](v) if k in self.input_maps else v for k, v in kwargs.items()}
        return self.module(*passed, **more)
