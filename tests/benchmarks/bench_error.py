"""Seconds to a given error, here and in other libraries, for everything that samples or integrates.

    python -m tests.benchmarks.bench_error [METHOD:CASE ...] [--seeds 10] [--limit 60]

On trained nets (`tests/benchmarks/trained.py`). The error is the relative L2 distance of the features' values to a
converged reference of the same quantity. Every setting runs with more and more draws, each with so many seeds, all
settings in turn; the seconds (of the processor, one thread) at which the seeds' median error falls below .1 and .03 are
read off the line between neighbours. Peers run at their best of the settings here: passes as large as they take, pairs
where they have them. shap, lime and shapiq are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import captum.attr as theirs
import numpy as np
import torch
from torch import Tensor

import interp_plugins.attr as ours
from tests.benchmarks.error_peers import Run, coalition_peers, halved, owen_peers, quiet, seeded
from tests.benchmarks.measured import Table
from tests.benchmarks.trained import CASES, Case

LEVELS = (0.1, 0.03)
TABLE = Table(
    "error",
    "Seconds to a given error",
    "`python -m tests.benchmarks.bench_error`: trained nets, one sample; the error is the relative L2 distance of the "
    "features' values to a converged reference. Milliseconds until the median error of the seeds is below the level "
    '("> n": it was not reached in n), of the fastest setting of the fastest peer and of the fastest here, and seconds '
    "here over there (in brackets with the seeds' upper and lower quartiles of error in place of both medians). "
    "The aim was .5.",
    ("level", "best peer", "ms", "here", "ms", "here / peer"),
    ("captum", "shap", "shapiq", "lime"),
)


@dataclass
class Problem:
    """What is compared: settings here and elsewhere, the quantity itself, and the numbers of draws to begin with."""

    here: dict[str, tuple[Run, int]]
    peers: dict[str, tuple[Run, int]]
    truth: Callable[[], Tensor]


def integrated_gradients(case: Case) -> Problem:
    """Against Captum's rule in the batches that are fastest."""
    how: dict[str, Any] = {"baselines": case.baseline, "target": case.target}
    mine, other = ours.IntegratedGradients(case.net), theirs.IntegratedGradients(case.net)
    return Problem(
        {
            "Gauss-Legendre": (lambda n, _: mine.attribute(case.x, n_steps=n, progress=False, **how), 5),
            "Fejér": (lambda n, _: mine.attribute(case.x, n_steps=n, method="fejer", progress=False, **how), 5),
        },
        {
            f"Captum, {size} a pass": (
                lambda n, _, size=size: other.attribute(case.x, n_steps=n, internal_batch_size=size, **how), 5)
            for size in (8, 32)
        },
        lambda: mine.attribute(case.x, n_steps=2000, method="fejer", progress=False, **how),
    )  # fmt: skip


