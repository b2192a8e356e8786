"""Our metrics as torchmetrics has them: states, collections, copies, steps; two processes are in test_evaluate."""

import copy
import pickle

import pytest
import torch

from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.metrics import as_torchmetric, metric

torchmetrics = pytest.importorskip("torchmetrics")
MAPS = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MASKS = torch.rand(6, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5


def test_the_mean_is_that_of_the_score():
    given = as_torchmetric("entropy", relative=True)
    for part in MAPS.split(2):
        given.update(part)
    assert float(given.compute()) == pytest.approx(metric("entropy", relative=True).of(MAPS).mean, abs=1e-12)
    given.reset()
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(InputError, match="judged nothing"):
        given.compute()


def test_a_sample_that_comes_twice_counts_once_and_undefined_ones_do_not():
    given = as_torchmetric(metric("relevance_mass"))
    maps = MAPS.clone()
    maps[4] = 0.0
    for numbers in ([0, 1, 2], [3, 4, 5], [5, 0]):
        given.update(maps[numbers], masks=MASKS[numbers], ids=[f"picture {i}" for i in numbers])
    expected = metric("relevance_mass").of(maps, masks=MASKS)
    assert expected.n_undefined == 1 and float(given.compute()) == pytest.approx(expected.mean, abs=1e-12)
    assert given.higher_is_better is True
    given.update(MAPS[[1]], masks=~MASKS[[1]], ids=["picture 1"])
    with pytest.raises(InputError, match="two values"):
        given.compute()


def test_steps_copies_and_collections():
    given = as_torchmetric("gini_index")
    step = given(MAPS[:2])
    assert float(step) == pytest.approx(metric("gini_index").of(MAPS[:2]).mean)
    given(MAPS[2:])
    whole = metric("gini_index").of(MAPS).mean
    assert float(given.compute()) == pytest.approx(whole, abs=1e-12)
    for other in (copy.deepcopy(given), pickle.loads(pickle.dumps(given)), given.clone()):
        assert float(other.compute()) == float(given.compute())
    both = torchmetrics.MetricCollection(
        {"gini": as_torchmetric("gini_index"), "size": as_torchmetric("effective_size")}
    )
    both.update(MAPS)
    assert float(both.compute()["gini"]) == pytest.approx(whole, abs=1e-12) and float(both.compute()["size"]) > 1


def test_what_is_wrong_is_said():
    with pytest.raises(UnknownNameError, match="gini_index"):
        as_torchmetric("gini_indx")
    with pytest.raises(UnknownNameError, match="parameter of entropy"):
        as_torchmetric("entropy", relativ=True)
    with pytest.raises(InputError, match="compares all samples of a data set"):
        as_torchmetric("consistency_classes")
    with pytest.raises(InputError, match="needs masks="):
        as_torchmetric("relevance_mass").update(MAPS)
