"""Suspects: planted flips are found, whatever a loader does; model, data and random generators stay as they are."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, LayerError, UnknownNameError
from interp_plugins.core.spec import InputSpec
from interp_plugins.influence import Margins, Suspects, suspects

LOOK_ALIKE = torch.tensor([6, 7, 3, 5, 9, 3, 0, 9, 3, 4])


class Flipped(NamedTuple):
    net: nn.Module
    x: Tensor
    given: Tensor
    true: Tensor


def trained(
    net: nn.Module, x: Tensor, y: Tensor, loss: Any = nn.functional.cross_entropy, steps: int = 60
) -> nn.Module:
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(net(x), y).backward()
        optimiser.step()
    return net


@pytest.fixture(scope="module")
def digits() -> Flipped:
    """600 digits, 48 of them labelled as the digit that they look like, and a net trained on these labels."""
    data = load_digits()
    x, true = (
        torch.tensor(data.data[:600] / 16, dtype=torch.float32).view(-1, 1, 8, 8),
        torch.tensor(data.target[:600]),
    )
    at = torch.randperm(600, generator=torch.Generator().manual_seed(0))[:48]
    given = true.clone()
    given[at] = LOOK_ALIKE[true[at]]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 10))
    return Flipped(trained(net, x, given), x, given, true)


def same(a: Suspects, b: Suspects) -> bool:
    tensors = (
        (a.order, a.score, a.likely, *a.reasons.values(), a.outlier),
        (b.order, b.score, b.likely, *b.reasons.values(), b.outlier),
    )
    return all(torch.equal(s, t) for s, t in zip(*tensors, strict=True)) and a.suggested == b.suggested


def test_planted_flips_come_first(digits: Flipped) -> None:
    found = suspects(digits.net, (digits.x, digits.given))
    wrong = digits.given != digits.true
    loss = average_precision_score(wrong, found.reasons["loss"])
    score = average_precision_score(wrong, found.score)
    assert score > 0.95 and score > loss
    assert (found.likely & wrong).sum() >= 0.9 * found.likely.sum() and found.likely.sum() > 24
    top = found.order[:24]
    assert sum(found.suggested[r] == int(digits.true[r]) for r in top.tolist()) >= 22
    assert found.votes == ("knn", "head") and found.kind == "classes" and found.layer == "4"
    assert found.pred_probs is not None and torch.allclose(found.pred_probs.sum(1), torch.ones(600))


@pytest.mark.parametrize(
    "arranged",
    [
        lambda d: DataLoader(d, 7, shuffle=True, drop_last=True),
        lambda d: DataLoader(d, 200),
        lambda d: DataLoader(d, 33, num_workers=2),
        lambda d: d,
        lambda d: DataLoader(d, sampler=torch.utils.data.WeightedRandomSampler([1.0] * len(d), 10)),
    ],
    ids=["shuffled", "large batches", "workers", "data set", "weighted"],
)
def test_the_loader_does_not_matter(digits: Flipped, arranged: Callable[[Any], Any]) -> None:
    data = TensorDataset(digits.x[:150], digits.given[:150])
    assert same(suspects(digits.net, arranged(data)), suspects(digits.net, (digits.x[:150], digits.given[:150])))


def test_the_order_of_items_does_not_matter_but_for_the_last_bits(digits: Flipped) -> None:
    turned = torch.randperm(150, generator=torch.Generator().manual_seed(3))
    one = suspects(digits.net, (digits.x[:150], digits.given[:150]), by="knn")
    other = suspects(digits.net, (digits.x[:150][turned], digits.given[:150][turned]), by="knn")
    assert torch.allclose(one.reasons["knn"][turned], other.reasons["knn"], atol=1e-5)


def test_folds_are_decided_by_the_seed(digits: Flipped) -> None:
    data = (digits.x[:150], digits.given[:150])
    assert same(suspects(digits.net, data, seed=1), suspects(digits.net, data, seed=1))
    one, other = suspects(digits.net, data, seed=1), suspects(digits.net, data, seed=2)
    assert torch.equal(one.reasons["knn"], other.reasons["knn"])
    assert not torch.equal(one.reasons["head"], other.reasons["head"])


def test_a_subset_keeps_the_numbers_of_its_loader(digits: Flipped) -> None:
    data = TensorDataset(digits.x, digits.given)
    loader = DataLoader(data, 16, sampler=torch.utils.data.SubsetRandomSampler(range(100, 300)))
    assert suspects(digits.net, loader).items.tolist() == list(range(100, 300))
    assert suspects(digits.net, Subset(data, range(100, 300))).items.tolist() == list(range(200))


class Augmented(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i] + 0.1 * torch.randn(()) + 0.1 * random.random() + 0.1 * np.random.rand(), self.y[i]  # noqa: NPY002


def state() -> tuple[Any, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002


def alike(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[:2] == other[:2] and torch.equal(one[2], other[2])


def test_data_that_draw_draw_by_the_item_and_leave_the_generators(digits: Flipped) -> None:
    data = Augmented(digits.x[:200], digits.given[:200])
    before = state()
    one = suspects(digits.net, DataLoader(data, 16, shuffle=True))
    assert alike(before, state())
    torch.manual_seed(5)
    assert same(one, suspects(digits.net, DataLoader(data, 50, num_workers=2)))


class Failing(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 2:
            raise RuntimeError("broken")
        return self.net(x)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(digits: Flipped, fails: bool) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 10)).train()
    net[1].weight.requires_grad_(False)
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    before = state()
    model = Failing(net).train() if fails else net
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            suspects(model, (digits.x[:200], digits.given[:200]))
    else:
        suspects(model, (digits.x[:200], digits.given[:200]))
    assert alike(before, state())
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in weights.items())
    assert all(m.training for m in net.modules()) and not any(
        m._forward_hooks or m._forward_pre_hooks for m in net.modules()
    )
    assert [p.requires_grad for p in net.parameters()] == [False, *[True] * 5]
    assert all(p.grad is None for p in net.parameters())


def test_copies_are_told_and_leakage_is_warned_of(digits: Flipped) -> None:
    x, y = digits.x[:200].clone(), digits.given[:200].clone()
    x[150], y[150] = x[20], (y[20] + 1) % 10
    valid = digits.x[300:340].clone()
    valid[5] = x[7]
    valid[9] = x[8] * 1.0003
    with pytest.warns(InterpWarning, match="LEAKAGE: 2 items"):
        found = suspects(digits.net, (x, y), valid=(valid, digits.given[300:340]))
    assert [(c.item, c.other, c.exact) for c in found.leakage()] == [(7, 5, True), (8, 9, False)]
    [inside] = [c for c in found.copies if c.where == "train"]
    assert (inside.item, inside.other, inside.exact, inside.conflict) == (20, 150, True, True)
    assert "LEAKAGE" in repr(found) and "1 of them with different labels" in repr(found)


def test_copies_share_a_fold() -> None:
    from interp_plugins.influence.heads import dealt

    groups = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 6, 7])
    labels = torch.tensor([0, 0, 1, 1, 0, 1, 0, 0, 1, 1])
    fold = dealt(groups, labels, seed=4)
    assert fold[0] == fold[3] and fold[1] == fold[6]
    assert torch.bincount(fold).max() <= 4 and fold.unique().numel() == 5


def test_neighbours_are_those_of_the_whole_matrix() -> None:
    from interp_plugins.influence.neighbours import nearest

    rows = torch.randn(700, 5, generator=torch.Generator().manual_seed(0))
    rows[13] = rows[4]
    own = torch.arange(700)
    cosines = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
    expected = cosines.fill_diagonal_(-2).topk(6, dim=1).values
    for pairs in (600 * 7, 2**20):
        found = nearest(rows, rows, 6, groups=(own, own), pairs=pairs)
        assert torch.allclose(found.cosines, expected, atol=1e-5) and found.rows[4, 0] == 13 and found.rows[13, 0] == 4
    few = nearest(rows[:3], rows[:3], 6, groups=(own[:3], own[:3]))
    assert few.rows[:, 2].tolist() == [-1, -1, -1]


def test_ranks_share_ties() -> None:
    from scipy.stats import rankdata

    from interp_plugins.influence.voting import ranks

    values = torch.tensor([3.0, 1.0, 3.0, -2.0, 1.0, 1.0])
    assert ranks(values).tolist() == pytest.approx(rankdata(values) / 6)


def test_the_head_out_of_fold_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    from interp_plugins.influence import heads

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 4, generator=generator), torch.randint(3, (120,), generator=generator)
    x[y == 1] += 1
    fold = heads.dealt(torch.arange(120), y, seed=0)
    said = heads.class_probabilities(x, y, 3, fold)
    whole = heads.standardised(x)[:, :-1].numpy()
    held = (fold == 2).numpy()
    peer = LogisticRegression(C=1 / (0.01 * (~held).sum()), tol=1e-8, max_iter=1000).fit(whole[~held], y[~held])
    assert np.allclose(said[held], peer.predict_proba(whole[held]), atol=2e-3)


def test_values_that_do_not_fit_their_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator)
    y = (x @ torch.tensor([1.0, -2.0, 0.5]))[:, None] + 0.05 * torch.randn(400, 1, generator=generator)
    wrong = torch.arange(0, 400, 20)
    y[wrong] += 4
    torch.manual_seed(0)
    net = trained(nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)), x, y, nn.functional.huber_loss, 150)
    found = suspects(net, (x, y[:, 0]))
    assert found.kind == "values" and set(found.top(20)) == set(wrong.tolist())
    assert found.likely[wrong].float().mean() > 0.8 and found.likely.sum() < 30
    moved = [found.suggested[r] - found.given[r] for r in wrong.tolist()]
    assert np.mean(moved) == pytest.approx(-4, abs=0.7)


def test_each_of_several_labels_is_judged() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 8, generator=generator)
    x = x + 0.6 * x.sign()
    marks = (x[:, :3] > 0).float()
    wrong = torch.arange(0, 400, 16)
    marks[wrong, 1] = 1 - marks[wrong, 1]
    torch.manual_seed(0)
    bce = nn.functional.binary_cross_entropy_with_logits
    net = trained(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), x, marks, bce, 80)
    found = suspects(net, (x, marks), input_spec=InputSpec("tabular", vocab=("cat", "dog", "owl")))
    assert found.kind == "labels"
    assert average_precision_score(torch.isin(torch.arange(400), wrong), found.score) > 0.75
    table = found.to_df()
    assert (table["label"][:15] == "dog").mean() > 0.9 and "given" in table
    first = table.iloc[0]
    assert ("dog" in first["given"]) != ("dog" in first["suggested"])


def test_masks_are_judged_by_their_places() -> None:
    generator = torch.Generator().manual_seed(2)
    masks = torch.zeros(40, 16, 16, dtype=torch.long)
    masks[:, 4:12, 4:12] = 1
    x = masks[:, None].float() + 0.2 * torch.randn(40, 1, 16, 16, generator=generator)
    masks[3] = 0
    masks[17] = 1 - masks[17]
    torch.manual_seed(0)
    net = trained(nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1)), x, masks, steps=40)
    found = suspects(net, (x, masks))
    assert found.kind == "pixels" and found.top(2) == [17, 3]
    assert found.likely[17] and found.more["share"][17] > 0.8 and 0.1 < found.more["share"][3] < 0.5
    assert found.suggested[3] == 1
    assert found.show(2).fig is not None


def test_a_history_is_a_third_vote(digits: Flipped) -> None:
    margins = Margins()
    margins.add(list(range(600)), nn.functional.one_hot(digits.true, 10).float(), digits.given)
    plain, three = (suspects(digits.net, (digits.x, digits.given), history=h) for h in (None, margins))
    wrong = digits.given != digits.true
    assert three.votes == ("knn", "head", "margin")
    assert average_precision_score(wrong, three.score) >= average_precision_score(wrong, plain.score)
    assert torch.equal(three.reasons["margin"] < 0, wrong)
    with pytest.raises(InputError, match="no margin of these items"):
        suspects(digits.net, (digits.x[:100], digits.given[:100]), history=Margins())


def test_streams_are_numbered_as_they_come(digits: Flipped) -> None:
    batches = [(digits.x[i : i + 50], digits.given[i : i + 50]) for i in range(0, 200, 50)]
    whole = suspects(digits.net, (digits.x[:200], digits.given[:200]))
    listed, once = suspects(digits.net, batches), suspects(digits.net, iter(batches))
    assert torch.allclose(listed.reasons["head"], whole.reasons["head"], atol=1e-3)
    assert listed.show(2).fig is not None and once.top(3) == listed.top(3)
    with pytest.raises(InputError, match="used up"):
        once.show()


class Shuffling(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for _ in range(20):
            yield torch.rand(1, 8, 8), 1


def test_a_stream_without_an_order_is_refused(digits: Flipped) -> None:
    with pytest.raises(InputError, match="other batches each time"):
        suspects(digits.net, DataLoader(Shuffling(), 5))


def test_what_can_be_written(digits: Flipped, tmp_path: Any) -> None:
    spec = InputSpec("image", vocab=tuple("abcdefghij"))
    found = suspects(digits.net, (digits.x[:150], digits.given[:150]), input_spec=spec)
    assert found.to_csv(tmp_path / "s.csv", 5).read_text().count("\n") == 6
    text = found.to_html(tmp_path / "s.html", n=4).path.read_text()
    assert text.count("<article") == 4 and "rather" in text and "http" not in text.replace("http-equiv", "")
    found.save(tmp_path / "s.safetensors", n=6)
    back = Suspects.load(tmp_path / "s.safetensors")
    assert same(found, back) and back.to_df().equals(found.to_df()) and back.copies == found.copies
    assert back.show(6).fig is not None and back.spec == found.spec
    with pytest.raises(InputError, match="keeps what is shown"):
        back.show(60)
    (tmp_path / "broken").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="not a file written by"):
        Suspects.load(tmp_path / "broken")
    with pytest.raises(InputError, match=r"learn\.suspects"):
        found.cleaner()


def test_rows_are_shown_as_a_table(digits: Flipped) -> None:
    spec = InputSpec("tabular", mean=(0.5,), std=(0.25,), feature_names=tuple(f"p{i}" for i in range(64)))
    shown = suspects(digits.net, (digits.x[:100].flatten(1), digits.given[:100]), input_spec=spec).show(2, 1)
    assert list(shown["suspect"]) == [1, "near", 2, "near"] and "p63" in shown


def test_a_class_of_one_item_is_not_judged(digits: Flipped) -> None:
    y = digits.given[:200].clone()
    y[0], y[1] = 11, -1
    net = nn.Sequential(digits.net, nn.ConstantPad1d((0, 2), 0.0))
    found = suspects(net, (digits.x[:200], y))
    assert set(found.items[found.order[-2:]].tolist()) == {0, 1} and "2 items have no label" in repr(found)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda d: suspects(d.net, d.x), InputTypeError, "The data are a DataLoader"),
        (lambda d: suspects(d.net, DataLoader(d.x, 10)), InputError, "give none for each"),
        (lambda d: suspects(d.net, (d.x, d.given[:10])), InputError, "a label for each"),
        (lambda d: suspects(d.net, (d.x[:60], d.given[:60]), by="los"), UnknownNameError, "'loss'"),
        (lambda d: suspects(d.net, (d.x[:60], d.given[:60]), k=0), InputError, "k must be"),
        (lambda d: suspects(d.net, (d.x[:60], d.given[:60]), kind="class"), UnknownNameError, "classes"),
        (lambda d: suspects(d.net, (d.x[:60], d.given[:60]), history=3), InputError, "MarginHistory"),
        (lambda d: suspects(lambda x: x.flatten(1)[:, :10], (d.x[:60], d.given[:60])), LayerError, "Name a layer"),
    ],
)
def test_what_is_refused(digits: Flipped, call: Callable[..., Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(digits)


def test_the_page_tags_by_keys_and_saves_them(digits: Flipped, tmp_path: Any, page: Any) -> None:
    found = suspects(digits.net, (digits.x[:150], digits.given[:150]))
    page.goto(found.to_html(tmp_path / "s.html", n=6).path.as_uri())
    for key in ("f", "k", "d", "ArrowRight", "k", "ArrowLeft", "u"):  # the last takes the fifth's tag away again
        page.keyboard.press(key)
    with page.expect_download() as saved:
        page.click("#csv")
    head, *rows = Path(saved.value.path()).read_text(encoding="utf-8").splitlines()
    assert head == "item,name,given,suggested,score,tag,label"
    assert [row.split(",")[0] for row in rows] == [str(i) for i in found.top(3)]
    first = found.order[0]
    assert rows[0].endswith(f",fix,{found.suggested[first]}") and rows[2].endswith(",drop,")
