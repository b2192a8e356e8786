"""Every method on CUDA: the CPU's map, nothing changed, nothing kept."""

from __future__ import annotations

import copy
import gc
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins import InputSpec, explain
from interp_plugins.core.errors import OutOfMemoryError
from tests.conformance.cases import BY_NAME, VARIANTS, Case, Problem, applies, attribute, label, leaves, typical
from tests.conformance.test_state import BoomError, changed, fussy, trace

WANTED = ("two inputs", "token ids")
PAIRS = [
    (variant, case)
    for variant in VARIANTS
    for case in {case.name: case for case in (typical(variant), *(BY_NAME[name] for name in WANTED))}.values()
    if applies(variant, case)
]


@dataclass
class Moved(Problem):
    """A problem whose arguments are on the device, except those that say what is asked for (target and mask)."""

    move: Any = None

    def known(self, distribution: bool) -> dict[str, Any]:
        found = super().known(distribution)
        return {k: v if k in ("target", "feature_mask") else self.move(v) for k, v in found.items()}


@pytest.fixture
def moved(to_device: Any) -> Any:
    """A case, or a built problem, on the device."""

    def make(what: Case | Problem) -> Problem:
        problem = what.build() if isinstance(what, Case) else what
        with torch.no_grad():
            inputs, args, baselines = to_device((problem.inputs, problem.args, problem.baselines))
        return Moved(problem.case, to_device(problem.model), inputs, baselines, args, move=to_device)

    return make


def relative(mine: Any, theirs: Any) -> float:
    """Largest difference of two results, in units of the second one's largest value."""
    pairs = list(zip(leaves(mine), leaves(theirs), strict=True))
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    size = max(float(b.detach().abs().max()) for _, b in pairs)
    return max(float((a.detach().cpu() - b.detach().cpu()).abs().max()) for a, b in pairs) / max(size, 1e-12)


@pytest.mark.parametrize(("variant", "case"), PAIRS, ids=label)
def test_the_map_is_that_of_the_cpu(variant: str, case: Case, moved: Any, device: torch.device) -> None:
    """In float64 to 1e-6 of the map's largest value; maps are where the inputs are."""
    theirs = attribute(variant, case.build())
    mine = attribute(variant, moved(case))
    assert all(t.device.type == device.type for t in leaves(mine))
    assert relative(mine, theirs) < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fail_at", [0, 1], ids=["succeeds", "raises"])
def test_nothing_changes_the_generators_of_the_device_included(variant: str, fail_at: int, moved: Any) -> None:
    problem = moved(fussy())
    problem.model.fail_at = fail_at
    problem.model.drop.register_forward_hook(lambda m, i, o: o + 0 * torch.rand(1, device=o.device))
    torch.manual_seed(5)
    before, state = trace(problem), torch.cuda.get_rng_state_all()
    if fail_at:
        with pytest.raises(BoomError):
            attribute(variant, problem)
    else:
        attribute(variant, problem)
    assert [name for name in changed(before, trace(problem)) if name != "values" or not fail_at] == []
    assert all(torch.equal(a, b) for a, b in zip(torch.cuda.get_rng_state_all(), state, strict=True))


class Cnn(nn.Module):
    """A small net in float32, with all that has a mode."""

    def __init__(self, width: int = 8, classes: int = 5):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.AvgPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(2 * width, classes))
        self.rows: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(x))
        return self.head(self.body(x))


@pytest.fixture
def cnn() -> Cnn:
    torch.manual_seed(0)
    return Cnn()


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


METHODS = {
    "integrated_gradients": {"n_steps": 10},
    "noise_tunnel": {"nt_samples": 3, "n_steps": 4},
    "gradient_shap": {"n_samples": 3},
    "occlusion": {"sliding_window_shapes": (3, 8, 8), "strides": (3, 4, 4)},
    "grad_cam": {},
    "saliency": {},
}


def test_explain_in_float32_agrees_with_the_cpu_and_gives_cpu_tensors(cnn, pictures, device) -> None:
    """Within 1e-4 of each map's largest value; predictions and scores within 1e-5."""
    theirs = explain(copy.deepcopy(cnn), pictures, METHODS, baselines="black")
    mine = explain(cnn.to(device), pictures.to(device), METHODS, baselines="black")
    assert cnn.training
    for a, b in zip(mine, theirs, strict=True):
        assert a.attribution.device.type == a.inputs.device.type == a.score.device.type == "cpu"
        assert a.target == b.target and a.prediction == b.prediction
        assert relative(a.attribution, b.attribution) < 1e-4, a.method
        assert relative(a.score, b.score) < 1e-5 and relative(a.probability, b.probability) < 1e-5


