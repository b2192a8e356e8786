"""NoiseTunnel: average a method over noisy copies of the input.

smoothgrad: mean of the maps (Smilkov et al. 2017, arXiv:1706.03825). smoothgrad_sq: mean of their squares, without sign
(Hooker et al. 2019, arXiv:1806.10758). vargrad: their variance (Adebayo et al. 2018, arXiv:1810.03292).

How many copies? Those that bring the error of the averaged map below `tol`, for each sample. Around a path method, a
copy need not have an exact integral: with the nodes shifted at random in every copy, the mean over copies tends to the
exact one for any n_steps, and its standard error covers the path as well, so few steps and many copies are best.
All copies and steps of a group form one list of rows for the inner method, which cuts it into chunks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.ensembles.around import AroundMethod
from interp_plugins.attr.ensembles.inner_method import Folding
from interp_plugins.attr.ensembles.smoothing import Smoothing
from interp_plugins.attr.shared.average import Draws
from interp_plugins.attr.shared.base import InternalAttribution
from interp_plugins.attr.shared.defaults import path_defaults
from interp_plugins.attr.shared.lookups import at_lookups, has_ids
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import frozen
from interp_plugins.core.layers import AtLayer, NoisyAt, resolve_layer
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import contract_of, register, traits_of
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import Inputs, as_tuple, check_inputs, own_tree

NT_TYPES = ("smoothgrad", "smoothgrad_sq", "vargrad")


def noise_tunnel_defaults(inputs: tuple[Tensor, ...], spec: InputSpec) -> Mapping[str, Any]:
    """What `explain` sets: ten maps, noise of 15 % of each input's range, few steps (errors average out).

    Squares for pictures, where signs of neighbours cancel; in a table or a text a sign says which way.
    """
    return {
        "nt_type": "smoothgrad" if spec.kind in ("tabular", "text") else "smoothgrad_sq",
        "nt_samples": 10,
        "stdevs": (None,) * len(inputs),
        "n_steps": 20,
        **path_defaults(inputs, spec),
    }


_NAMES = {"smoothgrad": "SmoothGrad", "smoothgrad_sq": "SmoothGrad-squared", "vargrad": "VarGrad"}


def _called(params: Mapping[str, Any], inside: str) -> str:
    """The literature's name of each type."""
    return f"{_NAMES.get(params.get('nt_type', 'smoothgrad'), 'Noise Tunnel')} of {inside}"


