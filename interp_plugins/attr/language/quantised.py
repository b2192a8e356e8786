"""Language models whose weights are integers: which of them let gradients through, and whose rows feel each other.

Some kinds go both ways (bitsandbytes, optimum-quanto), others forward alone (torch.ao), and where these leave the
residual stream as it is, a gradient still arrives: that of the stream without its layers. So one pass is watched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import ModelError
from interp_plugins.core.hooks import hooked
from interp_plugins.core.tensors import is_float

_NAMES = ("quant", "bitsandbytes", "bnb", "gptq", "awq", "hqq", "aqlm", "eetq")
_FAR = 3  # steps between a layer's output and its operator: views, a cast


def quantised(model: Any) -> bool:
    """Whether a model says that it is quantised, or has a layer of a package for that, or integer weights."""
    if getattr(model, "quantization_method", None) is not None or getattr(model, "is_quantized", False):
        return True
    return isinstance(model, nn.Module) and any(map(_is_quantised, model.modules()))


def _is_quantised(module: nn.Module) -> bool:
    if any(name in type(module).__module__.lower() for name in _NAMES):
        return True
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and not is_float(weight)


def _goes_back(output: Tensor) -> bool:
    """Whether an output has a way back; torch gives operators without one a node that says so when it is asked."""
    node: Any = output.grad_fn
    steps = 0
    while node is not None and steps < _FAR:
        if node.name().endswith("NotImplemented"):
            return False
        before = [n for n, _ in node.next_functions if n is not None]
        node, steps = (before[0] if len(before) == 1 else None), steps + 1
    return output.requires_grad


def check_gradients(model: nn.Module, embedding: nn.Module, run: Callable[[], Any]) -> None:
    """Refuse a model with a layer that takes something with a gradient and gives something without.

    Args:
        model: the model.
        embedding: where the gradient begins.
        run: a pass through the model.

    Raises:
        ModelError: such a layer, by name.
    """
    lost: list[str] = []

    def begin(module: nn.Module, args: Any, output: Any) -> Any:
        return output.detach().requires_grad_() if isinstance(output, Tensor) else output

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, args: Any, output: Any) -> None:
            given = any(isinstance(a, Tensor) and a.requires_grad for a in args)
            if given and isinstance(output, Tensor) and is_float(output) and not _goes_back(output):
                lost.append(name)

        return see

    with hooked() as hooks, torch.enable_grad():
        hooks.behind(embedding, begin)
        for name, module in model.named_modules():
            if module is not embedding:
                hooks.behind(module, watch(name))
        run()
    if lost:
        raise ModelError(
            f"The model is quantised, and {lost[0]} ({type(model.get_submodule(lost[0])).__name__}) lets no gradient "
            "through: what arrives would leave such layers out. Take a method that asks for forward "
            "alone (feature_ablation, kernel_shap), or explain the model as it was before."
        )
