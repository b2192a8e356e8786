"""`methods()`: which methods there are and what each costs, gives and is worth, as a table to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from html import escape
from typing import overload

from interp_plugins.api.binding import list_methods, method_info
from interp_plugins.attr.evidence.cards import card
from interp_plugins.attr.evidence.randomised import LIMIT, verdict


@dataclass(frozen=True)
class MethodCard:
    """What is known of a method.

    Attributes:
        name: what `explain` takes.
        title: the name for people.
        also: other names, case-insensitive.
        needs: "gradient", "perturbation" or "forward": what is asked of the model.
        site: "input", "layer" or "neuron": what the map is over.
        layer: whether it reads a layer of the model, which is found where none is named.
        data: "any", "image" or "transformer": what it is for.
        cost: forward and backward passes per sample; n is `n_steps` or `n_samples`, d the number of features or
            windows, c of channels.
        signed: whether its maps tell what raises the score from what lowers it; else they say how much alone.
        axioms: what holds for every model.
        assumes: what has to be true for the map to mean what it says.
        trust: what the randomisation check found: "passes", "fails" or "not checked" (docs/methods.md has the numbers).
        source: paper or other source.
    """

    name: str
    title: str
    also: tuple[str, ...]
    needs: str
    site: str
    layer: bool
    data: str
    cost: str
    signed: bool
    axioms: tuple[str, ...]
    assumes: str
    trust: str
    source: str

    @classmethod
    def of(cls, name: str) -> MethodCard:
        """The card of a method, by any of its names. Raises UnknownNameError with the nearest one."""
        info = method_info(name)
        plain, found = card(info.name), verdict(info.name)
        trust = "not checked" if found is None else "fails" if found.fails else "passes"
        reads = info.site == "layer" or "layer" in info.constructor_takes
        return cls(
            info.name, info.title, info.aliases, info.needs, info.site, reads, info.applies_to, plain.cost,
            not info.traits.unsigned, plain.axioms, plain.assumes, trust, info.reference,
        )  # fmt: skip

    def __str__(self) -> str:
        texts = [(field.name, _text(value)) for field, value in zip(fields(self), astuple(self), strict=True)]
        lines = [f"{name:8} {text}" for name, text in texts if text]
        if self.trust == "fails":
            lines.append(f"{'':8} its maps barely notice that the upper half of a network is random (over {LIMIT})")
        return "\n".join(lines)


class MethodCards(Sequence[MethodCard]):
    """Cards of methods; a table in a terminal and in a notebook. `table["gradcam"]` is a card."""

    def __init__(self, cards: Sequence[MethodCard]):
        self.cards = tuple(cards)

    @overload
    def __getitem__(self, key: int | str) -> MethodCard: ...

    @overload
    def __getitem__(self, key: slice) -> MethodCards: ...

    def __getitem__(self, key: int | str | slice) -> MethodCard | MethodCards:
        """A card by number or by any name of the method, or several by a slice."""
        if isinstance(key, str):
            return MethodCard.of(key)
        return MethodCards(self.cards[key]) if isinstance(key, slice) else self.cards[key]

    def __len__(self) -> int:
        return len(self.cards)

    def __repr__(self) -> str:
        rows = [_COLUMNS, *map(_row, self.cards)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_COLUMNS))]
        return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(text)}</th>" for text in _COLUMNS)
        rows = ["".join(f'<td style="text-align:left">{escape(text)}</td>' for text in _row(one)) for one in self.cards]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_COLUMNS = ("name", "over", "layer", "needs", "for", "passes per sample", "sign", "randomised")


def _row(one: MethodCard) -> tuple[str, ...]:
    data = {"any": "any input", "image": "pictures", "transformer": "transformers"}[one.data]
    return (
        one.name,
        one.site,
        "yes" if one.layer else "",
        one.needs,
        data,
        one.cost,
        "+ -" if one.signed else "+",
        one.trust,
    )


def _text(value: object) -> str:
    """A value of a card in words; "" for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def methods(needs: str | None = None, site: str | None = None, variants: bool = False) -> MethodCards:
    """The methods, with what each costs, gives and is worth.

    Args:
        needs: only methods that need "gradient", "perturbation" or "forward".
        site: only methods over the "input", a "layer" or a "neuron"; None: all.
        variants: also methods that are another one at a layer or for a neuron (`layer_integrated_gradients`).

    Returns:
        Cards that show themselves as a table; `methods()["gradcam"]` prints all that is known of one.

    Raises:
        UnknownNameError: for another `needs` or `site`.

    Example:
        table = methods(needs="perturbation")
        print(table["occlusion"])
    """
    names = list_methods(needs=needs, site=site)
    return MethodCards([MethodCard.of(name) for name in names if variants or method_info(name).variant_of is None])
