"""Counterfactual rows of a table: which few columns, changed to what, turn a model; what one column alone can do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import like
from interp_plugins.robust.aim import Aim, ValueAim, aim_of
from interp_plugins.robust.columns import TableColumn, Words, columns_of
from interp_plugins.robust.opening import Asking, Opened, opened
from interp_plugins.robust.perturbed import Perturbed
from interp_plugins.robust.row_search import RowChange, RowSearch

if TYPE_CHECKING:
    import pandas as pd


class TableQuestion:
    """Rows of a table before a model, with what may change and what is wanted.

    Args:
        subject: the model and its rows.
        aim: what is wanted.
        columns: what may change.
    """

    def __init__(self, subject: Opened, aim: Aim | ValueAim, columns: Sequence[TableColumn]):
        self.subject, self.aim, self.columns = subject, aim, columns
        call = Call(subject.model, subject.asking.forward_kwargs, subject.asking.output)
        self.forward = Forward.of(call, len(subject), None, subject.asking.additional_forward_args)
        self.forward.samples = subject.xs

    def search(self, i: int, columns: Sequence[TableColumn], most: int) -> RowSearch:
        """A search for sample i."""
        return RowSearch([x[i] for x in self.subject.xs], columns, lambda rows: self.judged(rows, i), most)

    def judged(self, rows: Sequence[Tensor], i: int) -> tuple[Tensor, Tensor]:
        """Of rows in place of sample i: whether they are where they should be, and how far from it."""
        outputs = self.outputs(rows, [i] * len(rows[0]))
        at = torch.full((len(rows[0]),), i, device=outputs.device)
        return self.aim.reached(outputs, at), -self.aim.height(outputs, at)

    def outputs(self, rows: Sequence[Tensor], samples: Sequence[int]) -> Tensor:
        """The model's outputs for rows that stand in place of samples."""
        at, found = torch.tensor(samples, device=rows[0].device), []

        def work(start: int, stop: int) -> Tensor:
            with torch.no_grad():
                return self.forward.raw([x[start:stop] for x in rows], at[start:stop])

        size = self.subject.asking.batch_size or 4096
        for _, _, output in chunks(len(samples), size, work):
            found.append(output)
        return torch.cat(found)

    def reached(self) -> Tensor:
        """Which samples need no change, bool (N,)."""
        output = self.subject.prediction.output
        return self.aim.reached(output, torch.arange(len(self.subject), device=output.device))


