"""PGD on 100 digits, and smallest changes of 30, against peers: `python -m tests.benchmarks.bench_robust`.

Seconds of the processor, one thread, the calls of a round one after the other (`--rounds`, 5); the share of digits that
stay right and the sizes of the changes are compared as well. Foolbox and torchattacks are no dependencies: where they
cannot be imported their rows are left out.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import captum.robust as theirs
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import PGD, attack

RADII = (0.06, 0.11)  # of which the second leaves a quarter of the digits right


def digits() -> tuple[Tensor, Tensor]:
    """Digits at 28 x 28, from 0 to 1, and their classes."""
    data = load_digits()
    small = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return nn.functional.interpolate(small, (28, 28), mode="bilinear").clamp(0, 1), torch.tensor(data.target)


def trained(x: Tensor, y: Tensor) -> nn.Module:
    """Three convolutions, six epochs."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1)]
    net = nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(6):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


Calls = dict[str, Callable[[], Tensor]]


def there(name: str) -> Any:
    """A module where it can be imported, else None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def attacks(net: nn.Module, x: Tensor, y: Tensor, radius: float) -> Calls:
    """Attacks of one size, 40 steps."""
    step, spec = radius / 10, InputSpec("image")
    asked = {"eps": radius, "step_size": step, "target": y, "input_spec": spec, "progress": False}
    sizes = {"radius": radius, "step_size": step, "step_num": 40}
    loss = nn.CrossEntropyLoss(reduction="none")
    calls: Calls = {
        "Captum PGD": lambda: theirs.PGD(net, loss, 0.0, 1.0).perturb(x, target=y, **sizes),
        "PGD": lambda: PGD(net, None, 0.0, 1.0).perturb(x, target=y, **sizes),
        "attack": lambda: attack(net, x, **asked).perturbed,
        "attack, stop_early=False": lambda: attack(net, x, stop_early=False, **asked).perturbed,
    }
    torchattacks = there("torchattacks")
    if torchattacks is None:
        return calls
    peer = torchattacks.PGD(net, eps=radius, alpha=step, steps=40, random_start=False)
    return {"torchattacks PGD": lambda: peer(x, y)} | calls


def smallest(net: nn.Module, x: Tensor, y: Tensor) -> Calls:
    """Attacks that search the smallest change."""
    asked = {"input_spec": InputSpec("image"), "progress": False}
    calls: Calls = {
        f"{name}, {norm}": lambda name=name, norm=norm: attack(net, x, name, norm=norm, **asked).perturbed
        for name in ("fmn", "deepfool")
        for norm in ("L2", "Linf", "L1")
    }
    torchattacks, foolbox = there("torchattacks"), there("foolbox")
    if torchattacks is not None:
        calls["torchattacks DeepFool, L2"] = lambda: torchattacks.DeepFool(net, steps=50)(x, y)
    if foolbox is None:
        return calls
    known = foolbox.attacks
    peers = {"DDN": known.DDNAttack(steps=100), "FMN, L2": known.L2FMNAttack(steps=100)}
    peers |= {"FMN, Linf": known.LInfFMNAttack(steps=100), "FMN, L1": known.L1FMNAttack(steps=100)}
    peers |= {"DeepFool, L2": known.L2DeepFoolAttack(steps=50)}
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    theirs = {f"foolbox {n}": lambda peer=peer: peer(model, x, y, epsilons=None)[1] for n, peer in peers.items()}
    return theirs | calls


def timed(calls: Calls, rounds: int) -> dict[str, tuple[float, str, Tensor]]:
    """Median seconds, the median ratio to the first call's with its range, and what it gives, of each call."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    moved: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.process_time()
            moved[name] = call()
            seconds[name].append(time.process_time() - begin)
    first = next(iter(seconds.values()))
    found = {}
    for name, s in seconds.items():
        ratios = [a / b for a, b in zip(s, first, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        found[name] = statistics.median(s), ratio, moved[name]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    x, y = digits()
    net = trained(x[:1500], y[:1500])
    many, said = x[1500:1600], y[1500:1600]
    for radius in RADII:
        print(f"\nradius {radius}\n\n| Call | CPU s | of the first | stay right |\n|---|---|---|---|")
        for name, (second, ratio, moved) in timed(attacks(net, many, said, radius), rounds).items():
            right = float((net(moved).argmax(1) == said).float().mean())
            print(f"| {name} | {second:.2f} | {ratio} | {right:.0%} |")
    right = net(x[1500:1530]).argmax(1) == y[1500:1530]
    few, said = x[1500:1530][right], y[1500:1530][right]
    print("\n| Call | CPU s | of the first | turned | median L2 | Linf | L1 |\n|---|---|---|---|---|---|---|")
    for name, (second, ratio, moved) in timed(smallest(net, few, said), rounds).items():
        turned = net(moved).argmax(1) != said
        change = (moved - few).flatten(1)[turned]
        sizes = [float(torch.linalg.vector_norm(change, order, dim=1).median()) for order in (2, torch.inf, 1)]
        share = float(turned.float().mean())
        print(f"| {name} | {second:.2f} | {ratio} | {share:.0%} | " + " | ".join(f"{s:.4g}" for s in sizes) + " |")


if __name__ == "__main__":
    main()
