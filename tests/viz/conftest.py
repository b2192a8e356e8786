"""Small explanations to draw: real layouts, made-up numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib")

from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec

Make = Callable[..., Explanation]


@pytest.fixture
def make() -> Make:
    """Build an explanation of n images; keyword arguments replace fields."""

    def build(n: int = 2, channels: int = 3, size: tuple[int, int] = (12, 16), **fields: Any) -> Explanation:
        g = torch.Generator().manual_seed(0)
        inputs = torch.rand(n, channels, *size, generator=g)
        known: dict[str, Any] = {
            "attributions": torch.randn(n, channels, *size, generator=g),
            "inputs": inputs,
            "method": "integrated_gradients",
            "title": "Integrated Gradients",
            "target": tuple(range(n)),
            "target_label": tuple(f"label {i}" for i in range(n)),
            "prediction": tuple(range(n)),
            "prediction_label": tuple(f"label {i}" for i in range(n)),
            "probability": torch.full((n,), 0.391),
            "score": torch.full((n,), 5.0),
            "baseline_score": torch.full((n,), 1.0),
            "convergence_delta": torch.full((n,), 0.016),
            "spec": InputSpec(kind="image"),
        }
        return Explanation(**{**known, **fields})

    return build


@pytest.fixture(autouse=True)
def _no_pyplot_state() -> Iterator[None]:
    """Drawing leaves pyplot alone: no figure of ours is registered there."""
    from matplotlib import _pylab_helpers

    before = set(_pylab_helpers.Gcf.figs)
    yield
    assert set(_pylab_helpers.Gcf.figs) == before