def counterfactual_rows(
    model: Callable[..., Any],
    inputs: Any,
    data: Any,
    *,
    target: Any = None,
    goal: Any = None,
    n: int = 1,
    most: int = 3,
    immutable: Sequence[Any] = (),
    categorical: Sequence[Any] = (),
    words: Words | None = None,
    asking: Asking | None = None,
    progress: bool | None = None,
) -> Perturbed:
    """`counterfactual` of rows of a table; n rows per sample, one after the other.

    Args:
        model: the model.
        inputs: rows (N, F), or a tuple of categories and numbers.
        data: rows that say which values a column takes.
        target: the class to be left.
        goal: the class to be reached; of a regression ("above", value) or ("below", value).
        n: counterfactuals of each row, of different columns.
        most: columns that change at most.
        immutable: columns that stay.
        categorical: float columns that are categories.
        words: encoded rows -> values as people read them.
        asking: how the model is called.
        progress: None: a bar for long work.
    """
    for name, count in (("n", n), ("max_changes", most)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{name} must be a positive int, got {count!r}.")
    with opened(model, inputs, asking or Asking(bounds=None), ids=True) as subject:
        aim = aim_of(subject.prediction, subject.spec, target, goal, len(subject))
        question = TableQuestion(subject, aim, _columns(subject, data, words, immutable, categorical))
        done, found = question.reached().tolist(), []
        with progress_bar(len(subject), "counterfactuals", progress) as bar:
            for i in range(len(subject)):
                one = [] if done[i] else question.search(i, question.columns, most).found(n)
                found.append(one)
                bar.update(1)
        told = {"attack": "row", "eps": math.inf, "norm": "L1", "steps": most, "n": n}
        return _result(question, found, done, n, words, told)


def _columns(subject: Opened, data: Any, words: Words | None, immutable: Any, categorical: Any) -> list[TableColumn]:
    columns = columns_of(data, subject.spec, words, immutable, categorical)
    shapes, known = [x.shape[1:] for x in subject.xs], data if isinstance(data, tuple) else (data,)
    if shapes != [t.shape[1:] for t in known]:
        raise InputError(
            f"The rows have shapes {[tuple(s) for s in shapes]} and data= has {[tuple(t.shape[1:]) for t in known]}: "
            "both are rows as the model takes them."
        )
    return columns


def _result(
    question: TableQuestion,
    found: Sequence[Sequence[RowChange]],
    done: Sequence[bool],
    n: int,
    words: Words | None,
    params: dict[str, Any],
) -> Perturbed:
    subject, aim = question.subject, question.aim
    rows, made, state, steps = [], [], [], []
    for i, many in enumerate(found):
        nothing = RowChange(tuple(x[i] for x in subject.xs), frozenset(), 0.0)
        for one in [*many, nothing][: max(1, len(many[:n]))]:
            rows.append(i)
            made.append(one)
            state.append("already" if done[i] else "turned" if one.columns else "none found")
            steps.append(len(one.columns))
    at = torch.tensor(rows)
    before = [x[at.to(x.device)] for x in subject.xs]
    after = [torch.stack([one.row[k] for one in made]) for k in range(len(subject.xs))]
    outputs = question.outputs(after, rows)
    clean = subject.prediction.output
    where = at.to(clean.device)
    raw = [subject.func.raw(v) for v in (before, after)]
    return Perturbed(
        inputs=like(subject.given, [x.cpu() for x in before]),
        perturbed=like(subject.given, [x.cpu() for x in after]),
        delta=like(subject.given, [(b - a).float().cpu() for a, b in zip(*raw, strict=True)]),
        state=tuple(state),
        target_label=tuple(aim.words([aim.left[i] for i in rows])),
        goal_label=None if aim.goal is None else tuple(aim.words([aim.goal[i] for i in rows])),
        prediction=aim.said(clean[where]),
        prediction_after=aim.said(outputs),
        margin=-aim.height(clean[where], where).cpu(),
        margin_after=-aim.height(outputs, where).cpu(),
        steps=torch.tensor(steps),
        success_after_rounding=None,
        params=params,
        spec=subject.spec,
        changes=tuple(_changes(question.columns, made, before, after, subject, words)),
    )


def _changes(
    columns: Sequence[TableColumn],
    made: Sequence[RowChange],
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    subject: Opened,
    words: Words | None,
) -> list[tuple[tuple[str, Any, Any], ...]]:
    """What changed, row by row, in people's words."""
    sides = []
    for xs in (before, after):
        if words is not None:
            sides.append([list(row) for row in words([x.cpu() for x in xs])])
        else:
            raw = subject.func.raw(xs)
            sides.append([[v for x in raw for v in x[r].tolist()] for r in range(len(xs[0]))])
    starts = [sum(x.shape[1] for x in before[:k]) for k in range(len(before))]
    found = []
    for r, one in enumerate(made):
        rows = []
        for c in sorted(one.columns):
            k, j = columns[c].place
            whole = columns[c].grid is not None
            pair = [_plain(side[r][starts[k] + j], whole) for side in sides]
            rows.append((columns[c].name, *pair))
        found.append(tuple(rows))
    return found


def _plain(value: Any, whole: bool) -> Any:
    if not isinstance(value, float):
        return value
    return round(value) if whole else float(f"{value:.5g}")


def one_feature_margins(
    model: Callable[..., Any],
    inputs: Any,
    data: Any,
    *,
    target: Any = None,
    goal: Any = None,
    features: Sequence[Any] | None = None,
    categorical: Sequence[Any] = (),
    words: Words | None = None,
    input_spec: InputSpec | None = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    output: Any = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """The smallest change of one column alone that turns a row's prediction, for every row and column.

    Args:
        model: an `nn.Module` or any callable.
        inputs: rows (N, F) of a table, or a tuple of category codes and numbers, in the model's units.
        data: rows that say which values a column takes, in the same layout; the training data are best.
        target: the class to be left, as for `attack`; None: what is predicted.
        goal: the class to be said instead; None: any other; of a regression ("above", value) or ("below", value).
        features: names or numbers of the columns that are asked about; None: all.
        categorical: float columns that are categories.
        words: encoded rows -> values as people read them; None: raw values.
        input_spec: names of columns and classes, normalisation.
        activation: as for `explain`.
        output: as for `explain`.
        additional_forward_args: as for `explain`.
        forward_kwargs: as for `explain`.
        batch_size: rows per pass; None: automatic.
        progress: None: a bar for long work.

    Returns:
        A row per sample and column: "sample", "column", "before", "after", "margin" (of a number, its change in median
        absolute deviations of the data, in standard deviations where those are 0; of a category 1). NaN, and None
        after, where no value in the data turns it.

    Raises:
        InputError: a column that is not there; rows that do not fit the data.

    Example:
        from interp_plugins.robust import one_feature_margins

        rows = torch.randn(40, 3)
        one_feature_margins(nn.Linear(3, 2), rows[:1], rows)["column"].tolist()  # -> ['x0', 'x1', 'x2']
    """
    import pandas as pd

    with concise():
        asking = Asking(input_spec, None, None, activation, output, additional_forward_args, forward_kwargs, batch_size)
        with opened(model, inputs, asking, ids=True) as subject:
            aim = aim_of(subject.prediction, subject.spec, target, goal, len(subject))
            question = TableQuestion(subject, aim, _columns(subject, data, words, (), categorical))
            asked = question.columns
            if features is not None:
                kept = {c.place for c in asked}
                stay = _columns(subject, data, words, features, categorical) if len(kept) > len(features) else []
                asked = [c for c in asked if c.place not in {s.place for s in stay}]
            rows = []
            with progress_bar(len(subject), "margins", progress) as bar:
                for i in range(len(subject)):
                    rows += [_alone(question, i, column, words) for column in asked]
                    bar.update(1)
        return pd.DataFrame(rows)


def _alone(question: TableQuestion, i: int, column: TableColumn, words: Words | None) -> dict[str, Any]:
    found = question.search(i, [column], 1).found(1)
    before = [x[i : i + 1] for x in question.subject.xs]
    row = {"sample": i, "column": column.name}
    after = [x[None] for x in found[0].row] if found else before
    change = RowChange(tuple(x[0] for x in after), frozenset([0]), 0.0)
    ((_, a, b),) = _changes([column], [change], before, after, question.subject, words)[0]
    margin = math.nan
    if found:
        k, j = column.place
        margin = float(column.distance(before[k][0, j], after[k][0, j]))
    return row | {"before": a, "after": b if found else None, "margin": margin}
