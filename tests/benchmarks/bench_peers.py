"""Other libraries on one page: the same method, the same sample, in turn.

    python -m tests.benchmarks.bench_peers [NAME ...] [--rounds 5] [--threads 1]

Processor seconds of all threads, theirs over here (more than 1 is faster here), medians and ranges of the rounds. Class
activation maps against pytorch-grad-cam, LRP against zennit, sampled methods against shap, lime and shapiq at the same
number of rows, Integrated Gradients of text against inseq (`bench_llm` has it) and of pictures against Captum
(`bench_speed`). Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import interp_plugins.attr as ours
from interp_plugins import explain
from tests.benchmarks.bench_error import quiet
from tests.benchmarks.measured import Table, span
from tests.benchmarks.trained import Case, digit, table

Call = Callable[[], Any]
TARGET = 1
TABLE = Table(
    "peers",
    "Beside other libraries",
    "`python -m tests.benchmarks.bench_peers`: the same method and sample in turn; milliseconds, and theirs over here "
    "(more than 1 is faster here). resnet18 has random weights, 224 x 224; the other nets are trained.",
    ("theirs, ms", "here, ms", "theirs / here"),
    ("grad-cam", "zennit", "shap", "lime", "shapiq"),
)


def resnet() -> nn.Module:
    """resnet18 with seeded random weights."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18().eval()


def pictures(n: int) -> Tensor:
    return torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def cams() -> Iterator[tuple[str, Call, Call]]:
    """Class activation maps of one picture and of eight."""
    peer: Any = importlib.import_module("pytorch_grad_cam")
    chosen: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    net = resnet()
    names = {"GradCAM": "grad_cam", "GradCAMPlusPlus": "grad_cam_plus_plus", "LayerCAM": "layer_cam",
             "HiResCAM": "hi_res_cam", "EigenCAM": "eigen_cam"}  # fmt: skip
    for theirs, name in names.items():
        for n in (1, 8):
            x, twin = pictures(n), copy.deepcopy(net)
            made = getattr(peer, theirs)(model=twin, target_layers=[twin.layer4])
            there = lambda made=made, x=x, n=n: made(input_tensor=x, targets=[chosen(TARGET)] * n)  # noqa: E731
            how: dict[str, Any] = {"target": TARGET, "layer": net.layer4, "progress": False}
            here = lambda x=x, name=name, how=how: explain(net, x, name, **how)  # noqa: E731
            yield f"explain {theirs} x {n} / pytorch-grad-cam", there, here


def lrp() -> Iterator[tuple[str, Call, Call]]:
    """LRP, epsilon rule with gamma below, resnet18."""
    zennit: Any = importlib.import_module("zennit.attribution")
    composites: Any = importlib.import_module("zennit.composites")
    canonizer: Any = importlib.import_module("zennit.torchvision").ResNetCanonizer
    net = resnet()
    for n in (1, 8):
        x = pictures(n)

        def there(x: Tensor = x) -> Tensor:
            composite = composites.EpsilonPlusFlat(canonizers=[canonizer()])
            with zennit.Gradient(copy.deepcopy(net), composite) as attributor:
                return attributor(x, torch.eye(1000)[[TARGET] * len(x)])[1]

        method = ours.LRP(net, composite="epsilon_plus_flat")
        yield f"LRP x {n} / zennit", there, lambda x=x, method=method: method.attribute(x, target=TARGET)


def sampled() -> Iterator[tuple[str, Call, Call]]:
    """Methods that sample, with as many rows on both sides."""
    for name, case in (("adult", table("adult")), ("digit", digit())):
        yield from shap_rows(name, case)
        yield from lime_rows(name, case)


def shap_rows(name: str, case: Case) -> Iterator[tuple[str, Call, Call]]:
    """GradientShap, KernelShap and Owen values against shap."""
    shap: Any = importlib.import_module("shap")
    explainer = quiet(lambda: shap.GradientExplainer(case.net, case.pool, batch_size=64))
    gradient = ours.GradientShap(case.net)
    yield (
        f"GradientShap, {name}, 256 draws / shap",
        lambda: explainer.shap_values(case.x, nsamples=256, rseed=0),
        lambda: gradient.attribute(case.x, case.pool, n_samples=256, target=case.target, progress=False),
    )
    rows, one, none = 8 * case.d, np.ones((1, case.d)), np.zeros((1, case.d))
    kernel = ours.KernelShap(case.net)
    yield (
        f"KernelShap, {name}, {rows} rows / shap",
        lambda: shap.KernelExplainer(case.game, none).shap_values(one, nsamples=rows, l1_reg=False, silent=True),
        lambda: kernel.attribute(case.x, n_samples=rows, stratified=True, progress=False, **case.masked),
    )
    deep = quiet(lambda: shap.DeepExplainer(case.net, case.pool))
    mine = ours.DeepLiftShap(case.net)
    yield (
        f"DeepLiftShap, {name}, {len(case.pool)} baselines / shap",
        lambda: deep.shap_values(case.x, check_additivity=False),
        lambda: mine.attribute(case.x, case.pool, target=case.target),
    )


def lime_rows(name: str, case: Case) -> Iterator[tuple[str, Call, Call]]:
    """LIME's own solver, on the same coalitions' scores."""
    base: Any = importlib.import_module("lime.lime_base")
    rows = 16 * case.d

    def there() -> Any:
        z = (np.random.default_rng(0).random((rows, case.d)) < 0.5).astype(float)
        z[0] = 1
        scores = case.game(z)[:, None]
        distances = 1 - z.mean(1) ** 0.5
        made = base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)), random_state=0)
        return made.explain_instance_with_data(z, scores, distances, 0, case.d, feature_selection="none")

    method = ours.Lime(case.net)
    here = lambda: method.attribute(case.x, n_samples=rows, orthogonal=True, progress=False, **case.masked)  # noqa: E731
    yield f"Lime, {name}, {rows} rows / lime", there, here


def measure(name: str, there: Call, here: Call, rounds: int) -> None:
    """A row of the table; short calls are repeated within a round."""

    def seconds(call: Call, count: int) -> float:
        begin = time.process_time()
        for _ in range(count):
            quiet(call)
        return (time.process_time() - begin) / count

    first = max(seconds(there, 1), seconds(here, 1))
    count = max(1, min(20, int(0.05 / first)))
    pairs = [(seconds(there, count), seconds(here, count)) for _ in range(rounds)]
    theirs, mine = (f"{1000 * statistics.median(column):.3g}" for column in zip(*pairs, strict=True))
    TABLE.add(name, [theirs, mine, span([a / b for a, b in pairs])], rounds)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only rows whose name holds one of these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for rows in (cams, lrp, sampled):
        with contextlib.suppress(ImportError):
            for name, there, here in rows():
                if not options.names or any(word in name for word in options.names):
                    measure(name, there, here, options.rounds)


if __name__ == "__main__":
    main()
