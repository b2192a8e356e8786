"""Lightning on CUDA: the parts of its traps (L1 to L25 in tests/README.md) that the CPU cannot show."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pl: Any = pytest.importorskip("pytorch_lightning")

from interp_plugins.lightning import AttributionCallback, AttributionWriter  # noqa: E402

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
ROOT = Path(__file__).parents[2]
METHODS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 4},
    "noise_tunnel": {"nt_samples": 2, "n_steps": 3},
    "gradient_shap": {"n_samples": 2},
    "grad_cam": {},
    "occlusion": {},
}


class Net(pl.LightningModule):
    """Batch norm, dropout that draws on the device, and layers whose kernels have a fixed order of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0]).float(), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def loader(n: int = 16, batch_size: int = 4, **kwargs: Any) -> DataLoader:
    g = torch.Generator().manual_seed(n)
    data = TensorDataset(torch.randn(n, 1, 8, 8, generator=g), torch.randint(3, (n,), generator=g))
    return DataLoader(data, batch_size, **kwargs)


def trainer(*callbacks: Any, **kwargs: Any) -> Any:
    quiet = {name: False for name in ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    return pl.Trainer(
        **{"accelerator": "gpu", "devices": 1, "logger": False, "callbacks": list(callbacks), **quiet, **kwargs}
    )


def callback(methods: Any = "saliency", **kwargs: Any) -> AttributionCallback:
    return AttributionCallback(methods, **{"n_samples": 2, "loggers": "none", "on_error": "raise", **kwargs})


def fit(*callbacks: Any, **kwargs: Any) -> dict[str, Any]:
    """Everything that training leaves behind, the scaler of float16 and the device's generator included."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    net, one = Net(), trainer(*callbacks, max_epochs=2, **kwargs)
    one.fit(net, loader(16, 4, shuffle=True), loader(8, 4, shuffle=True))
    found: dict[str, Any] = dict(net.state_dict())
    found |= {f"grad of {n}": p.grad for n, p in net.named_parameters() if p.grad is not None}
    for j, state in one.optimizers[0].state_dict()["state"].items():
        found |= {f"optimizer, {k} of {j}": v for k, v in state.items() if isinstance(v, torch.Tensor)}
    scaler = getattr(one.precision_plugin, "scaler", None)
    return {
        **{k: v.detach().clone() for k, v in found.items()},
        "scaler": scaler.state_dict() if scaler is not None else None,
        "draws": [random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, device=net.device).item()],  # noqa: NPY002
    }


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    assert a.keys() == b.keys()
    return [k for k in a if not (torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k])]


@pytest.fixture(scope="module")
def without() -> dict[str, dict[str, Any]]:
    """Training without the callback, once for each precision."""
    return {}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_L4_training_on_cuda_is_bit_identical(precision, method, without) -> None:
    if precision not in without:
        without[precision] = fit(precision=precision)
        assert differing(without[precision], fit(precision=precision)) == []  # training itself repeats
    watching = callback({method: METHODS[method]}, stages=("validate", "train"))
    found = fit(watching, precision=precision)
    assert differing(without[precision], found) == []
    assert watching.n_runs >= 2
    assert (found["scaler"] is not None) == (precision == "16-mixed")


def test_L4_training_on_cuda_is_bit_identical_beside_sanity_checks_and_accumulation(without) -> None:
    options = {"accumulate_grad_batches": 3, "val_check_interval": 2, "num_sanity_val_steps": 1}
    assert differing(fit(**options), fit(callback(METHODS), **options)) == []


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"])
def test_L6_precisions(precision) -> None:
    """Finite maps that NumPy takes; mixed precision explains in float32 unless autocast=True asks for the step's."""
    torch.manual_seed(0)
    net, watching = Net(), callback(METHODS)
    trainer(watching, precision=precision).validate(net, loader(4), verbose=False)
    assert [e.method for e in watching.last] == list(METHODS)
    for exp in watching.last:
        assert exp.attribution.isfinite().all() and exp.attribution.any(), exp.method
        exp.attribution.float().numpy()


@pytest.mark.parametrize("dtype", ["16-mixed", "bf16-mixed"])
def test_L6_autocast_gives_the_scores_of_the_step(dtype) -> None:
    torch.manual_seed(0)
    net, seen = Net(), []

    def validation_step(batch: Any, batch_idx: int) -> None:
        seen.append(net(batch[0]).float().cpu())

    net.validation_step = validation_step
    watching = callback(autocast=True)
    trainer(watching, precision=dtype).validate(net, loader(4), verbose=False)
    (exp,) = watching.last
    wanted = seen[0][:2].max(1).values
    torch.testing.assert_close(exp.score.float(), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("entry", ["fit", "validate", "test"])
def test_L1_L2_every_stage_leaves_the_batch_alone(entry) -> None:
    seen = []

    class Watching(Net):
        def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
            seen.append((batch[0].requires_grad, batch[0].device.type, batch[0].cpu()))

        on_test_batch_end = on_validation_batch_end

    watching, data, net = callback(METHODS, stages=("validate", "test")), loader(8), Watching()
    one = trainer(watching, max_epochs=1, num_sanity_val_steps=0)
    one.fit(net, data, data) if entry == "fit" else getattr(one, entry)(net, data, verbose=False)
    assert watching.n_runs == 1
    assert {(grad, kind) for grad, kind, _ in seen} == {(False, "cuda")}
    dataset: Any = data.dataset
    assert torch.equal(torch.cat([x for _, _, x in seen]), dataset.tensors[0])


def test_L1_L8_L23_nccl_batch_norm_over_processes_and_fsdp(tmp_path: Path) -> None:
    """Fit (no_grad), validate and test (inference mode) over NCCL; the same weights; FSDP is refused with advice."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    command = [sys.executable, str(Path(__file__).with_name("lightning_script.py")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == "nccl" and "SyncBatchNorm" in found["layers"]
    assert found["equal"] and found["finite"]
    assert found["runs"] == 4 and found["files"] == 4
    assert "does not support FSDPStrategy" in found["fsdp"] and "strategy='ddp' is supported" in found["fsdp"]


def test_L25_no_hooks_are_left(without) -> None:
    net = Net()
    trainer(callback(["gradcam", "layer_conductance"], layer="body.0"), max_epochs=3).fit(net, loader(), loader())
    assert sum(len(h) for m in net.modules() for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)) == 0


def test_L20_a_data_set_explained_on_cuda_is_that_of_the_cpu_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("zarr"), pytest.importorskip("pyarrow")
    from interp_plugins.store import ExplanationStore
    from interp_plugins.store.table_parts import path_of

    torch.manual_seed(0)
    net, data = Net(), loader(11)
    stores = {}
    for name, accelerator in (("cpu", "cpu"), ("cuda", "gpu"), ("again", "gpu")):
        writer = AttributionWriter(str(tmp_path / name), METHODS, target="label", unit_size=4)
        one = trainer(writer, accelerator=accelerator, limit_predict_batches=1)
        one.predict(net, data, return_predictions=False)
        if name == "again":
            path_of(tmp_path / name, 1).unlink()  # as if the process had been killed in unit 1
            one.predict(net, data, return_predictions=False)
        stores[name] = ExplanationStore(tmp_path / name)
    for method in stores["cpu"].methods:
        cpu, cuda, again = (store.array(method)[:] for store in stores.values())
        assert np.isfinite(cuda).all() and np.abs(cpu - cuda).max() < 1e-4 * np.abs(cpu).max()
        assert np.array_equal(cuda, again)
