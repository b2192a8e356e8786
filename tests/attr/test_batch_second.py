"""Layers whose tensors have the batch second are refused where rows would be mixed up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.attr import InternalInfluence, LayerGradientXActivation
from interp_plugins.core.errors import LayerError


class TimeFirst(nn.Module):
    """(N, T, C) in; the inner layer sees (T, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(0, 1)).sum((0, 2))


@pytest.fixture
def model() -> TimeFirst:
    torch.manual_seed(0)
    return TimeFirst().double()


def test_path_methods_refuse_a_batch_that_stands_second(model: TimeFirst) -> None:
    x = torch.randn(2, 8, 3, dtype=torch.float64)  # eight steps: a multiple of the two samples
    with pytest.raises(LayerError, match="first dimension is not the batch"):
        InternalInfluence(model, "inner").attribute(x, n_steps=4, internal_batch_size=2)


def test_samples_in_several_chunks_are_refused_likewise(model: TimeFirst) -> None:
    x = torch.randn(4, 8, 3, dtype=torch.float64)
    with pytest.raises(LayerError, match="explain one sample at a time"):
        LayerGradientXActivation(model, "inner").attribute(x, batch_size=2)


def test_one_row_at_a_time_works(model: TimeFirst) -> None:
    x = torch.randn(1, 8, 3, dtype=torch.float64)
    found = InternalInfluence(model, "inner").attribute(x, n_steps=4, internal_batch_size=1)
    # All eight rows of the layer are the one sample's.
    torch.testing.assert_close(found, torch.ones(1, 8, 1, 4, dtype=torch.float64))
