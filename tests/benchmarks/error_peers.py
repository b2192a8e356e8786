"""Shapley and Owen values in shap and shapiq, of a score as a function of coalitions, for `bench_error`."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.trained import Case

Run = Callable[[int, int], Tensor]  # of draws and a seed
Game = Callable[[np.ndarray], np.ndarray]
Peers = dict[str, tuple[Run, int]]  # with the fewest draws


def quiet(run: Callable[[], Any]) -> Any:
    """Without what libraries print."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return run()


def seeded(seed: int) -> None:
    """Seed the global generators, which Captum and shap draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def coalition_peers(case: Case) -> Peers:
    """Shapley values in shap and shapiq, of the score as a function of coalitions of the features.

    Where some features are as their baseline, also of the others alone, as one may set it up by hand.
    """
    return _also_of_players(case, lambda game, some: _shapley(game, len(some)))


def _also_of_players(case: Case, build: Callable[[Game, np.ndarray], Peers]) -> Peers:
    """Peers of the game of all features, and of the players alone where these are fewer; features by their numbers."""
    peers, some = build(case.game, np.arange(case.d)), case.players
    if len(some) == case.d:
        return peers

    def game(coalitions: np.ndarray) -> np.ndarray:
        whole = np.zeros((len(coalitions), case.d), dtype=np.float32)
        whole[:, some] = coalitions
        return case.game(whole)

    def spread(run: Run) -> Run:
        where, nothing = torch.as_tensor(some), torch.zeros(case.d).double()
        return lambda n, seed: nothing.index_copy(0, where, run(n, seed).double())

    fewer = build(game, some)
    return peers | {f"{name}, {len(some)} features": (spread(run), begin) for name, (run, begin) in fewer.items()}


def _shapley(game: Game, d: int) -> Peers:
    peers: Peers = {}
    with contextlib.suppress(ImportError):
        shap: Any = importlib.import_module("shap")

        everyone, nobody = np.ones((1, d)), np.zeros((1, d))

        def kernel(n: int, seed: int) -> Tensor:
            seeded(seed)
            explainer = shap.KernelExplainer(game, nobody)
            found = explainer.shap_values(everyone, nsamples=n, l1_reg=False, silent=True)
            return torch.as_tensor(np.asarray(found).reshape(-1))

        def permutation(n: int, seed: int) -> Tensor:
            explainer = shap.explainers.Permutation(game, nobody, seed=seed)
            found = explainer(everyone, max_evals=max(n, 2 * d + 1), silent=True, batch_size=64)
            return torch.as_tensor(np.asarray(found.values).reshape(-1))

        peers |= {"shap Kernel": (kernel, 4 * d), "shap Permutation": (permutation, 4 * d)}
    with contextlib.suppress(ImportError):
        approximator: Any = importlib.import_module("shapiq.approximator")

        def of(name: str, n: int, seed: int) -> Tensor:
            found = getattr(approximator, name)(n=d, random_state=seed).approximate(n, game)
            return torch.tensor([found[(i,)] for i in range(d)])

        for name in ("KernelSHAP", "PermutationSamplingSV", "SVARM"):
            peers[f"shapiq {name}"] = (lambda n, s, name=name: of(name, n, s), 4 * d)
    return peers


def halved(first: int, last: int) -> Any:
    """The features from first to before last as nested pairs, halves of halves."""
    middle = (first + last) // 2
    return first if last - first == 1 else (halved(first, middle), halved(middle, last))


def owen_peers(case: Case) -> Peers:
    """Owen values over `halved` features in shap; of the players alone, in the same groups, where these are fewer."""
    return _also_of_players(case, lambda game, some: _owen(game, some, case.d))


def _owen(game: Game, some: np.ndarray, d: int) -> Peers:
    linkage: list[list[float]] = []
    place = {int(feature): k for k, feature in enumerate(some)}

    def join(first: int, last: int) -> tuple[int, int] | None:
        """The number in the linkage, and the size, of the group of those from first to before last; None: nobody."""
        if last - first == 1:
            return (place[first], 1) if first in place else None
        middle = (first + last) // 2
        parts = [part for part in (join(first, middle), join(middle, last)) if part is not None]
        if len(parts) < 2:
            return parts[0] if parts else None
        (left, few), (right, more) = parts
        linkage.append([left, right, few + more, few + more])
        return len(some) + len(linkage) - 1, few + more

    peers: Peers = {}
    with contextlib.suppress(ImportError):
        shap: Any = importlib.import_module("shap")
        join(0, d)
        everyone, nobody = np.ones((1, len(some))), np.zeros((1, len(some)))
        masker = shap.maskers.Partition(nobody, clustering=np.array(linkage))

        def there(n: int, _: int) -> Tensor:
            explainer = shap.explainers.Partition(game, masker)
            found = quiet(lambda: explainer(everyone, max_evals=n, silent=True, batch_size=64))
            return torch.as_tensor(np.asarray(found.values).reshape(-1))

        peers["shap Partition"] = (there, 2 * len(some))
    return peers
