"""Class activation maps without gradients: ScoreCAM, AblationCAM, EigenCAM.

ScoreCAM weights a channel by the score of the input that its activation masks, AblationCAM by how much of the score is
lost without it: both cost one forward pass per channel and sample. EigenCAM looks at the activations alone, whatever
the class: one forward pass per sample.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.cam.base import ClassActivationMap, grids
from interp_plugins.attr.cam.weights import first_component
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import batch_scores, prepared
from interp_plugins.attr.shared.images import input_size, say_channels_last
from interp_plugins.core.batching import check_chunk, chunks, progress_bar
from interp_plugins.core.enlarged import enlarged
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Forward, Gradients, one_per_row
from interp_plugins.core.grid import Grid
from interp_plugins.core.layer_rows import not_apart
from interp_plugins.core.layers import AtLayer, Layer, run_and_read
from interp_plugins.core.multi_target import repeated
from interp_plugins.core.registry import family, register
from interp_plugins.core.tensors import Inputs, Maps
from interp_plugins.engine import first_pass, planned, share_passes, sharing


def read(forward: Forward, xs: tuple[Tensor, ...], layers: list[Layer], chunk: int | None) -> Gradients:
    """The layers' tensors, in chunks of samples, without gradients: one pass for all layers."""
    n, device = xs[0].shape[0], xs[0].device

    def work(start: int, stop: int) -> list[tuple[Tensor, ...]]:
        rows = torch.arange(start, stop, device=device)
        args, kwargs = forward.arguments([x[start:stop] for x in xs], rows)
        forward.passes["forward"] += stop - start
        with torch.no_grad():
            return run_and_read(forward.func, layers, *args, **kwargs)[1]

    parts = [part for _, _, part in chunks(n, forward.samples_per_pass(xs, chunk), work)]
    counts = tuple(len(tensors) for tensors in parts[0])
    flat = [[t for tensors in part for t in tensors] for part in parts]
    return Gradients(xs[0].new_zeros(n), (), tuple(torch.cat(column) for column in zip(*flat, strict=True)), counts)


def opened(forward: Forward, xs: tuple[Tensor, ...], layers: list[Layer]) -> Gradients | None:
    """What `read` gives, of the pass that made the prediction; None where that has not kept it."""
    first = first_pass(forward, xs, make=False)
    found = [] if first is None else [t for t in map(first.at, layers) if t is not None]
    if len(found) < len(layers):
        return None
    return Gradients(xs[0].new_zeros(len(xs[0])), (), tuple(t.detach() for t in found), (1,) * len(found))


@register(
    "eigen_cam",
    needs="forward",
    site="layer",
    title="EigenCAM",
    reference="Muhammad and Yeasin 2020, arXiv:2008.00299",
    shares_targets=False,  # no class
    begins_with_gradient=True,  # not its gradient, but what the prediction's pass kept of the layers
    cost="1 forward",
    assumes="the layer's last axes are places; no class",
)
class EigenCAM(ClassActivationMap):
    """The first principal component of a layer's activations: what stands out for the layer, whatever the class."""

    @args_from(ClassActivationMap.attribute)
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        *,
        centre: bool = False,
        layout: Any = "auto",
        batch_size: int | None = None,
    ) -> Maps:
        """The map; arguments as in `ClassActivationMap.attribute`, and `centre`.

        Args:
            target: not used: the map is the same for all classes.
            relu_attributions: keep the positive part, the default.
            centre: subtract each channel's mean over the places first. The paper does not.
        """
        chunk, by_itself = check_chunk("batch_size", batch_size), not sharing()
        with (
            prepared(self.forward_func, inputs, None, additional_forward_args) as (xs, forward),
            torch.no_grad(),
            share_passes(False),
        ):
            layers = self.chosen_layers(forward, xs, attribute_to_layer_input)
            if by_itself and chunk is None and self.layer is not None:
                first_pass(forward, xs, graph=False, layers=layers)  # layer and layout, of one pass
            got = (opened(forward, xs, layers) if chunk is None else None) or read(forward, xs, layers, chunk)
            maps = []
            for grid, a in zip(grids(forward, xs, layers, got, layout), got.activations, strict=True):
                cam = first_component(grid.lay_out(a), centre).to(a.dtype)
                maps.append(cam.relu() if relu_attributions else cam)
            return self.joined(forward, layers, maps, got.counts)


