"""What is explained: the LightningModule or a module inside it, perhaps at a layer, and whether that can be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp_plugins.core.errors import InterpError, LayerError, ModelError, unknown
from interp_plugins.core.layers import resolve_layer

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import Trainer

# Strategies under which a rank holds a part of the weights only; by name, because there are two Lightning packages.
_SHARDING = ("FSDPStrategy", "XLAFSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


class StrategyError(ModelError, NotImplementedError):
    """The Trainer's strategy is not supported."""


@dataclass(frozen=True)
class ExplainedModule:
    """The module that is called, and the layer in it (None: the method's own choice, or the input)."""

    module: nn.Module
    layer: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        """Where its weights are (the CPU for a module without any)."""
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype | None:
        """The one floating-point dtype of its weights, or None."""
        found = {p.dtype for p in self.module.parameters() if p.is_floating_point()}
        return found.pop() if len(found) == 1 else None


def find_subject(pl_module: nn.Module, module: str | None = None, layer: str | None = None) -> ExplainedModule:
    """Look up what is to be explained.

    Args:
        pl_module: the LightningModule, not wrapped by a strategy.
        module: dotted name of the module inside it that is explained; None: itself.
        layer: dotted name of a layer, seen from that module or from the LightningModule.

    Raises:
        UnknownNameError: no such module, with the nearest names.
        LayerError: no such layer, with the nearest names.
        ModelError: the module has no forward.
    """
    root = pl_module
    if module is not None:
        names = [name for name, _ in pl_module.named_modules() if name]
        if module not in names:
            raise unknown(f"module of {type(pl_module).__name__}", module, names)
        root = pl_module.get_submodule(module)
    if not _has_forward(root):
        children = [name for name, _ in root.named_children()]
        hint = (
            f"give module=, the name of the network inside it (it has {', '.join(children)}), or " if children else ""
        )
        raise ModelError(f"{type(root).__name__} has no forward to explain: {hint}define forward in it.")
    return ExplainedModule(root, None if layer is None else _find_layer(pl_module, root, layer))


def _find_layer(pl_module: nn.Module, root: nn.Module, layer: str) -> nn.Module:
    try:
        found = resolve_layer(root, layer).module
    except LayerError:
        names = dict(pl_module.named_modules())
        if names.get(layer) not in list(root.modules()):
            raise
        found = names[layer]
    assert isinstance(found, nn.Module)
    return found


def _has_forward(module: nn.Module) -> bool:
    """Whether forward is defined; Lightning's own base class only hands on to torch's, which is a stub."""
    if "forward" in vars(module):  # put in by compilation
        return True
    owner = next(c for c in type(module).__mro__ if "forward" in vars(c))
    return owner is not nn.Module and owner.__name__ != "LightningModule"


def built_late(pl_module: nn.Module) -> bool:
    """Whether modules may still be missing when callbacks are set up."""
    hooks = ("setup", "configure_model", "configure_sharded_model")
    return any(not _from_lightning(getattr(type(pl_module), hook, None)) for hook in hooks)


def _from_lightning(function: Any) -> bool:
    package = (getattr(function, "__module__", None) or "").partition(".")[0]
    return function is None or package in ("pytorch_lightning", "lightning", "lightning_fabric")


def check_strategy(trainer: Trainer, who: str = "AttributionCallback") -> None:
    """Refuse strategies that spread the weights of one model over processes.

    Args:
        trainer: the Trainer.
        who: the callback that asks.

    Raises:
        StrategyError: such a strategy, with what to do instead.
    """
    names = [c.__name__ for c in type(trainer.strategy).__mro__]
    sharding = next((name for name in names if name in _SHARDING), None)
    if sharding is not None:
        raise StrategyError(
            f"{who} does not support {sharding}: every process holds only a part of the weights, and the "
            "callback calls the model on one process. Train without the callback, save a full checkpoint, load it "
            "in a single process, and use interp_plugins.lightning.explain(model, batch) or the callback with "
            "Trainer(devices=1).validate(model). strategy='ddp' is supported."
        )


def explained_inference_error(error: RuntimeError) -> InterpError | None:
    """A clear error for what torch says when a model keeps tensors made in inference mode; None for other errors."""
    if "inference tensor" not in str(error).lower():
        return None
    return ModelError(
        f"The model keeps tensors that it made in inference mode (a cached mask or table, say), and no gradient can "
        f"go through them: {error} Use Trainer(inference_mode=False), or make the cache a buffer (register_buffer)."
    )
