"""`top_losses`: the right samples with the right losses, explained as alone, and a module that stays as it was."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.lightning import explain, top_losses
from interp_plugins.lightning.losses import losses_of
from interp_plugins.viz.panels import draw_panels

NAMES = ["ant", "bee", "cat"]


def data(n: int = 23) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(3)
    return torch.randn(n, 1, 8, 8, generator=made), torch.randint(0, 3, (n,), generator=made)


def batches(x: Tensor, *more: Any, size: int = 5) -> list[Any]:
    return [tuple(part[i : i + size] for part in (x, *more)) for i in range(0, len(x), size)]


def true_losses(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    mode = net.training
    with torch.no_grad():
        found = F.cross_entropy(net.eval()(x), y, reduction="none").double()
    net.train(mode)
    return found


def ranked(exps: Explanations) -> list[int]:
    return exps[0].meta["per_sample"]["number"]


@pytest.mark.parametrize("largest", [True, False])
def test_the_samples_are_those_of_one_pass_by_hand(make_net: Any, largest: bool) -> None:
    net, (x, y) = make_net(), data()
    exps = top_losses(net, batches(x, y), 4, "saliency", largest=largest, class_names=NAMES)
    losses = true_losses(net, x, y)
    expected = losses.argsort(descending=largest)[:4].tolist()
    exp, known = exps[0], exps[0].meta["per_sample"]
    assert known["number"] == expected and known["label"] == [NAMES[y[i]] for i in expected]
    assert np.allclose(known["loss"], losses[expected], atol=1e-6)
    assert torch.equal(exp.input, x[expected]) and exp.names == tuple(f"sample {i}" for i in expected)
    assert exp.meta["loss_fn"] == "cross entropy"


def test_the_maps_are_those_of_explain(make_net: Any) -> None:
    net, (x, y) = make_net(), data()
    exps = top_losses(net, batches(x, y), 3, ["ig", "saliency"], target=[None, "label"], class_names=NAMES, n_steps=8)
    rows = ranked(exps)
    alone = explain(net, (x[rows], y[rows]), ["ig", "saliency"], target=[None, "label"], class_names=NAMES, n_steps=8)
    assert len(exps) == 4
    for one, other in zip(exps, alone):
        assert torch.equal(one.attribution, other.attribution) and one.target_label == other.target_label
    assert exps[1].target_label == tuple(NAMES[y[i]] for i in rows)


class Drawing(Dataset[Any]):
    """Augments with every generator there is."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002 - what users have
        return self.x[i] + 1e-6 * noise, self.y[i]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_module_changes(make_net: Any, training: bool) -> None:
    net, (x, y) = make_net().train(training), data()
    net.body[3].eval()  # one part in a mode of its own
    modes = [m.training for m in net.modules()]
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    wants = [p.requires_grad for p in net.parameters()]
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
    top_losses(net, DataLoader(Drawing(x, y), batch_size=4, shuffle=True), 3, "saliency")
    assert [m.training for m in net.modules()] == modes and [p.requires_grad for p in net.parameters()] == wants
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
    assert states[:2] == after[:2] and torch.equal(states[2], after[2])


def test_the_module_is_put_back_where_the_loader_fails(make_net: Any) -> None:
    net, (x, y) = make_net().train(), data()

    def broken() -> Any:
        yield x[:4], y[:4]
        raise OSError("no such picture")

    with pytest.raises(OSError, match="no such picture"):
        top_losses(net, broken(), 3, "saliency")
    assert net.training and all(p.requires_grad for p in net.parameters())


def test_a_pass_of_one_row_each_without_gradients_and_no_more_than_k_kept(make_net: Any) -> None:
    net, (x, y) = make_net(), data(40)
    seen: list[tuple[int, bool, bool]] = []
    net.head.register_forward_pre_hook(lambda m, a: seen.append((len(a[0]), torch.is_grad_enabled(), m.training)))
    alive: list[Any] = []

    def stream() -> Any:
        import weakref

        for i in range(0, 40, 4):
            batch = x[i : i + 4].clone()
            alive.append(weakref.ref(batch))
            yield batch, y[i : i + 4]
            del batch
            assert sum(ref() is not None for ref in alive) <= 2

    top_losses(net, stream(), 2, "saliency")
    assert seen[:10] == [(4, False, False)] * 10 and sum(n for n, *_ in seen[10:]) <= 2 * 6