def noise_tunnel(case: Case) -> Problem:
    """Smoothed Integrated Gradients; Captum with as few steps a copy as pay."""
    std = 0.15 * float(case.x.max() - case.x.min())
    how: dict[str, Any] = {"stdevs": std, "baselines": case.baseline, "target": case.target}
    mine = ours.NoiseTunnel(ours.IntegratedGradients(case.net))
    other = theirs.NoiseTunnel(theirs.IntegratedGradients(case.net))

    def here(n: int, seed: int, **more: Any) -> Tensor:
        # A tolerance that is not met: so many copies are made.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mine.attribute(
                case.x, nt_samples=n, tol=1e-6, max_samples=n, seed=seed, progress=False, **more, **how
            )

    def there(n: int, seed: int, steps: int) -> Tensor:
        seeded(seed)
        return other.attribute(case.x, nt_samples=n, nt_samples_batch_size=max(1, 32 // steps), n_steps=steps,
                               internal_batch_size=32, **how)  # fmt: skip

    return Problem(
        {f"{k} steps, shifted": (lambda n, s, k=k: here(n, s, n_steps=k), 8) for k in (1, 3, 5)},
        {f"Captum, {k} steps": (lambda n, s, k=k: there(n, s, k), 4) for k in (5, 10, 20)},
        lambda: torch.stack([mine.attribute(case.x, nt_samples=400, n_steps=20, seed=1000 + k, progress=False, **how)
                             for k in range(4)]).mean(0),
    )  # fmt: skip


def gradient_shap(case: Case) -> Problem:
    """Against Captum and shap's GradientExplainer."""
    mine, other = ours.GradientShap(case.net), theirs.GradientShap(case.net)
    how: dict[str, Any] = {"baselines": case.pool, "target": case.target}

    def there(n: int, seed: int) -> Tensor:
        seeded(seed)
        return other.attribute(case.x, n_samples=n, **how)

    def of(n: int, seed: int, each: int, **more: Any) -> Tensor:
        return mine.attribute(case.x, n_samples=max(1, n // each), seed=seed, progress=False, **more, **how)

    peers: dict[str, tuple[Run, int]] = {"Captum": (there, 16)}
    with contextlib.suppress(ImportError):
        shap: Any = importlib.import_module("shap")

        explainer = quiet(lambda: shap.GradientExplainer(case.net, case.pool, batch_size=64))

        def explained(n: int, seed: int) -> Tensor:
            found = quiet(lambda: explainer.shap_values(case.x, nsamples=n, rseed=seed))
            return torch.as_tensor(np.asarray(found)[..., case.target])

        peers["shap"] = (explained, 16)
    return Problem(
        {
            "independent": (lambda n, s: of(n, s, 1), 16),
            "antithetic": (lambda n, s: of(n, s, 2, antithetic=True), 16),
            "stratified": (lambda n, s: of(n, s, 4, stratified=True), 16),
            "one set of strata": (lambda n, s: of(n, s, n, stratified=n), 16),
            "four sets of strata": (lambda n, s: of(n, s, n // 4, stratified=n // 4), 16),
        },
        peers,
        lambda: torch.stack([of(6400, 1000 + k, 800, stratified=800) for k in range(4)]).mean(0),
    )


def shapley_truth(case: Case) -> Tensor:
    """All coalitions, or many orders: as many as take 200,000 passes."""
    if case.d <= 14:
        return ours.ShapleyValues(case.net).attribute(case.x, progress=False, **case.masked)
    method = ours.ShapleyValueSampling(case.net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method.attribute(
            case.x, n_samples=50_000 // case.d, stratified=True, seed=99, progress=False, **case.masked
        )


def shapley_sampling(case: Case) -> Problem:
    """Orders; against Captum's, shap's and shapiq's."""
    mine, other = ours.ShapleyValueSampling(case.net), theirs.ShapleyValueSampling(case.net)

    def there(n: int, seed: int) -> Tensor:
        seeded(seed)
        return other.attribute(case.x, n_samples=max(1, n // case.d), perturbations_per_eval=32, **case.masked)

    def of(n: int, seed: int, each: int, **more: Any) -> Tensor:
        orders = max(1, n // (case.d * each))
        return mine.attribute(case.x, n_samples=orders, seed=seed, progress=False, **more, **case.masked)

    d, peers = case.d, coalition_peers(case)
    return Problem(
        {
            "antithetic": (lambda n, s: of(n, s, 2, antithetic=True), 2 * d),
            "stratified": (lambda n, s: of(n, s, 2 * d, stratified=True), 2 * d * d),
        },
        {"Captum": (there, 4 * d)} | {k: v for k, v in peers.items() if "Kernel" not in k},
        lambda: shapley_truth(case),
    )


def kernel_shap(case: Case) -> Problem:
    """Regressions; against Captum's, shap's and shapiq's."""
    mine, other = ours.KernelShap(case.net), theirs.KernelShap(case.net)

    def there(n: int, seed: int) -> Tensor:
        seeded(seed)
        return other.attribute(case.x, n_samples=n, perturbations_per_eval=32, **case.masked)

    def of(n: int, seed: int, **more: Any) -> Tensor:
        return mine.attribute(case.x, n_samples=n, seed=seed, progress=False, **more, **case.masked)

    peers = {k: v for k, v in coalition_peers(case).items() if "Kernel" in k}
    return Problem(
        {
            "paired": (lambda n, s: of(n, s, paired=True), 4 * len(case.players)),
            "stratified": (lambda n, s: of(n, s, stratified=True), 4 * len(case.players)),
        },
        {"Captum": (there, 4 * case.d)} | peers,
        lambda: shapley_truth(case),
    )


def lime(case: Case) -> Problem:
    """Captum's surrogate (lasso .01, exponential kernel); lime's own, against its own limit, is in the peers' table."""
    mine, other = ours.Lime(case.net), theirs.Lime(case.net)

    def there(n: int, seed: int) -> Tensor:
        seeded(seed)
        return other.attribute(case.x, n_samples=n, perturbations_per_eval=32, **case.masked)

    def of(n: int, seed: int, **more: Any) -> Tensor:
        return mine.attribute(case.x, n_samples=n, seed=seed, progress=False, **more, **case.masked)

    return Problem(
        {
            "independent": (lambda n, s: of(n, s), 4 * case.d),
            "orthogonal": (lambda n, s: of(n, s, orthogonal=True), 4 * case.d),
        },
        {"Captum": (there, 4 * case.d)},
        lambda: torch.stack([of(20_000, 1000 + k, orthogonal=True) for k in range(2)]).mean(0),
    )


def interactions(case: Case) -> Problem:
    """Pairwise Shapley interactions; against shapiq."""
    mine, pairs = ours.ShapleyInteractions(case.net), [(i, j) for i in range(case.d) for j in range(i)]

    def of(n: int | None, seed: int) -> Tensor:
        orders = None if n is None else max(1, n // (case.d * (case.d + 1) // 2))
        found = mine.attribute(case.x, n_samples=orders, seed=seed, progress=False, **case.masked).double()[0]
        return torch.stack([2 * found[i, j] for i, j in pairs])

    peers: dict[str, tuple[Run, int]] = {}
    with contextlib.suppress(ImportError):
        approximator: Any = importlib.import_module("shapiq.approximator")

        def there(name: str, n: int, seed: int) -> Tensor:
            made = getattr(approximator, name)(n=case.d, max_order=2, index="SII", random_state=seed)
            found = made.approximate(n, case.game)
            return torch.tensor([found[(j, i)] for i, j in pairs])

        for name in ("PermutationSamplingSII", "KernelSHAPIQ", "SVARMIQ"):
            peers[f"shapiq {name}"] = (lambda n, s, name=name: there(name, n, s), 8 * case.d)
    return Problem({"fit and leftovers": (of, 3 * case.d * (case.d + 1))}, peers, lambda: of(None, 0))


def owen(case: Case) -> Problem:
    """Over halves of halves of the features, by number; against shap's Partition. Nothing is drawn."""
    mine, tree = ours.OwenValues(case.net), halved(0, case.d)

    def of(n: int | None, _: int) -> Tensor:
        return mine.attribute(case.x, hierarchy=tree, max_evals=n, progress=False, **case.masked)

    return Problem({"most urgent first": (of, 2 * len(case.players))}, owen_peers(case), lambda: of(None, 0))


def masks(name: str, draws: int, settings: dict[str, dict[str, Any]], usual: dict[str, Any], cells: bool) -> Any:
    """RISE, Sobol and HSIC: no other library has them for torch; plain draws of RISE stand for a peer."""

    def problem(case: Case) -> Problem:
        method = getattr(ours, name)(case.net)
        how: dict[str, Any] = {"baselines": case.baseline, "target": case.target, "progress": False}
        how |= {"feature_mask": case.mask} if cells else {}

        def run(more: dict[str, Any], each: int) -> Run:
            return lambda n, seed: method.attribute(case.x, n_samples=max(2, n // each), seed=seed, **more, **how)

        each = case.d + 1 if name == "Sobol" else 1
        best = run(next(reversed(settings.values())), each)
        return Problem(
            {label: (run(more, each), draws * each) for label, more in settings.items()},
            {"as published": (run(usual, each), draws * each)} if usual else {},
            lambda: torch.stack([best(64 * draws * each, 1000 + k) for k in range(4)]).mean(0),
        )

    return problem


METHODS: dict[str, tuple[Callable[[Case], Problem], tuple[str, ...]]] = {
    "Integrated Gradients": (integrated_gradients, ("adult", "california", "digit", "lite0", "minilm")),
    "NoiseTunnel": (noise_tunnel, ("digit", "lite0")),
    "GradientShap": (gradient_shap, ("adult", "california", "digit", "lite0")),
    "Shapley sampling": (shapley_sampling, ("adult", "california", "digit", "minilm")),
    "KernelShap": (kernel_shap, ("adult", "california", "digit", "minilm")),
    "Lime": (lime, ("adult", "california", "digit")),
    "Interactions": (interactions, ("adult", "california")),
    "Owen": (owen, ("adult", "digit")),
    "RISE": (masks("RISE", 64, {"orthogonal, centred": {"center": True, "orthogonal": True}}, {"center": True}, False),
             ("digit",)),
    "HSIC": (masks("HSIC", 64, {"independent": {}}, {}, True), ("digit",)),
    "Sobol": (masks("Sobol", 8, {"quasi-random": {}}, {}, True), ("digit",)),
}  # fmt: skip


Points = list[tuple[float, list[float]]]  # seconds, and the seeds' errors in order, per number of draws


def curve(
    run: Run, begin: int, error: Callable[[Tensor], float], seeds: int, limit: float, points: Points
) -> Iterator[None]:
    """Add points until all settle below the last level or time is up; each in turn with other settings."""
    spent, n = 0.0, begin
    run(begin, 0)
    while spent < limit:
        seconds, errors = [], []
        for seed in range(seeds):
            start = time.process_time()
            found = run(n, seed)
            seconds.append(time.process_time() - start)
            errors.append(error(found))
        errors.sort()
        points.append((statistics.median(seconds), errors))
        spent += sum(seconds)
        yield
        if errors[len(errors) * 3 // 4] < LEVELS[-1] / 1.5 or spent + 2 * sum(seconds) > 1.5 * limit:
            break
        n = math.ceil(1.6 * n)


def curves_of(
    settings: dict[str, tuple[Run, int]], error: Callable[[Tensor], float], seeds: int, limit: float
) -> dict[str, Points]:
    """The points of all settings, found in turn."""
    found: dict[str, Points] = {name: [] for name in settings}
    waiting = [curve(run, begin, error, seeds, limit, found[name]) for name, (run, begin) in settings.items()]
    while waiting:
        waiting = [one for one in waiting if next(one, one) is not one]
    return found


def reached(points: Points, level: float, quantile: float) -> float:
    """Seconds at which the error's quantile crosses a level, on the line between neighbours; infinite if never."""
    line = [(s, e[min(len(e) - 1, int(quantile * len(e)))]) for s, e in points]
    for k, (seconds, error) in enumerate(line):
        if error <= level:
            if k == 0:
                return seconds
            before, worse = line[k - 1]
            share = math.log(worse / level) / max(math.log(worse / max(error, 1e-12)), 1e-9)
            return before * (seconds / before) ** min(1.0, share) if seconds > before else seconds
    return math.inf


def best(curves: dict[str, Points], level: float) -> tuple[str, float]:
    """The setting that gets there first; where none does, the one that ran longest."""
    found = {name: reached(points, level, 0.5) for name, points in curves.items()}
    name = min(found, key=lambda one: (found[one], -curves[one][-1][0]))
    return name, found[name]


def measure(method: str, case_name: str, seeds: int, limit: float) -> None:
    """Two rows of the table."""
    case = CASES[case_name]()
    build, _ = METHODS[method]
    problem = build(case)
    gradients = method in ("Integrated Gradients", "NoiseTunnel", "GradientShap", "RISE")

    def of(found: Tensor) -> Tensor:
        flat = found.detach().double().flatten()
        return case.of(found) if found.shape == case.x.shape and not gradients else flat

    truth = of(problem.truth())

    def error(found: Tensor) -> float:
        return float((of(found) - truth).norm() / truth.norm())

    peers = {f"peer {name}": setting for name, setting in problem.peers.items()}
    found = curves_of({**peers, **problem.here}, error, seeds, limit)
    curves = [{name: found[f"peer {name}"] for name in problem.peers}, {name: found[name] for name in problem.here}]
    for level in LEVELS:
        chosen: list[Points] = []
        cells = [f"{level}"]
        for some in curves:
            if not some:
                cells += ["none", ""]
                continue
            name, seconds = best(some, level)
            last = some[name][-1][0]
            cells += [name, f"{1000 * seconds:.3g}" if math.isfinite(seconds) else f"> {1000 * last:.3g}"]
            chosen.append(some[name])
        cells.append(ratio(chosen[0], chosen[1], level) if len(chosen) == 2 else "")
        TABLE.add(f"{method}, {case_name}, {level}", cells, seeds)


def ratio(there: Points, here: Points, level: float) -> str:
    """Seconds here over there, with quartiles against each other."""
    a, b = reached(there, level, 0.5), reached(here, level, 0.5)
    if not math.isfinite(b):
        return "not reached here"
    if not math.isfinite(a):
        return f"< {b / there[-1][0]:.2g}"
    low, high = (reached(here, level, q) / reached(there, level, q) for q in (0.25, 0.75))
    bounds = sorted(v for v in (low, high, b / a) if math.isfinite(v))
    return f"{b / a:.2g} ({bounds[0]:.2g} to {bounds[-1]:.2g})"


def asked(names: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of method and case."""
    for method, (_, cases) in METHODS.items():
        for case in cases:
            if not names or method in names or f"{method}:{case}" in names:
                yield method, case


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--limit", type=float, default=30.0, help="CPU seconds per setting")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for method, case in asked(options.names):
        measure(method, case, options.seeds, options.limit)


if __name__ == "__main__":
    main()
