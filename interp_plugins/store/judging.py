"""Metrics of maps that are stored: unit by unit, so that it can be interrupted and shared by processes.

An evaluation lies in the run directory, in `scores/` under a name made of what it is, as a run of rows.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp_plugins.api.asking import AskedBatch, ask_once
from interp_plugins.api.samples import SampleBatch, cut
from interp_plugins.core.batching import progress_bar
from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.forward import Forward, one_per_row
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.guard import frozen
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.tensors import as_tuple, like
from interp_plugins.metrics.asked_rows import AskedRows
from interp_plugins.metrics.columns import Column, columns_of
from interp_plugins.metrics.controls import CONTROLS
from interp_plugins.metrics.evaluation import Evaluation, State
from interp_plugins.metrics.maps import Mapped, Method, beside, references_of
from interp_plugins.metrics.registry import ASKING, REPEATING
from interp_plugins.metrics.scores import Scores
from interp_plugins.store.fingerprint import described, digest, model_facts
from interp_plugins.store.manifest import Manifest
from interp_plugins.store.row_run import Row, RowRun

FOLDER = "scores"
SCHEMA = 1
_CLOSE = 0.01  # of scores: half precision and other threads stay below it
_COLUMNS = {
    **dict.fromkeys(("method", "metric", "reason", "record"), "string"),
    "sample": "int64",
    **dict.fromkeys(("value", "chance"), "float64"),
    **dict.fromkeys(("forward", "backward"), "int64"),
    "seconds": "float64",
}


@dataclass(frozen=True)
class StoredMaps:
    """What is judged: the maps of a run, as far as they are there.

    Attributes:
        path: the run directory.
        manifest: the run.
        load: numbers of samples -> their explanations, by the name that each map has in the run.
        samples: of each unit that is done, the numbers of the samples to judge.
        written: of each unit that is done, what tells its maps from others.
        missing: units that are not done.
    """

    path: Path
    manifest: Manifest
    load: Callable[[Sequence[int]], Mapping[str, Explanation]]
    samples: Mapping[int, list[int]]
    written: Mapping[int, str]
    missing: Sequence[int]


@dataclass(frozen=True)
class Judgement:
    """How maps are judged; see `ExplanationStore.evaluate`."""

    metrics: Any = None
    model: Callable[..., Any] | None = None
    target: Any = None
    masks: Any = None
    truth: Any = None
    baselines: Any = None
    features: Any = None
    controls: tuple[str, ...] = ()
    seed: int = 0

    def columns(self) -> list[Column]:
        """The metrics; those that ask the model are left out where none are named and there is no model.

        Raises:
            InputError: a metric or a control that there is not, or one that lacks what it needs.
        """
        found = columns_of(self.metrics, masks=self.masks is not None, truth=self.truth is not None)
        if self.model is None:
            asking = [c for c in found if c.info.needs in ASKING]
            if asking and self.metrics is not None:
                raise InputError(
                    f"{asking[0].name} asks the model, and none was given: give the one that was explained as model=."
                )
            found = [c for c in found if c not in asking]
        for name in self.controls:
            if name not in CONTROLS:
                raise InputError(f"{name!r} is no control; there are {', '.join(CONTROLS)}.")
        return found


def evaluated(
    stored: StoredMaps,
    wanted: Judgement,
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool | None = None,
) -> Scores:
    """Judge what is not judged yet, and gather the scores of all that is.

    Args:
        stored: the maps.
        wanted: how they are judged.
        rank: of this process; None: as torchrun says, or the only one.
        world_size: how many there are.
        progress: a bar; None: for long work.

    Raises:
        InputError: something is missing, or there is another model than the one that was explained.
    """
    columns = wanted.columns()
    if wanted.model is not None:
        _check_weights(wanted.model, stored.manifest)
    identity = _identity(stored, wanted, columns)
    name = digest(json.dumps(identity, sort_keys=True).encode())
    folder = stored.path / FOLDER
    folder.mkdir(exist_ok=True)
    work = RowRun.begin(folder / name, identity, _COLUMNS, {})
    facts = {u: {"maps": text} for u, text in stored.written.items()}
    mine = [u for u in work.to_do(rank, world_size, facts) if stored.samples.get(u)]
    with preserved_rng(), contextlib.closing(progress_bar(len(mine), "Evaluating", progress)) as bar:
        for unit in mine:
            made = _fresh(wanted, columns)
            _judge(made, stored, wanted, stored.samples[unit])
            work.commit(unit, _rows(made), facts[unit])
            bar.update(1)
    rows, _ = work.read({**facts, **{u: {"maps": "none"} for u in stored.missing}})
    return _gathered(rows, _fresh(wanted, columns), columns, wanted.seed)


def _fresh(wanted: Judgement, columns: Sequence[Column]) -> Evaluation:
    metrics = [(c.name, dict(c.params)) for c in columns]
    options = {} if wanted.baselines is None else {"baselines": wanted.baselines}
    return Evaluation(None, metrics, features=wanted.features, seed=wanted.seed, options=options)


def _identity(stored: StoredMaps, wanted: Judgement, columns: Sequence[Column]) -> dict[str, Any]:
    """What an evaluation is: two with the same are one."""
    made = stored.manifest
    beside_maps = ("target", "masks", "truth", "baselines", "features", "controls", "seed")
    picked = [[u, i] for u, i in sorted(stored.samples.items()) if i != list(made.samples(u))]  # selected, or failed
    return {
        "scores": SCHEMA,
        "of": made.digest,
        "metrics": [[c.name, described(dict(c.params))] for c in columns],
        "asked": wanted.model is not None,
        "beside": {name: described(getattr(wanted, name)) for name in beside_maps},
        "picked": digest(json.dumps(picked).encode()) if picked else None,
        "data": {"size": made.size},
        "unit_size": made.unit_size,
    }


def _check_weights(model: Callable[..., Any], manifest: Manifest) -> None:
    """Refuse another model than the one that was explained."""
    known, given = manifest.identity.get("model", {}).get("weights"), model_facts(model)["weights"]
    if known is not None and known != given:
        raise InputError(
            "The model is not the one that was explained: its weights differ. Give the one that explain_dataset got "
            "(load its weights); scores of another model's maps say nothing."
        )


def _judge(made: Evaluation, stored: StoredMaps, wanted: Judgement, numbers: list[int]) -> None:
    """Judge the maps of some samples; those of one target together, which share rows."""
    by_target: dict[Any, dict[str, Explanation]] = {}
    for key, exp in stored.load(numbers).items():
        by_target.setdefault(exp.target, {})[key] = exp
    for place, maps in enumerate(by_target.values()):
        made.judge(_mapped(maps, wanted, numbers, place))


def _mapped(maps: dict[str, Explanation], wanted: Judgement, numbers: list[int], place: int) -> Mapped:
    first = next(iter(maps.values()))
    subject = None if wanted.model is None else _asked(first, wanted, numbers)
    inputs = first.inputs if subject is None else subject.inputs
    xs = as_tuple(inputs)
    batch = SampleBatch(
        wanted.model or _no_model,
        inputs,
        tuple(numbers),
        masks=_of(wanted.masks, numbers),
        truth=_of(wanted.truth, numbers),
    )
    references = references_of(wanted.baselines, xs, first.spec, inputs, batch, wanted.seed)
    facts = {name: getattr(first, name) for name in ("target", "target_label", "spec", "region")}
    many = "" if place == 0 else f" {place + 1}"  # the target's number, as maps have it
    blind = beside(wanted.controls, inputs, references, facts, numbers, wanted.seed)
    methods = {key: _as_method(exp, wanted) for key, exp in maps.items()}
    maps = {**maps, **{f"{name}{many}": exp for name, exp in blind.items()}}
    return Mapped(batch, subject, maps, methods, like(inputs, references), {})


def _no_model(*inputs: Any) -> Any:
    raise InputError("There is no model to ask.")


def _as_method(exp: Explanation, wanted: Judgement) -> Method:
    """How a stored map was made, for metrics that ask its method again."""
    lost = exp.params.get("baselines") == "given" and wanted.baselines is None
    again = [c.name for c in wanted.columns() if c.info.needs in REPEATING]
    if lost and again:
        raise InputError(
            f"{again[0]} asks {exp.method} again, whose baselines a run does not keep: give them as baselines= of "
            "ExplanationStore.evaluate."
        )
    return Method(exp.method, {}, False)


def _asked(exp: Explanation, wanted: Judgement, numbers: list[int]) -> AskedBatch:
    """The model and the samples as metrics take them, after a look whether it says what was explained."""
    assert wanted.model is not None
    target = exp.target if wanted.target is None else wanted.target
    if isinstance(target, tuple):
        target = torch.tensor(target)
    elif isinstance(target, torch.Tensor) and target.ndim == 1:
        target = target[numbers]
    found = ask_once(
        wanted.model, beside_weights(exp.inputs, wanted.model), target, input_spec=exp.spec, seed=wanted.seed
    )
    if exp.score is None:
        return found
    with frozen(found.func, seed=wanted.seed), torch.no_grad():
        forward = Forward.of(found.func, len(exp), found.asked.target)
        forward.samples = as_tuple(found.inputs)
        now = one_per_row(forward.changed(forward.samples, torch.arange(len(exp))), len(exp)).detach().cpu().double()
    then = exp.score.double()
    off = (now - then).abs() > _CLOSE * then.abs().clamp_min(1.0)
    if bool(off.any()):
        i = int(off.nonzero()[0])
        raise InputError(
            f"The model gives {now[i]:.4g} for sample {numbers[i]}, and {then[i]:.4g} was explained. Give the function "
            "of the stored inputs that was explained, and where it was no class, target= of ExplanationStore.evaluate."
        )
    return found


def _of(values: Any, numbers: list[int]) -> Any:
    """Masks or truth of some samples, which come one per sample of the run or by number."""
    if not isinstance(values, Mapping):
        return cut(values, numbers)
    absent = [i for i in numbers if i not in values]
    if absent:
        raise InputError(f"There is no mask or truth for sample {absent[0]}: give one for every sample that has maps.")
    picked = [values[i] for i in numbers]
    return torch.stack(picked) if all(isinstance(v, torch.Tensor) for v in picked) else picked


# -- rows of a part ---------------------------------------------------------------------------------------------------


def _rows(made: Evaluation) -> list[Row]:
    """What was found of a unit: a row per method, metric and sample; what it cost stands in the first of them."""
    rows = []
    for (method, metric), (_, _, state) in made.state().items():
        cost = {name: state[key] for name, key in (("forward", "passes"), ("backward", "backward"))}
        for sample, (value, reason, chance) in state["rows"].items():
            row: Row = {"method": method, "metric": metric, "sample": sample, "reason": reason, "chance": chance}
            if isinstance(value, float):
                row["value"] = None if value != value else value
            elif value is not None:
                row["record"] = json.dumps(_packed(value))
            rows.append({**row, **cost, "seconds": state["seconds"]})
            cost, state = dict.fromkeys(cost, 0), {**state, "seconds": 0.0}
    return rows


def _gathered(rows: Sequence[Row], made: Evaluation, columns: Sequence[Column], seed: int) -> Scores:
    known = {column.label: column for column in columns}
    found: dict[tuple[str, str], State] = {}
    asked = {column.label: [0, 0] for column in columns}
    for row in rows:
        key = row["method"], row["metric"]
        if key not in found:
            fresh = known[row["metric"]].made(seed)
            state: dict[str, Any] = {"rows": {}, "numbered": False, "passes": 0, "backward": 0, "seconds": 0.0}
            found[key] = fresh.name, dict(fresh.params), state
        state = found[key][2]
        record = row["record"] is not None or known[row["metric"]].info.record is not None
        value = row["value"] if row["value"] is not None else float("nan")
        if record:
            value = None if row["record"] is None else _unpacked(json.loads(row["record"]))
        state["rows"][row["sample"]] = value, row["reason"], row["chance"]
        for name, key_ in (("passes", "forward"), ("backward", "backward"), ("seconds", "seconds")):
            state[name] += row[key_]
        asked[row["metric"]][0] += row["forward"]
        asked[row["metric"]][1] += row["backward"]
    spent = {label: (forward, backward) for label, (forward, backward) in asked.items()}
    return made.restored(found, AskedRows(spent, len({row["sample"] for row in rows}))).scores()


def _packed(value: Any) -> Any:
    """What a metric of data sets keeps of a sample, as JSON: bytes as text, tuples as lists."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    return [_packed(v) for v in value] if isinstance(value, tuple) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["bytes"])
    return tuple(_unpacked(v) for v in value) if isinstance(value, list) else value