@pytest.mark.parametrize("as_dict", [False, True])
def test_parts_by_key(make_net: Any, as_dict: bool) -> None:
    net, (x, y) = make_net(), data()
    ids = torch.arange(100, 123)
    keys: dict[str, Any] = {"input_key": 1, "label_key": 2, "id_key": 0}
    given: list[Any] = [(ids[i : i + 5], x[i : i + 5], y[i : i + 5]) for i in range(0, 23, 5)]
    if as_dict:
        keys = {"input_key": "picture", "label_key": "kind", "id_key": "file"}
        given = [dict(zip(("file", "picture", "kind"), batch)) for batch in given]
    exp = top_losses(net, given, 3, "saliency", **keys)[0]
    expected = true_losses(net, x, y).argsort(descending=True)[:3]
    assert exp.names == tuple(str(int(ids[i])) for i in expected) and ranked(Explanations([exp])) == expected.tolist()


def test_one_hot_and_soft_labels_need_a_loss_that_takes_them(make_net: Any) -> None:
    net, (x, y) = make_net(), data()
    hot = F.one_hot(y, 3).float()
    with pytest.raises(InputError, match=r"only guessed where class indices \(5,\).*Give loss_fn="):
        top_losses(net, batches(x, hot), 3, "saliency")
    exp = top_losses(net, batches(x, hot), 3, "saliency", loss_fn=F.cross_entropy, target="label")[0]
    expected = true_losses(net, x, y).argsort(descending=True)[:3].tolist()
    assert ranked(Explanations([exp])) == expected and exp.target == tuple(y[expected].tolist())


LOSSES: dict[str, Any] = {
    "module": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "function": F.cross_entropy,
    "lambda of one number": lambda out, y: F.cross_entropy(out, y),
    "lambda per sample": lambda out, y: F.cross_entropy(out, y, reduction="none"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_given_in_any_way_are_one_per_sample(make_net: Any, name: str) -> None:
    net, (x, y) = make_net(), data()
    found = top_losses(net, batches(x, y), 5, "saliency", loss_fn=LOSSES[name])[0].meta["per_sample"]["loss"]
    assert np.allclose(found, true_losses(net, x, y).sort(descending=True).values[:5], atol=1e-6)


def test_the_modules_own_loss_where_it_has_one(make_net: Any) -> None:
    net, (x, y) = make_net(), data()
    net.criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1]))
    exp = top_losses(net, batches(x, y), 4, "saliency")[0]
    own = true_losses(net, x, y) * net.criterion.weight[y]
    assert ranked(Explanations([exp])) == own.argsort(descending=True)[:4].tolist()
    assert exp.meta["loss_fn"] == "CrossEntropyLoss (criterion of the module)" and net.criterion.reduction == "mean"
    net.other = nn.MSELoss()
    with pytest.raises(InputError, match=r"several losses, criterion \(CrossEntropyLoss\), other \(MSELoss\)"):
        top_losses(net, batches(x, y), 4, "saliency")


class OneNumber(nn.Module):
    def __init__(self, column: bool):
        super().__init__()
        self.linear, self.column = nn.Linear(4, 1), column

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if self.column else self.linear(x)[:, 0]


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_a_regression_is_not_broadcast(column: bool, wide: bool) -> None:
    net, x, y = OneNumber(column), torch.randn(12, 4), torch.randn(12)
    exps = top_losses(net, batches(x, y[:, None] if wide else y), 3, "saliency", loss_fn=nn.MSELoss())
    own = (net(x).reshape(-1) - y).detach() ** 2
    expected = own.argsort(descending=True)[:3].tolist()
    assert ranked(exps) == expected and exps[0].meta["per_sample"]["label"] == [f"{y[i]:.4g}" for i in expected]
    with pytest.raises(InputError, match="only guessed where class indices"):
        top_losses(net, batches(x, y), 3, "saliency")


