"""`counterfactual`: what would have to be different for the model to say something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError, concise
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.tensors import as_tuple, check_inputs, is_float
from interp_plugins.robust.aim import aim_of
from interp_plugins.robust.attacking import attack
from interp_plugins.robust.columns import Words
from interp_plugins.robust.opening import Asking, opened
from interp_plugins.robust.perturbed import Perturbed
from interp_plugins.robust.regions import smallest_flip
from interp_plugins.robust.row_counterfactual import counterfactual_rows
from interp_plugins.robust.visible import check_visible, visible

KINDS = ("auto", "minimal", "visible", "regions", "row")
_OF = {"row": ("data", "n", "max_changes", "immutable", "categorical", "words"), "visible": ("smoothness",)}


def counterfactual(
    model: Callable[..., Any],
    inputs: Any,
    *,
    target: Any = None,
    goal: Any = None,
    kind: str = "auto",
    data: Any = None,
    n: int = 1,
    max_changes: int = 3,
    immutable: Sequence[Any] = (),
    categorical: Sequence[Any] = (),
    words: Words | None = None,
    steps: int | None = None,
    smoothness: float = 3.0,
    mask: Any = None,
    bounds: Any = "auto",
    input_spec: InputSpec | None = None,
    activation: Callable[[Tensor], Tensor | None] | None = None,
    output: Any = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **params: Any,
) -> Perturbed:
    """What would have to be different for the model to say something else.

    An adversarial example is no counterfactual explanation: a change that nobody sees explains nothing. So there are
    four kinds. "row": the few columns of a table that would have to change, to values that the data hold; categories
    stay categories, whole numbers whole. "visible": a smooth change of a picture, of which the model is sure.
    "regions": the fewest regions that would have to go (`smallest_flip`). "minimal": the smallest change there is, in
    L2 (`attack("fmn")`), for what is none of these.

    Args:
        model: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first, in the model's units; of a table also (codes, numbers).
        target: the class to be left, as for `attack`; None: what is predicted.
        goal: the class to be said instead; None: any other; of rows and pictures before a regression ("above", value)
            or ("below", value).
        kind: "auto": "row" for tables, "visible" for pictures, else "minimal"; or one of the four.
        data: of "row": rows that say which values a column takes, as the model takes them; the training data are best.
        n: of "row": counterfactuals of each sample, each by other columns; they follow one another.
        max_changes: of "row": columns that change at most.
        immutable: of "row": names or numbers of columns that stay.
        categorical: of "row": float columns that are categories.
        words: of "row": encoded rows -> values as people read them; None: raw values.
        steps: of "visible" (200) and "minimal" (40).
        smoothness: of "visible": exponent by which fast waves move less; 0: pixels are free.
        mask: of "visible" and "minimal": 1 where an element may change, 0 where not.
        bounds: of "visible" and "minimal": (smallest, largest) raw value; "auto": the spec's range for pictures, none
            for others.
        input_spec: kind of data, normalisation, names of classes and columns.
        activation: as for `explain`.
        output: as for `explain`.
        additional_forward_args: as for `explain`.
        forward_kwargs: as for `explain`.
        batch_size: rows per pass; None: automatic.
        seed: of random draws.
        progress: None: a bar for long work.
        **params: of "regions": further arguments of `smallest_flip`.

    Returns:
        `Perturbed`: state "turned" or "none found", what is said before and after, `.changes` of rows, `.show()`.

    Raises:
        InputError: an unknown kind, a table without `data`, arguments of another kind.
        TargetError: a model without classes and no goal that says a value.

    Example:
        from interp_plugins.robust import counterfactual

        rows = torch.randn(60, 3)
        found = counterfactual(nn.Linear(3, 2), rows[:2], data=rows)
        found.to_df()["changes"].tolist()
    """
    with concise():
        kind = _kind(kind, inputs, input_spec)
        asking = Asking(
            input_spec, bounds, mask, activation, output, additional_forward_args, forward_kwargs, batch_size, seed
        )
        given = {"data": data, "n": n, "max_changes": max_changes, "immutable": immutable, "categorical": categorical}
        _check_kind(kind, {**given, "words": words}, params)
        if kind == "row":
            return counterfactual_rows(
                model, inputs, data, target=target, goal=goal, n=n, most=max_changes, immutable=immutable,
                categorical=categorical, words=words, asking=asking, progress=progress,
            )  # fmt: skip
        if kind == "visible":
            many = 200 if steps is None else steps
            check_visible(many, smoothness)
            with opened(model, inputs, asking) as subject:
                aim = aim_of(subject.prediction, subject.spec, target, goal, len(subject))
                return visible(subject, aim, many, smoothness, progress)
        shared = {
            "target": target, "goal": goal, "input_spec": input_spec, "batch_size": batch_size, "seed": seed,
            "additional_forward_args": additional_forward_args, "forward_kwargs": forward_kwargs,
            "activation": activation, "output": output, "progress": progress,
        }  # fmt: skip
        if kind == "regions":
            return smallest_flip(model, inputs, **shared, **params)
        return attack(model, inputs, "fmn", norm="L2", steps=steps, mask=mask, bounds=bounds, **shared)


def _kind(kind: Any, inputs: Any, spec: InputSpec | None) -> str:
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if kind != "auto":
        return str(kind)
    xs = check_inputs(inputs)
    if not all(is_float(x) for x in xs) and any(x.ndim != 2 for x in xs):
        raise InputTypeError(
            "These inputs are ids, as of words, which do not change by a little. Which words turn the prediction, "
            "occlusion and feature_ablation tell: explain(model, inputs, 'feature_ablation')."
        )
    known = as_spec(spec, next((x for x in xs if is_float(x)), xs[0])).kind
    if known == "tabular" or not all(is_float(x) for x in as_tuple(inputs)):
        return "row"
    return "visible" if known == "image" else "minimal"


def _check_kind(kind: str, given: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    if kind == "row" and not isinstance(given["data"], (Tensor, tuple)):
        raise InputError(
            "Counterfactual rows need data=: rows of the table as the model takes them (the training data are best), "
            "which say what values a column takes. kind='minimal' needs none."
        )
    idle = {"data": None, "n": 1, "max_changes": 3, "immutable": (), "categorical": (), "words": None}
    for name in _OF["row"] if kind != "row" else ():
        value = given[name]
        same = value is idle[name] or (not isinstance(value, (Tensor, tuple)) and value == idle[name]) or value == ()
        if not same:
            raise InputError(f"{name}= is of kind='row', and this is kind={kind!r}.")
    if params and kind != "regions":
        raise InputError(f"{next(iter(params))}= is no argument of kind={kind!r}.")
