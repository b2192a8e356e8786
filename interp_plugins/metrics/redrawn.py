"""Weights drawn anew: the stages of a model from its output down, and random tensors in the place of trained ones.

A tensor is drawn anew for what it is, a weight or a norm's statistics, not because its module has a method for it: so
class tokens, positions, the projections of attention and norms are drawn as well. What a tensor becomes depends on the
seed, the draw and its name alone, not on how layers are put together into stages.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.global_random import preserved_rng, seed_torch
from interp_plugins.core.hooks import hooked
from interp_plugins.core.layers import plain_name
from interp_plugins.core.other_weights import Held, held_by, is_drawable
from interp_plugins.metrics.again import Again

MODES = ("permute", "init", "normal")
ORDERS = ("top_down", "bottom_up", "independent")
STAGES = 5


@dataclass(frozen=True)
class Stage:
    """Layers that are drawn anew together.

    Attributes:
        name: the names of its modules, shortened.
        places: their weights and buffers.
    """

    name: str
    places: tuple[Held, ...]


def stages_of(again: Again, stages: Any = None) -> list[Stage]:
    """The stages, the one nearest the output first.

    Args:
        again: the model, which runs the samples once to see in which order its modules are called.
        stages: a number of stages, the first of which is the last layer alone, as even as they come; "all": each module
            with weights; or names of modules, one or several per stage, the first nearest the output; None: five.

    Raises:
        InputError: no weights, a number that is none, or a module without weights.
    """
    places = [p for p in held_by(again.func) if is_drawable(p)]
    if not places:
        raise InputError("The model has no weights to draw anew.")
    if stages is not None and stages != "all" and not isinstance(stages, int):
        return [_named(places, one) for one in stages]
    groups = _by_module(places, _called(again, places))[::-1]
    if stages == "all":
        return [_stage(one) for one in groups]
    count = STAGES if stages is None else stages
    if isinstance(count, bool) or count < 1:
        raise InputError(f"stages must be a positive int, 'all' or names of modules, got {stages!r}.")
    return [_stage([p for g in part for p in g]) for part in _shared_out(groups, min(count, len(groups)))]


def _shared_out(groups: list[list[Held]], count: int) -> list[list[list[Held]]]:
    """The last layer alone, then the rest in parts of about one size."""
    if count == 1:
        return [groups]
    rest = groups[1:]
    ends = [round(len(rest) * k / (count - 1)) for k in range(count)]
    return [groups[:1], *(rest[a:b] for a, b in itertools.pairwise(ends))]


def _called(again: Again, places: Sequence[Held]) -> dict[int, int]:
    """When each module is first called in a pass, by its id."""
    order: dict[int, int] = {}

    def note(module: nn.Module, args: Any) -> None:
        order.setdefault(id(module), len(order))

    with hooked() as hooks, torch.no_grad():
        for module in {id(p.module): p.module for p in places}.values():
            hooks.before(module, note)
        again.outputs()
    return order


def _by_module(places: Sequence[Held], order: dict[int, int]) -> list[list[Held]]:
    """Places by module, in the order of the calls; a module that is never called itself stands with the one before."""
    groups: dict[int, list[Held]] = {}
    for place in places:
        groups.setdefault(id(place.module), []).append(place)
    last = -1
    ranked: list[tuple[int, int, list[Held]]] = []
    for key, group in groups.items():
        last = order.get(key, last)
        ranked.append((last, len(ranked), group))
    return [group for _, _, group in sorted(ranked, key=lambda item: item[:2])]


def _stage(places: Sequence[Held]) -> Stage:
    names = list(dict.fromkeys(p.path.rpartition(".")[0] or p.path for p in places))
    text = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
    return Stage(text, tuple(places))


def _named(places: Sequence[Held], names: Any) -> Stage:
    """The stage of some modules, with all that lies in them."""
    many = (names,) if isinstance(names, str) else tuple(names)
    found: list[Held] = []
    for name in many:
        mine = [p for p in places if f"{plain_name(p.path)}.".startswith(f"{plain_name(name)}.") or name == ""]
        if not mine:
            raise unknown("module with weights", name, sorted({p.path.rpartition(".")[0] for p in places}))
        found += mine
    return Stage(", ".join(many), tuple(found))


def drawn_anew(
    places: Sequence[Held], mode: str, seed: int, draw: int, known: Mapping[int, Tensor] | None = None
) -> dict[int, Tensor]:
    """Random tensors in the place of others, by the id of the tensor that each replaces; tied ones once.

    Args:
        places: weights and buffers.
        mode: "permute": the tensor's own numbers in another order, so that their distribution stays; "init": what
            torch's initialiser of the module draws, "normal" where it has none; "normal": normal numbers of the
            tensor's own root mean square. Buffers are permuted in all modes.
        seed: of the draws.
        draw: number of the draw.
        known: what was drawn before, for other places: it stays, and is given again.

    Raises:
        UnknownNameError: another mode.
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    found: dict[int, Tensor] = dict(known or {})
    fresh: dict[int, dict[str, Tensor]] = {}
    for place in places:
        key = id(place.tensor)
        if key in found:
            continue
        own = place.tensor.detach()
        number = _number(seed, draw, place.path)
        if mode == "permute" or place.buffer:
            found[key] = _permuted(own, number)
            continue
        if mode == "init":
            if id(place.module) not in fresh:
                fresh[id(place.module)] = _initial(place.module, _number(seed, draw, place.path.rpartition(".")[0]))
            made = fresh[id(place.module)].get(place.name)
            if made is not None:
                found[key] = made
                continue
        generator = torch.Generator().manual_seed(number)
        spread = own.double().square().mean().sqrt().item()
        found[key] = (torch.randn(own.shape, generator=generator, dtype=torch.float64) * spread).to(own)
    return found


def _permuted(own: Tensor, number: int) -> Tensor:
    order = torch.randperm(own.numel(), generator=torch.Generator().manual_seed(number))
    return own.reshape(-1)[order.to(own.device)].reshape(own.shape)


def _initial(module: nn.Module, number: int) -> dict[str, Tensor]:
    """Weights as the module's own initialiser draws them; none where it has no initialiser."""
    reset = next((r for r in ("reset_parameters", "_reset_parameters") if hasattr(module, r)), None)
    if reset is None:
        return {}
    mine: Any = copy.copy(module)
    weights = {k: None if p is None else nn.Parameter(p.detach().clone()) for k, p in module._parameters.items()}
    mine.__dict__["_parameters"] = weights
    mine.__dict__["_buffers"] = {k: None if b is None else b.clone() for k, b in module._buffers.items()}
    with preserved_rng():
        seed_torch(number)
        getattr(mine, reset)()
    return {k: p.detach() for k, p in weights.items() if p is not None}


def _number(seed: int, draw: int, path: str) -> int:
    """A seed that the seed, the draw and a name decide on every machine."""
    text = f"{seed} {draw} {plain_name(path)}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