def test_binary_labels_are_made_the_type_of_the_logit() -> None:
    net, x, y = OneNumber(True), torch.randn(12, 4), torch.arange(12) % 2
    exps = top_losses(net, batches(x, y), 3, "ig", loss_fn=nn.BCEWithLogitsLoss(), class_names=["no", "yes"],
                      target=[None, "label"])  # fmt: skip
    own = F.binary_cross_entropy_with_logits(net(x)[:, 0], y.float(), reduction="none")
    expected = own.argsort(descending=True)[:3].tolist()
    assert ranked(exps) == expected and exps[1].target_label == tuple(("no", "yes")[y[i]] for i in expected)


def test_probabilities_are_not_made_probabilities_again(make_net: Any) -> None:
    net, (x, y) = make_net(), data()
    inner = net.head
    found = top_losses(nn.Sequential(net.body, inner, nn.Softmax(1)), batches(x, y), 4, "saliency")
    assert np.allclose(
        found[0].meta["per_sample"]["loss"], true_losses(net, x, y).sort(descending=True).values[:4], atol=1e-5
    )


def test_a_loss_of_many_values_per_sample_is_their_mean() -> None:
    output, truth = torch.randn(4, 3, 5, 5), torch.randint(0, 3, (4, 5, 5))
    found = losses_of(nn.CrossEntropyLoss(), output, truth)
    assert torch.allclose(found, F.cross_entropy(output, truth, reduction="none").double().mean((1, 2)))
    assert losses_of(nn.CrossEntropyLoss(), output[:1], truth[:1]).shape == (1,)


def test_samples_without_a_label_are_left_out_aloud(make_net: Any) -> None:
    net, (x, y) = make_net(), data()
    y[[2, 7]] = -100
    with pytest.warns(InterpWarning, match="Of 23 samples 2 have no label among the classes"):
        exps = top_losses(net, batches(x, y), 23, "saliency", largest=False)
    assert len(exps[0]) == 21 and not {2, 7} & set(ranked(exps))
    with pytest.raises(InputError, match="23 samples, of which none has a label"):
        top_losses(net, batches(x, torch.full_like(y, -1)), 3, "saliency")


def test_a_loss_that_is_nan_is_left_out_aloud(make_net: Any) -> None:
    net, (x, y) = make_net(), data()

    def loss(output: Tensor, label: Tensor) -> Tensor:
        found = F.cross_entropy(output, label, reduction="none")
        return torch.where(label == 1, torch.nan, found)

    with pytest.warns(InterpWarning, match="have a loss that is NaN"):
        exps = top_losses(net, batches(x, y), 30, "saliency", loss_fn=loss)
    assert len(exps[0]) == int((y != 1).sum())


def test_pictures_of_different_sizes_are_explained_one_by_one() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    given = [(torch.randn(1, 1, 6 + i, 9), torch.tensor([i % 3])) for i in range(5)]
    exps = top_losses(net, given, 3, "saliency", target="label")
    for i, number in enumerate(ranked(exps)):
        alone = explain(net, given[number], "saliency", target="label")[0]
        assert torch.allclose(exps[0][i].attribution, alone.attribution)


def test_a_part_of_the_output_and_of_the_module(make_net: Any) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(x), "other": x}

    two, (x, y) = Two(), data()
    expected = true_losses(two.net, x, y).argsort(descending=True)[:3].tolist()
    assert ranked(top_losses(two, batches(x, y), 3, "saliency", output_key="logits")) == expected
    assert ranked(top_losses(two, batches(x, y), 3, "saliency", module="net")) == expected


