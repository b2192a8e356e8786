"""Methods made of methods: averages over augmented inputs, over layers, over checkpoints.

Like `NoiseTunnel`, each takes a method object and has `attribute` with that method's arguments. The model is as before
afterwards, whatever happens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from interp_plugins.attr.shared.base import Attribution, InternalAttribution
from interp_plugins.attr.shared.defaults import path_defaults
from interp_plugins.attr.shared.images import averaged
from interp_plugins.core.errors import InputError, InputTypeError, did_you_mean, unknown
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import frozen, modules_of
from interp_plugins.core.layers import resolve_layer
from interp_plugins.core.multi_target import each_target, target_by_target
from interp_plugins.core.registry import family, register
from interp_plugins.core.tensors import Inputs, as_tuple, check_inputs, describe, like
from interp_plugins.core.wrapper import Wrapper

Warp = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
AUGMENTATIONS = ("flip", "shift", "scale")


@family(wraps="attribution_method", inside="integrated_gradients", shares_targets=True, compiles=True)
class _Around(Attribution):
    """A method object inside another."""

    def __init__(self, attribution_method: Any):
        if not callable(getattr(attribution_method, "attribute", None)):
            name = type(self).__name__
            raise InputTypeError(
                f"{name} needs a method object with `attribute(inputs, ...)`, got {describe(attribution_method)}. For "
                f"example {name}(IntegratedGradients(model))."
            )
        self.attribution_method = attribution_method
        super().__init__(getattr(attribution_method, "forward_func", attribution_method.attribute))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the inner method's maps multiply by the inputs."""
        return bool(getattr(self.attribution_method, "multiplies_by_inputs", False))

    def has_convergence_delta(self) -> bool:
        """Whether the inner method gives a completeness error."""
        inner = getattr(self.attribution_method, "has_convergence_delta", None)
        return bool(inner()) if inner is not None else False


class _Mean:
    """Running sums of what a method returns: its maps, and its deltas where they are asked for."""

    def __init__(self, kwargs: Mapping[str, Any]):
        self.kwargs, self.count = kwargs, 0
        self.with_delta = bool(kwargs.get("return_convergence_delta"))
        self.maps: list[Tensor] = []
        self.delta: Tensor | None = None

    def run(self, method: Any, inputs: Any) -> tuple[Tensor, ...]:
        """One call; its maps, flat over layers, of several targets (N * K, ...). The deltas are added up here."""
        found = method.attribute(inputs, **self.kwargs)
        if self.with_delta:
            found, delta = found
            self.delta = delta if self.delta is None else self.delta + delta
        self.count += 1
        maps = [t for part in (found if isinstance(found, list) else [found]) for t in as_tuple(part)]
        return tuple(target_by_target(maps, len(as_tuple(inputs)[0]), len(each_target(self.kwargs.get("target")))))

    def add(self, maps: Sequence[Tensor]) -> None:
        """Add maps to the sums."""
        self.maps = [a + b for a, b in zip(self.maps, maps, strict=True)] if self.maps else list(maps)

    def result(self, inputs: Any) -> Any:
        """The means: maps in the inputs' layout, or as a tuple of a layer's tensors; with the mean of the deltas."""
        means = [t / self.count for t in self.maps]
        out = like(inputs, means) if len(means) == len(as_tuple(inputs)) else tuple(means)
        return (out, self.delta / self.count) if self.delta is not None else out


def _flip(t: Tensor) -> Tensor:
    return t.flip(-1)


def _shifted(pixels: int, size: Sequence[int]) -> Warp:
    """A shift along both axes by so many pixels of an input of that size; the border is repeated."""

    def move(t: Tensor, sign: int) -> Tensor:
        for axis in (-2, -1):
            step = sign * round(pixels * t.shape[axis] / size[axis])
            place = (torch.arange(t.shape[axis], device=t.device) - step).clamp(0, t.shape[axis] - 1)
            t = t.index_select(axis, place)
        return t

    return (lambda t: move(t, 1)), (lambda t: move(t, -1))


def _scaled(factor: float) -> Warp:
    """A zoom about the centre, by bilinear sampling; what lies outside is repeated from the border."""

    def zoom(t: Tensor, by: float) -> Tensor:
        theta = torch.tensor([[1 / by, 0, 0], [0, 1 / by, 0]], dtype=t.dtype, device=t.device).expand(len(t), 2, 3)
        grid = F.affine_grid(theta, list(t.shape), align_corners=False)
        return F.grid_sample(t, grid, mode="bilinear", padding_mode="border", align_corners=False)

    return (lambda t: zoom(t, factor)), (lambda t: zoom(t, 1 / factor))


