"""A method averaged over states of a model, such as the checkpoints of its training; the model's own is not touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from interp_plugins.attr.ensembles.around import AroundMethod, MeanOfRuns
from interp_plugins.attr.shared.base import InternalAttribution
from interp_plugins.core.errors import InputError, InputTypeError, did_you_mean
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import modules_of
from interp_plugins.core.layers import resolve_layer
from interp_plugins.core.tensors import Inputs, describe
from interp_plugins.core.wrapper import Wrapper


class CheckpointAverage(AroundMethod):
    """A method averaged over states of the model: checkpoints of a training run, members of an ensemble.

    Args:
        attribution_method: a method of an `nn.Module` (or of a callable around one).
        checkpoints: state dicts, or paths to files of them (`torch.save`, safetensors, a Lightning checkpoint).
    """

    def __init__(self, attribution_method: Any, checkpoints: Sequence[Mapping[str, Tensor] | str | Path]):
        super().__init__(attribution_method)
        if isinstance(checkpoints, (str, Path, Mapping)) or not checkpoints:
            raise InputError(f"checkpoints must be a list of state dicts or paths, got {describe(checkpoints)}.")
        roots = modules_of(self.forward_func)
        if len(roots) != 1:
            raise InputError(
                f"CheckpointAverage needs one nn.Module behind the method's model, and found {len(roots)}."
            )
        self.model, self.checkpoints = roots[0], list(checkpoints)

    def attribute(self, inputs: Inputs, **kwargs: Any) -> Any:
        """The mean over the checkpoints of the inner method's maps, in its layout.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            **kwargs: the inner method's arguments.

        Raises:
            InputError: a checkpoint whose names or shapes are not the model's.
        """
        mean = MeanOfRuns(kwargs)
        for k, checkpoint in enumerate(self.checkpoints):
            state = fitting_state(self.model, checkpoint, k)
            method = copy.copy(self.attribution_method)
            method.forward_func = WithState(self.forward_func, self.model, state)
            if isinstance(method, InternalAttribution):
                method.layer = (
                    [resolve_layer(self.forward_func, one) for one in method.layer]
                    if isinstance(method.layer, list)
                    else method.layer and resolve_layer(self.forward_func, method.layer)
                )
            mean.add(mean.run(method, inputs))
        return mean.result(inputs)


class WithState(Call):
    """A callable around a model, run with other parameters and buffers; the model's own are not touched."""

    def __init__(self, func: Callable[..., Any], model: nn.Module, state: Mapping[str, Tensor]):
        bound = func if isinstance(func, Call) else Call(func)
        super().__init__(_Swapped(bound.func, model, state), bound.kwargs, bound.output)


class _Swapped(Wrapper):
    def __init__(self, func: Callable[..., Any], model: nn.Module, state: Mapping[str, Tensor]):
        self.func, self.model, self.state = func, model, dict(state)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One call with the state in place of the model's own."""
        if self.func is self.model:
            return functional_call(self.model, self.state, args, kwargs)
        return functional_call(
            _Inside(self.model, self.func), {f"model.{k}": v for k, v in self.state.items()}, args, kwargs
        )


class _Inside(nn.Module):
    """A callable as a module that holds the model, so that `functional_call` can reach it."""

    def __init__(self, model: nn.Module, func: Callable[..., Any]):
        super().__init__()
        self.model, self._func = model, [func]
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the callable with the module's present parameters."""
        return self._func[0](*args, **kwargs)


def fitting_state(model: nn.Module, checkpoint: Any, number: int) -> dict[str, Tensor]:
    """The checkpoint's tensors under the model's names, on its device and in its types.

    Raises:
        InputError: names or shapes that are not the model's; the first of them is named.
    """
    state = _loaded(checkpoint)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    wanted = set(model.state_dict())
    if not wanted <= set(state):  # as saved from a module that holds the model: model.conv.weight
        prefixes = {k[: -len(name)] for name in list(wanted)[:1] for k in state if k.endswith(f".{name}")}
        for prefix in prefixes:
            if wanted <= {k.removeprefix(prefix) for k in state if k.startswith(prefix)}:
                state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    missing = sorted(wanted - set(state))
    if missing:
        raise InputError(
            f"checkpoints[{number}] has no {missing[0]!r}.{did_you_mean(missing[0], state)} {len(missing)} of the "
            f"model's {len(wanted)} tensors are missing; it must be a state dict of the same architecture."
        )
    out = {}
    for name in wanted:
        value = state[name]
        if not isinstance(value, Tensor) or value.shape != own[name].shape:
            raise InputError(
                f"checkpoints[{number}][{name!r}] is {describe(value)}; the model's has shape {tuple(own[name].shape)}."
            )
        out[name] = value.detach().clone().to(own[name])
    return out


def _loaded(checkpoint: Any) -> dict[str, Any]:
    if isinstance(checkpoint, (str, Path)):
        if Path(checkpoint).suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(str(checkpoint)))
        checkpoint = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping):
        raise InputTypeError(f"A checkpoint is a state dict or a path to one, got {describe(checkpoint)}.")
    for key in ("state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            return dict(checkpoint[key])
    return dict(checkpoint)
