"""Pictures of a benchmark: critical differences, error against passes, maps of the best, median and worst sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp_plugins.benchmark.leaderboard import EXACT
from interp_plugins.benchmark.runs import Row
from interp_plugins.viz import colour
from interp_plugins.viz.figure import bare, data_uri, new_figure, png_of_figure

_DPI = 80
_ABREAST = 11  # maps beside an input: what a page of 1,000 pixels shows in its own size
INK, ACCENT = "#1f2328", "#b35900"


def short(method: str) -> str:
    """A method's name as pictures show it."""
    return method.replace("integrated_gradients", "IG").replace("_", " ").replace("control.", "")


def critical_difference(found: Mapping[str, Any]) -> str:
    """Mean ranks on a line, the best at the left; bars join those that Nemenyi's test does not tell apart.

    Args:
        found: of a column and group of a leaderboard.

    Returns:
        A data URI of a PNG.
    """
    names = list(found["methods"])
    ranks = [found["methods"][m]["rank"] for m in names]
    gap, k = found["critical_difference"], len(names)
    half = (k + 1) // 2
    fig = new_figure(8, 1.5 + 0.24 * half, _DPI)
    ax = fig.add_subplot()
    bare(ax)
    low, high, below = 1.0, float(k), 0.8
    for tick in range(1, k + 1):
        ax.plot([tick, tick], [0, 0.15], color=INK, lw=1)
        if k < 25 or tick % 2:  # else the numbers run into each other
            ax.text(tick, 0.25, str(tick), ha="center", fontsize=9)
    ax.plot([low, high], [0, 0], color=INK, lw=1)
    ax.plot([low, low + gap], [1.15, 1.15], color=ACCENT, lw=3)
    ax.text(low, 1.3, f"critical difference {gap:.2f}", color=ACCENT, fontsize=9)
    bars = joined(ranks, gap)
    for i, (first, last) in enumerate(bars):
        ax.plot([ranks[first] - 0.04, ranks[last] + 0.04], [-0.25 - 0.16 * i] * 2, color=ACCENT, lw=3)
    top = -0.45 - 0.16 * len(bars)
    for i, (name, rank) in enumerate(zip(names, ranks)):
        left = i < half
        y = top - 0.42 * (i if left else k - 1 - i)
        end = low - below if left else high + below
        ax.plot([rank, rank, end], [0, y, y], color=INK, lw=0.8)
        text = f"{short(name)}  {rank:.2f}" if left else f"{rank:.2f}  {short(name)}"
        ax.text(end - 0.05 if left else end + 0.05, y, text, ha="right" if left else "left", va="center", fontsize=9)
    width = 0.3 * (high - low) + 1.2
    ax.set_xlim(low - below - width, high + below + width)
    ax.set_ylim(top - 0.42 * half, 1.7)
    return data_uri(png_of_figure(fig))


def joined(ranks: Sequence[float], gap: float) -> list[tuple[int, int]]:
    """The longest stretches of neighbours, of ranks in ascending order, that lie within the critical difference."""
    found: list[tuple[int, int]] = []
    for i, rank in enumerate(ranks):
        last = max(j for j, other in enumerate(ranks) if other - rank <= gap)
        if last > i and not (found and found[-1][1] >= last):
            found.append((i, last))
    return found