@register(
    "noise_tunnel",
    unsigned=True,
    aliases=("nt",),
    reference="Smilkov et al. 2017, arXiv:1706.03825",
    defaults=noise_tunnel_defaults,
    fast={"nt_samples": 5, "n_steps": 2},
    thorough={"nt_samples": 50},
    wraps="attribution_method",
    inside="integrated_gradients",
    called=_called,
    shares_targets=True,
    shares_tolerance=True,
    compiles=True,
    embeds_ids=True,
    asks_delta=False,
    cost="n times the inner method's",
    assumes="the noise keeps the class",
)
class NoiseTunnel(AroundMethod):
    """A method made of another method, averaged over noise.

    Args:
        attribution_method: any object with `attribute(inputs, ...)`: ours, Captum's, or your own.

    Example:
        smooth = NoiseTunnel(IntegratedGradients(model)).attribute(
            x, nt_type="smoothgrad_sq", nt_samples=4, stdevs=0.1, target=3, n_steps=10, seed=0
        )
        smooth.shape  # -> (2, 3, 24, 24)
    """

    def attribute(
        self,
        inputs: Inputs,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float | None, ...] | None = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        antithetic: bool = False,
        tol: float | None = None,
        max_samples: int = 1000,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        noise_at: Any = "input",
        progress: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Average the inner method over noisy inputs.

        Args:
            inputs: tensor or tuple of tensors, batch first. Integer inputs get their noise where gradient methods
                look them up, on the rows of the table; other methods leave them as they are.
            nt_type: "smoothgrad", "smoothgrad_sq" or "vargrad".
            nt_samples: noisy copies per sample.
            nt_samples_batch_size: copies handed to the inner method at a time; None = automatic. The noise, and so the
                result, does not depend on it.
            stdevs: standard deviation of the noise in the input's units (for ids: in those of the embedding); a tuple
                for several inputs. The paper advises 10 to 20 % of the input's range; None takes 15 %.
            draw_baseline_from_distrib: draw a baseline for each copy from the rows of `baselines`, the same row for
                all inputs, so that baselines of several inputs stay paired.
            antithetic: draw the copies in pairs, x + noise and x - noise: the same expectation, less variance where the
                maps are near linear in the noise. nt_samples and max_samples are rounded up to whole pairs. Not for
                vargrad, which is about single copies.
            tol: go on, nt_samples copies at a time, until each sample's averaged map has, with 90 % confidence, a
                relative L2 error below this (`attr/shared/average.py`). smoothgrad around IntegratedGradients shifts
                the nodes of each copy at random, and n_steps is 5 where none is given. What was reached is reported
                (`core.report`: n_draws, map_error, standard_error), without a tolerance as well.
            max_samples: at most so many copies; a warning says when tol was not reached.
            seed: seed of the noise. None: decided by `torch.manual_seed`; the global state is left as it was.
            generator: draw from this generator instead (it is advanced).
            noise_at: "input"; "layer": at the layer of a layer method (for token inputs, which cannot carry noise); or
                any layer (module, dotted name, `core.layers.Layer`), for any method that has a `forward_func`.
            progress: handed to the inner method, whose bar counts the work: None = for long work, True, False.
            **kwargs: the inner method's arguments. Those with a row per sample follow their samples.

        Returns:
            What the inner method returns, averaged; with `return_convergence_delta`, the deltas of all copies
            (N * nt_samples,), sample by sample; with `tol`, their mean (N,).

        Raises:
            InputError: an unknown nt_type, or arguments that do not go together.
        """
        if nt_type not in NT_TYPES:
            raise unknown("nt_type", nt_type, NT_TYPES)
        check_chunk("nt_samples", nt_samples)
        draws = Draws(nt_samples, tol, max_samples, antithetic)
        if antithetic and nt_type == "vargrad":
            raise InputError("vargrad is the variance of single copies, and antithetic copies are not independent.")
        smoothing = Smoothing(
            nt_type=nt_type,
            draws=draws,
            group=check_chunk("nt_samples_batch_size", nt_samples_batch_size),
            stdevs=stdevs,
            draw_baseline=draw_baseline_from_distrib,
            delta=bool(kwargs.get("return_convergence_delta")) and self.has_convergence_delta(),
            generator=make_generator(seed, generator),
        )
        method = self.attribution_method
        if progress is not None and "progress" in contract_of(method).takes:
            kwargs["progress"] = progress
        if isinstance(noise_at, str) and noise_at == "layer" and not hasattr(method, "layer"):
            raise InputError(
                f"noise_at='layer' needs a method at a layer (such as LayerIntegratedGradients), not "
                f"{type(method).__name__}. Use noise_at='input', or name a layer."
            )
        with frozen(self.forward_func):  # the inner method need not be one of ours
            if isinstance(noise_at, str) and noise_at == "input":
                if has_ids(inputs) and traits_of(self).embeds_ids:
                    return _average_at_lookups(smoothing, method, inputs, kwargs)
                return smoothing.average(method, inputs, kwargs)
            if isinstance(noise_at, str) and noise_at == "layer":
                if hasattr(method, "at_layer"):
                    at = method.at_layer(inputs, **kwargs)
                    return at.formatted(smoothing.average(at.method, at.inputs, at.kwargs))
                noise_at = method.layer
            return _average_at(smoothing, method, noise_at, inputs, kwargs)


def _average_at_lookups(smoothing: Smoothing, method: Any, inputs: Any, kwargs: dict[str, Any]) -> Any:
    """Average with noise on float inputs and on the rows of ids; what is averaged is one number per id."""
    given = {**kwargs, "stdevs": smoothing.stdevs}
    problem = at_lookups(method, inputs, given)
    rest = {k: v for k, v in problem.kwargs.items() if k != "stdevs"}
    return replace(smoothing, stdevs=problem.kwargs["stdevs"]).average(Folding(problem), problem.inputs, rest)


def _average_at(smoothing: Smoothing, method: Any, layer: Any, inputs: Any, kwargs: Mapping[str, Any]) -> Any:
    """Average with noise on a layer's tensors while the inputs stay as they are."""
    func = method.forward_func
    bound = func if isinstance(func, Call) else Call(func)
    layers = [resolve_layer(func, one) for one in (layer if isinstance(layer, list) else [layer])]
    args = kwargs.get("additional_forward_args")
    extra = () if args is None else own_tree(as_tuple(args))
    at = AtLayer(bound.func, layers)
    tensors = at.encode(*check_inputs(inputs), *extra, **bound.kwargs)
    noisy = copy.copy(method)
    noisy.forward_func = Call(NoisyAt(at), bound.kwargs, bound.output)
    if isinstance(noisy, InternalAttribution):
        noisy.layer = (
            [resolve_layer(func, one) for one in noisy.layer] if isinstance(noisy.layer, list) else noisy.layer
        )
    return smoothing.average(noisy, inputs, {**kwargs, "additional_forward_args": extra}, tensors)
