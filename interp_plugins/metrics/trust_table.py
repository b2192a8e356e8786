"""The table of docs/metrics.md that says how far each metric can be trusted, from what the benchmark found of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp_plugins.metrics.registry import KINDS, metric_info

# What a metric must reach on the mean of the tasks to be recommended for comparing methods.
AT_LEAST = {"noise": 0.9, "weights": 0.8, "blind": 0.7, "mixing": 0.8, "order": 0.5}
COMMAND = "interp-plugins benchmark meta --out docs/benchmark/meta.json"
_COLUMNS = {
    "noise": "noise",
    "blind": "blind",
    "weights": "weights",
    "mixing": "mixing",
    "sign": "sign",
    "order": "order",
    "halves": "halves",
}
_HEAD = """\
## How far each metric can be trusted

Every metric was judged before it may judge: on {n} tasks of the [benchmark](benchmark.md) whose truth is known
({tasks})
it was given the maps of seven methods and maps that must lose to them.
`{command}` makes the numbers, each the mean over the tasks where the
metric can be asked (their number stands under *tasks*).

- **noise**, **blind**, **weights**, **sign**: how often a value of the map nearest to the truth is better than one of
  noise, of the hardest map that ignores the model (constant, input, edges, centre), of the same method on a net with
  shuffled weights, of the same map times -1. 1 is always, 0.5 is not told apart, less is *preferred to it*.
- **mixing**: does the value fall while noise is mixed into the map (Kendall's tau, 1: always).
- **order**: tau of the metric's order of the methods and that of the truth: may it choose a method where the truth is
  not known? **halves**: tau of its orders on two halves of the samples, 12 to 16 in all.

"""
_TAIL = """\

What it teaches:

- Recommended for choosing a method (at least {limits}): {recommended}.
- Stabilities prefer a map that never changes to the best one (0 under *noise* and *blind*), and how sparse a map is
  says nothing of whether it is right. They describe maps, they do not choose among methods.
- A low number under *blind* is the picture itself, or its edges, passing for an explanation. Look at
  `parameter_randomisation` beside every faithfulness score, as `compare_methods` does.
- Few methods, small nets, few samples: differences of .1 between two metrics say nothing.
"""


def table(found: Mapping[str, Any]) -> str:
    """The section of docs/metrics.md.

    Args:
        found: of `interp_plugins.benchmark.meta.meta_evaluation`.
    """
    head = ["Metric", *_COLUMNS.values(), "tasks"]
    lines = [head, ["---"] * len(head)]
    known = {name: one["mean"] for name, one in found["metrics"].items() if one["mean"].get("noise") is not None}
    for kind in KINDS:
        names = sorted((n for n in known if metric_info(n).kind == kind), key=lambda n: -(known[n]["order"] or -2))
        for name in names:
            mark = "**" if recommended(known[name]) else ""
            cells = [_cell(known[name][column]) for column in _COLUMNS]
            lines.append([f"{mark}`{name}`{mark} ({kind})", *cells, str(known[name]["tasks"])])
    rest = sorted(n for n in found["metrics"] if n not in known)
    text = _HEAD.format(n=len(found["tasks"]), tasks=", ".join(f"`{t}`" for t in found["tasks"]), command=COMMAND)
    text += "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text += f"\n\nNot tried, since they need more than these tasks have: {', '.join(f'`{n}`' for n in rest)}.\n"
    limits = ", ".join(f"{value:g} {name}" for name, value in AT_LEAST.items())
    good = ", ".join(f"`{n}`" for n in sorted(known, key=lambda n: -(known[n]["order"] or -2)) if recommended(known[n]))
    return text + _TAIL.format(limits=limits, recommended=good or "none")


def recommended(mean: Mapping[str, Any]) -> bool:
    """Whether a metric reaches `AT_LEAST` in all; without a number it does not."""
    return all(mean.get(name) is not None and mean[name] >= value for name, value in AT_LEAST.items())


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".replace("-0.00", "0.00")
