"""LRP: layer-wise relevance propagation, F(x) handed back through the network and shared at every step.

The rules are in `attr/backward/rules/relevance.py`, which rule holds where in `attr/backward/rules/composites.py`,
their table and what "conservation" means in docs/rules.md. Bach et al. 2015, doi:10.1371/journal.pone.0130140. Cost:
one forward pass, one backward pass, and a second evaluation of each step in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from interp_plugins.attr.backward.rules.composites import Composite, as_composite
from interp_plugins.attr.backward.rules.modules import followed, module_names
from interp_plugins.attr.backward.rules.reach import check_lost
from interp_plugins.attr.backward.rules.relevance import Account, RelevanceRule
from interp_plugins.attr.backward.rules.relevance_mode import RelevanceMode, rule_of
from interp_plugins.attr.backward.rules.scope import under
from interp_plugins.attr.shared.arguments import args_from, with_delta
from interp_plugins.attr.shared.base import GradientAttribution, LayerAttribution, batch_gradients, prepared
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.forward import Forward, Gradients, gradients
from interp_plugins.core.registry import family, register
from interp_plugins.core.report import note
from interp_plugins.core.tensors import Inputs, InputsT, as_tuple, check_float, like, per_sample_sum


@family(shares_targets=True)
class _Relevance(GradientAttribution):
    """What LRP at the input and LRP at a layer share."""

    composite: Composite
    account: bool

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: relevance is a global attribution."""
        return True

    def compute_convergence_delta(  # type: ignore[override]  # Captum's LRP takes the output itself
        self, attributions: Tensor | tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        """The output minus sum(attributions), per example (N,): what biases and stabilizers absorbed."""
        found = per_sample_sum(as_tuple(attributions))
        return output.flatten().to(found.dtype) - found

    def _check_rules(self) -> None:
        for module in module_names(self.forward_func).values():
            rule_of(module)

    def _propagated(
        self, forward: Forward, xs: tuple[Tensor, ...], chunk: int | None, verbose: bool, **where: Any
    ) -> Any:
        """Relevances per tensor, flat, with the scores and the numbers of tensors per layer."""
        account = Account() if self.account else None
        said: list[str] | None = [] if verbose else None
        compute = partial(_ruled_gradients, self.composite, account, said)
        got = batch_gradients(forward, xs, chunk=chunk, compute=compute, **where)
        if said is not None:
            print("\n".join(dict.fromkeys(said)))
        if account is not None:
            note(relevance_to_biases=account.bias, relevance_to_stabilizers=account.stabilizer)
        relevances = []
        for r in got.grads:
            scores = got.scores.to(r.dtype).repeat_interleave(r.shape[0] // got.scores.shape[0])
            relevances.append(r * scores.reshape(-1, *(1,) * (r.ndim - 1)))
        return relevances, got


def _ruled_gradients(
    composite: Composite, account: Account | None, said: list[str] | None, forward: Forward, *args: Any, **kwargs: Any
) -> Gradients:
    named = bool(composite.types or composite.names or said is not None)
    named = named or any(rule_of(m) is not None for m in module_names(forward.func).values())
    watching: Any = followed(forward.func) if named else contextlib.nullcontext(())
    with watching as running:
        mode = RelevanceMode(composite, running, account, said)
        with under(forward, mode) as problem:
            return check_lost(mode, gradients(problem, *args, **kwargs))


@register(
    "lrp",
    title="LRP",
    reference="Bach et al. 2015, doi:10.1371/journal.pone.0130140",
    cost="1 forward, 1 backward",
    assumes="rules for the layers used; complete but for biases and stabilizers",
)
class LRP(_Relevance):
    """Layer-wise relevance propagation.

    Rules are looked for at a module's attribute `rule` first (ours or Captum's; they stay there), then in `composite`.

    Args:
        model: model or callable.
        composite: which rule holds where: a name such as "epsilon_plus_flat", a `Composite`, one rule for all layers
            with weights, or None: LRP-epsilon with 1e-9, as in Captum.
        account: report how much relevance biases and stabilizers absorbed (in `core.report.collect()`, summed over the
            batch, per unit of score); costs another evaluation of each step.

    Example:
        relevance = LRP(model, composite="epsilon_plus").attribute(x, target=3)
        relevance.shape  # -> (2, 3, 24, 24)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        composite: Composite | RelevanceRule | str | None = None,
        account: bool = False,
    ):
        super().__init__(model)
        self.composite, self.account = as_composite(composite), account
        self._check_rules()

    @with_delta
    def attribute(
        self,
        inputs: InputsT,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
        *,
        batch_size: int | None = None,
    ) -> InputsT | tuple[InputsT, Tensor]:
        """Relevance of the inputs, of their shapes.

        Args:
            inputs: tensor or tuple of tensors, batch first, floating point.
            target: see `core.target.as_target`.
            additional_forward_args: further positional arguments of the model; batched tensors follow the batch.
            return_convergence_delta: also return F(x) - sum(relevance) per sample: what biases and stabilizers took.
            verbose: print which rule was applied where.
            batch_size: samples per pass; None = automatic.

        Raises:
            InputTypeError, InputError, TargetError, ModelError: each says what came and what was expected.
        """
        size = check_chunk("batch_size", batch_size)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            found, got = self._propagated(forward, xs, size, verbose)
            relevances = [r.real if r.is_complex() else r for r in found]
            if not return_convergence_delta:
                return like(inputs, relevances)
            return like(inputs, relevances), self.compute_convergence_delta(tuple(relevances), got.scores)


@register(
    "layer_lrp",
    site="layer",
    title="Layer LRP",
    reference="Bach et al. 2015, doi:10.1371/journal.pone.0130140",
    variant_of="lrp",
)
class LayerLRP(_Relevance, LayerAttribution):
    """Relevance at a layer's output (or input).

    Args:
        model: model or callable.
        layer: module, dotted name, `core.layers.Layer`, or a list of these.
        composite: as for `LRP`; only what lies between the layer and the score matters.
        account: as for `LRP`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Any,
        *,
        composite: Composite | RelevanceRule | str | None = None,
        account: bool = False,
    ):
        LayerAttribution.__init__(self, model, layer)
        self.composite, self.account = as_composite(composite), account
        self._check_rules()

    @args_from(LRP.attribute)
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        verbose: bool = False,
        *,
        batch_size: int | None = None,
    ) -> Any:
        """Relevance of the layer's shape; arguments as in `LRP.attribute`. A list of layers gives a list.

        Args:
            inputs: tensor or tuple of tensors, batch first; integers are fine (token ids for an embedding).
            return_convergence_delta: also return F(x) - sum(relevance) per sample; a list for a list of layers.
            attribute_to_layer_input: relevance of the layer's input instead of its output.
        """
        size = check_chunk("batch_size", batch_size)
        layers = self.resolved_layers(attribute_to_layer_input)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            relevances, got = self._propagated(forward, xs, size, verbose, wrt=layers)
            found = self.by_sample(forward, layers, relevances, got.counts)
            if not return_convergence_delta:
                return found
            many = found if isinstance(self.layer, list) else [found]
            deltas = [self.compute_convergence_delta(r, got.scores) for r in many]
            return found, deltas if isinstance(self.layer, list) else deltas[0]
