"""From a batch, as a dataloader gives it, to what the model is called with.

Without a hint the rules are few, and where they leave a doubt an error says which argument decides:

- a tensor is the input;
- of a tuple or list the first element is the input, a tuple there being several inputs;
- of a dict, dataclass or named tuple the entries named like parameters of the model's `forward` are passed by name,
  else the only floating-point tensor with more than one dimension is the input.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError, did_you_mean
from interp_plugins.core.tensors import describe, is_float

LABEL_NAMES = ("label", "labels", "target", "targets", "y")
_HOW = "Say which part of the batch is the input: input_key= (a key or position), or input_fn= (batch -> input)."


@dataclass(frozen=True)
class ModelInput:
    """What the model is called with, and the ground truth that came along.

    Attributes:
        inputs: the tensors that are explained, batch first.
        names: their parameter names, or None where they are passed by position.
        kwargs: further arguments by name, not explained (an attention mask, say).
        labels: class index per sample (N,), or None where the batch has no clear one.
    """

    inputs: tuple[Tensor, ...]
    names: tuple[str, ...] | None = None
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: Tensor | None = None

    def __len__(self) -> int:
        return int(self.inputs[0].shape[0])


def read_batch(
    batch: Any, model: nn.Module, key: str | int | None = None, fn: Callable[[Any], Any] | None = None
) -> ModelInput:
    """What `model` is called with for a batch; nothing is copied or changed.

    Args:
        batch: what the dataloader gave.
        model: the module whose `forward` is explained.
        key: the part of the batch that holds the input (and perhaps the label).
        fn: batch -> tensor, tuple of tensors (several inputs) or dict of arguments by name.

    Raises:
        InputError: no clear input.
    """
    labels = None
    if fn is not None:
        part = fn(batch)
        if isinstance(part, Mapping):
            found = _by_name(dict(part), _positional_names(model))
        else:
            found = _positional(part if isinstance(part, (tuple, list)) else (part,), "input_fn returned")
    else:
        part = batch if key is None else _part(batch, key)
        found, labels = _read(part, model), _labels(part)
        _check_arguments(found, model)
    labels = _labels(batch, key or 0) if labels is None else labels
    if found.inputs[0].ndim == 0:
        raise InputError(f"The input found in the batch is a single number; expected a tensor (N, ...). {_HOW}")
    if labels is not None and (labels := labels.reshape(-1)).shape[0] != len(found):
        labels = None
    return dataclasses.replace(found, labels=labels)


def _part(batch: Any, key: str | int) -> Any:
    fields = _fields(batch)
    if isinstance(batch, (tuple, list)) and isinstance(key, int):
        if not -len(batch) <= key < len(batch):
            raise InputError(f"The batch has {len(batch)} parts, so there is no input_key={key}.")
        return batch[key]
    if fields is None:
        raise InputError(f"The batch is a {describe(batch)}; input_key={key!r} cannot be looked up in it.")
    if key not in fields:
        raise InputError(f"The batch has no input_key={key!r}.{did_you_mean(key, fields)} It has: {list(fields)}.")
    return fields[key]


def _fields(batch: Any) -> dict[Any, Any] | None:
    """The entries of a batch that has names, else None."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch))
    return None


def _read(part: Any, model: nn.Module) -> ModelInput:
    if isinstance(part, Tensor):
        return ModelInput((part,))
    fields = _fields(part)
    if fields is not None:
        return _read_fields(fields, model)
    if isinstance(part, (tuple, list)) and part:
        first = part[0]
        if isinstance(first, Tensor):
            label_like = not is_float(first) and first.numel() == first.shape[:1].numel()
            if label_like and any(is_float(v) and v.ndim > 1 for v in part[1:]):
                raise InputError(
                    f"The batch is a {describe(part)}, and its first element ({describe(first)}) looks like labels "
                    f"that stand before the input. {_HOW} Here: input_key=1."
                )
            return ModelInput((first,))
        if isinstance(first, (tuple, list)) and not hasattr(first, "_fields"):
            return _positional(first, "The first element of the batch is")
        if _fields(first) is not None:
            return _read(first, model)
    raise InputError(f"No input found in a batch that is a {describe(part)}. {_HOW}")


def _positional(values: Any, what: str) -> ModelInput:
    bad = [v for v in values if not isinstance(v, Tensor)]
    if bad or not values:
        raise InputTypeError(f"{what} a {describe(values)}; expected a tensor or several. {_HOW}")
    return ModelInput(tuple(values))


def _read_fields(fields: dict[str, Any], model: nn.Module) -> ModelInput:
    parameters = _parameters(model)
    optional_labels = {
        n for n in LABEL_NAMES if n in parameters and parameters[n].default is not inspect.Parameter.empty
    }
    matched = [n for n in parameters if n in fields and n not in optional_labels]
    if any(isinstance(fields[n], Tensor) for n in matched):
        return _by_name({n: fields[n] for n in matched}, _positional_names(model))
    wide = [n for n, v in fields.items() if is_float(v) and v.ndim > 1]
    if len(wide) == 1:
        return ModelInput((fields[wide[0]],))
    why = f"has several floating-point tensors ({', '.join(wide)})" if wide else "has no floating-point tensor"
    raise InputError(
        f"The batch has the entries {list(fields)}; none is named like a parameter of {type(model).__name__}.forward "
        f"({', '.join(parameters) or 'none'}), and it {why}. {_HOW}"
    )


def _by_name(arguments: dict[str, Any], positional: list[str]) -> ModelInput:
    """Arguments by name: the floating-point ones with features are explained, the others go along."""
    explained = [n for n, v in arguments.items() if is_float(v) and v.ndim > 1]
    explained = explained or [n for n, v in arguments.items() if isinstance(v, Tensor)][:1]
    if not explained:
        raise InputTypeError(f"No tensor among the arguments {list(arguments)}. {_HOW}")
    kwargs = {n: v for n, v in arguments.items() if n not in explained}
    by_position = positional[: len(explained)] == explained
    return ModelInput(tuple(arguments[n] for n in explained), None if by_position else tuple(explained), kwargs)


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
    if missing:
        raise InputError(
            f"{type(model).__name__}.forward needs {', '.join(required)}, and nothing was found in the batch for "
            f"{', '.join(missing)}. Give input_fn=, a function from the batch to a tuple of tensors or a dict of "
            "arguments; operator.itemgetter(0, 1) takes the first two elements of a batch."
        )


def _labels(part: Any, at: Any = 0) -> Tensor | None:
    """Class indices per sample where exactly one candidate is there; `at` is where the input is."""
    fields = _fields(part)
    if fields is not None:
        candidates = [v for n, v in fields.items() if str(n).lower() in LABEL_NAMES]
    elif isinstance(part, (tuple, list)):
        candidates = [v for i, v in enumerate(part) if i != at]
    else:
        return None
    found = [v for v in candidates if _is_labels(v)]
    return found[0].long() if len(found) == 1 else None


def _is_labels(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or value.ndim == 0:
        return False
    return value.numel() == value.shape[0]
