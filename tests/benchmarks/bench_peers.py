"""Other libraries on one page: the same method, the same sample, in turn.

    python -m tests.benchmarks.bench_peers [NAME ...] [--rounds 5] [--threads 1]

Processor seconds of all threads, theirs over here (more than 1 is faster here), medians and ranges of the rounds, and
how the results correlate. Class activation maps against pytorch-grad-cam, LRP against zennit, sampled methods against
shap, lime and shapiq at the same number of rows, Integrated Gradients of text against inseq (`bench_llm` has it) and of
pictures against Captum (`bench_speed`). Libraries that are not installed are left out. With more threads than one, rows
of their own are written.
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
Alike = Callable[[Any, Any], tuple[Any, Any]]  # the two results, as numbers that can be compared
Row = tuple[str, Call, Call, Alike | None]
TARGET = 1
TABLE = Table(
    "peers",
    "Beside other libraries",
    "`python -m tests.benchmarks.bench_peers`: the same method and sample in turn; milliseconds of the processor, "
    "theirs over here (more than 1 is faster here), and the correlation of the two results (both draw where methods "
    "sample). resnet18 has random weights, 224 x 224; the other nets are trained.",
    ("theirs, ms", "here, ms", "theirs / here", "correlation"),
    ("grad-cam", "zennit", "shap", "lime", "shapiq"),
)


def resnet() -> nn.Module:
    """resnet18 with seeded random weights."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18().eval()


def pictures(n: int) -> Tensor:
    return torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def cams() -> Iterator[Row]:
    """Class activation maps of one picture and of eight."""
    peer: Any = importlib.import_module("pytorch_grad_cam")
    chosen: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    net = resnet()
    names = {"GradCAM": "grad_cam", "GradCAMPlusPlus": "grad_cam_plus_plus", "LayerCAM": "layer_cam",
             "HiResCAM": "hi_res_cam", "XGradCAM": "x_grad_cam", "EigenCAM": "eigen_cam",
             "EigenGradCAM": "eigen_grad_cam"}  # fmt: skip

    def alike(theirs: Any, mine: Any) -> tuple[Any, Any]:  # theirs is enlarged to the picture
        small = nn.functional.adaptive_avg_pool2d(torch.as_tensor(theirs)[:, None], 7)
        return small, mine[0].attribution

    for theirs, name in names.items():
        for n in (1, 8):
            x, twin = pictures(n), copy.deepcopy(net)
            made = getattr(peer, theirs)(model=twin, target_layers=[twin.layer4])
            there = lambda made=made, x=x, n=n: made(input_tensor=x, targets=[chosen(TARGET)] * n)  # noqa: E731
            how: dict[str, Any] = {"target": TARGET, "layer": net.layer4, "progress": False}
            here = lambda x=x, name=name, how=how: explain(net, x, name, **how)  # noqa: E731
            yield f"explain {theirs} x {n} / pytorch-grad-cam", there, here, alike


def lrp() -> Iterator[Row]:
    """LRP, epsilon rule with z-plus and flat, resnet18."""
    zennit: Any = importlib.import_module("zennit.attribution")
    composites: Any = importlib.import_module("zennit.composites")
    canonizer: Any = importlib.import_module("zennit.torchvision").ResNetCanonizer
    net = resnet()
    for n in (1, 8):
        x, twin = pictures(n), copy.deepcopy(net)

        def there(x: Tensor = x, twin: nn.Module = twin) -> Tensor:
            composite = composites.EpsilonPlusFlat(canonizers=[canonizer()])
            with zennit.Gradient(twin, composite) as attributor:
                return attributor(x, torch.eye(1000)[[TARGET] * len(x)])[1]

        method = ours.LRP(net, composite="epsilon_plus_flat")
        yield f"LRP x {n} / zennit", there, lambda x=x, method=method: method.attribute(x, target=TARGET), None


def sampled() -> Iterator[Row]:
    """Methods that sample, with as many rows on both sides."""
    for name, build in (("adult", lambda: table("adult")), ("digit", digit)):
        case = build()
        for rows in (shap_gradients, shap_coalitions, lime_rows, shapiq_rows):
            with contextlib.suppress(ImportError):
                yield from rows(name, case)


