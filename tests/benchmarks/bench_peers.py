"""Other libraries on one page: the same method, the same sample, in turn.

    python -m tests.benchmarks.bench_peers [NAME ...] [--groups cams ...] [--rounds 5] [--threads 1 2]

Processor seconds of all threads, theirs over here (more than 1 is faster here), medians and ranges of the rounds, the
same by the clock, and how the results correlate and how far they are apart. Class activation maps against
pytorch-grad-cam, LRP against zennit, sampled methods against shap, lime and shapiq at the same number of rows,
Integrated Gradients of text against inseq and Captum (of pictures: `bench_speed`). Libraries that are not installed are
left out. With more threads than one, class activation maps, LRP and texts have rows of their own; the nets of the
others are too small to share a pass.
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
from interp_plugins.attr.perturbation.surrogate import WeightedRidge
from interp_plugins.demo.language_model import smollm2, smollm2_file
from tests.benchmarks import bench_llm
from tests.benchmarks.bench_error import quiet
from tests.benchmarks.measured import Table, span
from tests.benchmarks.trained import Case, digit, table

Call = Callable[[], Any]
Alike = Callable[[Any, Any], tuple[Any, Any] | None]  # the two results, as numbers that can be compared
Row = tuple[str, Call, Call, Alike]
TARGET = 1
TABLE = Table(
    "peers",
    "Beside other libraries",
    "`python -m tests.benchmarks.bench_peers --threads 1 2`: the same method and sample in turn; milliseconds of the "
    "processor (all threads), theirs over here (more than 1 is faster here), the same by the clock (which counts on an "
    "idle machine alone), the correlation of the two results and the length of their difference over that of theirs "
    "(both draw where methods sample). resnet18 has random weights, 224 x 224; the other nets are trained. "
    "`explain` is the whole call with prediction, probability and fingerprint, `class` the method's class alone, "
    "which is what the peer offers. Principal axes have no sign, and are compared by the nearer one. The peer's "
    "Grad-CAM++ adds 1e-6 to squares of gradients that are no larger here; its EigenCAM is centred, as ours is with "
    "`centre=True`.",
    ("theirs, ms", "here, ms", "theirs / here", "by the clock", "correlation", "apart", "where it is slower here, why"),
    ("grad-cam", "zennit", "shap", "lime", "shapiq", "captum", "inseq"),
)
_SMALL = "a pass takes a tenth of a millisecond, so the call counts: its guard puts model, hooks and generators back"
_PASSES = "four fifths are the model's passes, of 392 rows here and of 64 in the peer's game"
WHY = {  # of rows that are slower here: the beginning of their name -> the reason
    "explain EigenCAM": "both run the model once; here the fingerprint reads all weights, and two guards surround it",
    "class EigenCAM": "both run the model once; here a guard surrounds it",
    "Shapley values, adult": _SMALL,
    "KernelShap, adult": _SMALL,
    "Owen values, adult": _SMALL,
    "Lime, adult": "the default surrogate is scikit-learn's lasso, a third of the call; lime_base has ridge",
    "Lime, digit": _PASSES,
    "Lime with ridge regression, digit": _PASSES,
    "Lime with ridge regression, adult": _SMALL,
}


def resnet() -> nn.Module:
    """resnet18 with seeded random weights."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18().eval()


def pictures(n: int) -> Tensor:
    return torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def as_they_are(theirs: Any, mine: Any) -> tuple[Any, Any]:
    """Results of one shape and scale."""
    return theirs, mine


def others(theirs: Any, mine: Any) -> None:
    """Results that are not to be compared."""


def cams() -> Iterator[Row]:
    """Class activation maps of one picture and of eight."""
    peer: Any = importlib.import_module("pytorch_grad_cam")
    scaled: Any = importlib.import_module("pytorch_grad_cam.utils.image").scale_cam_image
    chosen: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    net = resnet()
    names = {"GradCAM": "grad_cam", "GradCAMPlusPlus": "grad_cam_plus_plus", "LayerCAM": "layer_cam",
             "HiResCAM": "hi_res_cam", "XGradCAM": "x_grad_cam", "EigenCAM": "eigen_cam",
             "EigenGradCAM": "eigen_grad_cam"}  # fmt: skip

    def alike(theirs: np.ndarray, mine: Any) -> tuple[Any, Any]:
        """Theirs is scaled to 0 .. 1 and enlarged, and so is ours; where an axis has no sign, by the nearer one."""
        maps = getattr(mine[0], "attribution", mine).detach().numpy()[:, 0]
        both = [scaled(scaled(np.maximum(m, 0), theirs.shape[1:][::-1])) for m in (maps, -maps)]
        if maps.min() >= 0:
            return theirs, both[0]
        nearer = [min(both, key=lambda b: np.abs(b[k] - t).sum())[k] for k, t in enumerate(theirs)]
        return theirs, np.stack(nearer)

    for theirs, name in names.items():
        more: dict[str, Any] = {"relu_attributions": False} if "Eigen" in theirs else {}
        more |= {"centre": True} if theirs == "EigenCAM" else {}  # as the peer does, and the paper does not
        for n in (1, 8):
            x, twin = pictures(n), copy.deepcopy(net)
            made = getattr(peer, theirs)(model=twin, target_layers=[twin.layer4])
            there = lambda made=made, x=x, n=n: made(input_tensor=x, targets=[chosen(TARGET)] * n)  # noqa: E731
            how: dict[str, Any] = {"target": TARGET, **more}
            yield (
                f"explain {theirs} x {n} / pytorch-grad-cam", there,
                lambda x=x, name=name, how=how: explain(net, x, name, layer=net.layer4, progress=False, **how), alike,
            )  # fmt: skip
            if theirs == "EigenCAM":  # a forward pass is all that there is, so what surrounds it counts
                yield (
                    f"class {theirs} x {n} / pytorch-grad-cam", there,
                    lambda x=x, how=how: ours.EigenCAM(net, net.layer4).attribute(x, **how), alike,
                )  # fmt: skip


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
                return attributor(x, lambda scores: scores * torch.eye(1000)[TARGET])[1]

        method = ours.LRP(net, composite="epsilon_plus_flat")
        yield f"LRP x {n} / zennit", there, lambda x=x, method=method: method.attribute(x, target=TARGET), as_they_are


