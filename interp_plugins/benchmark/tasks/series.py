"""Series in which an event decides: a bump somewhere, one rare moment, one rare channel. The event is planted."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from interp_plugins.benchmark import verify
from interp_plugins.benchmark.nets import series_cnn
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 4, "small": 12, "full": 64}
_TRAIN = {"tiny": (600, 8), "small": (1200, 10), "full": (3000, 12)}  # series, epochs
_TIME, _CHANNELS = 64, 3
KINDS = {  # name -> what it is, width of the event, channels that it touches
    "bump": ("a bump somewhere in all channels says the class", 12, _CHANNELS),
    "rare_time": ("a short event in all channels says the class", 5, _CHANNELS),
    "rare_channel": ("an event in one channel of three says the class", 12, 1),
}


def _event(n: int, width: int, channels: int, seed: int) -> Tensor:
    """Where the event lies, bool (N, C, T)."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(_TIME - width, (n, 1), generator=generator)
    first = torch.randint(_CHANNELS - channels + 1, (n, 1), generator=generator)
    time, channel = torch.arange(_TIME), torch.arange(_CHANNELS)
    when = (time >= start) & (time < start + width)
    which = (channel >= first) & (channel < first + channels)
    return which[:, :, None] & when[:, None]


def _with(noise: Tensor, where: Tensor, up: Tensor) -> Tensor:
    """Noise with an event that rises (class 1) or falls (class 0)."""
    return torch.where(where, noise + torch.where(up == 1, 3.0, -3.0)[:, None, None], noise)


def build(name: str, seed: int, size: str) -> Problem:
    """The problem of one of `KINDS`.

    Args:
        name: which one.
        seed: of the training.
        size: "tiny", "small" or "full".
    """
    _, width, channels = KINDS[name]
    count, epochs = _TRAIN[size]
    n = count + 400
    generator = torch.Generator().manual_seed(5)
    noise, other = (torch.randn(n, _CHANNELS, _TIME, generator=generator) for _ in range(2))
    where, up = _event(n, width, channels, 6), torch.arange(n) % 2
    x = _with(noise, where, up)
    net = fit(series_cnn(_CHANNELS, 2), x[:count], up[:count], epochs=epochs, lr=5e-3)
    test = slice(count, n)
    right = verify.accuracy(net, x[test], up[test], 0.97)
    turned = _with(noise[test], where[test], 1 - up[test])
    rest = torch.where(where[test], x[test], other[test])
    good, facts = verify.planted(net, x[test], turned, rest)
    picked = good.nonzero()[: SAMPLES[size], 0]
    return Problem(
        net,
        x[test][picked],
        up[test][picked],
        "mask",
        where[test][picked],
        "series",
        facts={"accuracy": right, **facts},
    )


for _name, (_says, _, _) in KINDS.items():
    register_task(f"series.{_name}", truth_kind="mask", kind="series", samples=SAMPLES, says=_says, seconds=3)(
        partial(build, _name)
    )
