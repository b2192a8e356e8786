"""Every argument of every public `attribute` is described once where it is meant, and shown wherever it is taken."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import interp_plugins.attr as attr
from interp_plugins.attr.shared.arguments import args_from, described

CLASSES = sorted(
    name
    for name in vars(attr)["__all__"]
    if inspect.isclass(getattr(attr, name)) and inspect.isfunction(getattr(getattr(attr, name), "attribute", None))
)


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_is_described_and_nothing_else(name: str) -> None:
    function = getattr(attr, name).attribute
    taken = [p for p in inspect.signature(function).parameters if p != "self"]
    entries = described(function.__doc__)
    assert list(entries) == taken  # also in their order
    assert all(len(text.split()) > 2 for text in entries.values())


def test_all_methods_are_looked_at() -> None:
    assert len(CLASSES) > 60


def plain(self: Any, inputs: Any, depth: int = 2, rate: float = 1.0) -> None:
    """The plain method.

    Args:
        inputs: what is explained.
        depth: how deep,
            in layers.
        rate: how fast.

    Returns:
        Nothing.
    """


def test_what_a_docstring_lacks_is_filled_in_the_order_of_the_parameters() -> None:
    @args_from(plain)
    def variant(self: Any, inputs: Any, target: Any, depth: int = 2, *, rate: float = 1.0, **kwargs: Any) -> None:
        """A variant.

        With a remark.

        Args:
            rate: how slow.
            **kwargs: for the inner method.

        Raises:
            ValueError: never.
        """

    assert variant.__doc__ == (
        "A variant.\n\nWith a remark.\n\nArgs:\n    inputs: what is explained.\n"
        "    target: see `core.target.as_target`.\n    depth: how deep,\n        in layers.\n    rate: how slow.\n"
        "    **kwargs: for the inner method.\n\nRaises:\n    ValueError: never.\n"
    )


def test_a_line_alone_becomes_a_docstring_with_arguments() -> None:
    @args_from(plain)
    def variant(self: Any, depth: int, unheard_of: int) -> None:
        """A variant."""

    assert variant.__doc__ == "A variant.\n\nArgs:\n    depth: how deep,\n        in layers.\n"
    assert described(variant.__doc__) == {"depth": "    depth: how deep,\n        in layers."}
    assert described(None) == described("No arguments.") == {}
