"""`dataset_examples` against brute force: items, values, places, crops, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import InputSpec, dataset_examples, visualize
from interp_plugins.core.errors import InputError, MissingFileError
from interp_plugins.optim import Examples, Visualization, objectives, scores


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


X = torch.rand(23, 3, 13, 13, generator=gen(1))
Y = torch.arange(23) % 3


def test_items_values_and_places_are_those_of_brute_force(net: nn.Module) -> None:
    spec = InputSpec("image", vocab=("a", "b", "c"))
    shuffled = DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True, drop_last=True)
    found = dataset_examples(net, shuffled, "2", k=4, bottom=2, spread=3, input_spec=spec)
    with torch.no_grad():
        a = net[:3](X)
    flat = a.flatten(2)
    for c in range(4):
        values, order = flat[:, c].amax(1).sort(descending=True, stable=True)
        assert found.index[c].tolist() == order[:4].tolist() and torch.allclose(found.value[c], values[:4])
        at = flat[order[:4], c].argmax(1)
        assert found.place[c].tolist() == [[int(i) // 4, int(i) % 4] for i in at]
        assert found.bottom is not None and found.bottom.index[c].tolist() == order.flip(0)[:2].tolist()
        assert found.spread is not None and found.spread.index[c].tolist() == order[[0, 11, 22]].tolist()
        assert torch.allclose(found.spread.value[c], values[[0, 11, 22]])
        assert found.spread.crops is not None and found.spread.label[c][1] == "abc"[int(order[11]) % 3]
        assert found.label[c] == tuple("abc"[i % 3] for i in order[:4].tolist())
        assert torch.allclose(found.quantiles[c, [0, 100]], values[[-1, 0]].double())
        assert abs(float(found.largest[c]) - float(flat[:, c].mean(1).max())) < 1e-6
    assert found.seen == 23 and int(found.counts.sum()) == 4 * 23 and found.names[3] == "2:3"


def test_crops_are_the_parts_that_the_unit_sees(net: nn.Module) -> None:
    found = dataset_examples(net, X, "2", channel=1, k=3, crop="field")
    assert found.crops is not None
    for r in range(3):
        top, left, bottom, right = found.box[0, r].tolist()
        row, column = found.place[0, r].tolist()
        # a 3 x 3 kernel behind one of stride 2 sees 7 x 7
        assert (bottom - top, right - left) == (7, 7)
        assert abs(top - 2 * row) <= 2 and abs(left - 2 * column) <= 2
        crop = X[found.index[0, r], :, top:bottom, left:right].movedim(0, -1)
        assert (found.crops[0, r] / 255 - crop).abs().max() <= 0.5 / 255 + 1e-6
    smaller = dataset_examples(net, X, "2", channel=1, k=3)
    assert bool((smaller.box[0, :, 2] - smaller.box[0, :, 0] <= 7).all())
    whole = dataset_examples(net, X, "2", channel=1, k=3, crop=None)
    assert whole.box[0, 0].tolist() == [0, 0, 13, 13]


def test_other_units_other_numbers(net: nn.Module) -> None:
    with torch.no_grad():
        a, out = net[:3](X), net(X)
    for found, want in (
        (dataset_examples(net, X, "2", channel=[2], reduce="mean", k=2), a[:, 2].mean((1, 2))),
        (dataset_examples(net, X, "2", neuron=(1, 0, 3), k=2), a[:, 1, 0, 3]),
        (dataset_examples(net, X, "2", direction=[0.0, 1, -1, 0], k=2), (a[:, 1] - a[:, 2]).amax((1, 2))),
        (dataset_examples(net, X, target=1, k=2), out[:, 1]),
        (dataset_examples(net, X, objective=-1 * objectives.channel("2", 0), k=2), -a[:, 0].mean((1, 2))),
        (dataset_examples(net, [X[:9], X[9:]], "4", channel=2, k=2), out[:, 2]),
    ):
        assert found.index[0].tolist() == want.argsort(descending=True)[:2].tolist()
        assert torch.allclose(found.value[0], want.sort(descending=True).values[:2], atol=1e-6)


def test_a_stream_is_read_once_and_few_items_are_few(net: nn.Module) -> None:
    found = dataset_examples(net, iter([(X[:2], Y[:2]), (X[2:3], Y[2:3])]), "2", channel=0, k=9)
    assert found.index.shape == (1, 3) and sorted(found.index[0].tolist()) == [0, 1, 2]
    some = dataset_examples(net, X, "2", channel=0, max_items=7)
    assert some.seen == 7 and int(some.index.max()) < 7
    same = dataset_examples(net, X[:1].expand(5, -1, -1, -1), "2", channel=0, k=3)
    assert same.index[0].tolist() == [0, 1, 2] and float(same.silent) == 1 and "1 the same for all" in repr(same)


def test_texts_tables_and_series() -> None:
    torch.manual_seed(0)
    embed = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 4))
    ids = torch.randint(0, 20, (15, 7), generator=gen())
    found = dataset_examples(embed, ids, "1", channel=2, k=2, input_spec=InputSpec("text"))
    with torch.no_grad():
        a = embed(ids)[..., 2]
    assert found.index[0, 0] == a.amax(1).argmax() and found.crops is None
    assert [int(t) for t in found.words[0][0][:7]] == ids[found.index[0, 0]].tolist()
    assert len(found.show()) == 2
    table = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    spec = InputSpec("tabular", feature_names=("age", "income", "hours"))
    rows = torch.randn(30, 3, generator=gen())
    one = dataset_examples(table, rows, "1", channel=1, k=2, input_spec=spec)
    assert set(one.words[0][0]) == {"age", "income", "hours"} and "age" in one.show()
    series = nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU())
    long = dataset_examples(series, torch.randn(9, 2, 40, generator=gen()), "1", channel=1, k=2, crop="field")
    assert (long.box[..., 1] - long.box[..., 0] == 5).all()


def test_bad_data_are_refused(net: nn.Module) -> None:
    bad = X.clone()
    bad[3] = torch.nan
    for data, asked, text in (
        (bad, {"channel": 1}, "NaN or infinite"),
        (X, {"channel": 9}, "4 channels"),
        (X, {"channel": 1, "k": 0}, "k must be an int from 1"),
        (X, {"channel": 1, "reduce": "most"}, "reduce must be"),
        (X, {"channel": 1, "crop": "big"}, "crop must be"),
        (X[:0], {"channel": 1}, "hold no item"),
    ):
        with pytest.raises(InputError, match=text):
            dataset_examples(net, data, "2", **asked)


def test_the_path_tells_a_picture_that_fools() -> None:
    base = torch.rand(12, 8, generator=gen())
    top = base[:1] + 0.2 * torch.rand(6, 8, generator=gen(1))
    others = torch.rand(8, 8, generator=gen(2))
    assert scores.path([top[:1]], [top], [others]) > 0.8
    assert scores.path([others[:1]], [top], [others]) < 0.4
    assert torch.isnan(torch.tensor(scores.path([top[:1]], [top[:1]], [others])))
    tied = scores.ranks(torch.tensor([[3.0, 1.0, 1.0]]))[0]
    assert tied[1] == tied[2] < tied[0]


def test_scores_put_a_picture_beside_the_data(net: nn.Module) -> None:
    found = visualize(net, "2", channel=[0, 3], data=(X, Y), steps=20, progress=False)
    assert list(found.scores) == ["ratio", "robust", "spectrum", "path"]
    assert found.examples is not None and found.reference is not None
    want = found.activation / found.examples.largest
    assert torch.allclose(found.scores["ratio"][want > 0], want[want > 0])
    alone = visualize(net, "2", channel=3, data=(X, Y), steps=20, progress=False)
    for name, values in found.scores.items():
        assert torch.allclose(values[1], alone.scores[name][0], atol=1e-4, equal_nan=True)
    white = torch.randn(4, 3, 32, 32, generator=gen())
    smooth = torch.nn.functional.avg_pool2d(white, 5, 1, 2)
    assert scores.spectrum(smooth, smooth).mean() < 0.5 < scores.spectrum(white, smooth).mean()


def test_results_are_kept_and_shown(net: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        net[2].weight[1], net[2].bias[1] = 0, 0
    found = visualize(net, "2", channel=[0, 1], data=(X, Y), steps=4, param="maco", snapshots=(2,), progress=False)
    assert found.state[1] == "dead"
    again = Visualization.load(found.save(tmp_path / "f.safetensors"))
    assert same(found, again) and repr(found) == repr(again)
    assert found.examples is not None
    kept = Examples.load(found.examples.save(tmp_path / "e.safetensors"))
    assert same(found.examples, kept)
    older = (tmp_path / "e.safetensors").read_bytes()
    begin = int.from_bytes(older[:8], "little")
    header = json.loads(older[8 : 8 + begin])
    about = json.loads(header["__metadata__"]["interp_plugins_features"])
    del about["facts"]["spread"]
    header["__metadata__"]["interp_plugins_features"] = json.dumps(about)
    made = json.dumps(header).encode()
    (tmp_path / "o.safetensors").write_bytes(len(made).to_bytes(8, "little") + made + older[8 + begin :])
    assert same(found.examples, Examples.load(tmp_path / "o.safetensors"))  # from before there was this field
    with pytest.raises(MissingFileError, match="No saved Examples"):
        Examples.load(tmp_path / "none")
    with pytest.raises(InputError, match="holds a Visualization"):
        Examples.load(tmp_path / "f.safetensors")
    axes = found.show().axes
    texts = [t.get_text() for ax in axes.flat for t in (*ax.texts, ax.title)]
    assert any("dead" in t for t in texts) and any("23 items" in t for t in texts)
    bare = visualize(net, "2", channel=0, like=X[:1], steps=2, progress=False)
    assert "without data" in bare.show().fig._suptitle.get_text()
    page = found.to_html(tmp_path / "p.html")
    html = Path(page.path if hasattr(page, "path") else page).read_text()
    assert "Dead, no gradient" in html and "data:image/jpeg" in html and "http" not in html.replace("http-equiv", "")
    layer = found.examples.to_html(tmp_path / "l.html")
    assert "same value for every item" in Path(layer.path if hasattr(layer, "path") else layer).read_text()
    assert found._repr_html_().startswith("<img") and len(found.to_df()) == 2 and len(found.examples.to_df()) == 18


def same(a: Any, b: Any) -> bool:
    """Whether two results hold the same."""
    if isinstance(a, Tensor):
        return torch.equal(a.nan_to_num(), b.nan_to_num()) and a.dtype == b.dtype
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return bool(a == b)
