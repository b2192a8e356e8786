"""`certify`: changes that cannot turn a model, or move its gradient map, whatever they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.errors import InputError, TargetError, concise
from interp_plugins.core.random import make_generator, sample_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust.binomial import lower_bound
from interp_plugins.robust.certificate import Certificate
from interp_plugins.robust.linear_region import region_radius
from interp_plugins.robust.norms import check_norm, check_size
from interp_plugins.robust.opening import Asking, Opened, opened

METHODS = ("smoothing", "region")
_PIECE = 100  # draws that are made together


def certify(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    *,
    method: str = "smoothing",
    sigma: float = 0.25,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    norm: str | None = None,
    input_spec: InputSpec | None = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    output: Any = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Certificate:
    """How far every sample can be changed, in any way, without what holds of it ceasing to hold.

    "smoothing" (Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918): of the model that says the class which the given
    one says most often under Gaussian noise, not of the given model itself. With p the lower bound of that class's
    probability, it says the class within sigma * Phi^-1(p), in L2, and with probability 1 - alpha for each sample.
    Where p is a half or less it abstains. More draws show larger radii: 1,000 at alpha .001 at most 2.46 sigma.

    "region": of a network that is linear between corners (ReLU and its kin), how far the corners are: within the
    radius, which is exact, gradients and so gradient maps are the same to the last bit of the arithmetic.

    Args:
        model: an `nn.Module` or any callable, whose outputs are classes.
        inputs: tensor or tuple of tensors, batch first, in the model's units.
        method: "smoothing" or "region".
        sigma: deviation of the noise, in raw units, before any normalisation.
        n0: draws that choose the class.
        n: draws that bound its probability.
        alpha: probability with which the statement about a sample may be wrong.
        norm: of "region", "L2" (None), "Linf" or "L1"; smoothing is of L2.
        input_spec: kind of data, normalisation and class names.
        activation: as for `explain`.
        output: as for `explain`.
        additional_forward_args: as for `explain`.
        forward_kwargs: as for `explain`.
        batch_size: rows per pass; None: automatic.
        seed: of the noise.
        progress: None: a bar for long work.

    Returns:
        `Certificate`: `.radius`, `.prediction`, `.p_low`, `.to_df()`.

    Raises:
        InputError: numbers that are none.
        ModelError: of "region", a network that is not linear between corners, or one with more than 20,000 of them.
        TargetError: outputs that are no classes.

    Example:
        from interp_plugins.robust import certify

        certify(nn.Linear(4, 2), torch.randn(2, 4), n=200).norm  # -> 'L2'
    """
    with concise():
        if method not in METHODS:
            bounds = " Bounds of auto_LiRPA (CROWN) are asked of that package itself." if method == "lirpa" else ""
            raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.{bounds}")
        _check(method, sigma, n0, n, alpha, norm)
        asking = Asking(
            input_spec, None, None, activation, output, additional_forward_args, forward_kwargs, batch_size, seed
        )
        with opened(model, inputs, asking) as subject:
            classes = subject.prediction.classes
            if classes is None:
                raise TargetError(
                    f"The model's output of shape {tuple(subject.prediction.output.shape)} is no score per class, so "
                    "there is no class to certify."
                )
            if method == "region":
                wanted = check_norm(norm or "L2")
                radius = region_radius(subject, wanted, progress)
                said = tuple(subject.spec.label(c) for c in classes)
                return Certificate("region", radius, wanted, said, None, None, 1.0, {"norm": wanted})
            return _smoothed(subject, sigma, n0, n, alpha, progress)


def _check(method: str, sigma: Any, n0: Any, n: Any, alpha: Any, norm: Any) -> None:
    if check_size("sigma", sigma) == 0:
        raise InputError("sigma is 0: without noise nothing is certified. Take 0.25 of pictures from 0 to 1, say.")
    for name, count in (("n0", n0), ("n", n)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{name} is a number of draws, a positive int, got {count!r}.")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < 1:
        raise InputError(f"alpha is a probability between 0 and 1, got {alpha!r}.")
    if method == "smoothing" and norm is not None and check_norm(norm) != "L2":
        raise InputError(f"Smoothing with Gaussian noise certifies L2, and norm is {norm!r}; leave it out.")


def _smoothed(subject: Opened, sigma: float, n0: int, n: int, alpha: float, progress: bool | None) -> Certificate:
    radius, p_low, said = [], [], []
    most = alpha ** (1 / n)  # the bound when every draw says the class
    with progress_bar(len(subject), "certify", progress) as bar:
        for i in range(len(subject)):
            generator = make_generator(sample_seed(subject.asking.seed, i))
            first = _counts(subject, i, sigma, n0, generator)
            chosen = max(first, key=lambda c: (first[c], -c))
            seen = _counts(subject, i, sigma, n, generator).get(chosen, 0)
            low = lower_bound(seen, n, alpha)
            p_low.append(low)
            radius.append(sigma * _quantile(low) if low > 0.5 else 0.0)
            said.append(subject.spec.label(chosen) if low > 0.5 else None)
            bar.update(1)
    bounds = torch.tensor(p_low, dtype=torch.float64)
    told = {"sigma": sigma, "n0": n0, "n": n, "alpha": alpha, "seed": subject.asking.seed}
    found = torch.tensor(radius, dtype=torch.float64)
    return Certificate("smoothing", found, "L2", tuple(said), bounds, bounds >= most - 1e-9, 1 - alpha, told)


def _counts(subject: Opened, i: int, sigma: float, draws: int, generator: torch.Generator) -> dict[int, int]:
    """How often each class is said of a sample under noise."""
    counts: dict[int, int] = {}
    size = subject.forward.rows_per_pass(subject.raw, subject.asking.batch_size)
    for first in range(0, draws, _PIECE):  # pieces of one size, so that draws do not depend on the passes
        many = min(_PIECE, draws - first)
        noise = [torch.randn((_PIECE, *x.shape[1:]), generator=generator)[:many].to(x) for x in subject.raw]
        points = [x[i] + sigma * e for x, e in zip(subject.raw, noise, strict=True)]

        def work(start: int, stop: int, points: list[Tensor] = points) -> Tensor:
            rows = torch.full((stop - start,), i, device=points[0].device)
            with torch.no_grad():
                return subject.forward.raw([p[start:stop] for p in points], rows)

        for _, _, output in chunks(many, size, work):
            two = subject.prediction.two
            classes = output.argmax(1) if two is None else two.predicted(output).reshape(len(output))
            for c in classes.tolist():
                counts[int(c)] = counts.get(int(c), 0) + 1
    return counts


def _quantile(p: float) -> float:
    """Phi^-1(p), of the standard normal distribution."""
    return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))
