"""The layers of a transformer, and the scores that their tokens get when the layers behind them are left out.

A layer is a module of the longest chain of neighbours of one kind, each of which holds one attention. It is left out by
a forward hook that hands its first argument on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import filterfalse
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.attr.attention.maps import Attention, Attentions, one_set_of_tokens
from interp_plugins.core.differentiate import gradient, keeping_values
from interp_plugins.core.errors import LayerError
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import is_script, modules_of
from interp_plugins.core.hooks import hooked


def blocks(forward: Forward, inputs: Sequence[Tensor]) -> list[nn.Module]:
    """The layers, in the order of execution, each with one attention.

    Raises:
        LayerError: the attentions do not lie in a chain of modules of one kind.
        ModelError: see `one_set_of_tokens`.
    """
    with Attentions() as mode, hooked() as hooks, torch.no_grad():
        for root in modules_of(forward.func):
            for m in filterfalse(is_script, root.modules()):
                hooks.before(m, lambda m, args: mode.running.append(m))
                hooks.behind(m, lambda m, args, out: _drop(mode.running))
        forward.raw([x[:1] for x in inputs], torch.zeros(1, dtype=torch.long, device=inputs[0].device))
    one_set_of_tokens(mode.found, 1)
    owners = [a.inside for a in mode.found]
    for depth in range(min((len(o) for o in owners), default=0)):
        chain = [o[depth] for o in owners]
        if len({id(m) for m in chain}) == len(chain) and len({type(m) for m in chain}) == 1:
            return chain
    raise LayerError(
        f"the {len(owners)} attentions of this model do not lie in a chain of layers of one kind, one attention "
        "each. Use attention_relevance."
    )


def _drop(running: list[nn.Module]) -> None:
    running.pop()


def _handed_on(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """A layer's output with its input in place of the tokens."""
    tokens = out if isinstance(out, Tensor) else out[0]
    same = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.shape == tokens.shape]
    if not same:
        raise LayerError(f"the layer {type(module).__name__} gives tokens of another shape than it takes.")
    return same[0] if isinstance(out, Tensor) else (same[0], *out[1:])


@keeping_values
def layer_scores(forward: Forward, xs: Sequence[Tensor], rows: Tensor, n_layers: int | None) -> tuple[Tensor, int]:
    """Sum over the layers of relu(d s_l / d A_l), averaged over heads and queries: (R, T); and how many layers."""
    chain = blocks(forward, xs)
    wanted = range(len(chain))[-(n_layers or len(chain)) :]
    total: Tensor | float = 0.0
    for k in wanted:
        with hooked() as hooks, Attentions() as mode:
            for m in chain[k + 1 :]:
                hooks.behind(m, _handed_on, with_kwargs=True)
            scores = forward.target.at(rows)(forward.raw(list(xs), rows))
        forward.passes["backward"] += len(rows)
        one: Attention = mode.found[k]
        (grad,) = gradient(scores, [one.weights])
        if grad is not None:
            total = total + one.by_head(grad, len(rows)).relu().mean((1, 2))
    assert isinstance(total, Tensor)
    return total, len(wanted)