@pytest.mark.parametrize("target", [2, [0, 1, 2], "tensor", "tensor there"])
def test_targets_and_masks_may_lie_on_either_side(target, cnn, pictures, device) -> None:
    wanted = torch.tensor([0, 1, 2]) if isinstance(target, str) else target
    mask = torch.arange(16).reshape(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)[None]
    theirs = explain(copy.deepcopy(cnn), pictures, "feature_ablation", target=wanted, feature_mask=mask)
    if target == "tensor there":
        wanted, mask = wanted.to(device), mask.to(device)
    mine = explain(cnn.to(device), pictures.to(device), "feature_ablation", target=wanted, feature_mask=mask)
    assert mine[0].target == theirs[0].target
    assert relative(mine[0].attribution, theirs[0].attribution) < 1e-4


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", ["autocast", "the model itself"])
def test_half_precision(dtype, how, cnn, pictures, device) -> None:
    """Finite maps, close to those of float32 (cosine above 0.95; 0.7 for bfloat16 noise and gradients)."""
    cnn, x = cnn.to(device).eval(), pictures.to(device)
    whole = explain(cnn, x, METHODS, target=1)
    if how == "autocast":
        with torch.autocast(device.type, dtype=dtype):
            half = explain(cnn, x, METHODS, target=1)
            assert torch.is_autocast_enabled(device.type)
    else:
        half = explain(cnn.to(dtype), x.to(dtype), METHODS, target=1)
        assert all(p.dtype == dtype for p in cnn.parameters())
    for a, b in zip(half, whole, strict=True):
        assert a.attribution.isfinite().all() and a.attribution.any()
        a.attribution.float().numpy()
        assert cosine(a.attribution, b.attribution) > (0.95 if dtype == torch.float16 else 0.7), a.method


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_nets_in_training_mode(kind, device) -> None:
    """cuDNN refuses a backward in eval mode; the maps are those of the CPU, and cuDNN is on again afterwards."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = kind(4, 6, 2, batch_first=True, dropout=0.5, bidirectional=True), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.rnn(x)[0].mean(1))

    torch.manual_seed(0)
    net, x = Reader(), torch.randn(2, 7, 4)
    methods = {"saliency": {}, "ig": {"n_steps": 5}, "feature_ablation": {}}
    theirs = explain(copy.deepcopy(net), x, methods, input_spec=InputSpec("sequence"))
    net = net.to(device)
    mine = explain(net, x.to(device), methods, input_spec=InputSpec("sequence"))
    for a, b in zip(mine, theirs, strict=True):
        assert relative(a.attribution, b.attribution) < 1e-4
    assert torch.backends.cudnn.enabled and net.rnn.training
    loss = net(x.to(device)).sum()  # the weights still lie in one piece for cuDNN
    loss.backward()
    assert net.rnn.weight_ih_l0.grad is not None


def used() -> int:
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def test_memory_is_given_back(cnn, pictures, device) -> None:
    cnn, x = cnn.to(device), pictures.to(device)
    explain(cnn, x, METHODS)  # what libraries keep for themselves
    before = used()
    found = explain(cnn, x, METHODS)
    assert used() == before
    assert len(found) == len(METHODS)


class Limit:
    """So many bytes more than are allocated now, in a `with` block."""

    def __init__(self, extra: int):
        self.extra = extra

    def __enter__(self) -> None:
        allowed = used() + self.extra
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)

    def __exit__(self, *error: object) -> None:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_chunks_are_halved_when_memory_runs_out(device) -> None:
    """32 rows do not fit, fewer do: the same map, and nothing is left behind.

    Where memory is short cuDNN takes other kernels, and their rounding is amplified at the kinks (3e-4 on an H200).
    """
    torch.manual_seed(0)
    net = Cnn(width=64).to(device)
    x = torch.randn(1, 3, 128, 128, device=device)  # a row and its graph: some 30 MB
    arguments: dict[str, Any] = {"methods": "ig", "n_steps": 32, "batch_size": 32, "target": 0}
    free = explain(net, x, **arguments)
    assert max(net.rows) == 32
    net.rows.clear()
    before = used()
    with Limit(400 * 2**20):
        tight = explain(net, x, **arguments)
    tried = [n for n in net.rows if n > 1]
    assert max(tried) == 32 and min(tried) < 32, net.rows
    assert sum(net.rows) > sum(net.rows[:2])  # it went on
    assert relative(tight[0].attribution, free[0].attribution) < 1e-3
    assert used() == before


def test_a_single_row_that_does_not_fit_is_a_clear_error_and_the_model_stays_usable(device) -> None:
    net = Cnn(width=64).to(device)
    x = torch.randn(1, 3, 512, 512, device=device)  # a row and its graph: some 500 MB
    before = used()
    with Limit(100 * 2**20), pytest.raises((OutOfMemoryError, torch.OutOfMemoryError)) as caught:
        explain(net, x, "ig", n_steps=4, target=0)
    assert "out of memory" in str(caught.value).lower()
    del caught
    assert used() == before
    assert explain(net, x, "ig", n_steps=4, target=0)[0].attribution.isfinite().all()


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
def test_memory_formats(format, cnn, pictures, device) -> None:
    theirs = explain(copy.deepcopy(cnn), pictures, METHODS, target=1)
    mine = explain(cnn.to(device, memory_format=format), pictures.to(device, memory_format=format), METHODS, target=1)
    assert all(relative(a.attribution, b.attribution) < 1e-4 for a, b in zip(mine, theirs, strict=True))


def test_F25_layers_are_found_inside_data_parallel(cnn, pictures, device) -> None:
    cnn, x = cnn.to(device), pictures.to(device)
    wrapped = nn.DataParallel(cnn, device_ids=[0])
    a = explain(cnn, x, ("gradcam", "saliency"), target=1)
    b = explain(wrapped, x, ("gradcam", "saliency"), target=1)
    assert all(relative(p.attribution, q.attribution) < 1e-5 for p, q in zip(a, b, strict=True))


def test_L16_compiled_models(cnn, pictures, device) -> None:
    """After the compiled code has run; hooks and gradients work on the model behind it."""
    pytest.importorskip("triton", reason="torch.compile needs Triton on CUDA")
    cnn, x = cnn.to(device).eval(), pictures.to(device)
    plain = explain(cnn, x, METHODS, target=1)
    compiled = torch.compile(cnn)
    with torch.no_grad():
        before = compiled(x)
    found = explain(compiled, x, METHODS, target=1)
    assert all(relative(p.attribution, q.attribution) < 1e-4 for p, q in zip(found, plain, strict=True))
    with torch.no_grad():
        assert torch.equal(compiled(x), before)
