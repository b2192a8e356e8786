"""`Metric`, `Score`, `Scores` and the registry: what accumulates, what is told, what is refused."""

from __future__ import annotations

import inspect
import math
import pickle

import pytest
import torch

from interp_plugins import metrics as im
from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.explanation import Explanation
from interp_plugins.metrics import registry

MAPS = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MASKS = torch.rand(12, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5


def score(maps: torch.Tensor = MAPS, **params) -> im.Score:
    return im.metric("relevance_mass", **params).of(maps, masks=MASKS[: len(maps)])


def test_update_returns_the_functions_values_and_keeps_them() -> None:
    m = im.metric("relevance_mass", weighted=True)
    exp = Explanation(MAPS, MAPS, "some method")
    values = m.update(exp, masks=MASKS)
    assert torch.equal(values, im.relevance_mass(MAPS, MASKS, weighted=True))
    found = m.compute()
    assert torch.equal(found.values, values) and found.n == 12 and found.chance == 1.0
    assert found.params == {"weighted": True} and found.higher_is_better is True and found.kind == "localisation"
    assert set(found.versions) == {"interp_plugins", "torch"} and found.seconds > 0 and found.passes == 0
    assert "of 12 samples" in repr(m)


def test_merging_is_associative_and_commutative_and_counts_a_sample_once() -> None:
    parts = []
    for rows in (torch.arange(0, 5), torch.arange(3, 9), torch.arange(8, 12)):  # some samples come twice
        parts.append(im.metric("relevance_mass"))
        parts[-1].update(MAPS[rows], ids=rows, masks=MASKS[rows])
    a, b, c = parts
    whole = score()
    for merged in (a.merge(b, c), a.merge(b.merge(c)), c.merge(a).merge(b), b.merge(b, a, c, c)):
        found = merged.compute()
        assert torch.equal(found.values, whole.values) and found.ids == whole.ids and repr(found) == repr(whole)
    assert a.compute().n == 5  # merging leaves them


def test_a_state_is_plain_and_goes_on() -> None:
    m = im.metric("entropy")
    m.update(MAPS[:5])
    for other in (pickle.loads(pickle.dumps(m)), im.metric("entropy")):
        other.load_state_dict(m.state_dict())
        other.update(MAPS[5:])
        assert torch.equal(other.compute().values, im.entropy(MAPS)) and m.compute().n == 5
    numbered = im.metric("entropy").merge(m, m)
    assert numbered.compute().n == 10  # numbered samples are told apart by their place
    m.reset()
    with pytest.raises(InputError, match="entropy has judged nothing yet"):
        m.compute()


def test_a_score_says_what_was_found() -> None:
    maps = MAPS.clone()
    maps[2] = -1
    found = score(maps)
    defined = found.values[~found.values.isnan()]
    assert found.n == 12 and found.n_undefined == 1 and found.undefined == {"the map has no mass of this sign": 1}
    assert float(found) == pytest.approx(defined.mean().item()) and found.sd == pytest.approx(defined.std().item())
    assert found.median == pytest.approx(defined.median().item())
    low, high = found.ci()
    assert low < found.mean < high and found.ci(0.5)[0] > low and found.ci() == (low, high)
    assert repr(found).startswith(f"relevance_mass {found.mean:.3g} [{low:.3g}, {high:.3g}] n=12 undefined=1 (the map")
    assert repr(found).endswith(f"(chance {MASKS.double().mean():.3g})")
    table = found.to_df()
    assert list(table.columns) == ["sample", "relevance_mass", "undefined"] and len(table) == 12
    assert table["undefined"][2] == "the map has no mass of this sign" and "<table>" in found._repr_html_()


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    g = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(200):
        values = torch.randn(40, generator=g).double()
        low, high = im.Score("x", values, tuple(range(40))).ci(0.9, draws=300)
        hits += low <= 0 <= high
    assert 0.82 < hits / 200 < 0.96


def test_differences_are_paired_and_classes_have_scores() -> None:
    a, b = score(), score(sign="absolute")
    difference = a - b
    assert torch.equal(difference.values, a.values - b.values) and difference.chance == 0
    assert difference.name == "relevance_mass - relevance_mass"
    few = im.metric("relevance_mass")
    few.update(MAPS[3:5], ids=[3, 99], masks=MASKS[3:5])
    assert (a - few.compute()).ids == (3,)
    named = im.metric("relevance_mass").of(MAPS, ids=[f"s{i}" for i in range(12)], masks=MASKS)
    with pytest.raises(InputError, match="no sample in common"):
        a - named
    by = a.by(torch.arange(12) % 2)
    assert torch.equal(by[0].values, a.values[::2]) and torch.equal(by[1].values, a.values[1::2])
    with pytest.raises(InputError, match="3 labels for 12 samples"):
        a.by([1, 2, 3])


def test_a_table_of_scores_ranks_methods_where_there_is_a_direction(tmp_path) -> None:
    inside = MASKS[:, None].expand(-1, 3, -1, -1).float()
    maps = {"right": inside, "random, drawn": MAPS, "wrong": 1 - inside}
    names = ("relevance_mass", "mass_distance", "entropy")
    found = im.Scores(
        {
            (method, name): im.metric(name).of(one, **({} if name == "entropy" else {"masks": MASKS}))
            for method, one in maps.items()
            for name in names
        }
    )
    assert found.methods == list(maps) and found.metrics == list(names) and len(found) == 9
    ranks = found.ranks()
    assert [ranks[m, "relevance_mass"] for m in maps] == [ranks[m, "mass_distance"] for m in maps] == [1, 2, 3]
    assert ("right", "entropy") not in ranks
    text = found.to_csv(tmp_path / "scores.csv").read_text()
    assert text.count("\n") == 10 and '"random, drawn",relevance_mass,' in text
    assert len(found.to_df()) == 9 and found.to_html().count("<tr>") == 10
    assert repr(found).count("\n") == 8


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: im.metric("relevance_mas"), UnknownNameError, "Did you mean 'relevance_mass'"),
        (lambda: im.metric("top_k", kk=3), UnknownNameError, r"parameter of top_k 'kk'. Did you mean 'k'|Unknown par"),
        (lambda: im.list_metrics(kind="localization"), UnknownNameError, "Did you mean 'localisation'"),
        (lambda: im.list_metrics(needs="mask"), UnknownNameError, "Did you mean 'masks'"),
        (lambda: im.metric("relevance_mass").of(MAPS), InputError, "relevance_mass needs masks= beside the maps"),
        (lambda: im.metric("truth_error").of(MAPS), InputError, "truth_error needs truth= beside"),
        (lambda: im.metric("entropy").of(MAPS, masks=MASKS), UnknownNameError, "Unknown argument of entropy 'masks'"),
        (lambda: im.metric("entropy").of(MAPS, ids=[1, 2]), InputError, "2 ids for 12 samples"),
        (lambda: im.metric("entropy").of(MAPS[:2], ids=[1, 1]), InputError, "stands twice"),
        (lambda: im.metric("entropy").of(MAPS[:1], ids=[1.5]), InputError, "An id is an int or a text"),
        (lambda: im.metric("entropy").merge(im.metric("hoyer")), InputError, "are two metrics"),
        (lambda: im.entropy(MAPS, sign="plus"), UnknownNameError, "Unknown sign 'plus'"),
        (lambda: im.entropy(MAPS, reduce="mean"), UnknownNameError, "None judges element by element"),
        (lambda: im.mask_iou(MAPS, MASKS, threshold=1.0), InputError, 'threshold must be "best" or a quantile'),
        (lambda: im.top_k(MAPS, MASKS, k=17), InputError, "from 1 to the 16 elements"),
        (lambda: im.top_k(MAPS, MASKS, k=0), InputError, "got 0"),
        (lambda: im.mass_share(MAPS, q=0), InputError, r"q must be a share of the mass in \(0, 1\], got 0"),
        (lambda: im.support_size(MAPS, tol=1), InputError, "tol must be"),
        (lambda: im.truth_error(MAPS, MAPS, norm=3), InputError, "norm must be 1, 2"),
        (lambda: im.ssim(MAPS, MAPS), InputError, "A window of 7 does not fit maps of 4 x 4"),
        (lambda: im.ssim(MAPS, MAPS, window=4), InputError, "odd int"),
        (lambda: im.grid_pointing(MAPS, [4] * 12), InputError, "cells must be an int from 0 to 3"),
        (lambda: im.agreement_matrix([MAPS]), InputError, "two methods or more, got 1"),
        (lambda: im.agreement_matrix([MAPS, MAPS], "entropy"), InputError, "list_metrics"),
        (lambda: im.feature_agreement(MAPS, MAPS, ties="first"), UnknownNameError, "Unknown ties 'first'"),
        (lambda: score().ci(level=95), InputError, "level must be in"),
    ],
)
def test_what_is_refused(call, error, text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_a_sample_that_is_judged_twice_may_differ_by_rounding_and_no_order_tells() -> None:
    alone, beside = MAPS[2:3].float(), MAPS[2:3].float() * (1 + 1e-6 * torch.arange(MAPS[2].numel()).view_as(MAPS[2:3]))
    scores = []
    for first, second in ((alone, beside), (beside, alone)):
        m = im.metric("entropy")
        m.update(first, ids=[2])
        m.update(second, ids=[2])
        scores.append(m.compute().mean)
    assert scores[0] == scores[1] and im.metric("entropy").of(alone).mean != im.metric("entropy").of(beside).mean


def test_a_sample_has_one_value_and_ids_in_all_updates_or_none() -> None:
    m = im.metric("entropy")
    m.update(MAPS[:2], ids=[0, 1])
    m.update(MAPS[1:3], ids=[1, 2])  # a sampler that pads repeats samples
    assert m.compute().n == 3
    with pytest.raises(InputError, match="Sample 2 has two values"):
        m.update(MAPS[5:6], ids=[2])
    with pytest.raises(InputError, match="Give ids in every update or in none"):
        m.update(MAPS[5:6])


def test_a_metric_of_ones_own_is_one_function(monkeypatch) -> None:
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))

    @im.register_metric(
        "largest",
        kind="complexity",
        needs="maps",
        higher_is_better=None,
        scale_invariant=False,
        reference="-",
        says="-",
    )
    def largest(attributions):
        return attributions.flatten(1).amax(1).double()

    assert "largest" in im.list_metrics(kind="complexity")
    assert torch.equal(im.metric("largest").of(MAPS).values, MAPS.flatten(1).amax(1).double())
    with pytest.raises(ValueError, match="already belongs to the metric"):
        im.register_metric("entropy", kind="complexity", needs="maps", higher_is_better=None, reference="-", says="-")(
            largest
        )


def test_an_agreement_matrix_is_symmetric_with_ones_and_skips_what_is_undefined() -> None:
    other = torch.randn(MAPS.shape, generator=torch.Generator().manual_seed(4))
    other[3] = 0
    found = im.agreement_matrix([MAPS, other, -MAPS])
    assert torch.equal(found, found.T) and found[0, 2].item() == pytest.approx(-1)
    assert found[0, 1].item() == pytest.approx(im.spearman_correlation(MAPS, other).nanmean().item())
    assert math.isclose(im.agreement_matrix([MAPS, other], im.ssim, window=3)[0, 0].item(), 1)


CAPTUMS = {"sensitivity_max", "infidelity"}  # under these names stand functions with Captum's arguments


@pytest.mark.parametrize("name", im.list_metrics())
def test_every_metric_says_all_of_itself(name: str) -> None:
    info = im.metric_info(name)
    assert (getattr(im, name) is info.function or name in CAPTUMS) and info.reference and info.says and info.chance_text
    assert "Example:" in (inspect.getdoc(info.function) or "")
