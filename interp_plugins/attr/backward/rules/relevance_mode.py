"""Relevance propagation through a model: each call gets the rule that a composite names for it."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.attr.backward.rules.call import OpCall, Rule, call_behind, ruled
from interp_plugins.attr.backward.rules.composites import Composite, kind_of
from interp_plugins.attr.backward.rules.decompose import ATTENTION
from interp_plugins.attr.backward.rules.mode import RuleMode
from interp_plugins.attr.backward.rules.names import MOVES, PLAIN, PRODUCTS, WEIGHTED
from interp_plugins.attr.backward.rules.reach import NONLINEAR
from interp_plugins.attr.backward.rules.reach import WEIGHTED as WEIGHTED_NODES
from interp_plugins.attr.backward.rules.recurrent import RECURRENT
from interp_plugins.attr.backward.rules.relevance import (
    HAS_WEIGHTS,
    Account,
    Epsilon,
    FixedScale,
    Gamma,
    Pass,
    PositiveWeights,
    RelevanceRule,
)
from interp_plugins.core.errors import InputTypeError
from interp_plugins.core.tensors import describe

_GATES = ("sigmoid", "hardsigmoid", "softmax")
_FAR = 12  # steps between a gate and the product it is used in: views, a cast, 1 - z
_ROOTS, _SPREADS = {"rsqrt", "sqrt", "pow", "std", "norm"}, {"mean", "var", "std", "norm"}
_BETWEEN = _ROOTS | _SPREADS | {"reciprocal", "add", "clamp"}  # calls that make a scale of a spread


def rule_of(module: nn.Module) -> RelevanceRule | None:
    """The rule that a user hung on a module: one of ours, or one of Captum's (known by class name and values).

    Raises:
        InputTypeError: something else.
    """
    given = getattr(module, "rule", None)
    if given is None or isinstance(given, RelevanceRule):
        return given
    names = [c.__name__ for c in type(given).__mro__]
    zero_bias = bool(getattr(given, "set_bias_to_zero", False))
    eps = float(getattr(given, "STABILITY_FACTOR", 1e-9))
    if "IdentityRule" in names:
        return Pass()
    if "EpsilonRule" in names:
        return Epsilon(eps)
    if "GammaRule" in names:
        return Gamma(float(given.gamma), eps, zero_bias, signed=False)
    if "Alpha1_Beta0_Rule" in names:
        return PositiveWeights(eps, zero_bias)
    if isinstance(given, (str, int, float)) or "PropagationRule" in names:
        raise InputTypeError(
            f"Please select propagation rules inherited from class PropagationRule for module: {module}; got "
            f"{describe(given)}."
        )
    return None


class RelevanceMode(RuleMode):
    """Rules for relevance: everything that does more than move numbers gets one.

    Args:
        composite: which rule holds where.
        running: the modules that are running now, innermost last (see `modules.followed`).
        account: where absorbed relevance is written down, if asked for.
        said: the rules applied so far, as text, if asked for.
    """

    title, belongs = "LRP", NONLINEAR | WEIGHTED_NODES
    decompositions = {**ATTENTION, **RECURRENT}
    ignored = PLAIN | MOVES

    def __init__(
        self,
        composite: Composite,
        running: Sequence[tuple[str, nn.Module]] = (),
        account: Account | None = None,
        said: list[str] | None = None,
    ):
        super().__init__()
        self.composite, self.running, self.account, self.said = composite, running, account, said
        self.first_done = False

    def begin(self) -> None:
        """No layer was met yet."""
        self.first_done = False

    def choose(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], carrying: list[Tensor]) -> Rule | None:
        """The composite's rule for the call."""
        count = len(self._signals(name, carrying))
        rule: RelevanceRule | None = self._by_module(name)
        weighted = name in WEIGHTED or (name in HAS_WEIGHTS and kind_of(name, count) == "linear")
        if weighted and not self.first_done:
            self.first_done = True
            rule = rule or self.composite.first
        return rule or self.composite.rule(name, count)

    def _by_module(self, name: str) -> RelevanceRule | None:
        """A rule for the innermost module, or, for calls with weights, for one around it."""
        for depth, (path, module) in enumerate(reversed(self.running)):
            if depth and name not in HAS_WEIGHTS:
                return None
            found = rule_of(module)
            found = found or next((r for p, r in self.composite.names.items() if fnmatchcase(path, p)), None)
            found = found or next((r for t, r in self.composite.types.items() if isinstance(module, t)), None)
            if found is not None:
                return found
        return None

    def _signals(self, name: str, carrying: list[Tensor]) -> list[Tensor]:
        """The operands of a product without its gates and scales, unless all of them or none are.

        A normalization that is written out, as RMSNorm is in language models, gets the rule of `rms_norm`.
        """
        if len(carrying) < 2 or name not in PRODUCTS | {"div"}:
            return carrying
        gates = self.composite.constant_gates and name in PRODUCTS
        scales = name in ("mul", "div") and isinstance(self.composite.kinds.get("normalization"), FixedScale)
        signals = [t for t in carrying if not (gates and is_gate(t)) and not (scales and is_scale(t))]
        return signals if signals else carrying

    def operands(self, name: str, leaves: list[Any], where: list[int]) -> list[int]:
        """The signals; gates are constants."""
        kept = {id(t) for t in self._signals(name, [leaves[i] for i in where])}
        return [i for i in where if id(leaves[i]) in kept]

    def made(self, call: OpCall, seen: Any) -> Any:
        """Run the call, with its batch norm merged where the composite says so."""
        call.account = self.account
        if call.name == "batch_norm" and self.composite.merge_batch_norm:
            call = merged(call) or call
            call.account = self.account
        if self.said is not None:
            path, module = self.running[-1] if self.running else ("", None)
            place = f" in {path or 'the model'} ({type(module).__name__})" if module is not None else ""
            self.said.append(f"Applied {call.rule} on {call.name}{place}")
        return ruled(call)


