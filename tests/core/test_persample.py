"""Gradients of every sample, against `torch.func.vmap(grad)` and against plain gradients one by one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, ModelError, UnknownNameError
from interp_plugins.core.persample import sample_gradients


def losses(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="none")


def one_by_one(net: nn.Module, x: Tensor, y: Tensor, names: list[str]) -> Tensor:
    params = dict(net.named_parameters())
    rows = []
    for i in range(len(x)):
        value = losses(net(x[i : i + 1]), y[i : i + 1]).sum()
        grads = torch.autograd.grad(value, [params[k] for k in names], allow_unused=True)
        rows.append(
            torch.cat([torch.zeros(params[k].numel()) if g is None else g.reshape(-1) for k, g in zip(names, grads)])
        )
    return torch.stack(rows)


class Pooled(nn.Module):
    """Some layers, the mean over all positions, a head."""

    def __init__(self, *layers: nn.Module, width: int, dims: tuple[int, ...] = ()):
        super().__init__()
        self.body, self.head, self.dims = nn.Sequential(*layers), nn.Linear(width, 3), dims

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return self.head(h.mean(self.dims) if self.dims else h)


class Twice(nn.Module):
    """A layer used twice, and the same weight once more as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.mid(torch.tanh(self.mid(x))), inplace=True)
        return self.head(F.linear(h, self.mid.weight))


class Attention(nn.Module):
    """Self-attention with a packed projection."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm, self.head = (
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.LayerNorm(4),
            nn.Linear(4, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


class Folded(nn.Module):
    """Positions folded into the batch, in-place overwriting of what a layer gave."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x.flatten(0, 1)).relu_()
        return self.head(h.reshape(len(x), -1, 5).mean(1))


