"""LIME: a small, readable model fitted to the score around one input (Ribeiro et al., KDD 2016, arXiv:1602.04938).

Perturbed inputs are drawn and scored, each is weighted by its similarity to the input, and a surrogate is fitted in an
interpretable space; its coefficients are the explanation. `LimeBase` leaves every part to the caller; `Lime` switches
features off at random, weighs by a kernel of the distance and fits a lasso. Cost: n_samples rows per sample.

The error of the coefficients is the jackknife's: the surrogate is fitted again without each tenth of the copies, which
serves any surrogate (Efron and Stein 1981).

Each sample of a batch gets its own surrogate, and each starts from the same random numbers, so its map is the one it
gets alone.
"""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.attr.perturbation.lime_sampling import (
    default_from_interp_rep_transform,
    default_perturb_func,
    get_exp_kernel_similarity_function,
    orthogonal_perturb_generator,
)
from interp_plugins.attr.perturbation.perturb import clean_scores, merges_batch
from interp_plugins.attr.perturbation.surrogate import SkLearnLasso, Surrogate
from interp_plugins.attr.shared.average import check_tolerance, relative_error, report_reached, rounds
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.attr.shared.grid_features import cells
from interp_plugins.core.baseline import as_baselines
from interp_plugins.core.batching import auto_chunk, check_chunk, chunks, progress_bar
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, ModelError
from interp_plugins.core.features import MaskFeatures
from interp_plugins.core.forward import Forward
from interp_plugins.core.random import drawing_from, make_generator
from interp_plugins.core.registry import register
from interp_plugins.core.report import collecting, note
from interp_plugins.core.tensors import accumulation_dtype, as_tuple, describe, like
from interp_plugins.engine import planned

_PARTS = 10  # of the copies, left out in turn for the error
_MANY_FEATURES = 10_000


