"""From a batch, as a dataloader gives it, to what the model is called with.

Without a hint the rules are few, and where they leave a doubt an error says which argument decides:

- a tensor is the input;
- of a tuple or list the first element is the input; several tensors there are several inputs, or samples of their own,
  as a detector takes them (`several.py`);
- of a dict, dataclass or named tuple the entries named like parameters of the model's `forward` are passed by name (all
  but labels where it takes `**kwargs`), else the only floating-point tensor with more than one dimension is the input,
  else a `forward` of one argument gets the whole.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.api.named_inputs import explained_names
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import describe, is_float
from interp_plugins.core.truth import LABEL_NAMES, Reading, fields, known_classes, part
from interp_plugins.lightning.several import are_samples, capacity, padded

_UNSAID = Reading()
_HOW = "Say which part of the batch is the input: input_key= (a key or position), or input_fn= (batch -> input)."


@dataclass(frozen=True)
class ModelInput:
    """What the model is called with, and the ground truth that came along.

    Attributes:
        inputs: the tensors that are explained, batch first.
        names: their parameter names, or None where they are passed by position.
        kwargs: further arguments by name, not explained (an attention mask, say).
        labels: class index per sample (N,), below 0 for a sample without one; None where the batch has no clear label.
        ids: the samples' names, or None.
        passed_over: samples that were left out because they have no label.
        whole: the model takes one dict of inputs and further arguments.
        sizes: height and width per sample (N, 2) where the model takes a list of pictures; they are filled up to one
            size here. None for all other models.
    """

    inputs: tuple[Tensor, ...]
    names: tuple[str, ...] | None = None
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: Tensor | None = None
    ids: tuple[str, ...] | None = None
    passed_over: int = 0
    whole: bool = False
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return int(self.inputs[0].shape[0])

    def labelled(self, class_names: Sequence[Any] | None) -> ModelInput:
        """The samples that have a label, of a batch with labels; of one without, all."""
        if self.labels is None:
            return self
        classes = len(class_names) if class_names is not None else None
        kept = [i for i, c in enumerate(known_classes(self.labels, classes) or ()) if c is not None]
        return self if len(kept) == len(self) else self.rows(kept)

    def rows(self, kept: list[int]) -> ModelInput:
        """Some of the samples, on copies."""
        n, rows = len(self), torch.tensor(kept, dtype=torch.long)

        def cut(value: Any) -> Any:
            batched = isinstance(value, Tensor) and value.ndim and value.shape[0] == n
            return value.index_select(0, rows.to(value.device)) if batched else value

        tensors = (self.inputs, dict(self.kwargs), self.labels, self.sizes)
        with torch.inference_mode(False), torch.no_grad():
            inputs, kwargs, labels, sizes = pytree.tree_map(cut, tensors)
        ids = None if self.ids is None else tuple(self.ids[i] for i in kept)
        changed = {"inputs": inputs, "kwargs": kwargs, "labels": labels, "sizes": sizes, "ids": ids}
        return dataclasses.replace(self, **changed, passed_over=n - len(kept))


def read_batch(batch: Any, model: nn.Module, reading: Reading = _UNSAID) -> ModelInput:
    """What `model` is called with for a batch; nothing is copied or changed.

    Args:
        batch: what the dataloader gave.
        model: the module whose `forward` is explained.
        reading: which parts are the input, the label and the ids; an input's part may hold the label as well, and an
            input's function may give a tuple of tensors (several inputs) or a dict of arguments by name.

    Raises:
        InputError: no clear input, or a part that was named and is no label.
    """
    inside = None
    if reading.input_fn is not None:
        given = _asked(reading.input_fn, batch)
        if isinstance(given, Mapping):
            found = _by_name(dict(given), _positional_names(model))
        else:
            found = _positional(
                given if isinstance(given, (tuple, list)) else (given,), "input_fn returned", batch, model
            )
    else:
        inside = batch if reading.input_key is None else part(batch, reading.input_key, "input_key")
        found = _read(inside, model, batch)
        _check_arguments(found, model)
    if found.inputs[0].ndim == 0:
        raise InputError(f"The input found in the batch is a single number; expected a tensor (N, ...). {_HOW}")
    n, alone = len(found), len(found.inputs) == 1 and not found.kwargs
    labels = None
    if reading.input_key is not None and reading.label_key is None and reading.label_fn is None:
        labels = Reading(output=reading.output).labels(inside, n)  # the input's part is a batch of its own
    labels = reading.labels(batch, n, alone) if labels is None else labels
    return dataclasses.replace(found, labels=labels, ids=reading.ids(batch, n))


def read_truth(batch: Any, found: ModelInput, reading: Reading) -> Any:
    """The part of a batch that is the ground truth, as it came; None where there is no clear one.

    Args:
        batch: what the dataloader gave.
        found: what `read_batch` found in it.
        reading: which parts are the input and the label; an input's part may hold the label as well.
    """
    truth = None
    if reading.input_key is not None and reading.label_key is None and reading.label_fn is None:
        truth = Reading(output=reading.output).truth(part(batch, reading.input_key, "input_key"))
    alone = len(found.inputs) == 1 and not found.kwargs
    return reading.truth(batch, alone) if truth is None else truth


def _asked(fn: Callable[[Any], Any], batch: Any) -> Any:
    try:
        return fn(batch)
    except Exception as error:  # the user's function may raise anything
        raise InputError(
            f"input_fn failed on the batch, a {describe(batch)}: {type(error).__name__}: {error}"
        ) from error


def _read(given: Any, model: nn.Module, batch: Any) -> ModelInput:
    if isinstance(given, Tensor):
        return ModelInput((given,))
    entries = fields(given)
    if entries is not None:
        return _read_fields(entries, model)
    if isinstance(given, (tuple, list)) and given:
        first = given[0]
        if isinstance(first, Tensor):
            label_like = not is_float(first) and first.numel() == first.shape[:1].numel()
            if label_like and any(is_float(v) and v.ndim > 1 for v in given[1:]):
                raise InputError(
                    f"The batch is a {describe(given)}, and its first element ({describe(first)}) looks like labels "
                    f"that stand before the input. {_HOW} Here: input_key=1."
                )
            return ModelInput((first,))
        if isinstance(first, (tuple, list)) and not hasattr(first, "_fields"):
            return _positional(first, "The first element of the batch is", batch, model)
        if fields(first) is not None:
            return _read(first, model, batch)
    raise InputError(f"No input found in a batch that is a {describe(given)}. {_HOW}")


def _positional(values: Any, what: str, batch: Any, model: nn.Module) -> ModelInput:
    bad = [v for v in values if not isinstance(v, Tensor)]
    if bad or not values:
        raise InputTypeError(f"{what} a {describe(values)}; expected a tensor or several. {_HOW}")
    one = len(values) == 1 and (values is not batch[0] if isinstance(batch, (tuple, list)) else True)
    if all(v.ndim for v in values) and not one and are_samples(values, batch, model):
        stacked, sizes = padded(values)
        return ModelInput((stacked,), sizes=sizes)
    return ModelInput(tuple(values))


def _read_fields(entries: dict[str, Any], model: nn.Module) -> ModelInput:
    parameters = _parameters(model)
    optional_labels = {
        n for n in LABEL_NAMES if n in parameters and parameters[n].default is not inspect.Parameter.empty
    }
    matched = [n for n in parameters if n in entries and n not in optional_labels]
    if _takes_any_name(model):
        matched += [n for n in entries if isinstance(n, str) and n.lower() not in LABEL_NAMES and n not in matched]
    if any(isinstance(entries[n], Tensor) for n in matched):
        return _by_name({n: entries[n] for n in matched}, _positional_names(model))
    wide = [n for n, v in entries.items() if is_float(v) and v.ndim > 1]
    if len(wide) == 1:
        return ModelInput((entries[wide[0]],))
    if not wide and capacity(model)[0] == 1:
        given = {n: v for n, v in entries.items() if str(n).lower() not in LABEL_NAMES}
        if any(isinstance(v, Tensor) and v.ndim > 1 for v in given.values()):  # ids, with their mask
            return dataclasses.replace(_by_name(given, []), whole=True)
    why = f"has several floating-point tensors ({', '.join(wide)})" if wide else "has no floating-point tensor"
    raise InputError(
        f"The batch has the entries {list(entries)}; none is named like a parameter of {type(model).__name__}.forward "
        f"({', '.join(parameters) or 'none'}), and it {why}. {_HOW}"
    )


def _by_name(arguments: dict[str, Any], positional: list[str]) -> ModelInput:
    """Arguments by name: which are explained and which go along, see `explained_names`."""
    explained = explained_names(arguments)
    if not explained:
        raise InputTypeError(f"No tensor among the arguments {list(arguments)}. {_HOW}")
    kwargs = {n: v for n, v in arguments.items() if n not in explained}
    by_position = positional[: len(explained)] == explained
    return ModelInput(tuple(arguments[n] for n in explained), None if by_position else tuple(explained), kwargs)


def _takes_any_name(model: nn.Module) -> bool:
    try:
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return False


def _parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    """Parameters of forward that have a name of their own."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)}


def _positional_names(model: nn.Module) -> list[str]:
    return [n for n, p in _parameters(model).items() if p.kind is p.POSITIONAL_OR_KEYWORD]


def _check_arguments(found: ModelInput, model: nn.Module) -> None:
    """Say early that forward needs more than was found."""
    required = [n for n, p in _parameters(model).items() if p.default is p.empty]
    given = set(found.names or _positional_names(model)[: len(found.inputs)]) | set(found.kwargs)
    missing = [n for n in required if n not in given]
    if missing and not found.whole:
        raise InputError(
            f"{type(model).__name__}.forward needs {', '.join(required)}, and nothing was found in the batch for "
            f"{', '.join(missing)}. Give input_fn=, a function from the batch to a tuple of tensors or a dict of "
            "arguments; operator.itemgetter(0, 1) takes the first two elements of a batch."
        )