def shap_gradients(name: str, case: Case) -> Iterator[Row]:
    """GradientShap and DeepLiftShap against shap."""
    shap: Any = importlib.import_module("shap")
    explainer = quiet(lambda: shap.GradientExplainer(case.net, case.pool, batch_size=64))
    gradient = ours.GradientShap(case.net)

    def alike(theirs: Any, mine: Any) -> tuple[Any, Any]:
        return np.asarray(theirs)[..., case.target], mine

    yield (
        f"GradientShap, {name}, 256 draws / shap",
        lambda: explainer.shap_values(case.x, nsamples=256, rseed=0),
        lambda: gradient.attribute(case.x, case.pool, n_samples=256, target=case.target, progress=False),
        alike,
    )
    deep = quiet(lambda: shap.DeepExplainer(case.net, case.pool))
    mine = ours.DeepLiftShap(case.net)
    yield (
        f"DeepLiftShap, {name}, {len(case.pool)} baselines / shap",
        lambda: deep.shap_values(case.x, check_additivity=False),
        lambda: mine.attribute(case.x, case.pool, target=case.target),
        alike,
    )


def shap_coalitions(name: str, case: Case) -> Iterator[Row]:
    """KernelShap, Shapley values by orders and Owen values against shap."""
    shap: Any = importlib.import_module("shap")
    d = case.d
    rows, one, none = 8 * d, np.ones((1, d)), np.zeros((1, d))
    kernel, orders, owen = ours.KernelShap(case.net), ours.ShapleyValueSampling(case.net), ours.OwenValues(case.net)

    def alike(theirs: Any, mine: Any) -> tuple[Any, Any]:
        return np.asarray(getattr(theirs, "values", theirs)).reshape(-1), per_feature(case, mine)

    yield (
        f"KernelShap, {name}, {rows} rows / shap",
        lambda: shap.KernelExplainer(case.game, none).shap_values(one, nsamples=rows, l1_reg=False, silent=True),
        lambda: kernel.attribute(case.x, n_samples=rows, stratified=True, progress=False, **case.masked),
        alike,
    )
    evals = 8 * d + 1
    permutation = shap.explainers.Permutation(case.game, none, seed=0)
    yield (
        f"Shapley values, {name}, four pairs of orders / shap",
        lambda: permutation(one, max_evals=evals, silent=True, batch_size=64),
        lambda: orders.attribute(case.x, n_samples=4, antithetic=True, progress=False, **case.masked),
        alike,
    )
    tree = halves(tuple(range(d)))
    partition = shap.explainers.Partition(case.game, shap.maskers.Partition(none, clustering=linkage(tree)))
    yield (
        f"Owen values, {name}, 200 rows / shap",
        lambda: partition(one, max_evals=200, silent=True, batch_size=64),
        lambda: owen.attribute(case.x, hierarchy=tree, max_evals=200, progress=False, **case.masked),
        alike,
    )


def per_feature(case: Case, maps: Tensor) -> Tensor:
    """A value per feature, of a map that has it at each of the feature's elements."""
    return torch.stack([maps[case.mask.expand_as(maps) == k].mean() for k in range(case.d)])


def halves(features: tuple[int, ...]) -> Any:
    """Features as nested halves."""
    middle = len(features) // 2
    return features[0] if len(features) == 1 else (halves(features[:middle]), halves(features[middle:]))


def linkage(tree: Any) -> np.ndarray:
    """Nested pairs as scipy's rows of two clusters, a height and a number of features."""
    rows: list[tuple[int, int, float, int]] = []

    def count(one: Any) -> int:
        return 1 if isinstance(one, int) else count(one[0]) + count(one[1])

    d = count(tree)

    def number(one: Any) -> int:
        if isinstance(one, int):
            return one
        a, b = number(one[0]), number(one[1])
        rows.append((a, b, float(count(one)), count(one)))
        return d + len(rows) - 1

    number(tree)
    return np.array(rows)


