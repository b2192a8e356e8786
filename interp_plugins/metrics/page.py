"""The table of metrics: `docs/metrics.md` is made of the registry.

python -m interp_plugins.metrics.page > docs/metrics.md
"""

from __future__ import annotations

import json
from pathlib import Path

import interp_plugins.metrics as metrics
from interp_plugins.metrics import from_quantus, trust_table
from interp_plugins.metrics.registry import KINDS, NEEDS, MetricInfo, list_metrics, metric_info

META = Path(__file__).parents[2] / "docs" / "benchmark" / "meta.json"  # of a checkout, where the page is made
_HEAD = """# Metrics

Made from the registry by `python -m interp_plugins.metrics.page > docs/metrics.md`; do not edit.

Three ways to ask how good maps are, from the whole answer to a single number:

- `compare_methods(model, data)`: which method to use for this model, and why.
- `evaluate(model, data, methods, metrics)`: a table of scores, of methods and metrics that you name.
- `metric(name)`, or the function of that name: one number per sample, of maps that you have.

## Can I trust these maps?

`compare_methods` says which method to use for one model. The model must have learnt something: its answers must tell
the samples apart better than those of its shuffled weights do, and be right more often than the most frequent class
where labels are there. A method must be above random maps and above all maps that ignore the model, beyond the paired
interval of `srg`; it must notice that the upper half of the net is shuffled (rank correlation of at most 0.5, or half
of its gain lost); and what promises to add up must. Those that pass are ranked by `srg`. What the samples cannot tell
apart is decided by masks, where they are given, and by the number of passes.

```python
from interp_plugins import compare_methods

found = compare_methods(model, x, ("saliency", "input_x_gradient"), budget="fast")
found.best  # None where no method passes
found.why()  # in sentences: numbers, n, intervals, p, and what was not tested
```

`found.show()` draws it, `found.to_html(path)` is a page, `found.table` and `found.to_df()` hold all numbers. It says
which map is faithful to the model, and nothing of whether the model is right about the world. `road` and stability are
not in the ranking: where the truth is known, the order by `road` is less that of the truth than the order by `srg`, and
stabilities prefer a map that never changes ([how far each metric can be trusted](#how-far-each-metric-can-be-trusted)).

`evaluate` judges methods on tensors or on a loader: maps are explained once, rows that several ask go through the model
once, and no value depends on batches, their order or the number of processes, but for the rounding of the model's
passes.

```python
from interp_plugins import evaluate

scores = evaluate(model, x, methods=("saliency", "ig"), metrics=("srg", "entropy"), controls=("control.random",))
scores["saliency", "srg"]  # mean, interval, n, chance; scores.to_df(), .plot(), .to_html(path), .save(path)
evaluate(model, x, "saliency", "srg", dry_run=True)  # rows forward and backward, before anything is done
```

A control is a map that ignores the model: `control.random`, `control.constant`, `control.input`, `control.edges`,
`control.centre`.

The same elsewhere: `store.evaluate(metrics)` judges maps that are on the disk ([store.md](store.md)),
`AttributionCallback(metrics=...)` those of a training ([fastai.md](fastai.md), [lightning.md](lightning.md)), and
`as_torchmetric(name)` is a metric as torchmetrics has them, for `self.log` and collections.
`agreement_matrix(exps, measure)` compares every two of several methods.

## One metric

A metric gives a number per sample, float64 `(N,)`. Its function takes maps (a tensor, or a tuple with one per input) or
an `Explanation`; `metric(name)` takes batch after batch and computes a `Score`: mean, interval, chance, and how many
samples have no value and why. Metrics of one's own are one file with `@register_metric`.

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
  element. Scores depend on it. Unless told otherwise metrics sum, and those of complexity judge elements.
- `sign=`: what of the values is mass: the `"positive"` part, the sizes (`"absolute"`), the `"negative"` part.
- `ties=`: which of equal values comes first: `"random"`, by a permutation of `seed=`, or `"index"`. Metrics with masks
  need none: equal places are judged by expectation.
- Masks are `(N, H, W)` or `(N, 1, H, W)`, `(N, D, H, W)` of volumes, `(N, T)` or `(N, F)`, or a list with an entry per
  sample: a mask, boxes of a picture `(left, top, right, bottom)`, spans of tokens `(start, stop)`, names of columns;
  without one, the region of the `Explanation` counts. Numbers other than 0 and 1 are refused. The map of a layer is
  enlarged to the input first.

## Metrics that ask the model

They (*faithfulness*) take `(model, inputs, maps, baselines)` or `(model, exp)`; `exp` knows baselines
and classes. `features=` says what goes together (superpixels, words, columns), and `removal_curves(...)` gives its
numbers from one set of rows: `.deletion_auc`, `.insertion_auc`, `.srg`, `.aopc()`. The least first is insertion read
backwards, so `srg` costs no more than the two curves. Three traps: what is removed leaves the data, so compare under
one baseline; a probability saturates and a logit does not, so say which by `target=`; and a map that lies on the object
without regard to the model scores well, so look at the randomisation metrics as well.

## Metrics that ask a method again

They (*robustness*, *randomisation*) take `(model, inputs, maps)` or `(model, exp)`, and
`explain=`, how maps are made: a name, `(name, parameters)`, a method object, `Explainer(...)` for all that it needs, or
a function `(model, inputs, target) -> maps`. An `exp` knows its method; what it does not keep is noticed and asked for.
`planned_passes(name, model, inputs, explain=...)` says before what it will cost. E is what one map costs.

```python
from interp_plugins.metrics import explained_neighbours, planned_passes, randomisation_curves

near = explained_neighbours(model, exp, n_neighbours=4)  # one set of neighbours,
near.sensitivity_max, near.sensitivity_avg, near.local_lipschitz, near.continuity  # all numbers about them
near.left_out  # neighbours of another class, which do not count
curves = randomisation_curves(model, exp, stages=2)
curves.stages, curves.upper_half()
planned_passes("sensitivity_avg", model, x, explain="saliency", target=0).backward
```

Stable is not right: a constant map is the most stable of all, and noise passes randomisation best. Neighbours are noise
of `radius=` times the sample's own spread; `sensitivity_max(explanation_func, inputs)` has Captum's arguments, and its
absolute 0.02. A method that draws is asked with one seed for sample and neighbour, so that its own noise does not count
as sensitivity. Random weights stand in the place of the model's own, which are never written to.

## Rows are shared

Where rows do not follow the map (random subsets, single removals, noise), one set of them serves
all methods, so that methods are compared on the same draws; where they do, the ends of the curves and all rows that
agree are shared. `judge_together` asks each row once, and `dry_run=True` tells before how many there will be;
`shared_rows()` is the scope in which any calls share. Many rows go through the faster view of the model that
`acceleration` switches; the few rows by which it is compared with the model are not counted.

```python
from interp_plugins.metrics import judge_together

maps = {"gradient": x, "noise": torch.randn_like(x)}
plan = judge_together(model, x, maps, ["srg", "faithfulness_correlation"], target=3, dry_run=True)
plan.forward_passes, plan.passes["faithfulness_correlation"]  # the second method asks nothing
found = judge_together(model, x, maps, ["srg", "faithfulness_correlation"], target=3, ids=["first", "second"])
found.values["srg"]["noise"], found.metrics["srg"]["gradient"].compute()
```

- Draws depend on `seed=` and the sample's id. Without ids all samples of a plain function have the same draws.
- `infidelity` has Captum's arguments and numbers. `metric("infidelity")`, the function `map_infidelity`, makes its own
  perturbations: noise for maps that do not hold the input as a factor, removals for maps that do.
- `road` fills removed pixels in from their neighbours, so no edge is left to read. `sic` and `aic` measure information
  by zlib, whose version stands in `Score.versions`.
- `average_drop`, `average_gain`, `average_increase`, `sic` and `road(measure="probability")` are of probabilities: a
  class given as `target=` means its softmax over axis 1; a function of the output is taken as it is.
- `consistency_classes` and `sufficiency_classes` compare all pairs of samples of a data set: `metric(name)` does so
  over batches.
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
    parts.append(trust_table.table(json.loads(META.read_text(encoding="utf-8"))))
    parts.append(from_quantus.table())
    return "\n".join(parts).rstrip("\n")


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