class LimeBase(PerturbationAttribution):
    """LIME with every part given by the caller.

    Args:
        forward_func: model or callable.
        interpretable_model: the surrogate: `fit(loader of (features, scores, weights))` and `representation()`
            (`attr/perturbation/surrogate.py`).
        similarity_func: function (original, perturbed, interpretable sample, **kwargs) -> weight.
        perturb_func: function (original, **kwargs) -> one perturbed sample, or a generator function of these; in the
            interpretable space (1, d) if `perturb_interpretable_space`, else in that of the inputs.
        perturb_interpretable_space: see `perturb_func`.
        from_interp_rep_transform: function (sample, original, **kwargs) -> model inputs, if perturbed there.
        to_interp_rep_transform: function (model inputs, original, **kwargs) -> sample (1, d), otherwise.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Surrogate,
        similarity_func: Callable[..., Any],
        perturb_func: Callable[..., Any],
        perturb_interpretable_space: bool,
        from_interp_rep_transform: Callable[..., Any] | None,
        to_interp_rep_transform: Callable[..., Any] | None,
    ):
        super().__init__(forward_func)
        needed = "from_interp_rep_transform" if perturb_interpretable_space else "to_interp_rep_transform"
        if (from_interp_rep_transform if perturb_interpretable_space else to_interp_rep_transform) is None:
            raise InputError(
                f"Must provide {needed}, a function between the two spaces, when perturb_interpretable_space is "
                f"{perturb_interpretable_space}."
            )
        for name in ("fit", "representation"):
            if not callable(getattr(interpretable_model, name, None)):
                raise InputTypeError(
                    f"interpretable_model has no {name}(): got {describe(interpretable_model)}. Give one of "
                    "interp_plugins.attr.perturbation.surrogate, or an object with fit(loader) and representation()."
                )
        self.interpretable_model = interpretable_model
        self.similarity_func = similarity_func
        self.perturb_func = perturb_func
        self.perturb_interpretable_space = perturb_interpretable_space
        self.from_interp_rep_transform = from_interp_rep_transform
        self.to_interp_rep_transform = to_interp_rep_transform

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: coefficients are of the interpretable features."""
        return False

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 50,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        progress: bool | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Fit the surrogate and return `interpretable_model.representation()`.

        Args:
            inputs: tensor or tuple of tensors. The whole of them is one problem, so the model must give one score per
                perturbed copy: a single sample, or one value per batch.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model.
            n_samples: perturbed copies.
            perturbations_per_eval: copies per forward pass; 1 leaves the size to the engine.
            show_progress: always show a progress bar.
            seed: seed of what perturb_func draws from torch's global generator. None: decided by `torch.manual_seed`;
                the global state is left as it was.
            generator: draw from this generator instead (it is advanced).
            progress: None = a bar for long work, True, False.
            **kwargs: handed to perturb_func, similarity_func and the transforms.
        """
        check_chunk("n_samples", n_samples)
        check_chunk("perturbations_per_eval", perturbations_per_eval)
        rng = make_generator(seed, generator)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward), drawing_from(rng):
            with progress_bar(n_samples, self.get_name(), True if show_progress else progress) as bar:
                everyone = torch.arange(xs[0].shape[0], device=xs[0].device)
                size = perturbations_per_eval if perturbations_per_eval > 1 else auto_chunk(list(xs))
                forward, _ = planned(forward, xs, rows=n_samples * len(everyone), chunk=size)
                original = like(inputs, xs)
                made = self._samples(original, n_samples, kwargs)
                z, y, w = self._scored(forward, original, made, everyone, size, bar, kwargs)
            if y.shape[1] != 1:
                raise ModelError(
                    "Number of outputs is not appropriate, must return one output per perturbed input: got "
                    f"{y.shape[1]}. Give a target that selects one, or one sample at a time (Lime does that)."
                )
            return self._fit(z, y[:, 0], w)

    def _samples(
        self, original: Any, count: int, kwargs: dict[str, Any], perturb_func: Callable[..., Any] | None = None
    ) -> Iterator[tuple[Tensor, Any]]:
        """Pairs of an interpretable sample (1, d) and the model inputs that belong to it."""
        perturb_func = perturb_func or self.perturb_func
        made = perturb_func(original, **kwargs) if inspect.isgeneratorfunction(perturb_func) else None
        for k in range(count):
            if made is None:
                sample = perturb_func(original, **kwargs)
            else:
                sample = next(made, None)
                if sample is None:
                    warnings.warn(
                        f"Generator completed prior to given n_samples iterations: {k} of {count} samples are used.",
                        InterpWarning,
                        stacklevel=4,
                    )
                    return
            if self.perturb_interpretable_space:
                assert self.from_interp_rep_transform is not None
                yield sample, self.from_interp_rep_transform(sample, original, **kwargs)
            else:
                assert self.to_interp_rep_transform is not None
                yield self.to_interp_rep_transform(sample, original, **kwargs), sample

    def _scored(
        self,
        forward: Forward,
        original: Any,
        made: Iterable[tuple[Tensor, Any]],
        rows: Tensor,
        size: int,
        bar: Any,
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Interpretable samples (m, d), scores (m, K) and weights (m,) of perturbed copies of some samples (rows)."""
        features: list[Tensor] = []
        weights: list[float] = []
        scores: list[Tensor] = []
        held: list[tuple[Tensor, ...]] = []

        def flush() -> None:
            copies = [torch.cat(column) for column in zip(*held, strict=True)]
            where = rows.repeat(len(held))

            def work(start: int, stop: int) -> Tensor:
                here = slice(start * len(rows), stop * len(rows))
                out = forward.selected([c[here] for c in copies], where[here])
                return out.reshape(stop - start, -1)

            scores.extend(part for _, _, part in chunks(len(held), len(held), work, bar=bar))
            held.clear()

        # Model and perturb_func may both draw: the copies of a pass are drawn before the model sees them.
        for sample, copy in made:
            weight = self.similarity_func(original, copy, sample, **kwargs)
            features.append(torch.as_tensor(sample).reshape(1, -1))
            weights.append(float(weight))
            held.append(as_tuple(copy))
            if len(held) == size:
                flush()
        if held:
            flush()
        if not features:
            raise InputError("perturb_func gave no samples.")
        y = torch.cat(scores)
        dtype = accumulation_dtype(y.dtype) if y.is_floating_point() else torch.get_default_dtype()
        z = torch.cat(features).to(y.device, dtype)
        return z, y.to(dtype), torch.tensor(weights, dtype=dtype, device=y.device)

    def _jackknife(self, z: Tensor, y: Tensor, w: Tensor, together: int) -> Tensor:
        """Standard error of the coefficients (d,); infinite for fewer than two copies in each part.

        Copies that were drawn together stay together.
        """
        if len(z) < 2 * _PARTS:
            return torch.full_like(z[0], math.inf)
        part = torch.arange(len(z), device=z.device) // together % _PARTS
        without = torch.stack([self._fit(z[part != k], y[part != k], w[part != k]).reshape(-1) for k in range(_PARTS)])
        return (without.var(0, correction=0) * (_PARTS - 1)).sqrt()

    def _fit(self, z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        self.interpretable_model.fit(DataLoader(TensorDataset(z, y, w), batch_size=len(z)))
        return self.interpretable_model.representation()


@register(
    "lime",
    needs="perturbation",
    title="LIME",
    reference="Ribeiro et al. 2016, arXiv:1602.04938",
    defaults=lambda inputs, spec: {"n_samples": 500, **cells(inputs, spec)},
)
class Lime(LimeBase):
    """LIME: a linear model of the scores with features switched off.

    Args:
        forward_func: model or callable.
        interpretable_model: the surrogate; None: `SkLearnLasso(alpha=0.01)`, which needs scikit-learn.
        similarity_func: function (original, perturbed, interpretable sample, **kwargs) -> weight; None: exponential
            kernel of width 1 on the cosine distance.
        perturb_func: function (original, **kwargs) -> switches (1, num_interp_features), or a generator function; None:
            each feature is off with probability one half.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Surrogate | None = None,
        similarity_func: Callable[..., Any] | None = None,
        perturb_func: Callable[..., Any] | None = None,
    ):
        super().__init__(
            forward_func,
            SkLearnLasso(alpha=0.01) if interpretable_model is None else interpretable_model,
            get_exp_kernel_similarity_function() if similarity_func is None else similarity_func,
            default_perturb_func if perturb_func is None else perturb_func,
            True,
            default_from_interp_rep_transform,
            None,
        )

    def attribute(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
        orthogonal: bool = False,
        tol: float | None = None,
        max_samples: int = 10_000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """The surrogate's coefficients, a surrogate per sample.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            baselines: what stands in for a missing feature: None (zeros), number, name, tensor, tuple or function.
            target: see `core.target.as_target`. Without one, each output value per example gets its own surrogate.
            additional_forward_args: further positional arguments of the model.
            feature_mask: integers, broadcastable to the input (tuple for several inputs); elements with the same
                number, also across inputs, are one feature. None: every element is one.
            n_samples: perturbed copies per sample. A surrogate needs more of them than features that matter.
            perturbations_per_eval: copies per forward pass; 1 leaves the size to the engine.
            return_input_shape: maps of the inputs' shapes; False: the coefficients (N, features).
            show_progress: always show a progress bar.
            orthogonal: draw copies in pairs of complements, from sets that show each feature, and each two features
                together, equally often (`attr/perturbation/lime_sampling.py`): less variance at the same cost.
            tol: go on, n_samples copies at a time, until each sample's coefficients have, with 90 % confidence, a
                relative L2 error below this (`attr/shared/average.py`), against the same surrogate fitted to all
                copies. What was reached is reported (`core.report`: n_draws, map_error, standard_error), without a
                tolerance as well where the score is one number.
            max_samples: at most so many copies; a warning says when tol was not reached.
            seed: seed of what is drawn from torch's global generator; every sample starts from it. None: decided by
                `torch.manual_seed`; the global state is left as it was.
            generator: draw from this generator instead (it is advanced).
            batch_size: copies per forward pass; overrides perturbations_per_eval.
            progress: None = a bar for long work, True, False.

        Returns:
            Maps of the inputs' shapes; (N, K, ...) for K outputs per example, (1, ...) for a model that returns one
            value for the whole batch.
        """
        check_tolerance(tol, n_samples, max_samples)
        check_chunk("perturbations_per_eval", perturbations_per_eval)
        if orthogonal and self.perturb_func is not default_perturb_func:
            raise InputError("orthogonal=True draws the copies itself; leave perturb_func out, or orthogonal.")
        perturb_func, together = (orthogonal_perturb_generator, 2) if orthogonal else (self.perturb_func, 1)
        rng = make_generator(seed, generator)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            n, device = xs[0].shape[0], xs[0].device
            bases = as_baselines(baselines, xs, template=inputs)
            features = MaskFeatures(xs, feature_mask)
            warn_of_many(len(features), self.get_name())
            positions = features.positions()
            size = check_chunk("batch_size", batch_size) or (
                perturbations_per_eval if perturbations_per_eval > 1 else auto_chunk(list(xs))
            )
            clean = clean_scores(forward, xs, batch_size or max(size, n))
            merged = clean.ndim == 0 or clean.shape[0] != n or (n > 1 and merges_batch(forward, xs))
            if merged and perturbations_per_eval > 1 and n > 1:
                raise ModelError(
                    "Perturbations per eval must be 1 when forward function returns single value per batch! Use "
                    "perturbations_per_eval=1."
                )
            note(score=clean if clean.ndim == 1 and not merged else None)
            if not merged:
                forward, _ = planned(forward, xs, rows=n_samples * n, chunk=size)
            problems = [torch.arange(n, device=device)] if merged else torch.arange(n, device=device).split(1)
            start, found, errors = rng.get_state(), [], []
            counts, reached = [], []
            copies = n_samples if tol is None else max_samples
            estimate = tol is not None or (
                collecting() and clean.numel() == max(1, clean.shape[0] if clean.ndim else 1)
            )
            with progress_bar(copies * len(problems), self.get_name(), True if show_progress else progress) as bar:
                for rows in problems:
                    own = [p if p.shape[0] == 1 else p.index_select(0, rows) for p in positions]
                    known = {
                        "num_interp_features": len(features),
                        "feature_mask": like(inputs, own),
                        "baselines": like(inputs, [b.index_select(0, rows) for b in bases]),
                    }
                    rng.set_state(start)
                    with drawing_from(rng):
                        original = like(inputs, [x.index_select(0, rows) for x in xs])
                        made = self._samples(original, copies, known, perturb_func)
                        parts: list[tuple[Tensor, Tensor, Tensor]] = []
                        reached.append(torch.full((1,), math.inf, dtype=torch.float64))
                        for due, _ in rounds(lambda: reached[-1], 1, tol, n_samples, max_samples):
                            head = next(made, None)
                            if head is None and parts:  # a generator of the user's has ended
                                break
                            more = itertools.chain(() if head is None else (head,), itertools.islice(made, due - 1))
                            step = 1 if merged else size
                            parts.append(self._scored(forward, original, more, rows, step, bar, known))
                            z, y, w = (torch.cat(column) for column in zip(*parts, strict=True))
                            columns = y.unbind(1)
                            if estimate:
                                error = torch.stack([self._jackknife(z, column, w, together) for column in columns])
                            fits = torch.stack([self._fit(z, column, w).reshape(-1) for column in columns])
                            if estimate:
                                reached[-1] = relative_error(torch.tensor([_PARTS - 1]), [error[None]], [fits[None]])
                        found.append(fits)
                        counts.append(len(z))
                        if estimate:
                            errors.append(error)
            coefs = torch.stack(found)  # (problems, K, d)
            shape = outputs_shape(clean, merged)
            if estimate:
                spread = torch.stack(errors)
                maps = [_spread(spread, p, merged).reshape(*shape, *p.shape[1:]) for p in positions]
                report_reached(torch.tensor(counts), torch.cat(reached), like(inputs, maps), tol, "copies")
            if not return_input_shape:
                return coefs.reshape(*shape, -1)
            return like(inputs, [_spread(coefs, p, merged).reshape(*shape, *p.shape[1:]) for p in positions])


def _spread(coefs: Tensor, positions: Tensor, merged: bool) -> Tensor:
    """Coefficients (problems, K, d) at every element of a mask (1 or N, ...): (problems, K, elements)."""
    if positions.shape[0] == 1 or merged:
        return coefs.index_select(2, positions[0].reshape(-1))
    return coefs.gather(2, positions.reshape(len(coefs), 1, -1).expand(-1, coefs.shape[1], -1))


def outputs_shape(clean: Tensor, merged: bool) -> tuple[int, ...]:
    """The first dimensions of a map: (N,), (N, K) for K > 1 outputs per example, those of the one value per batch."""
    if merged:
        return (1, *clean.shape) if clean.ndim == 0 else tuple(clean.shape)
    return tuple(clean.shape) if clean.numel() > clean.shape[0] else (clean.shape[0],)


def warn_of_many(count: int, what: str) -> None:
    """Say when there are more features than a regression can tell apart."""
    if count > _MANY_FEATURES:
        warnings.warn(
            f"{what} fits one coefficient to each of {count} features, which is slow and says little. Group them with "
            "feature_mask (superpixels, words).",
            InterpWarning,
            stacklevel=3,
        )