def lime_rows(name: str, case: Case) -> Iterator[Row]:
    """LIME's own solver on the same coalitions' scores, and its explainers as its users call them."""
    base: Any = importlib.import_module("lime.lime_base")
    rows, method = 16 * case.d, ours.Lime(case.net)

    def there() -> Any:
        z = (np.random.default_rng(0).random((rows, case.d)) < 0.5).astype(float)
        z[0] = 1
        scores = case.game(z)[:, None]
        distances = 1 - z.mean(1) ** 0.5
        made = base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)), random_state=0)
        return made.explain_instance_with_data(z, scores, distances, 0, case.d, feature_selection="none")

    def here(n: int) -> Tensor:
        return method.attribute(case.x, n_samples=n, orthogonal=True, progress=False, **case.masked)

    def alike(weights: Any, mine: Tensor) -> tuple[Any, Any]:
        return [w for _, w in sorted(weights)], per_feature(case, mine)

    yield f"Lime, {name}, {rows} rows / lime", there, lambda: here(rows), lambda a, b: alike(a[1], b)
    if case.x.ndim == 4:
        image: Any = importlib.import_module("lime.lime_image")
        explainer = image.LimeImageExplainer(random_state=0)

        def classify(pictures: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return case.net(torch.as_tensor(pictures[..., 0], dtype=torch.float32)[:, None]).numpy()

        def pictured() -> Any:
            return explainer.explain_instance(
                case.x[0, 0].double().numpy(), classify, labels=(case.target,), top_labels=None, hide_color=0,
                num_samples=1000, batch_size=64,
                segmentation_fn=lambda _: case.mask[0, 0].numpy(),
            )  # fmt: skip

        yield (
            f"Lime, {name}, 1,000 copies / lime_image", pictured, lambda: here(1000),
            lambda a, b: alike(a.local_exp[case.target], b),
        )  # fmt: skip
        return
    tabular: Any = importlib.import_module("lime.lime_tabular")
    explain_row = tabular.LimeTabularExplainer(case.pool.double().numpy(), random_state=0)

    def probabilities(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return case.net(torch.as_tensor(x, dtype=torch.float32)).softmax(1).numpy()

    def row() -> Any:
        return explain_row.explain_instance(
            case.x[0].double().numpy(), probabilities, labels=(case.target,), num_features=case.d, num_samples=1000
        )

    yield f"Lime, {name}, 1,000 copies / lime_tabular (whose copies are others)", row, lambda: here(1000), None


def shapiq_rows(name: str, case: Case) -> Iterator[Row]:
    """Pairwise interactions at as many rows; of 14 features."""
    approximator: Any = importlib.import_module("shapiq.approximator")
    if case.d > 20:
        return
    mine, d = ours.ShapleyInteractions(case.net), case.d
    pairs, orders = [(i, j) for j in range(d) for i in range(j)], 10
    rows = orders * d * (d + 1) // 2
    for theirs in ("PermutationSamplingSII", "KernelSHAPIQ", "SVARMIQ"):
        made = getattr(approximator, theirs)

        def there(made: Any = made) -> Any:
            return made(n=d, max_order=2, index="SII", random_state=0).approximate(rows, case.game)

        def here() -> Tensor:
            return mine.attribute(case.x, n_samples=orders, seed=0, progress=False, **case.masked)[0]

        yield (
            f"Interactions, {name}, {rows} rows / shapiq {theirs}", there, here,
            lambda a, b: ([a[pair] for pair in pairs], [b[pair] for pair in pairs]),
        )  # fmt: skip


def correlation(theirs: Any, mine: Any) -> float:
    """Of all numbers of the two."""
    one, two = (torch.as_tensor(np.asarray(v, dtype=float)).reshape(-1) for v in (theirs, mine))
    return float(torch.corrcoef(torch.stack([one, two]))[0, 1])


def measure(row: Row, rounds: int) -> None:
    """A row of the table; short calls are repeated within a round."""
    name, there, here, alike = row

    def seconds(call: Call, count: int) -> float:
        begin = time.process_time()
        for _ in range(count):
            quiet(call)
        return (time.process_time() - begin) / count

    theirs, mine = quiet(there), quiet(here)
    same = "" if "others" in name else f"{correlation(*(alike(theirs, mine) if alike else (theirs, mine))):.3f}"
    first = max(seconds(there, 1), seconds(here, 1))
    count = max(1, min(20, int(0.05 / first)))
    pairs = [(seconds(there, count), seconds(here, count)) for _ in range(rounds)]
    there_ms, here_ms = (f"{1000 * statistics.median(column):.3g}" for column in zip(*pairs, strict=True))
    threads = torch.get_num_threads()
    label = name if threads == 1 else f"{name}, {threads} threads"
    TABLE.add(label, [there_ms, here_ms, span([a / b for a, b in pairs]), same], rounds)


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
            for row in rows():
                if not options.names or any(word in row[0] for word in options.names):
                    measure(row, options.rounds)


if __name__ == "__main__":
    main()
