"""What tokenizers and language models give, in one form: lists or tensors of ids, outputs with or without names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import ModelError
from interp_plugins.core.tensors import describe


def home_of(model: Any) -> torch.device:
    """The device that a model takes token ids on: its input embedding's, or where hooks bring the weights to.

    Weights that were offloaded (accelerate) stand on "meta" between calls; their hooks know where they run.
    """
    find = getattr(model, "get_input_embeddings", None)
    layer = find() if callable(find) and isinstance(model, nn.Module) else None
    owners = [m for m in (layer, model) if isinstance(m, nn.Module)]
    known = next((p.device for m in owners for p in m.parameters()), None) or getattr(model, "device", None)
    device = torch.device(known) if known is not None else torch.device("cpu")
    if device.type != "meta":
        return device
    hooks = (getattr(m, "_hf_hook", None) for m in owners)
    runs = next((d for d in (getattr(h, "execution_device", None) for h in hooks) if d is not None), "cpu")
    return torch.device("cuda", runs) if isinstance(runs, int) else torch.device(runs)


def decoded(tokenizer: Any, ids: Tensor) -> str:
    """The text of token ids (T,), by a tokenizer that takes lists of them, or tensors alone."""
    try:
        return str(tokenizer.decode(ids.tolist()))
    except (AttributeError, TypeError):
        return str(tokenizer.decode(ids))


def token_ids(tokenizer: Any, text: str, **how: Any) -> Tensor:
    """The token ids (1, T) of a text, by a tokenizer that gives tensors, or lists alone."""
    try:
        found = tokenizer.encode(text, return_tensors="pt", **how)
    except TypeError:
        found = tokenizer.encode(text, **how)
    return torch.as_tensor(found, dtype=torch.long).reshape(1, -1)


def logits_of(output: Any) -> Tensor:
    """The logits (rows, T, vocabulary) of what a language model returned: its `logits`, an entry, or the first part.

    Raises:
        ModelError: there are none.
    """
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim < 3:
        raise ModelError(
            f"The language model returned a {describe(output)}; expected logits (rows, tokens, vocabulary): a tensor, "
            "an object or mapping with `logits`, or a tuple that begins with them."
        )
    return output


def readable_tokens(ids: Tensor, tokenizer: Any) -> list[str]:
    """Token ids as short texts; pieces of a character as the tokenizer's own names."""
    out = []
    for one in ids.tolist():
        text = decoded(tokenizer, torch.tensor([one]))
        if "\ufffd" in text:
            text = tokenizer.convert_ids_to_tokens([one])[0]
        out.append(text.replace("\n", "\\n").strip())
    return out
