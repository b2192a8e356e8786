"""`Fixed`: an argument of the model that stays as it is while the batch is cut, repeated and put together anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree


@dataclass(frozen=True, eq=False)
class Fixed:
    """An additional argument whose first dimension is not the batch, whatever its length.

    Further arguments of a model (`additional_forward_args`, `forward_kwargs`) follow the batch where their first
    dimension is as long. Prototypes, prompts, anchors or an adjacency matrix can be that by accident: marked, they go
    whole into every pass.

    Args:
        value: a tensor, or anything that holds tensors.

    Example:
        def similarity(images, prompts):
            return images.flatten(1)[:, :4] @ prompts.T

        prompts = torch.randn(2, 4)  # as many as there are pictures
        explain(similarity, x, "saliency", target=1, additional_forward_args=(Fixed(prompts),))
    """

    value: Any


def marked(tree: Any) -> bool:
    """Whether anything in nested containers is marked as fixed."""
    return bool(tree) and any(isinstance(v, Fixed) for v in pytree.tree_leaves(tree))


def unmarked(tree: Any) -> Any:
    """Nested containers as the model takes them: what is marked as fixed without its mark."""
    return pytree.tree_map(lambda v: v.value if isinstance(v, Fixed) else v, tree)