@register(
    "augmented",
    aliases=("tta", "test_time_augmentation"),
    title="Test-time augmentation",
    reference="averages over flips, shifts and scales, maps warped back",
    applies_to="image",
    defaults=path_defaults,
    cost="the inner method's, for each copy",
    assumes="flips, shifts and scales do not change the class",
)
class AugmentedAttribution(_Around):
    """A method averaged over augmented pictures, each map warped back to the picture's own frame.

    Args:
        attribution_method: any object with `attribute(inputs, ...)`.
    """

    def attribute(
        self,
        inputs: Inputs,
        augmentations: Sequence[str] = AUGMENTATIONS,
        *,
        shift: int | None = None,
        scales: Sequence[float] = (0.9, 1.1),
        **kwargs: Any,
    ) -> Any:
        """The mean of the maps of the picture and of its augmented copies.

        Args:
            inputs: tensor or tuple of tensors; those with four axes (N, C, H, W) are augmented, all in the same way.
            augmentations: of "flip" (left and right), "shift" (both ways along both axes), "scale" (about the centre).
            shift: pixels; None: a twentieth of the shorter side.
            scales: factors of "scale".
            **kwargs: the inner method's arguments; baselines and masks given as tensors are not augmented.

        Raises:
            InputError: no picture among the inputs, an unknown augmentation, maps without two axes of space.
        """
        for name in augmentations:
            if name not in AUGMENTATIONS:
                raise unknown("augmentation", name, AUGMENTATIONS)
        if isinstance(scales, (int, float)) or any(not 0 < s < float("inf") for s in scales):
            raise InputError(f"scales are positive factors, such as (0.9, 1.1); got {scales!r}.")
        with frozen(self.forward_func):
            xs = check_inputs(inputs)
            pictures = [x for x in xs if x.ndim == 4]
            if not pictures:
                raise InputError(
                    f"Flips, shifts and scales are for pictures (N, C, H, W); the inputs have shapes "
                    f"{[tuple(x.shape) for x in xs]}. Use NoiseTunnel."
                )
            size = tuple(pictures[0].shape[2:])
            step = shift if shift is not None else max(1, min(size) // 20)
            warps: list[Warp] = [((lambda t: t), (lambda t: t))]
            warps += [(_flip, _flip)] if "flip" in augmentations else []
            warps += [_shifted(s, size) for s in (step, -step)] if "shift" in augmentations else []
            warps += [_scaled(s) for s in scales] if "scale" in augmentations else []
            mean = _Mean(kwargs)
            for there, back in warps:
                maps = mean.run(self.attribution_method, like(inputs, [there(x) if x.ndim == 4 else x for x in xs]))
                mean.add([back(m) if m.ndim == 4 else m for m in maps])
            return mean.result(inputs)


@family(asks_delta=False)
class LayerAverage(_Around):
    """A layer method averaged over layers: maps (N, 1, H, W), each divided by its peak, at the input's size.

    Args:
        attribution_method: a layer method; its own layer does not matter.
        layers: the layers: modules, dotted names or `core.Layer`s.
    """

    def __init__(self, attribution_method: Any, layers: Sequence[Any]):
        super().__init__(attribution_method)
        if not isinstance(attribution_method, InternalAttribution):
            raise InputTypeError(
                f"LayerAverage needs a method at a layer (such as LayerGradCam), got {describe(attribution_method)}."
            )
        if isinstance(layers, (str, nn.Module)) or not layers:
            raise InputError(f"layers must be a list of at least one layer, got {describe(layers)}.")
        self.layers = [resolve_layer(self.forward_func, layer) for layer in layers]

    def attribute(self, inputs: Inputs, **kwargs: Any) -> Tensor:
        """The mean over the layers of the inner method's maps, channels added up.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            **kwargs: the inner method's arguments.
        """
        maps: list[Tensor] = []
        mean = _Mean(kwargs)
        if mean.with_delta:
            raise InputError("LayerAverage rescales the maps, so that they have no convergence delta any more.")
        with frozen(self.forward_func):
            xs = check_inputs(inputs)
            for layer in self.layers:
                method = copy.copy(self.attribution_method)
                method.layer = layer
                maps += [m.sum(1, keepdim=True) if m.ndim > 2 else m for m in mean.run(method, inputs)]
            return averaged(maps, xs)


class CheckpointAverage(_Around):
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
        mean = _Mean(kwargs)
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