def texts() -> Iterator[Row]:
    """Integrated Gradients of a prompt of 13 tokens, SmolLM2, each output token with a map of its own."""
    if smollm2_file() is None:
        return
    model, tokenizer = smollm2()
    for output, count in ((" Rome", 1), (bench_llm.LONG, 3)):
        here = bench_llm.path(ours, model, tokenizer, output)
        name = f"Integrated Gradients, SmolLM2, {bench_llm.STEPS} steps, {count} output token{'s' * (count > 1)} / "
        with contextlib.suppress(ImportError):
            theirs = importlib.import_module("captum.attr")
            yield f"{name}Captum", bench_llm.path(theirs, model, tokenizer, output), here, as_they_are
        with contextlib.suppress(ImportError):
            # Its path begins at another token than ours.
            yield f"{name}inseq", bench_llm.inseqs(model, tokenizer, output), here, others


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
    ridge = ours.Lime(case.net, interpretable_model=WeightedRidge(1.0))  # what lime fits

    def there() -> Any:
        z = (np.random.default_rng(0).random((rows, case.d)) < 0.5).astype(float)
        z[0] = 1
        scores = case.game(z)[:, None]
        distances = 1 - z.mean(1) ** 0.5
        made = base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)), random_state=0)
        return made.explain_instance_with_data(z, scores, distances, 0, case.d, feature_selection="none")

    def here(n: int, method: Any = method) -> Tensor:
        return method.attribute(case.x, n_samples=n, orthogonal=True, progress=False, **case.masked)

    def alike(weights: Any, mine: Tensor) -> tuple[Any, Any]:
        return [w for _, w in sorted(weights)], per_feature(case, mine)

    yield f"Lime, {name}, {rows} rows / lime_base", there, lambda: here(rows), lambda a, b: alike(a[1], b)
    yield (
        f"Lime with ridge regression, {name}, {rows} rows / lime_base",
        there,
        lambda: here(rows, ridge),
        lambda a, b: alike(a[1], b),
    )
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

    yield f"Lime, {name}, 1,000 copies / lime_tabular (whose copies are others)", row, lambda: here(1000), others


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
            lambda a, b: ([a[pair] for pair in pairs], [2 * b[pair] for pair in pairs]),
        )  # fmt: skip


def compared(pair: tuple[Any, Any] | None) -> tuple[str, str]:
    """Correlation of all numbers of the two, and the length of their difference over that of the first."""
    if pair is None:
        return "", ""
    one, two = (
        torch.as_tensor(np.asarray(v.detach() if isinstance(v, Tensor) else v, dtype=float)).reshape(-1) for v in pair
    )
    return (
        f"{float(torch.corrcoef(torch.stack([one, two]))[0, 1]):.3f}",
        f"{float((two - one).norm() / one.norm()):.1e}",
    )


def measure(row: Row, rounds: int) -> None:
    """A row of the table; short calls are repeated within a round."""
    name, there, here, alike = row

    def seconds(call: Call, count: int) -> tuple[float, float]:
        clock, begin = time.perf_counter(), time.process_time()
        for _ in range(count):
            quiet(call)
        return (time.process_time() - begin) / count, (time.perf_counter() - clock) / count

    begin = time.process_time()
    same, apart = compared(alike(quiet(there), quiet(here)))
    first = (time.process_time() - begin) / 2
    count = max(1, min(20, int(0.1 / first)))
    pairs = [(seconds(there, count), seconds(here, count)) for _ in range(rounds)]
    ours_ms, theirs_ms = (f"{1000 * statistics.median(pair[k][0] for pair in pairs):.3g}" for k in (1, 0))
    ratios, clocks = ([a[k] / b[k] for a, b in pairs] for k in (0, 1))
    slower = statistics.median(ratios) < 1
    why = next((text for begin, text in WHY.items() if name.startswith(begin)), "not known") if slower else ""
    threads = torch.get_num_threads()
    label = name if threads == 1 else f"{name}, {threads} threads"
    cells = [theirs_ms, ours_ms, span(ratios), f"{statistics.median(clocks):.2f}", same, apart, why]
    TABLE.add(label, cells, rounds)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only rows whose name holds one of these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    groups = {rows.__name__: rows for rows in (cams, lrp, texts, sampled)}
    parser.add_argument("--groups", nargs="+", default=list(groups), choices=list(groups))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for group in options.groups:
            if threads > 1 and group == "sampled":
                continue
            with contextlib.suppress(ImportError):
                for row in groups[group]():
                    if not options.names or any(word in row[0] for word in options.names):
                        measure(row, options.rounds)


if __name__ == "__main__":
    main()
