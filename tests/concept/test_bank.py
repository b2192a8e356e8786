"""Concepts without labels: complete sums, order, stability, maps by any method, files, pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import InputSpec
from interp_plugins.concept import ConceptBank, concepts
from interp_plugins.concept.crops import boxes_of, segments_of
from interp_plugins.core.errors import InputError, LayerError, MissingFileError, SampleError

SPEC = InputSpec("image", vocab=("ant", "bee", "cat"))


def pooled() -> nn.Sequential:
    """A net whose head is linear in the layer "1"."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def deep() -> nn.Sequential:
    """A net whose head is not."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 100, 8), nn.Tanh(), nn.Linear(8, 3)
    ).eval()


def pictures(n: int = 10) -> Tensor:
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("crops", [True, False, "segments"])
@pytest.mark.parametrize("make", [pooled, deep])
def test_the_sum_is_complete(make: Any, crops: bool) -> None:
    net, x = make(), pictures()
    bank = concepts(net, x, target="bee", n_concepts=3, items="all", crops=crops, input_spec=SPEC)
    scores = net(x)[:, 1].detach()
    assert bank.linear == (make is pooled)
    for i in (0, 7):
        item = bank.explain(x[i : i + 1])
        assert abs(item.base + float(item.shares.sum()) + item.residual - float(scores[i])) < 1e-5
        assert abs(item.error) < 1e-5 and item.score == pytest.approx(float(scores[i]), abs=1e-6)
    assert bank.base + float(bank.shares.sum()) + bank.residual == pytest.approx(float(scores.mean()), abs=1e-5)
    assert list(bank.importance.abs()) == sorted(bank.importance.abs(), reverse=True)


def test_shares_of_a_linear_head_are_weight_along_atom_times_amount() -> None:
    net, x = pooled(), pictures()
    bank = concepts(net, x, target=2, n_concepts=3, items="all")
    item, weight = bank.explain(x[:1]), net[4].weight[2].detach()
    assert torch.allclose(item.shares.float(), item.maps.mean((1, 2)) * (bank.atoms @ weight), atol=1e-6)


def test_a_concept_that_the_class_does_not_use_has_importance_zero() -> None:
    net = pooled()
    with torch.no_grad():  # channels 0 to 3 from red, 4 to 7 from blue; class 1 reads red alone
        net[0].weight.zero_()
        net[0].weight[:4, 0].uniform_(0, 1)
        net[0].weight[4:, 2].uniform_(0, 1)
        net[0].bias.zero_()
        net[4].weight[1, 4:] = 0
    x = torch.zeros(8, 3, 12, 12)
    x[:4, 0], x[4:, 2] = torch.rand(4, 12, 12), torch.rand(4, 12, 12)
    bank = concepts(net, x, target=1, n_concepts=2, items="all")
    assert float(bank.importance[1]) == 0.0 and float(bank.importance[0]) != 0


def test_the_order_and_the_batches_of_items_change_nothing() -> None:
    net, x = pooled().double(), pictures().double()
    order = torch.randperm(10)
    data = TensorDataset(x, torch.zeros(10, dtype=torch.long))
    whole = concepts(net, x, target=1, n_concepts=3, items="all")
    others = [
        concepts(net, x[order], target=1, n_concepts=3, items="all"),
        concepts(net, data, target=1, n_concepts=3, items="all"),
        concepts(net, (x, torch.arange(10) % 2), target=1, n_concepts=3, items="all"),
        concepts(net, DataLoader(data, batch_size=3), target=1, n_concepts=3, items="all"),
        concepts(net, DataLoader(data, batch_size=4, shuffle=True), target=1, n_concepts=3, items="all"),
    ]
    for one in others:
        assert torch.allclose(one.atoms, whole.atoms, atol=1e-8)
        assert torch.allclose(one.importance, whole.importance, atol=1e-8)


def test_only_items_of_the_class_count_and_a_class_that_is_never_said_is_refused() -> None:
    net, x = pooled(), pictures()
    said = net(x).argmax(1)
    c = int(said[0])
    bank = concepts(net, x, target=c, n_concepts=2)
    assert bank.facts["items"] == int((said == c).sum())
    assert {crop.item for row in bank.crops for crop in row} <= set((said == c).nonzero().flatten().tolist())
    with torch.no_grad():
        net[4].bias[(c + 1) % 3] -= 100
    with pytest.raises(InputError, match="None of 10 items is one that the model calls"):
        concepts(net, x, target=(c + 1) % 3, n_concepts=2)
    assert concepts(net, x, target=c, n_concepts=2, items=[1, 4]).facts["items"] == 2


def test_any_method_explains_a_concept() -> None:
    net, x = pooled().double(), pictures().double()
    bank = concepts(net, x, target=1, n_concepts=3, items="all")
    for method in ("ig", "occlusion", "saliency"):
        found = bank.explain(x[:1], method, concept=1)[0]
        assert found.attribution.shape == x[:1].shape and found.target_label[0] == "concept 1"
    amount = bank.explain(x[:1]).maps[1].mean()
    assert float(bank.explain(x[:1], "ig", concept=1)[0].score[0]) == pytest.approx(float(amount), abs=1e-6)


def test_the_model_the_generators_and_the_mode_stay() -> None:
    net, x = nn.Sequential(pooled()[0], nn.BatchNorm2d(8), *pooled()[1:]).train(), pictures()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    loader = DataLoader(TensorDataset(x, torch.zeros(10)), batch_size=4, shuffle=True)
    concepts(net, loader, target=1, n_concepts=2, items="all")
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_names_stability_and_labels_are_told() -> None:
    net, x = pooled(), pictures(24)
    x[:12, 0] = 0
    labels = (torch.arange(24) >= 12).long()
    data = DataLoader(TensorDataset(x, labels), batch_size=8)
    bank = concepts(net, data, target=1, n_concepts=2, items="all", input_spec=SPEC).name(0, "red")
    assert bank.label(0) == "red" and bank.label(1) == "concept 1" and "red" in repr(bank)
    assert any(s is not None and s.startswith("mostly") for s in bank.suggested)
    told = bank.test(0)
    assert len(told["seeds"]) == 4 and -1 <= told["halves"] <= 1 and told["stable"] == bank.is_stable(0)
    assert "hold" in repr(bank) and "stable" in repr(bank) and len(bank.to_df()) == 2
    with pytest.raises(SampleError, match="no concept 2"):
        bank.name(2, "x")


def test_concepts_come_back_from_their_file(tmp_path: Path) -> None:
    net, x = pooled(), pictures()
    bank = concepts(net, x, target="bee", n_concepts=2, items="all", input_spec=SPEC).name(1, "blue")
    path = bank.save(tmp_path / "bank.safetensors")
    alone, again = ConceptBank.load(path), ConceptBank.load(path, net, "bee")
    assert repr(alone) == repr(bank) and alone.label(1) == "blue" and alone.crops == bank.crops
    assert torch.equal(again.explain(x[:1]).shares, bank.explain(x[:1]).shares)
    assert all((a == b).all() for p, q in zip(alone.pictures, bank.pictures) for (a, _), (b, _) in zip(p, q))
    with pytest.raises(InputError, match="loaded without their model"):
        alone.explain(x[:1])
    (tmp_path / "no.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="not a file written by"):
        ConceptBank.load(tmp_path / "no.safetensors")
    with pytest.raises(MissingFileError):
        ConceptBank.load(tmp_path / "nothing")


def test_pictures_and_a_page_that_loads_nothing(tmp_path: Path) -> None:
    net, x = pooled(), pictures()
    bank = concepts(net, x, target=1, n_concepts=2, items="all").name(0, "<b>")
    assert len(bank.show().axes) == 2 and bank.explain(x[:1]).show().axes.shape == (1, 3)
    page = bank.to_html(tmp_path / "concepts.html", items=[x[:1]])
    text = Path(page).read_text(encoding="utf-8")
    assert "<b>" not in text and "&lt;b&gt;" in text and "http" not in text.replace("http-equiv", "")
    assert "2 concepts that the model goes by for" in text and "Most important: " in text and "ConceptBank(" not in text


def test_rows_of_a_table_have_concepts_at_a_named_layer() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2)).eval(), torch.randn(40, 5)
    bank = concepts(net, x, target=1, n_concepts=3, items="all", layer="1")
    item = bank.explain(x[:1])
    assert bank.linear and abs(item.base + float(item.shares.sum()) + item.residual - item.score) < 1e-5
    with pytest.raises(InputError, match="not of pictures"):
        bank.show()
    with pytest.raises(LayerError):
        concepts(net, x, target=1, n_concepts=3, items="all")


def test_signed_layers_are_seen() -> None:
    net = pooled()
    net[1] = nn.GELU()
    bank = concepts(net, 4 * pictures() - 2, target=1, n_concepts=3, items="all")
    assert bank.signed and "semi-NMF" in repr(bank)


def test_segments_cover_the_picture_and_show_nothing_else() -> None:
    x = torch.zeros(1, 3, 24, 24)
    x[0, 0, 4:12, 4:12] = 1
    x[0, 2, 14:20, 10:22] = 1
    count = torch.zeros(24, 24, dtype=torch.long)
    for part in segments_of(x[0]):
        top, left, bottom, right = part.box
        count[top:bottom, left:right] += part.mask
        cut, whole = part.of(x), x[0, :, top:bottom, left:right]
        assert cut.shape[2:] == part.mask.shape and torch.equal(cut[0, :, part.mask], whole[:, part.mask])
        assert torch.allclose(cut[0, :, ~part.mask], x.mean((2, 3)).T.expand(3, int((~part.mask).sum())))
    assert bool((count == 1).all())


def test_concepts_of_segments_are_saved_with_their_boxes(tmp_path: Any, monkeypatch: Any) -> None:
    net, x = pooled(), pictures(6)
    bank = concepts(net, x, target=1, n_concepts=2, items="all", crops="segments")
    assert "segments)" in repr(bank) and bank.show().fig is not None
    back = ConceptBank.load(bank.save(tmp_path / "b.safetensors"), net)
    assert back.crops == bank.crops and repr(back) == repr(bank)
    top, left, bottom, right = bank.crops[0][0].box or ()
    assert bank.pictures[0][0][0].shape[:2] == (bottom - top, right - left)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        concepts(net, x, target=1, n_concepts=2, items="all", crops="segments")


def test_crops_cover_the_picture() -> None:
    boxes = boxes_of((224, 224), 0.5)
    assert len(boxes) == 9 and boxes[0] == (0, 0, 112, 112) and boxes[-1] == (112, 112, 224, 224)
    assert boxes_of((10, 20), 1.0) == [(0, 0, 10, 20)]
    seen = torch.zeros(31, 17)
    for top, left, bottom, right in boxes_of((31, 17), 0.3):
        seen[top:bottom, left:right] = 1
    assert bool(seen.all())


def test_wrong_questions_are_refused() -> None:
    net, x = pooled(), pictures()
    for options, said in (
        ({"crops": 2}, "crops must be"),
        ({"n_concepts": 0}, "n_concepts must"),
        ({"most": 0}, "most must"),
    ):
        with pytest.raises(InputError, match=said):
            concepts(net, x, target=1, items="all", **{"n_concepts": 2, **options})
    bank = concepts(net, x, target=1, n_concepts=2, items="all")
    for call, said in (
        (lambda: bank.explain(x[:2]), "takes one item"),
        (lambda: bank.explain(x[:1], "ig"), "Say which concept"),
        (lambda: bank.explain(x[:1], concept=1), "belong to a method"),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_a_tuple_is_inputs_and_labels_as_everywhere() -> None:
    net, x = pooled(), pictures()
    with pytest.raises(InputError, match=r"inputs, labels.*\(\(a, b\), labels\)"):
        concepts(net, (x, x, x), target=1, n_concepts=2)
    with pytest.raises(InputError, match="10 inputs and 3 labels"):
        concepts(net, (x, torch.zeros(3)), target=1, n_concepts=2)
