"""Checkpoints of every kind of file, and models that get their own weights back."""

import pytest
import torch
from torch import nn

from interp_plugins.core.errors import InputError, InputTypeError, MissingFileError
from interp_plugins.core.weights import Checkpoint, as_checkpoints, read_state, spread, with_rates, with_weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Holder(nn.Module):
    """A module whose child has a name that could be taken for DataParallel's."""

    def __init__(self) -> None:
        super().__init__()
        self.my_module = net()


@pytest.fixture
def other() -> nn.Sequential:
    torch.manual_seed(1)
    return net()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {"model_state_dict": s, "optimizer_state_dict": {"param_groups": [{"lr": 0.5}]}},
        lambda s: {"model": s, "opt": {"state": [], "hypers": [{"lr": 0.1}, {"lr": 0.5}]}},
        lambda s: {
            "state_dict": {f"net.{k}": v for k, v in s.items()}, "optimizer_states": [{"param_groups": [{"lr": 0.5}]}]
        },
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    ],
)  # fmt: skip
def test_every_kind_of_file_is_read(wrap, other, tmp_path):
    model, x = net().eval(), torch.randn(2, 3)
    before = [(p, p.detach().clone()) for p in model.parameters()]
    whole = wrap(other.state_dict())
    torch.save(whole, tmp_path / "model.pt")
    with with_weights(model, Checkpoint(tmp_path / "model.pt")) as lr:
        assert torch.equal(model(x), other.eval()(x))
    told = {"optimizer_state_dict", "opt", "optimizer_states"} & set(whole)
    assert lr == (0.5 if told else 1.0)
    assert all(p is q and torch.equal(p, kept) for p, (q, kept) in zip(model.parameters(), before))


def test_prefixes_are_found_by_all_names_and_not_by_a_substring(other):
    model = Holder()
    with with_weights(model, Checkpoint({f"my_module.{k}": v for k, v in other.state_dict().items()})):
        assert torch.equal(model.my_module[0].weight, other[0].weight)
    wrapped = nn.ModuleDict({"_orig_mod": net()})
    with with_weights(wrapped, Checkpoint(other.state_dict())):
        assert torch.equal(wrapped["_orig_mod"][0].weight, other[0].weight)


def test_what_does_not_fit_is_said(other, tmp_path):
    with (
        pytest.raises(InputError, match=r"no weights for 0\.weight"),
        with_weights(net(), Checkpoint({"a": torch.ones(2)})),
    ):
        pass
    wrong = {**other.state_dict(), "0.weight": torch.ones(4, 9)}
    with pytest.raises(InputError, match=r"0\.weight has shape \(4, 9\)"), with_weights(net(), Checkpoint(wrong)):
        pass
    (tmp_path / "x.pt").write_bytes(b"no weights")
    with pytest.raises(InputError, match="could not be read as weights"):
        read_state(tmp_path / "x.pt")
    with pytest.raises(InputError, match="holds no tensors"):
        read_state({"epoch": 3})
    with pytest.raises(MissingFileError):
        as_checkpoints(tmp_path / "none.pt")
    with pytest.raises(InputTypeError, match="checkpoints is a file"):
        as_checkpoints(3)
    with pytest.raises(InputError, match="empty"):
        as_checkpoints([])


def test_a_folder_is_read_by_number(tmp_path):
    for i in (10, 9, 1):
        torch.save({}, tmp_path / f"model_{i}.pth")
    (tmp_path / "notes.txt").write_text("no")
    assert [c.title for c in as_checkpoints(tmp_path)] == ["model_1.pth", "model_9.pth", "model_10.pth"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no checkpoint"):
        as_checkpoints(tmp_path / "empty")


def test_a_function_that_loads_writes_into_private_copies(other):
    model = net()
    kept = {k: v.clone() for k, v in model.state_dict().items()}

    def load(module: nn.Module, source: object) -> float:
        module.load_state_dict(source)
        module[2].weight.data.add_(1)
        return 0.25

    with with_weights(model, Checkpoint(other.state_dict()), load) as lr:
        assert lr == 0.25 and torch.equal(model[2].weight, other[2].weight + 1)
    with pytest.raises(ZeroDivisionError), with_weights(model, Checkpoint(other.state_dict()), load):
        raise ZeroDivisionError
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_rates_count_one_where_one_is_not_known():
    known, unknown = Checkpoint({}, lr=0.5), Checkpoint()
    assert [c.lr for c in with_rates([known, known])] == [0.5, 0.5]
    assert [c.lr for c in with_rates([known, unknown])] == [1.0, 1.0]
    assert [c.lr for c in with_rates([Checkpoint({}, lr=0.0)] * 2)] == [1.0, 1.0]


def test_some_are_spread_over_the_training_with_the_last():
    many = [Checkpoint(None, name=str(i)) for i in range(20)]
    chosen = [int(c.title) for c in spread(many, 6)]
    assert chosen == [0, 4, 8, 11, 15, 19] and spread(many[:3], 6) == many[:3]
    assert [c.title for c in spread(many, 1)] == ["19"]
