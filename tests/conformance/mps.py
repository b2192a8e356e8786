"""A device without float64, pretended on the CPU: what is made of a tensor of the device lies there, too.

Asked for its device, such a tensor says "mps"; a float64 tensor of the device raises the TypeError of the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

MPS = torch.device("mps")
CPU = torch.device("cpu")


def there(value: Any) -> bool:
    """Whether a value is a tensor of the device."""
    return isinstance(value, Tensor) and getattr(value, "on_mps", False)


class PretendMps(TorchFunctionMode):
    """Every function call on tensors that were `put` on the device gives tensors of the device."""

    def __enter__(self) -> PretendMps:
        """`as_subclass` is the one function that a mode does not see."""
        plain = Tensor.as_subclass
        self.patch = mock.patch.object(
            Tensor, "as_subclass", lambda t, cls: self.put(plain(t, cls)) if there(t) else plain(t, cls)
        )
        self.patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Put `as_subclass` back."""
        super().__exit__(*error)
        self.patch.stop()

    def put(self, value: Tensor) -> Tensor:
        """The same tensor, on the device from now on."""
        if value.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        value.on_mps = True  # type: ignore[attr-defined]
        return value

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run on the CPU what would run on the device."""
        leaves, tree = pytree.tree_flatten((args, kwargs or {}))
        here = any(there(v) for v in leaves)
        name = getattr(func, "__name__", "")
        if here and func == Tensor.device.__get__:
            return MPS
        wanted = [
            torch.device(v)
            for v in leaves
            if isinstance(v, torch.device) or (isinstance(v, str) and v in ("cpu", "mps"))
        ]
        if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
            wanted = [MPS if there(args[1]) else CPU]
        goal = CPU if name in ("cpu", "numpy") else wanted[0] if wanted else MPS if here else CPU
        args, kwargs = pytree.tree_unflatten([CPU if isinstance(v, torch.device) else v for v in leaves], tree)
        result = func(*args, **kwargs)
        for v in pytree.tree_leaves(result):
            if isinstance(v, Tensor) and goal == MPS:
                self.put(v)
        return result.view_as(result) if here and goal == CPU and there(result) else result
