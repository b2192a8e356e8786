"""What is held after a call: no model in a circle of references, no thread of a bar; and what can be pickled."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins import explain
from interp_plugins.api.binding import method_info
from tests.conformance.cases import AROUND, VARIANTS, Cnn, TinyVit, attribute, innermost, make, typical


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore:.* met no rectifier")
def test_a_model_goes_with_its_last_name(variant: str) -> None:
    """At once, without the collector: on a GPU its memory would be missing until then."""
    problem = typical(variant).build()
    attribute(variant, problem)  # what is imported and made once for all
    problem = typical(variant).build()
    gc.collect()
    gc.disable()
    try:
        attribute(variant, problem)
        gone = weakref.ref(problem.model)
        del problem
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("method", ["saliency", "ig", "gradcam", "occlusion", "lime", "deep_lift", "noise_tunnel"])
def test_a_model_goes_after_explain(method: str) -> None:
    net: Any = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(1, 1, 8, 8)
    explain(net, x, method, target=1)
    gc.collect()
    gc.disable()
    try:
        exps = explain(net, x, method, target=1)
        gone = weakref.ref(net)
        net = None
        assert gone() is None and exps[0].attributions.shape[0] == 1
    finally:
        gc.enable()


def test_no_bar_and_no_thread_where_progress_is_off() -> None:
    before = set(threading.enumerate())
    explain(nn.Linear(4, 3), torch.randn(2, 4), ["ig", "lime", "occlusion"], target=1, progress=False)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_method_can_be_pickled(variant: str) -> None:
    problem = typical(variant).build()
    model = problem.model
    assert isinstance(model, (Cnn, TinyVit))
    method = make(variant, problem)
    again = pickle.loads(pickle.dumps(method))
    assert type(again) is type(method)
    inner = again.attribution_method if variant.partition("/")[0] in AROUND else again
    assert type(inner).__name__ == method_info(innermost(variant)).cls.__name__
    assert type(inner.forward_func) is type(model)


def test_an_explanation_can_be_pickled() -> None:
    exps = explain(nn.Linear(4, 3), torch.randn(2, 4), ["ig", "lime"], target=1)
    again = pickle.loads(pickle.dumps(exps))
    assert torch.equal(again["lime"].attributions, exps["lime"].attributions)
    assert again[0].target_label == exps[0].target_label
