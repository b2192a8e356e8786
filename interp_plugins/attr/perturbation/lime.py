"""LIME: a small, readable model fitted to the score around one input (Ribeiro et al., KDD 2016, arXiv:1602.04938).

Perturbed inputs are drawn and scored, each is weighted by its similarity to the input, and a surrogate is fitted in an
interpretable space; its coefficients are the explanation. `LimeBase` leaves every part to the caller; `Lime` switches
features off at random, weighs by a kernel of the distance and fits a lasso. Cost: n_samples rows per sample.

Each sample of a batch gets its own surrogate, and each starts from the same random numbers, so its map is the one it
gets alone. How the surrogates' errors are estimated stands in `lime_surrogates.py`.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.attr.perturbation.lime_sampling import (
    PlainCopies,
    default_from_interp_rep_transform,
    default_perturb_func,
    get_exp_kernel_similarity_function,
    orthogonal_perturb_generator,
)
from interp_plugins.attr.perturbation.lime_surrogates import Coefficients, Copies, Switched, warn_of_many
from interp_plugins.attr.perturbation.perturb import perturbed_rows
from interp_plugins.attr.perturbation.surrogate import SkLearnLasso, Surrogate, fits_rows
from interp_plugins.attr.perturbation.whole_batch import batches_of_any_length
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.average import Draws, report_reached, rounds
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.attr.shared.grid_features import cells
from interp_plugins.core.batching import AUTOMATIC, check_chunk, chunks, progress_bar
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, ModelError
from interp_plugins.core.forward import Forward
from interp_plugins.core.random import drawing_from, make_generator, on_cpu
from interp_plugins.core.registry import register
from interp_plugins.core.report import collecting
from interp_plugins.core.tensors import Inputs, InputsT, accumulation_dtype, as_tuple, describe, like, own_tree
from interp_plugins.engine import planned


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
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 50,
        perturbations_per_eval: int = AUTOMATIC,
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
            perturbations_per_eval: copies per forward pass; left out: as many as fit.
            show_progress: always show a progress bar.
            seed: seed of what perturb_func draws from torch's global generator. None: decided by `torch.manual_seed`;
                the global state is left as it was.
            generator: draw from this generator instead (it is advanced).
            progress: None = a bar for long work, True, False.
            **kwargs: handed to perturb_func, similarity_func and the transforms.
        """
        check_chunk("n_samples", n_samples)
        check_chunk("perturbations_per_eval", perturbations_per_eval)
        rng = on_cpu(make_generator(seed, generator))
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            with progress_bar(n_samples, self.get_name(), True if show_progress else progress) as bar:
                everyone = torch.arange(xs[0].shape[0], device=xs[0].device)
                size = max(1, perturbed_rows(forward, xs, perturbations_per_eval, None) // len(everyone))
                forward, _ = planned(forward, xs, rows=n_samples * len(everyone), chunk=size)
                made = self._samples(like(inputs, xs), n_samples, kwargs, rng)
                of_all: dict[str, Any] = {"rows": everyone, "size": size, "bar": bar, "kwargs": kwargs}
                found = self._scored(forward, like(inputs, xs), made, n_samples, **of_all)
            z, y, w = found or _no_samples()
            if y.shape[1] != 1:
                raise ModelError(
                    "Number of outputs is not appropriate, must return one output per perturbed input: got "
                    f"{y.shape[1]}. Give a target that selects one, or one sample at a time (Lime does that)."
                )
            return self._fit(z, y[:, 0], w)

    def _samples(
        self,
        original: Any,
        count: int,
        kwargs: dict[str, Any],
        rng: torch.Generator,
        perturb_func: Callable[..., Any] | None = None,
    ) -> Iterator[tuple[Tensor, Any]]:
        """Pairs of an interpretable sample (1, d) and the model inputs that belong to it."""
        perturb_func = perturb_func or self.perturb_func
        ours = perturb_func in (default_perturb_func, orthogonal_perturb_generator)
        more = {**kwargs, "generator": rng} if ours else kwargs
        original = original if ours else own_tree(original)  # a user's function may work in place
        made = perturb_func(original, **more) if inspect.isgeneratorfunction(perturb_func) else None
        for k in range(count):
            with contextlib.nullcontext() if ours else drawing_from(rng):
                sample: Any = perturb_func(original, **more) if made is None else next(made, None)
            if made is not None and sample is None:
                warnings.warn(
                    f"Generator completed prior to given n_samples iterations: {k} of {count} samples are used.",
                    InterpWarning,
                    stacklevel=6,  # from Lime.attribute's caller, through the loops below
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
        made: Iterator[tuple[Tensor, Any]] | PlainCopies,
        count: int,
        *,
        rows: Tensor,
        size: int,
        bar: Any,
        kwargs: dict[str, Any],
    ) -> Copies | None:
        """The next perturbed copies of some samples (rows), evaluated; None if none were made."""
        if isinstance(made, PlainCopies):
            return _scored_at_once(forward, made, count, rows, size, bar)
        parts: list[Copies] = []
        due = itertools.islice(made, count)
        weighed = ((z, copy, float(self.similarity_func(original, copy, z, **kwargs))) for z, copy in due)
        while held := list(itertools.islice(weighed, size)):
            switches, copies, weights = zip(*held, strict=True)
            xs = [torch.cat(column) for column in zip(*map(as_tuple, copies), strict=True)]
            scores = _scores(forward, xs, rows, len(held), bar)
            z = torch.cat([torch.as_tensor(one).reshape(1, -1) for one in switches])
            parts.append((z, scores, torch.tensor(weights, dtype=torch.float64)))
        return _joined(parts) if parts else None

    def _fit(self, z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        if fits_rows(self.interpretable_model):
            self.interpretable_model.fit([(z, y, w)])  # type: ignore[arg-type]
            return self.interpretable_model.representation()
        # With a generator of its own: a loader draws, even one that does not shuffle.
        whole = DataLoader(_Whole(z, y, w), batch_size=len(z), collate_fn=list, generator=torch.Generator())
        self.interpretable_model.fit(whole)
        return self.interpretable_model.representation()


def _scored_at_once(forward: Forward, made: PlainCopies, count: int, rows: Tensor, size: int, bar: Any) -> Copies:
    """As `Lime._scored`, of copies by the default parts, pass by pass without a loop over copies."""
    parts: list[Copies] = []
    for z in made.draw(count).split(size):
        copies, weights = made.made(z)
        parts.append((z, _scores(forward, [c.flatten(0, 1) for c in copies], rows, len(z), bar), weights))
    return _joined(parts)


class _Whole(TensorDataset):
    """Rows that a loader asks for are given as a batch, which takes no time per row."""

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, ...]:
        """The rows of all tensors."""
        return self[torch.tensor(rows)]


def _joined(parts: Sequence[Copies]) -> Copies:
    """Copies of several passes, as a surrogate takes them."""
    z, y, w = (torch.cat(column) for column in zip(*parts, strict=True))  # (m, d), (m, K), (m,)
    dtype = accumulation_dtype(y.dtype) if y.is_floating_point() else torch.get_default_dtype()
    return z.to(y.device, dtype), y.to(dtype), w.to(y.device, dtype)


@register(
    "lime",
    needs="perturbation",
    title="LIME",
    reference="Ribeiro et al. 2016, arXiv:1602.04938",
    defaults=lambda inputs, spec: {"n_samples": 500, **cells(inputs, spec)},
    fast={"n_samples": 200},
    thorough={"n_samples": 2000},
    cost="n forward",
    axioms=("implementation invariance",),
    assumes="nearly linear near the input",
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

    Example:
        from interp_plugins.attr.perturbation.surrogate import SkLearnLinearRegression

        def weighted(x):
            return 2 * x[:, 0] - x[:, 1]

        lime = Lime(weighted, interpretable_model=SkLearnLinearRegression())
        lime.attribute(torch.tensor([[3.0, 5.0]]), n_samples=50, seed=0)  # -> [[6.0, -5.0]]
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

    def _made(
        self,
        original: Any,
        count: int,
        known: dict[str, Any],
        rng: torch.Generator,
        perturb_func: Callable[..., Any],
    ) -> Iterator[tuple[Tensor, Any]] | PlainCopies:
        """Where copies come from: one by one, or many at a time where all parts are the defaults."""
        if PlainCopies.serve(perturb_func, self.from_interp_rep_transform, self.similarity_func):
            return PlainCopies(original, known, self.similarity_func, perturb_func is not default_perturb_func, rng)
        return self._samples(original, count, known, rng, perturb_func)

    @batches_of_any_length
    @args_from()
    def attribute(  # type: ignore[override]
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = AUTOMATIC,
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
    ) -> InputsT | Tensor:
        """The surrogate's coefficients, a surrogate per sample.

        Args:
            baselines: what stands in for a missing feature: None (zeros), number, name, tensor, tuple or function.
            target: see `core.target.as_target`. Without one, each output value per example gets its own surrogate.
            n_samples: perturbed copies per sample. A surrogate needs more of them than features that matter.
            perturbations_per_eval: copies per forward pass; left out: as many as fit.
            return_input_shape: maps of the inputs' shapes; False: the coefficients (N, features).
            orthogonal: draw copies in pairs of complements, from sets that show each feature, and each two features
                together, equally often (`attr/perturbation/lime_sampling.py`): less variance at the same cost.
            tol: go on, n_samples copies at a time, until each sample's coefficients have, with 90 % confidence, a
                relative L2 error below this (`attr/shared/average.py`), against the same surrogate fitted to all
                copies. What was reached is reported (`core.report`: n_draws, map_error, standard_error), without a
                tolerance as well where the score is one number.
            max_samples: at most so many copies; a warning says when tol was not reached.
            seed: seed of what is drawn from torch's global generator; every sample starts from it. None: decided by
                `torch.manual_seed`; the global state is left as it was.
            batch_size: copies per forward pass; overrides perturbations_per_eval.

        Returns:
            Maps of the inputs' shapes; (N, K, ...) for K outputs per example, (1, ...) for a model that returns one
            value for the whole batch.
        """
        draws = Draws(n_samples, tol, max_samples)
        check_chunk("perturbations_per_eval", perturbations_per_eval)
        if orthogonal and self.perturb_func is not default_perturb_func:
            raise InputError("orthogonal=True draws the copies itself; leave perturb_func out, or orthogonal.")
        perturb_func, together = (orthogonal_perturb_generator, 2) if orthogonal else (self.perturb_func, 1)
        rng = on_cpu(make_generator(seed, generator))
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            asked = None if perturbations_per_eval is AUTOMATIC else perturbations_per_eval
            size = forward.rows_per_pass(xs, check_chunk("batch_size", batch_size) or asked)
            switched = Switched(forward, xs, baselines, feature_mask, inputs, batch_size or max(size, xs[0].shape[0]))
            warn_of_many(switched.d, self.get_name())
            if switched.merged and perturbations_per_eval > 1 and len(xs[0]) > 1:
                raise InputError(
                    "Perturbations per eval must be 1 when forward function returns single value per batch! Use "
                    "perturbations_per_eval=1."
                )
            if not switched.merged:
                forward, _ = planned(forward, xs, rows=n_samples * len(xs[0]), chunk=size)
            estimate = tol is not None or (collecting() and switched.single)
            start, fits = rng.get_state(), []
            total = draws.planned * len(switched.problems)
            with progress_bar(total, self.get_name(), True if show_progress else progress) as bar:
                for rows in switched.problems:
                    original, known = switched.parts(rows)
                    step = 1 if switched.merged else size
                    rng.set_state(start)  # every sample starts from the same random numbers
                    made = self._made(original, draws.planned, known, rng, perturb_func)
                    scored = partial(self._scored, forward, original, made, rows=rows, size=step, bar=bar, kwargs=known)
                    fits.append(_fitted(Coefficients(self._fit, together, estimate), scored, draws))
            if estimate:
                spread = switched.maps(torch.stack([f.standard_error for f in fits]))
                counts, errors = torch.tensor([f.count for f in fits]), torch.cat([f.map_error() for f in fits])
                report_reached(counts, errors, like(inputs, spread), tol, "copies")
            coefs = torch.stack([f.coefficients for f in fits])  # (problems, K, d)
            if not return_input_shape:
                return coefs.reshape(*switched.shape, -1)
            return like(inputs, switched.maps(coefs))


def _fitted(found: Coefficients, scored: Callable[[int], Copies | None], draws: Draws) -> Coefficients:
    """The coefficients for copies that are made and scored round by round, until the error is below the tolerance."""
    for due, _ in rounds(found.map_error, 1, draws.tol, draws.n_samples, draws.max_samples):
        more = scored(due)
        if more is None:  # a generator of the user's has ended
            break
        found.add(more)
    return found if found.count else _no_samples()


def _scores(forward: Forward, xs: Sequence[Tensor], rows: Tensor, count: int, bar: Any) -> Tensor:
    """Scores (count, K) of so many copies of some samples (rows), which stand copy by copy: (count * rows, ...)."""
    where = rows.repeat(count)

    def work(start: int, stop: int) -> Tensor:
        here = slice(start * len(rows), stop * len(rows))
        run = forward.changed if len(rows) == 1 else forward.selected
        return run([x[here] for x in xs], where[here]).reshape(stop - start, -1)

    return torch.cat([part for _, _, part in chunks(count, count, work, bar=bar)])


def _no_samples() -> NoReturn:
    raise InputError("perturb_func gave no samples.")