def error_against_passes(found: Mapping[str, Any]) -> str:
    """Relative error over passes, both on logarithmic axes; settings of one method are joined, the front is drawn.

    Args:
        found: "passes" of a leaderboard.

    Returns:
        A data URI of a PNG.
    """
    fig = new_figure(8.5, 4.6, _DPI)
    ax = fig.add_subplot()
    families: dict[str, list[tuple[float, float]]] = {}
    for name, one in found["methods"].items():
        families.setdefault(name.partition(":")[0], []).append((max(one["passes"], 0.8), max(one["error"], EXACT)))
    colours = [f"C{i}" for i in range(10)] * 4
    for shade, marker, (name, points) in zip(colours, "osD^vP*X<>ph8" * 4, sorted(families.items())):
        points.sort()
        ax.plot(*zip(*points), marker=marker, color=shade, lw=1, ms=5, label=short(name))
    front = [found["methods"][m] for m in found["front"]]
    ax.step(
        [max(f["passes"], 0.8) for f in front],
        [max(f["error"], EXACT) for f in front],
        where="post",
        color=ACCENT,
        lw=2,
    )
    ax.plot([], [], color=ACCENT, label="Pareto front")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("passes a sample, forward and backward")
    ax.set_ylabel("relative error to the known values (1e-6: exact)")
    ax.grid(alpha=0.25)
    fig.legend(loc="outside right upper", fontsize=8, frameon=False)
    return data_uri(png_of_figure(fig))


def sheet(rows: Sequence[Row], samples: Mapping[str, int], methods: Sequence[str], kind: str) -> str | None:
    """Inputs and maps of some samples, a row each, a column for each method; many methods take several such bands.

    Args:
        rows: of one task and seed, those that hold maps.
        samples: heading -> sample.
        methods: columns, in this order.
        kind: of data.

    Returns:
        A data URI of a PNG; None where no maps were kept.
    """
    kept = {(r["metric"], r["method"], r["sample"]): _array(r) for r in rows if r["map"] is not None}
    names = [m for m in methods if any(("map", m, s) in kept for s in samples.values())]
    if not names or kind == "text":
        return None
    bands = [names[i : i + _ABREAST] for i in range(0, len(names), _ABREAST)]
    wide, high = len(bands[0]) + 1, len(samples)
    fig = new_figure(0.95 * wide + 0.4, (1.08 * high + 0.35) * len(bands), _DPI)
    for part, band in zip(fig.subfigures(len(bands), 1, squeeze=False)[:, 0], bands):
        grid = part.subplots(high, wide, squeeze=False)
        for axes, (heading, sample) in zip(grid, samples.items()):
            _input(axes[0], kept.get(("input", "control.random", sample)), kind)
            axes[0].set_ylabel(heading, fontsize=8)
            for ax, name in zip(axes[1:], band):
                _map(ax, kept.get(("map", name, sample)), kind)
            for ax in axes[len(band) + 1 :]:
                ax.set_visible(False)
        for ax, name in zip(grid[0], ["input", *map(short, band)]):
            ax.set_title(name.replace(" ", "\n", 1), fontsize=7)
    return data_uri(png_of_figure(fig))


def _array(row: Row) -> np.ndarray:
    return np.frombuffer(row["map"], "<f2").astype(np.float32).reshape(json.loads(row["shape"]))


def _input(ax: Any, values: np.ndarray | None, kind: str) -> None:
    bare(ax)
    if values is None:
        return
    if kind == "image":
        low, high = float(values.min()), float(values.max())
        unit = (values - low) / max(high - low, 1e-9)
        ax.imshow(unit.transpose(1, 2, 0).repeat(3 // len(unit), 2), interpolation="nearest")
    elif kind == "series":
        ax.plot(values.T, lw=0.8)
    else:
        _bars(ax, values)


def _map(ax: Any, values: np.ndarray | None, kind: str) -> None:
    bare(ax)
    if values is None:
        return
    limit = max(float(np.abs(values).max()), 1e-9)
    if kind in ("image", "series"):
        shown = values.sum(0) if kind == "image" else values
        limit = max(float(np.percentile(np.abs(shown), 99.5)), 1e-9)
        aspect = "equal" if kind == "image" else "auto"
        ax.imshow(shown, cmap=colour.DIVERGING, vmin=-limit, vmax=limit, aspect=aspect, interpolation="nearest")
    else:
        _bars(ax, values / limit)


def _bars(ax: Any, values: np.ndarray) -> None:
    """A bar for each column, upwards what speaks for the target."""
    shades = [colour.DIVERGING(0.9 if v > 0 else 0.1) for v in values]
    ax.bar(range(len(values)), values, color=shades)
    ax.axhline(0, color=INK, lw=0.5)