@family(begins_with_gradient=False)
class ChannelByChannel(ClassActivationMap):
    """A map whose weights take a forward pass per channel."""

    @args_from(ClassActivationMap.attribute)
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        *,
        layout: Any = "auto",
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Maps:
        """The map; arguments as in `ClassActivationMap.attribute`, one forward pass per channel and sample.

        Args:
            target: see `core.target.as_target`; one scalar per sample.
            relu_attributions: keep positive evidence only, the default.
            batch_size: rows (samples x channels) per pass; None = automatic.
        """
        chunk = check_chunk("batch_size", batch_size)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward), torch.no_grad():
            layers = self.chosen_layers(forward, xs, attribute_to_layer_input)
            got = read(forward, xs, layers, chunk)
            self._check_rows(forward, layers, got)
            found = grids(forward, xs, layers, got, layout)
            owners = [(layer, k) for layer, count in zip(layers, got.counts, strict=True) for k in range(count)]
            total = sum(grid.lay_out(a[:1]).shape[1] for grid, a in zip(found, got.activations, strict=True))
            maps = []
            with progress_bar(total * xs[0].shape[0], "channels", progress) as bar:
                for (layer, k), grid, a in zip(owners, found, got.activations, strict=True):
                    weights = self.weights(forward, xs, (layer, k), grid, a, chunk, bar).to(a.dtype)
                    (laid,) = repeated([grid.lay_out(a)], forward.target.count)
                    cam = (weights.reshape(*laid.shape[:2], *(1,) * (laid.ndim - 2)) * laid).sum(1, keepdim=True)
                    maps.append(cam.relu() if relu_attributions else cam)
            return self.joined(forward, layers, maps, got.counts)

    def _check_rows(self, forward: Forward, layers: list[Layer], got: Gradients) -> None:
        """Refuse layers with several rows per sample: a channel is weighted by what it does in all of them."""
        owners = [layer for layer, count in zip(layers, got.counts, strict=True) for _ in range(count)]
        for layer, a in zip(owners, got.activations, strict=True):
            if a.shape[0] != forward.n:
                raise not_apart(forward.func, layer, a.shape, forward.n)

    def weights(
        self,
        forward: Forward,
        xs: tuple[Tensor, ...],
        place: tuple[Layer, int],
        grid: Grid,
        a: Tensor,
        chunk: int | None,
        bar: Any,
    ) -> Tensor:
        """Weights (N, C) of the channels of tensor `a`, which is number `place[1]` of the layer `place[0]`."""
        raise NotImplementedError