def test_titles_say_truth_and_loss_in_colour(make_net: Any) -> None:
    net, (x, y) = make_net(), data()
    exps = top_losses(net, batches(x, y), 4, "saliency", class_names=NAMES)
    exp, known = exps[0], exps[0].meta["per_sample"]
    assert exp.prediction_label is not None
    for i, line in enumerate(exps.plot().axes):
        text = line[0].get_xlabel().split("\n")
        assert text[0] == f"sample {known['number'][i]}" and text[1].startswith(f"predicted: {exp.prediction_label[i]}")
        assert text[2:4] == [f"actual: {known['label'][i]}", f"loss {known['loss'][i]:.3g}"]
        right = exp.prediction_label[i] == known["label"][i]
        assert line[0].xaxis.label.get_color() == ("green" if right else "red")
    panels = draw_panels(exps)
    assert f"actual: {known['label'][0]}\nloss {known['loss'][0]:.3g}" in panels[0].get_title()
    assert "loss" in exps.to_html() and list(exps.to_df()["label"]) == known["label"]


def test_without_class_names_truth_and_prediction_are_compared_as_numbers(make_net: Any) -> None:
    net, (x, y) = make_net(), data()
    axes = top_losses(net, batches(x, y), 3, "saliency", largest=False).plot().axes
    assert [line[0].xaxis.label.get_color() for line in axes] == ["green"] * 3


def test_losses_survive_a_file_and_a_slice(make_net: Any, tmp_path: Any) -> None:
    net, (x, y) = make_net(), data()
    exps = top_losses(net, batches(x, y), 4, "saliency", class_names=NAMES)
    exps.save(tmp_path / "worst.safetensors")
    again = Explanation.load(tmp_path / "worst.safetensors")
    assert again.meta["per_sample"]["loss"] == exps[0].meta["per_sample"]["loss"]
    assert again[2:].meta["per_sample"]["label"] == exps[0].meta["per_sample"]["label"][2:]


def test_ties_are_in_the_loaders_order_and_k_may_be_more_than_there_is(make_net: Any) -> None:
    net, (x, y) = make_net(), data(6)
    same = [(x[:1].expand(3, -1, -1, -1), y[:1].expand(3)) for _ in range(3)]
    # Equal rows of a batch may differ in the last bit, so the loss does not look at what the net says.
    ties = top_losses(net, same, 5, "saliency", loss_fn=lambda out, y: torch.ones(len(y)))
    assert ranked(ties) == [0, 1, 2, 3, 4]
    assert len(top_losses(net, batches(x, y), 100, "saliency")[0]) == 6


@pytest.mark.parametrize(
    ("given", "more", "error", "text"),
    [
        ([], {}, InputError, "The loader is empty"),
        (torch.randn(3, 1, 8, 8), {}, InputTypeError, "expected a DataLoader, or a list of batches"),
        (None, {"k": 0}, InputError, "at least 1, got 0"),
        (None, {"loss_fn": "mse"}, InputTypeError, r"loss_fn is a .*Give loss_fn=, a loss of torch.nn"),
        (None, {"loss_fn": lambda out, y: out}, InputError, None),
        (None, {"loss_fn": lambda out, y: out.reshape(-1)[:2]}, InputError, r"expected one per sample, \(5,\)"),
        (None, {"loss_fn": nn.MSELoss()}, InputError, r"The loss failed on an output of shape \(5, 3\)"),
        (None, {"autocast": True}, InputError, "give trainer="),
        (None, {"label_key": 7}, InputError, "label_key=7"),
        ([torch.randn(3, 1, 8, 8)], {}, InputError, "top_losses needs the ground truth"),
    ],
)
def test_wrong_calls(make_net: Any, given: Any, more: dict[str, Any], error: type[Exception], text: str | None) -> None:
    x, y = data()
    loader = batches(x, y) if given is None else given
    if text is None:  # several values per sample: their mean
        assert len(top_losses(make_net(), loader, 2, "saliency", **more)[0]) == 2
        return
    with pytest.raises(error, match=text):
        top_losses(make_net(), loader, **{"k": 3, "methods": "saliency", **more})
