"""The table of metrics: `docs/metrics.md` is made of the registry.

python -m interp_plugins.metrics.page > docs/metrics.md
"""

from __future__ import annotations

import interp_plugins.metrics as metrics
from interp_plugins.metrics.registry import KINDS, NEEDS, MetricInfo, list_metrics, metric_info

_HEAD = """# Metrics

Made from the registry by `python -m interp_plugins.metrics.page > docs/metrics.md`; do not edit.

A metric gives a number per sample, float64 `(N,)`. Its function takes maps (a tensor, or a tuple with one per input) or
an `Explanation`; `metric(name)` takes batch after batch and computes a `Score`: mean, interval, chance, and how many
samples have no value and why.

```python
from interp_plugins.metrics import list_metrics, metric, relevance_mass

mask = torch.zeros(2, 24, 24, dtype=torch.bool)
mask[:, 6:18, 6:18] = True
relevance_mass(exp, mask)  # (2,)
m = metric("relevance_mass")
m.update(exp, masks=mask, ids=["first", "second"])
score = m.compute()
float(score), score.ci(), score.chance, score.undefined
list_metrics(kind="localisation")
```

What holds for all of them, and is tested for each:

- **No sample depends on another.** Any split, order or chunk gives the same bits, and so does any number of threads.
- **Undefined is NaN, with its reason**: an empty mask is no hit, a map of zeros has no entropy. `Score.undefined`
  counts the reasons; means leave such samples out.
- **Invariance.** *Scale*: a map times a positive number gets the same value. *Sign*: a map times -1, too.
- **Chance** is what a map without knowledge gets in the mean.
- **Direction.** *-* where neither end is better: a simple map is not a right one.

Words of the parameters:

- `reduce=`: how channels become one value per place: `"sum"`, `"abs_sum"`, `"max_abs"`, `"l2"`; `None`: element by
  element. Scores depend on it. Metrics with masks sum; all others judge elements unless told otherwise.
- `sign=`: what of the values is mass: the `"positive"` part, the sizes (`"absolute"`), the `"negative"` part.
- `ties=`: which of equal values comes first: `"random"`, by a permutation of `seed=`, or `"index"`. Metrics with masks
  need none: equal places are judged by expectation.
- Masks are `(N, H, W)` or `(N, 1, H, W)`, `(N, T)` or `(N, F)`, or a list with an entry per sample: a mask, boxes
  `(left, top, right, bottom)`, spans of tokens `(start, stop)`, names of columns; without one, the region of the
  `Explanation` counts. Numbers other than 0 and 1 are refused. The map of a layer is enlarged to the picture first.

What asks the model (*faithfulness*) takes `(model, inputs, maps, baselines)` or `(model, exp)`; `exp` knows baselines
and classes. `features=` says what goes together (superpixels, words, columns), and `removal_curves(...)` gives its
numbers from one set of rows: `.deletion_auc`, `.insertion_auc`, `.srg`, `.aopc()`. The least first is insertion read
backwards, so `srg` costs no more than the two curves. Three traps: what is removed leaves the data, so compare under
one baseline; a probability saturates and a logit does not, so say which by `target=`; and a map that lies on the object
without regard to the model scores well, so look at the randomisation check of docs/methods.md as well.

`agreement_matrix(exps, measure)` compares every two of several methods. Metrics of one's own are one file with
`@register_metric`.
"""


def metrics_page() -> str:
    """The text of `docs/metrics.md`."""
    parts = [_HEAD]
    for kind in KINDS:
        names = list_metrics(kind=kind)
        if names:
            head = ["Name", "Says", "Takes", "Better", "Chance", "Same under", "Parameters", "Passes", "Source"]
            rows = [head, ["---"] * len(head), *(_row(metric_info(name)) for name in names)]
            lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
            parts.append("\n".join([f"## {kind.capitalize()}", "", *lines, ""]))
    return "\n".join(parts)


def _row(info: MetricInfo) -> list[str]:
    assert hasattr(metrics, info.name), f"{info.name} is registered and not given by interp_plugins.metrics"
    same = [word for word, holds in (("scale", info.scale_invariant), ("sign", info.sign_invariant)) if holds]
    return [
        f"`{info.name}`",
        info.says,
        NEEDS[info.needs],
        {True: "high", False: "low", None: "-"}[info.higher_is_better],
        info.chance_text,
        ", ".join(same) or "-",
        ", ".join(f"`{p}`" for p in info.parameters if p not in ("ids", "additional_forward_args")) or "-",
        info.cost,
        info.reference,
    ]


if __name__ == "__main__":
    print(metrics_page())