def _each_channel(forward: Forward, at: Any, n: int, channels: int, like: Tensor, size: int, bar: Any) -> Tensor:
    """Scores (N, C), or (N * K, C) of K targets, of the model on what `at(rows, channel numbers)` gives, in chunks."""

    def work(start: int, stop: int) -> Tensor:
        r = torch.arange(start, stop, device=like.device)
        return one_per_row(forward.changed(at(r % n, r // n), r % n), stop - start, forward.target.count)

    parts = [part for _, _, part in chunks(n * channels, size, work, step=n, bar=bar)]
    return torch.cat(parts).reshape(channels, n * forward.target.count).t()


@register(
    "score_cam",
    needs="perturbation",
    site="layer",
    title="ScoreCAM",
    reference="Wang et al. 2020, arXiv:1910.01279",
    applies_to="image",
    cost="c forward",
    assumes="the layer's last axes are places; channels mask the input",
)
class ScoreCAM(ChannelByChannel):
    """Channels weighted by the softmax of the scores that the inputs masked by them get.

    A mask is the channel's activation, enlarged to the input and scaled to [0, 1] per sample (equations 6 to 8); what
    it leaves out is zero, as in the paper.
    """

    def weights(
        self,
        forward: Forward,
        xs: tuple[Tensor, ...],
        place: tuple[Layer, int],
        grid: Grid,
        a: Tensor,
        chunk: int | None,
        bar: Any,
    ) -> Tensor:
        """Softmax over the channels of the masked inputs' scores."""
        laid = grid.lay_out(a)
        n, channels, space = laid.shape[0], laid.shape[1], laid.ndim - 2
        if space < 1 or input_size(xs, space) is None:
            raise InputError(
                f"ScoreCAM masks the input with the layer's channels, so both need the same axes of space; the layer's "
                f"tensor has shape {tuple(a.shape)}, the inputs {[tuple(x.shape) for x in xs]}. Use AblationCAM."
            )
        say_channels_last("ScoreCAM", xs)
        low, high = (f(laid.flatten(2), 2) for f in (torch.amin, torch.amax))
        span = (high - low).where(high > low, torch.ones_like(high))
        wide = [1] * space

        def masked(rows: Tensor, which: Tensor) -> list[Tensor]:
            mask = (laid[rows, which] - low[rows, which].reshape(-1, *wide)) / span[rows, which].reshape(-1, *wide)
            return [
                x[rows] * enlarged(mask[:, None].to(x.dtype), x.shape[2:]) if x.ndim == laid.ndim else x[rows]
                for x in xs
            ]

        size = forward.rows_per_pass(xs, chunk)
        forward, _ = planned(forward, xs, rows=n * channels, chunk=size)
        return _each_channel(forward, masked, n, channels, laid, size, bar).softmax(1)


@register(
    "ablation_cam",
    needs="perturbation",
    site="layer",
    title="AblationCAM",
    reference="Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360",
    cost="c forward",
    assumes="the layer's last axes are places",
)
class AblationCAM(ChannelByChannel):
    """Channels weighted by the part of the score that is lost without them, (y - y_k) / |y| (equation 3).

    The paper divides by y; for a negative score that would turn the evidence around, so its size is taken.
    """

    def weights(
        self,
        forward: Forward,
        xs: tuple[Tensor, ...],
        place: tuple[Layer, int],
        grid: Grid,
        a: Tensor,
        chunk: int | None,
        bar: Any,
    ) -> Tensor:
        """The relative loss of score with a channel set to zero."""
        if grid.function is not None:
            raise InputError("AblationCAM must know the axis of the channels: give layout= as a word or a size.")
        axis = a.ndim - 1 if grid.kind in ("last", "tokens") else 1
        layer, k = place
        n, channels = a.shape[0], a.shape[axis]
        at = AtLayer(forward.func, [layer])
        inside = replace(forward, func=at, args=(*xs, *forward.args))
        zero = torch.zeros(1, dtype=torch.long, device=a.device)
        at.encode(*(arguments := forward.arguments([x[:1] for x in xs], zero))[0], **arguments[1])
        others = list(read(forward, xs, [layer], chunk).activations)

        def without(rows: Tensor, which: Tensor) -> list[Tensor]:
            tensors = [t.index_select(0, rows) for t in others]
            keep = torch.arange(channels, device=a.device) != which[:, None]
            shape = [len(rows), *(channels if d == axis else 1 for d in range(1, a.ndim))]
            tensors[k] = tensors[k] * keep.reshape(shape)
            return tensors

        inside.samples = tuple(others)
        size = inside.rows_per_pass([*others, *xs], chunk)
        left = _each_channel(inside, without, n, channels, a, size, bar)
        score = batch_scores(forward, xs, chunk)[:, None]
        return (score - left) / score.abs().where(score != 0, torch.ones_like(score))
