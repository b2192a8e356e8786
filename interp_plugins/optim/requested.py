"""Scores that need another network of the user's: `Visualization.transfer` and `Visualization.plausibility`.

References:
    Fel et al. 2023, arXiv:2306.06805, section 4 (transferability; plausibility; Frechet distance); Binkowski et al.
    2018, Demystifying MMD GANs, arXiv:1801.01401 (kernel distance, its unbiased estimate); Heusel et al. 2017,
    arXiv:1706.08500 (Frechet distance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, SampleError
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.spec import InputSpec
from interp_plugins.optim.capture import Capture
from interp_plugins.optim.subject import check_size
from interp_plugins.optim.transforms import resized

_ROWS = 16
_SUM = 1e-3  # how far rows may be from adding up to 1 to be probabilities


def transfer(found: Any, other: Any, classes: Any, spec: InputSpec | None, size: Any) -> Tensor:
    """The probability that another network gives each picture's class; arguments as of `Visualization.transfer`."""
    spec = found.spec if spec is None else spec
    numbers = [_class_of(found, i, spec) for i in range(len(found))] if classes is None else _listed(classes, spec)
    if len(numbers) == 1:
        numbers *= len(found)
    if len(numbers) != len(found):
        raise InputError(f"classes has {len(numbers)} entries for {len(found)} pictures: one each, or one for all.")
    with torch.no_grad(), frozen(other):
        out = torch.cat([_output(other, rows) for rows in _inputs(found.images, spec, size).split(_ROWS)])
    if out.ndim != 2 or not all(0 <= c < out.shape[1] for c in numbers):
        raise InputError(f"transfer reads a class of (N, classes); the other network gave {tuple(out.shape)}.")
    given = bool((out >= 0).all()) and bool(((out.sum(1) - 1).abs() < _SUM).all())
    shares = out if given else out.softmax(1)
    return shares[torch.arange(len(found)), numbers]


def plausibility(found: Any, features: Any, layer: Any, spec: InputSpec | None, size: Any) -> dict[str, Any]:
    """Distances of pictures from the data's crops; arguments as of `Visualization.plausibility`."""
    examples, spec = found.examples, found.spec if spec is None else spec
    if examples is None or examples.crops is None or found.images.shape[1] not in (1, 3):
        raise InputError("plausibility compares pictures with the data's crops: visualize pictures with data=.")
    units = [[i for i, u in enumerate(found.unit) if u == k] for k in dict.fromkeys(found.unit)]
    if min(examples.index.shape[1], *map(len, units)) < 2:
        raise SampleError("A distance of sets needs two of each: ask for visualize(n=4, examples=9).")
    low, high = spec.value_range
    crops = examples.crops.flatten(0, 1)[..., : found.images.shape[1]].movedim(-1, 1).float() / 255 * (high - low) + low
    with torch.no_grad(), frozen(features):
        rows = _inputs(torch.cat([resized(crops, found.images.shape[2:]), found.images]), spec, size)
        seen = _pooled(features, layer, rows)
    data, made = seen[: len(crops)].unflatten(0, examples.index.shape), seen[len(crops) :]
    each = torch.zeros(len(found), dtype=torch.float64)
    for k, of_unit in enumerate(units):
        each[of_unit] = 1 - kernel_distance(made[of_unit], data[k])
    return {"plausibility": each, "frechet": frechet_distance(made, data.flatten(0, 1))}


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """The unbiased squared distance of two sets (N, D), (M, D) under the kernel (x y / D + 1)^3 (KID).

    Example:
        from interp_plugins.optim.requested import kernel_distance

        rows = torch.arange(8.0).reshape(4, 2)
        kernel_distance(rows[:2], rows[2:]) > 0  # -> True
    """
    kernel: Callable[[Tensor, Tensor], Tensor] = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    own = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(own[0] + own[1] - 2 * kernel(x, y).mean())


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """The squared distance of the normal distributions fitted to two sets (N, D), (M, D) (FID).

    |m - n|^2 + tr(A + B - 2 (A B)^(1/2)); with few items it is too large, and comparable at equal numbers alone.

    Example:
        from interp_plugins.optim.requested import frechet_distance

        rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        round(frechet_distance(rows, rows + 1), 3)  # -> 3.0
    """
    x, y = x.double(), y.double()
    a, b = (t - t.mean(0) for t in (x, y))
    # The trace of the root of the covariances' product is the sum of the singular values of the data's product.
    cross = torch.linalg.svdvals(a @ b.T).sum() / ((len(a) - 1) * (len(b) - 1)) ** 0.5
    spread = a.square().sum() / (len(a) - 1) + b.square().sum() / (len(b) - 1)
    return float((x.mean(0) - y.mean(0)).square().sum() + spread - 2 * cross)


def _class_of(found: Any, i: int, spec: InputSpec) -> int:
    """The class that a picture is of, by its name."""
    name = found.names[i].rsplit(" (", 1)[0] if found.names[i].endswith(")") else found.names[i]
    for one in dict.fromkeys((found.names[i], name)):
        if spec.vocab is not None and one in spec.vocab:
            return spec.index_of(one)
        if one.startswith("class ") and one[6:].isdigit():
            return int(one[6:])
    raise InputError(
        f"{found.names[i]!r} is no class of the other network, so there is nothing to read there: transfer is of "
        "visualize(target=...); say which ones with classes=, and the other network's names in input_spec=."
    )


def _listed(classes: Any, spec: InputSpec) -> list[int]:
    each: Sequence[Any] = list(classes) if isinstance(classes, (list, tuple, range)) else [classes]
    return [spec.index_of(c) if isinstance(c, str) else int(c) for c in each]


def _inputs(pictures: Tensor, spec: InputSpec, size: Any) -> Tensor:
    """Pictures in raw units as a network takes them."""
    space = tuple(pictures.shape[2:])
    views = pictures if size is None else resized(pictures, check_size(size, len(space)))
    axis = spec.channel_axis(views.ndim)
    return spec.normalise(views if axis in (None, 1) else views.movedim(1, axis))


def _output(other: Any, rows: Tensor) -> Tensor:
    out = other(*beside_weights((rows,), other))
    if not isinstance(out, Tensor):
        raise InputError(f"The other network must give a tensor (N, classes), got {type(out).__name__}.")
    return out.double().cpu()


def _pooled(features: Any, layer: Any, rows: Tensor) -> Tensor:
    """What a network, or a layer of it, makes of pictures, averaged over space, (R, D) float64."""
    first = beside_weights((rows[:1],), features)
    forward = Forward.of(Call(features), 1)
    forward.samples = first
    capture = Capture.of(forward, first, () if layer is None else (layer,), layer is None)
    made = []
    with capture.running() as run:
        for some in rows.split(_ROWS):
            inputs = beside_weights((some,), features)
            out = run(inputs, torch.zeros(len(some), dtype=torch.long, device=inputs[0].device))
            a = out if layer is None else run.seen()[layer].laid_out()
            assert a is not None
            made.append((a.flatten(2).mean(2) if a.ndim > 2 else a).double().cpu())
    return torch.cat(made)