class Scaled(nn.Module):
    """Weights that no layer holds: they are differentiated sample by sample."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.matrix, self.head = (
            nn.Parameter(torch.randn(4)),
            nn.Parameter(torch.randn(4, 4)),
            nn.Linear(4, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x * self.scale).tanh() @ self.matrix)


class Recurrent(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


# fmt: off
NETS = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), (4,)),
    "linear over positions": (lambda: Pooled(nn.Linear(4, 5), nn.GELU(), width=5, dims=(1,)), (6, 4)),
    "no bias": (lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)), (4,)),
    "conv1d": (lambda: Pooled(nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), width=6, dims=(2,)), (4, 9)),
    "conv2d": (lambda: Pooled(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(True),
        nn.Conv2d(4, 6, (3, 2), (2, 1), dilation=2, groups=2, bias=False), width=6, dims=(2, 3)), (2, 8, 8)),
    "conv2d same": (lambda: Pooled(nn.Conv2d(2, 4, 3, padding="same", dilation=2), width=4, dims=(2, 3)), (2, 7, 7)),
    "conv2d reflect": (
        lambda: Pooled(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), width=4, dims=(2, 3)), (2, 6, 6)),
    "conv3d": (lambda: Pooled(nn.Conv3d(1, 3, 2, stride=2), width=3, dims=(2, 3, 4)), (1, 5, 4, 4)),
    "transposed 1d": (lambda: Pooled(nn.ConvTranspose1d(2, 3, 3, stride=2), nn.Tanh(), width=3, dims=(2,)), (2, 5)),
    "transposed 2d": (lambda: Pooled(
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), nn.Tanh(),
        width=6, dims=(2, 3)), (4, 4, 5)),
    "layer norm": (lambda: Pooled(nn.LayerNorm((3, 4)), nn.Flatten(), width=12), (3, 4)),
    "rms norm": (lambda: Pooled(nn.RMSNorm(4), nn.Tanh(), width=4, dims=(1,)), (3, 4)),
    "group norm": (lambda: Pooled(nn.GroupNorm(2, 4), nn.Tanh(), width=4, dims=(2,)), (4, 5)),
    "batch norm": (lambda: Pooled(nn.BatchNorm2d(4), nn.Tanh(), width=4, dims=(2, 3)), (4, 3, 3)),
    "batch norm of vectors": (lambda: Pooled(nn.BatchNorm1d(4), nn.Tanh(), width=4), (4,)),
    "instance norm": (lambda: Pooled(nn.InstanceNorm1d(4, affine=True), nn.Tanh(), width=4, dims=(2,)), (4, 5)),
    "pooled": (
        lambda: Pooled(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2), nn.AdaptiveMaxPool2d(1),
            width=3, dims=(2, 3)), (1, 8, 8),
    ),
    "used twice": (Twice, (4,)),
    "attention": (Attention, (5, 4)),
    "folded": (Folded, (6, 4)),
}
# fmt: on
SLOW_ROAD = {
    "loose weights": (Scaled, (4,), "torch.func.vmap"),
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 4), None),
    "gru": (lambda: Recurrent(nn.GRU), (5, 4), None),
}


@pytest.fixture(autouse=True)
def _double() -> object:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NETS)
def test_every_layer_kind_against_vmap(name: str) -> None:
    make, shape = NETS[name]
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    x, y = torch.randn(5, *shape), torch.tensor([0, 1, 2, 1, 0])
    params = {k: p.detach() for k, p in net.named_parameters()}

    def value(weights: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        return losses(torch.func.functional_call(net, weights, (row[None],)), label[None]).sum()

    with sample_gradients(net) as gradients:
        found = gradients.of((x,), y, losses)
        more = gradients.of((x[:3].flip(0),), y[:3].flip(0), losses)
    assert gradients.fallbacks == {}
    if name == "attention":  # vmap warns of attention
        names = list(found.shapes)
        assert (found.flat() - one_by_one(net, x, y, names)).abs().max() < 1e-10
        return
    oracle = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0, 0))(params, x, y)
    for k, g in oracle.items():
        assert (found.formed(k) - g).abs().max() < 1e-10 * max(1, g.abs().max())
        assert (more.formed(k) - g[:3].flip(0)).abs().max() < 1e-10 * max(1, g.abs().max())
    flat = found.flat()
    assert torch.allclose(found.dots(more), flat @ more.flat().T, atol=1e-11)
    assert torch.allclose(found.squares(), flat.square().sum(1), atol=1e-11)


@pytest.mark.parametrize("name", SLOW_ROAD)
def test_what_is_no_tapped_call_goes_sample_by_sample(name: str) -> None:
    make, shape, how = SLOW_ROAD[name]
    net = make().eval()
    x, y = torch.randn(5, *shape), torch.tensor([0, 1, 2, 1, 0])
    with sample_gradients(net) as gradients:
        found = gradients.of((x,), y, losses)
    names = list(found.shapes)
    assert (found.flat(names) - one_by_one(net, x, y, names)).abs().max() < 1e-10
    assert gradients.fallbacks and not any(k.startswith("head") for k in gradients.fallbacks)
    assert how is None or set(gradients.fallbacks.values()) == {how}


def test_an_embedding_and_a_tied_head() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(7, 4, padding_idx=0)
            self.back = nn.Linear(4, 7, bias=False)
            self.back.weight = self.words.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.back(self.words(ids).tanh().mean(1))

    net, ids, y = Reader().eval(), torch.randint(0, 7, (5, 6)), torch.tensor([0, 1, 2, 1, 6])
    with sample_gradients(net) as gradients:
        found = gradients.of((ids,), y, losses)
    assert gradients.fallbacks == {} and list(found.shapes) == ["words.weight"]
    assert (found.flat() - one_by_one(net, ids, y, ["words.weight"])).abs().max() < 1e-12
    alone = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(24, 3))
    with sample_gradients(alone) as gradients:
        found = gradients.of((ids,), y % 3, losses)
    assert torch.allclose(found.dots(found), found.flat() @ found.flat().T)
    assert torch.allclose(found.squares(), found.flat().square().sum(1))


def test_samples_behind_the_time_are_found() -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.one(x.transpose(0, 1)).tanh().mean(0))

    net = Behind()
    for steps in (5, 10, 3):  # as many as samples, twice as many, neither
        x, y = torch.randn(5, steps, 4), torch.tensor([0, 1, 2, 1, 0])
        with sample_gradients(net) as gradients:
            found = gradients.of((x,), y, losses)
        assert gradients.fallbacks == {}
        assert (found.flat() - one_by_one(net, x, y, list(found.shapes))).abs().max() < 1e-10


def test_rows_that_feel_each_other_are_refused() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x - x.mean(0))

    with pytest.raises(ModelError, match="feel each other"), sample_gradients(Mixed()) as gradients:
        gradients.of((torch.randn(4, 4),), torch.tensor([0, 1, 2, 0]), losses)


def test_the_model_stays_as_it_was_also_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3)).train()
    net[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    with sample_gradients(net, [""]) as gradients:
        assert (
            "0.weight"
            in gradients.of(
                (torch.randn(4, 4, generator=torch.Generator()),), torch.tensor([0, 1, 2, 0]), losses
            ).shapes
        )
    with pytest.raises(ModelError, match="One value per sample"), sample_gradients(net) as gradients:
        gradients.of((torch.ones(4, 4),), None, lambda output, _: output)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert all(m.training for m in net.modules()) and all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True, True, True]
    assert torch.equal(state, torch.get_rng_state())


def test_layers_are_named() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with sample_gradients(net, ["2"]) as gradients:
        assert list(gradients.params) == ["2.weight", "2.bias"]
    with pytest.raises(UnknownNameError, match="Known: 0, 2"), sample_gradients(net, ["22"]):
        pass
    with pytest.raises(InputError, match="no weights"), sample_gradients(nn.Sequential(nn.ReLU())):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_feel_each_other_a_little_are_refused(dtype: torch.dtype) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            z = self.layer(x)
            return z + 0.003 * z.mean(0, keepdim=True)

    net, x, y = Mixed().to(dtype), torch.randn(5, 3, dtype=dtype), torch.tensor([0, 1, 2, 1, 0])
    with sample_gradients(net) as gradients, pytest.raises(ModelError, match="feel each other"):
        gradients.of((x,), y, losses)


def test_what_goes_one_by_one_says_what_vmap_said() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale * (2.0 if float(x.detach().abs().sum()) > 0 else 1.0)

    net, x, y = Asks(), torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    with sample_gradients(net) as gradients:
        found = gradients.of((x,), y, losses)
    assert (found.flat() - one_by_one(net, x, y, ["scale"])).abs().max() < 1e-10
    assert gradients.fallbacks["scale"].startswith("one after the other (torch.func.vmap: ")
