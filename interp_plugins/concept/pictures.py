"""Pictures of concepts: a row of parts for each, and an item in colours with the complete sum."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from interp_plugins.core.errors import InputError
from interp_plugins.core.text import legible
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, bare, compact, data_uri, new_figure, png_of_figure
from interp_plugins.viz.template import Document, section, sections
from interp_plugins.viz.titles import shorten

_ROW = 10  # parts in a row
_COLOURED = 6  # concepts with a colour of their own; the rest is grey
_LEGEND = (
    ("Bar", "what the concept adds to the score in the mean over the items; vermilion speaks for it, blue against it. "
     "Where the score is no linear function of the layer: the share of its variance that the concept takes part in."),
    ("Parts", "those with most of the concept, few of any one item; outlined where it is more than half its largest."),
    ("Stable", "found as well from other beginnings and in each half of the items (cosine of .8 or more)."),
    ("Rest", "what the layer adds to the score in no concept. The sum of all bars is the score."),
)  # fmt: skip


def bank_figure(bank: Any, max_n: int) -> Plot:
    """A row per concept: its bar and the parts in which it is strongest.

    Args:
        bank: a `ConceptBank` of pictures.
        max_n: concepts at most.

    Raises:
        InputError: no pictures.
    """
    if not bank.pictures:
        raise InputError(
            "These concepts are not of pictures, so there are no parts to draw. to_df() has a row for each."
        )
    n = min(len(bank), max_n)
    fig = new_figure(12.5, 1.28 * n + 0.5)
    axes = fig.subplots(n, _ROW + 1, squeeze=False, width_ratios=[2.6, *[1] * _ROW])
    most = float(bank.importance.abs().max()) or 1.0
    for k in range(n):
        _bar(axes[k][0], bank, k, most)
        for j, ax in enumerate(axes[k][1:]):
            bare(ax)
            if j < len(bank.pictures[k]):
                _outlined(ax, *bank.pictures[k][j])
    kind = "adds to the score" if bank.linear else "total Sobol index"
    fig.suptitle(
        f"Concepts of {legible(bank.target)}: {kind}, strongest parts. They hold {bank.explained:.0%} of the squared "
        f"activations (at best {bank.explained_best:.0%})",
        fontsize=10,
        color=colour.INK,
    )
    return Plot(fig, axes)


def _bar(ax: Any, bank: Any, k: int, most: float) -> None:
    value = float(bank.importance[k])
    ax.barh([0], [value], height=0.32, color=colour.POSITIVE_COLOUR if value >= 0 else colour.NEGATIVE_COLOUR)
    low = min(0.0, float(bank.importance.min()))
    ax.set_xlim(low * 1.05, most * 1.05)
    ax.set_ylim(-0.5, 1.1)
    ax.plot([0, 0], [-0.25, 0.25], color=colour.FAINT_INK, linewidth=0.6)
    bare(ax)
    doubt = "" if bank.is_stable(k) else ", unstable"
    said = f"{compact(value)}{doubt}"
    more = f"{said}  {bank.suggested[k]}" if bank.suggested[k] else said
    for text, at, va, size, ink in (
        (bank.label(k), 0.98, "top", 9, colour.INK),
        (more, 0.02, "bottom", 7.5, colour.FAINT_INK),
    ):
        one = ax.text(0.0, at, shorten(text, 44), transform=ax.transAxes, fontsize=size, va=va, color=ink)
        one.set_in_layout(False)  # a long name takes no room from the parts


def _outlined(ax: Any, shown: np.ndarray, where: np.ndarray | None) -> None:
    ax.imshow(shown, interpolation="nearest")
    height, width = shown.shape[:2]
    if where is None or min(where.shape) < 2 or float(where.min()) > 0.5:
        return
    smooth = _enlarged(where, height, width)
    ax.contour(smooth, levels=[0.5], colors=["#000000"], linewidths=2.0)
    ax.contour(smooth, levels=[0.5], colors=["#ffffff"], linewidths=0.9)


def _enlarged(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    t = torch.from_numpy(np.ascontiguousarray(grid))[None, None].float()
    found: np.ndarray = F.interpolate(t, size=(height, width), mode="bilinear", align_corners=False)[0, 0].numpy()
    return found


def item_figure(item: Any) -> Plot:
    """An item with its concepts in colours, and the complete sum as bars.

    Args:
        item: an `ItemConcepts`.
    """
    order = item.shares.abs().argsort(descending=True).tolist()
    own = {k: colour.CATEGORIES[i] for i, k in enumerate(order[:_COLOURED])}
    fig = new_figure(10.5, max(3.6, 0.27 * (len(order) + 3) + 1.0))
    if item.pixels is None:
        axes = fig.subplots(1, 1, squeeze=False)
    else:
        axes = fig.subplots(1, 3, squeeze=False, width_ratios=[1, 1, 1.25])
        axes[0][0].imshow(item.pixels)
        axes[0][1].imshow(_coloured(item, own))
        for ax in axes[0][:2]:
            bare(ax)
        said = "" if item.prediction is None else f"says {legible(item.prediction)}"
        axes[0][0].set_xlabel(said, fontsize=9)
        axes[0][1].set_xlabel("concepts, where they are strong", fontsize=9)
    _sum(axes[0][-1], item, order, own)
    return Plot(fig, axes)


def _coloured(item: Any, own: dict[int, str]) -> np.ndarray:
    """The picture in grey with a colour at every place: of the concept that adds most there, as strong as it is."""
    height, width = item.pixels.shape[:2]
    grey = item.pixels.mean(2, keepdims=True).repeat(3, 2) / 255
    ks = list(own)
    maps = np.stack([_enlarged(item.maps[k].numpy(), height, width) for k in ks])
    weight = (
        np.abs(item.shares[ks].numpy())[:, None, None]
        * maps
        / np.maximum(item.maps[ks].mean((1, 2)).numpy(), 1e-12)[:, None, None]
    )
    first = weight.argmax(0)
    strength = np.take_along_axis(weight, first[None], 0)[0]
    strength = np.clip(strength / max(float(np.quantile(strength, 0.98)), 1e-12), 0, 1)[..., None]
    palette = np.array([_rgb(own[k]) for k in ks])
    found: np.ndarray = (1 - 0.7 * strength) * (0.25 + 0.75 * grey) + 0.7 * strength * palette[first]
    return np.clip(found, 0, 1)


def _rgb(code: str) -> list[float]:
    return [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _sum(ax: Any, item: Any, order: list[int], own: dict[int, str]) -> None:
    rows = [("score", item.score, colour.INK), ("without the layer", item.base, colour.GREY)]
    rows += [(item.names[k], float(item.shares[k]), own.get(k, colour.GREY)) for k in order]
    rows.append(("rest", item.residual, colour.FAINT_INK))
    scale = max(abs(v) for _, v, _ in rows) or 1.0
    if abs(item.error) > 1e-3 * scale:
        rows.append(("error of the steps", item.error, colour.FAINT_INK))
    at = np.arange(len(rows))[::-1]
    ax.barh(at, [v for _, v, _ in rows], color=[c for *_, c in rows], height=0.68)
    for y, (_, value, _) in zip(at, rows, strict=True):
        right = value > -0.02 * scale  # a small bar's number would stand on the names
        place = {"xytext": (3 if right else -3, 0), "textcoords": "offset points", "ha": "left" if right else "right"}
        ax.annotate(compact(value), (max(value, 0.0) if right else value, y), va="center", fontsize=8, **place)
    ax.set_yticks(at, [legible(name) for name, *_ in rows], fontsize=8.5)
    low, high = min(0.0, *(v for _, v, _ in rows)), max(0.0, *(v for _, v, _ in rows))
    ax.set_xlim(low - 0.16 * (high - low) * (low < 0), high + 0.16 * (high - low))
    ax.axvline(0, color=colour.FAINT_INK, linewidth=0.7)
    ax.set_title(f"{legible(item.target)}: every bar below the first adds up to it", fontsize=9, color=colour.INK)
    ax.tick_params(axis="y", length=0)
    ax.set_xticks([])
    for side in ("top", "right", "bottom", "left"):
        ax.spines[side].set_visible(False)


def bank_page(bank: Any, items: Sequence[Any] = ()) -> Document:
    """The page of a `ConceptBank`.

    Args:
        bank: a `ConceptBank`.
        items: items that are shown taken apart below, as for `ConceptBank.explain`.
    """
    parts = [_picture(bank_figure(bank, len(bank)), "Concepts")] if bank.pictures else []
    parts += [_table(bank)]
    parts += [_picture(item_figure(item), f"Item {item.item}") for item in map(bank.explain, items)]
    return sections(f"Concepts of {bank.target}", _lead(bank), parts, _LEGEND)


def _lead(bank: Any) -> str:
    """What was found where, how certain it is, and what counts most."""
    stable = sum(bank.is_stable(k) for k in range(len(bank)))
    does = "adds {:.3g} to the score" if bank.linear else "takes part in {:.0%} of how the score varies"
    most = [f"{bank.label(k)} {does.format(float(bank.importance[k]))}" for k in range(min(3, len(bank)))]
    return (
        f"{len(bank)} concepts that the model goes by for {bank.target}, found in {bank.facts['items']} items at the "
        f"layer {bank.place.name}. {stable} of them were found again from other beginnings and in each half of the "
        f"items. Together they hold {bank.explained:.0%} of what happens in the layer (as many directions could hold "
        f"{bank.explained_best:.0%} at best). Most important: {', '.join(most)}."
    )


def _picture(plot: Plot, name: str) -> str:
    image, said = data_uri(png_of_figure(plot.fig)), escape(legible(name))
    return section(legible(name), f'<img alt="{said}" src="{image}">')


def _table(bank: Any) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in ("concept", "importance", "adds", "other beginnings", "halves", "stable", "labels")
    )
    rows = []
    for k in range(len(bank)):
        cells = (
            bank.label(k),
            f"{float(bank.importance[k]):.3g}",
            f"{float(bank.shares[k]):+.3g}",
            f"{float(bank.seeds[:, k].mean()):.2f}",
            f"{float(bank.halves[k]):.2f}" if bool(bank.halves[k].isfinite()) else "too few items",
            "yes" if bank.is_stable(k) else "no",
            bank.suggested[k] or "",
        )
        rows.append("<tr>" + "".join(f"<td>{escape(legible(c))}</td>" for c in cells) + "</tr>")
    return (
        '<section class="sample"><h2>How certain they are</h2><div class="scroll" tabindex="0"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )
