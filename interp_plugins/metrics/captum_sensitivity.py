"""`sensitivity_max` and `default_perturb_func` under Captum's names, with its arguments, order, defaults and numbers.

`metric("sensitivity_max")` is the same formula over neighbours relative to the sample's spread, and asks by name.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import progress_bar
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning
from interp_plugins.core.global_random import preserved_rng, seed_torch
from interp_plugins.core.guard import frozen
from interp_plugins.core.random import check_seed
from interp_plugins.core.tensors import as_tuple, check_inputs, describe, is_float, like


def default_perturb_func(inputs: Tensor | tuple[Tensor, ...], perturb_radius: float = 0.02) -> tuple[Tensor, ...]:
    """Inputs with uniform noise in a box of half side `perturb_radius`, drawn from torch's global generator.

    The noise is drawn in float32, as Captum's, and added in the input's own type, which stays; integer inputs stay as
    they are.

    Args:
        inputs: tensor or tuple of tensors.
        perturb_radius: half side of the box, in units of the inputs.

    Example:
        default_perturb_func(torch.zeros(2, 3), 0.1)[0].abs().max() <= 0.1  # -> True
    """
    found = []
    for x in as_tuple(inputs):
        noise = torch.empty(x.shape, dtype=torch.float32).uniform_(-perturb_radius, perturb_radius)
        found.append(x + noise.to(x.device, x.dtype) if is_float(x) else x)
    return tuple(found)


def sensitivity_max(
    explanation_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    perturb_func: Callable[..., Any] = default_perturb_func,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: float | str = "fro",
    max_examples_per_batch: int | None = None,
    *,
    seed: int | None = None,
    progress: bool | None = None,
    **kwargs: Any,
) -> Tensor:
    """Largest relative change of the explanation over perturbed inputs, as Captum computes it (Yeh et al. 2019).

    The model behind `explanation_func` is frozen meanwhile and left as it was, with the random generators. Numbers are
    Captum's under one `torch.manual_seed` and one `max_examples_per_batch`.

    Args:
        explanation_func: the `attribute` of a method, or any function of inputs and `kwargs` that returns maps. It gets
            a tensor where `inputs` is one, else a tuple.
        inputs: tensor or tuple of tensors, batch first.
        perturb_func: inputs, each sample repeated in a row (and `perturb_radius`, if it takes two arguments) ->
            perturbed inputs.
        perturb_radius: size of the perturbation, in units of the inputs: 0.02 is much for some data, and little for
            others.
        n_perturb_samples: perturbed copies of each sample.
        norm_ord: order of the norm: a number, or "fro" for 2.
        max_examples_per_batch: rows explained together; None: all.
        seed: of all draws; None: torch's global generator as it stands, which is left as it was.
        progress: None = a bar for long work, True, False.
        **kwargs: further arguments of `explanation_func`; `target`, `baselines` and `additional_forward_args` follow
            the copies.

    Returns:
        (N,) in the type of the maps. A map of norm 0 is divided by 1, as in Captum: the value is then absolute.

    Raises:
        InputError: no perturbed copies, another norm, or maps that do not fit.

    Example:
        sensitivity_max(Saliency(model).attribute, x, target=3, n_perturb_samples=2)  # (2,)
    """
    if isinstance(n_perturb_samples, bool) or not isinstance(n_perturb_samples, int) or n_perturb_samples < 1:
        raise InputError(f"n_perturb_samples must be a positive int, got {n_perturb_samples!r}.")
    if norm_ord != "fro" and (isinstance(norm_ord, (str, bool)) or not isinstance(norm_ord, (int, float))):
        raise InputError(f"norm_ord must be a number or 'fro', got {norm_ord!r}: maps are rows of numbers here.")
    norm = 2.0 if norm_ord == "fro" else float(norm_ord)
    with frozen(explanation_func), preserved_rng():
        if seed is not None:
            seed_torch(check_seed(seed))
        xs = check_inputs(inputs)
        n = xs[0].shape[0]
        step = _copies_per_call(max_examples_per_batch, n, n_perturb_samples)
        clean = _maps(explanation_func(like(inputs, [x.clone() for x in xs]), **kwargs), n)
        size = torch.linalg.vector_norm(_flat(clean), norm, dim=1, keepdim=True)
        size = torch.where(size == 0, torch.ones_like(size), size)
        worst: Tensor | None = None
        with progress_bar(n * n_perturb_samples, "sensitivity_max", progress) as bar:
            for start in range(0, n_perturb_samples, step):
                count = min(step, n_perturb_samples - start)
                moved = _perturbed(perturb_func, inputs, xs, perturb_radius, count)
                near = _maps(explanation_func(moved, **_repeated(kwargs, xs, count)), n * count)
                change = torch.linalg.vector_norm(
                    _flat([a - b for a, b in zip(_copied(clean, count), near, strict=True)]), norm, dim=1, keepdim=True
                )
                here = (change / size.repeat_interleave(count, dim=0)).reshape(n, -1).amax(1)
                worst = here if worst is None else torch.maximum(worst, here)
                bar.update(n * count)
    assert worst is not None
    return worst


def _copies_per_call(most: Any, n: int, total: int) -> int:
    """Perturbed copies of each sample that are explained together."""
    if most is None:
        return total
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise InputError(f"max_examples_per_batch must be a positive int or None, got {most!r}.")
    if not n <= most <= n * total:
        warnings.warn(
            f"max_examples_per_batch is {most}; {n} samples with {total} copies each are explained at least {n} and at "
            f"most {n * total} at a time.",
            InterpWarning,
            stacklevel=4,
        )
    return min(max(most // n, 1), total)


def _copied(tensors: Any, count: int) -> list[Tensor]:
    return [t.repeat_interleave(count, dim=0) for t in tensors]


def _perturbed(func: Callable[..., Any], inputs: Any, xs: tuple[Tensor, ...], radius: float, count: int) -> Any:
    """What the perturbation makes of the copies, in the layout of the user's inputs."""
    copies = like(inputs, _copied(xs, count)) if len(xs) > 1 else _copied(xs, count)[0]
    found = func(copies, radius) if len(inspect.signature(func).parameters) > 1 else func(copies)
    many = tuple(found) if isinstance(found, (list, tuple)) else (found,)
    shapes = [tuple(getattr(one, "shape", ())) for one in many]
    wanted = [(x.shape[0] * count, *x.shape[1:]) for x in xs]
    if shapes != wanted:
        raise InputError(f"perturb_func returned shapes {shapes}; expected those of the copies, {wanted}.")
    return like(inputs, many)


