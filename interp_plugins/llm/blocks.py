"""The residual stream of a causal language model, found by its structure: no list of architectures.

The blocks are the longest `ModuleList` whose members map the stream to itself. Within a block the two parts whose
outputs are added to the stream (attention, and the layers behind it) are found by the sum itself, on the very input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.attr.language.chat import ChatInput
from interp_plugins.attr.language.scoring import is_encoder_decoder
from interp_plugins.attr.language.tokens import logits_of
from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.hooks import hooked

_APART = 1e-3  # of what a block adds: rounding of a sum in another order


def first_tensor(value: Any) -> Tensor:
    """The hidden states of what a block or a part of it took or returned.

    Raises:
        ModelError: there are none.
    """
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    if not isinstance(value, Tensor):
        raise ModelError(f"Expected hidden states (rows, tokens, width), got {type(value).__name__}.")
    return value


def with_first(value: Any, new: Tensor) -> Any:
    """The same with other hidden states."""
    return (new, *value[1:]) if isinstance(value, tuple) else [new, *value[1:]] if isinstance(value, list) else new


def given_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states among a block's arguments."""
    return first_tensor(args[0] if args else kwargs.get("hidden_states"))


def with_given(args: tuple[Any, ...], kwargs: dict[str, Any], new: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A block's arguments with other hidden states."""
    return ((new, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": new})


@dataclass
class Stream:
    """What one pass showed of the residual stream.

    Attributes:
        ids: token ids (rows, P).
        logits: the model's own, (rows, P, vocabulary).
        states: the stream before the first block and behind each, (rows, P, width).
        parts: for each block, (name, module, output) of what is added to the stream; empty where no two parts add up.
        mixers: for each block, the last linear layer that ran before the first of these parts was done: the one behind
            the heads; None where there is none.
        tail: modules between the last block and the head (the last norm), in the order they ran.
    """

    ids: Tensor
    logits: Tensor
    states: list[Tensor]
    parts: list[list[tuple[str, nn.Module, Tensor]]] = field(default_factory=list)
    mixers: list[nn.Module | None] = field(default_factory=list)
    tail: list[nn.Module] = field(default_factory=list)


class Blocks:
    """A causal language model's blocks, last norm and head.

    Args:
        model: with Hugging Face's `forward`.

    Raises:
        ModelError: an encoder-decoder, or no list of blocks, or no head, can be found.
    """

    def __init__(self, model: nn.Module):
        if is_encoder_decoder(model):
            raise ModelError("The model has an encoder and a decoder; this is for models with one stream of blocks.")
        head = getattr(model, "get_output_embeddings", _nothing)()
        lists = [(len(m), name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
        if head is None or not lists:
            what = "head (get_output_embeddings)" if head is None else "ModuleList of blocks"
            raise ModelError(f"{type(model).__name__} has no {what}, so its residual stream cannot be read.")
        _, name, found = max(lists, key=lambda one: one[0])
        self.model, self.head, self.name, self.blocks = model, head, name, list(found)
        self.parent: nn.Module = model.get_submodule(name.rpartition(".")[0]) if "." in name else model
        config = getattr(model, "config", None)
        self.cap = getattr(config, "final_logit_softcapping", None)
        self.scale = float(getattr(config, "logit_scale", None) or 1.0)

    def __len__(self) -> int:
        return len(self.blocks)

    def read(self, ids: Tensor, parts: bool = False) -> Stream:
        """Send token ids (rows, P) through and keep the stream; `parts` also what each block adds to it."""
        states: list[Tensor] = []
        order: list[nn.Module] = []
        seen: list[dict[int, tuple[str, nn.Module, Tensor]]] = [{} for _ in self.blocks]
        with hooked() as hooks:
            hooks.before(self.blocks[0], lambda m, a, k: states.append(given_states(a, k)), with_kwargs=True)
            for number, block in enumerate(self.blocks):
                hooks.behind(block, lambda m, a, out: states.append(first_tensor(out)))
                for name, child in block.named_children() if parts else ():
                    hooks.behind(child, _keep(seen[number], name))

            def at_the_end(module: nn.Module, args: Any, output: Any) -> None:
                if len(states) == len(self.blocks) + 1:
                    order.append(module)

            for child in self.parent.children():
                if not isinstance(child, nn.ModuleList):
                    hooks.behind(child, at_the_end)
            logits = logits_of(self.model(input_ids=ids, use_cache=False))
        if len(states) != len(self.blocks) + 1 or any(s.shape != states[0].shape for s in states):
            raise ModelError(f"The members of {self.name} are not blocks of one stream: each must run once, in turn.")
        added = [_adding_up(kept, a, b) for kept, a, b in zip(seen, states, states[1:])] if parts else []
        mixers = [_mixer(kept, found) for kept, found in zip(seen, added)]
        return Stream(ids, logits, states, added, mixers, order)

    def said(self, state: Tensor, tail: Sequence[nn.Module]) -> Tensor:
        """The logits that a state of the stream would give at the model's end."""
        for module in tail:
            state = first_tensor(module(state))
        logits: Tensor = self.head(state)
        logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def _nothing() -> None:
    """What a model without a head says of it."""


def _keep(into: dict[int, tuple[str, nn.Module, Tensor]], name: str) -> Any:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) or (isinstance(output, (tuple, list)) and output):
            tensor = output if isinstance(output, Tensor) else output[0]
            if isinstance(tensor, Tensor):
                into[len(into)] = (name, module, tensor)

    return keep


def _adding_up(
    seen: dict[int, tuple[str, nn.Module, Tensor]], before: Tensor, behind: Tensor
) -> list[tuple[str, nn.Module, Tensor]]:
    """The two parts of a block whose outputs are what it adds to the stream; none where no two are."""
    change = (behind - before).detach()
    fitting = [one for one in seen.values() if one[2].shape == change.shape]
    pairs = [(first, second) for first, second in combinations(fitting, 2)]
    apart = [float((change - a[2].detach() - b[2].detach()).norm()) for a, b in pairs]
    best = min(range(len(pairs)), key=apart.__getitem__, default=None)
    # The stream is summed up in its own precision, whose steps are large where a few of its numbers are.
    most = _APART * float(change.norm()) + 4 * torch.finfo(change.dtype).eps * float(behind.detach().norm())
    return list(pairs[best]) if best is not None and apart[best] <= most else []


def _mixer(
    seen: dict[int, tuple[str, nn.Module, Tensor]], parts: list[tuple[str, nn.Module, Tensor]]
) -> nn.Module | None:
    found: nn.Module | None = None
    for _, module, _ in seen.values() if parts else ():
        linears = [m for m in module.modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 2]
        found = linears[-1] if linears else found
        if module is parts[0][1]:
            break
    return found


def prompt_ids(tokenizer: Any, prompt: Any, device: torch.device, **how: Any) -> tuple[Tensor, list[str]]:
    """Token ids (1, P) of a text or messages, and the tokens as texts.

    Raises:
        InputError: no tokens.
    """
    inp = ChatInput(prompt, tokenizer, "token", keep=(), **how)
    own = tokenizer.convert_ids_to_tokens(inp.ids[0].tolist())
    names = [inp.text[a:b] or str(t) for (a, b), t in zip(inp.offsets, own, strict=True)]
    if not names:
        raise InputError("The prompt has no tokens.")
    return inp.ids.to(device), names


def one_token(tokenizer: Any, text: Any) -> int:
    """The first token of a text, or an id.

    Raises:
        InputError: no token.
    """
    if isinstance(text, int):
        return text
    ids = list(tokenizer.encode(str(text), add_special_tokens=False))
    if not ids:
        raise InputError("The output has no token; give at least one word.")
    return int(ids[0])