def is_gate(value: Tensor) -> bool:
    """Whether a tensor is a sigmoid or a softmax, or one minus it, seen through views and casts."""
    node: Any = value.grad_fn
    for _ in range(_FAR):
        if node is None:
            return False
        call = getattr(node, "call", None)
        if isinstance(call, OpCall):
            if call.name in _GATES:
                return True
            if call.name != "rsub" and not (call.name == "sub" and len(call.where) == 1):
                return False
            node = call.operands[0].grad_fn
            continue
        before = [n for n, _ in node.next_functions if n is not None]
        if len(before) != 1:
            return False
        node = before[0]
    return False


def is_scale(value: Tensor) -> bool:
    """Whether a tensor is one over the root of a spread (of a mean of squares, of a variance), or that root."""
    node: Any = value.grad_fn
    seen: set[str] = set()
    for _ in range(_FAR):
        if node is None or (seen & _ROOTS and seen & _SPREADS):
            break
        call = getattr(node, "call", None)
        if isinstance(call, OpCall):
            if len(call.where) != 1 or call.name not in _BETWEEN:
                break
            seen.add(call.name)
            node = call.operands[0].grad_fn
            continue
        before = [n for n, _ in node.next_functions if n is not None]
        node = before[0] if len(before) == 1 else None
    return bool(seen & _ROOTS and seen & _SPREADS)


def merged(norm: OpCall) -> OpCall | None:
    """One call for a batch norm (with running statistics) and the layer whose output it takes; None if there is none.

    The layer must be what the norm's operand comes from directly, and its operand unchanged since.
    """
    layer = call_behind(norm.operands[0])
    if layer is None or layer.name not in WEIGHTED or len(layer.where) != 1 or len(norm.where) != 1:
        return None
    if layer.operands[0]._version != layer.versions[0]:
        return None
    args, kwargs = layer.arguments(layer.operands)
    given = {**dict(zip(("input", "weight", "bias"), args)), **kwargs}
    weight, bias = given["weight"], given.get("bias")
    groups = given.get("groups", args[6] if len(args) > 6 else 1)
    transposed = layer.name.startswith("conv_transpose")
    y = norm.xs[0]
    if (transposed and groups != 1) or (layer.name == "linear" and y.ndim != 2):
        return None
    # The norm is affine per channel: known by what it does to zero and to one.
    probe = torch.zeros(1, y.shape[1], *(1,) * (y.ndim - 2), dtype=y.dtype, device=y.device)
    offset, one = (norm.run([p])[0].reshape(-1) for p in (probe, probe + 1))
    along_outputs = [1] * weight.ndim
    along_outputs[1 if transposed else 0] = -1
    new_weight = weight * (one - offset).reshape(along_outputs)
    new_bias = offset if bias is None else offset + bias * (one - offset)
    rest = {k: v for k, v in kwargs.items() if k not in ("input", "weight", "bias")}
    leaves, tree = pytree.tree_flatten(((None, new_weight.detach(), new_bias.detach(), *args[3:]), rest))
    made = OpCall(layer.name, layer.func, leaves, tree, [0], layer.operands, layer.kept, layer.rule)
    made.value = norm.run()[0]
    return made