def _maps(found: Any, rows: int) -> tuple[Tensor, ...]:
    """What the explanation gave, as a tuple; a future is waited for."""
    if isinstance(found, torch.futures.Future):
        found = found.wait()
    many = tuple(found) if isinstance(found, list) else as_tuple(found)
    if not many or any(not isinstance(one, Tensor) for one in many):
        raise InputTypeError(f"explanation_func returned a {describe(found)}; expected a tensor or a tuple of tensors.")
    if any(one.ndim == 0 or one.shape[0] != rows for one in many):
        raise InputError(
            f"explanation_func returned maps of shapes {[tuple(m.shape) for m in many]} for {rows} rows; expected one "
            "map per row, the rows first."
        )
    return tuple(one.detach() for one in many)


def _flat(maps: Any) -> Tensor:
    return torch.cat([m.reshape(m.shape[0], -1) for m in maps], dim=1)


def _repeated(kwargs: dict[str, Any], xs: tuple[Tensor, ...], count: int) -> dict[str, Any]:
    """Arguments of the explanation, with an entry for each copy where they have one for each sample."""
    n, found = xs[0].shape[0], dict(kwargs)

    def follow(value: Any) -> Any:
        return value.repeat_interleave(count, dim=0) if _is_batched(value, n) else value

    if found.get("additional_forward_args") is not None:
        found["additional_forward_args"] = tuple(map(follow, as_tuple(found["additional_forward_args"])))
    target = found.get("target")
    if isinstance(target, list):
        found["target"] = [one for one in target for _ in range(count)]
    elif isinstance(target, Tensor) and target.numel() > 1:
        found["target"] = target.repeat_interleave(count, dim=0)
    baselines = as_tuple(found.get("baselines"))
    if isinstance(baselines[0], Tensor) and baselines[0].shape == xs[0].shape:
        found["baselines"] = tuple(follow(one) for one in baselines) if len(baselines) > 1 else follow(baselines[0])
    return found


def _is_batched(value: Any, n: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == n
