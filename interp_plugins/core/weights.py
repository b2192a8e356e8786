"""Checkpoints: weights of other moments of a training, read from the files that torch, fastai and Lightning write.

The user's model never holds them in the place of its own: for the length of a `with` block its modules hold private
tensors (`core.other_weights`), and get their own back, also after an error. Which key of a file belongs to which weight
is found by comparing all of them: a wrapper's prefix ("module.", "_orig_mod.", a LightningModule's "net.") is one with
which every name fits.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError, MissingFileError, decoding
from interp_plugins.core.other_weights import held_by, other_weights
from interp_plugins.core.tensors import describe

_ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar")
_INSIDE = ("state_dict", "model", "model_state_dict")
LoadFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one moment of a training.

    Args:
        source: a file, a state dict, or None: the model's weights as they are.
        lr: the learning rate of that moment, by which its gradients count; None: what the file says, else 1.
        name: for texts; None: the file's name.

    Example:
        from interp_plugins.core.weights import Checkpoint
        Checkpoint(model.state_dict(), lr=0.1, name="the end").title  # -> 'the end'
    """

    source: Any = None
    lr: float | None = None
    name: str | None = None

    @property
    def title(self) -> str:
        """What it is called in texts."""
        if self.name is not None:
            return self.name
        if self.source is None:
            return "the weights as they are"
        return Path(self.source).name if isinstance(self.source, (str, os.PathLike)) else "a state dict"


def as_checkpoints(given: Any) -> list[Checkpoint]:
    """Checkpoints of whatever names some.

    Args:
        given: None (the weights as they are), a file, a folder (its files in the order of the numbers in their names:
            `epoch_10` after `epoch_9`), a state dict, a `Checkpoint`, or several of these.

    Raises:
        InputTypeError: none of these.
        InputError: no checkpoint among them.
        MissingFileError: there is no such file.
    """
    if given is None:
        return [Checkpoint()]
    if isinstance(given, Checkpoint):
        return [given]
    if isinstance(given, Mapping):
        return [Checkpoint(given)]
    if isinstance(given, (str, os.PathLike)):
        return _of_path(Path(given))
    if isinstance(given, Iterable) and not isinstance(given, (Tensor, bytes, nn.Module)):
        found = [one for item in given for one in as_checkpoints(item)]
        if not found:
            raise InputError("There is no checkpoint: checkpoints is empty. None takes the weights as they are.")
        return found
    raise InputTypeError(
        f"checkpoints is a file, a folder, a state dict, a Checkpoint, a list of these, or None; got {describe(given)}."
    )


def _of_path(path: Path) -> list[Checkpoint]:
    if path.is_dir():
        files = sorted((p for p in path.iterdir() if p.suffix in _ENDINGS and p.is_file()), key=_by_number)
        if not files:
            raise InputError(f"The folder {path} holds no checkpoint: no file that ends with {', '.join(_ENDINGS)}.")
        return [Checkpoint(p) for p in files]
    if not path.exists():
        raise MissingFileError(f"There is no file {path}.")
    return [Checkpoint(path)]


def _by_number(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts 10 behind 9."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def spread(checkpoints: Sequence[Checkpoint], most: int) -> list[Checkpoint]:
    """At most so many, evenly over the training, the last among them."""
    if len(checkpoints) <= most:
        return list(checkpoints)
    last = len(checkpoints) - 1
    at = [round(last - k * last / max(1, most - 1)) for k in range(most)] if most > 1 else [last]
    return [checkpoints[i] for i in sorted(set(at))]


@contextlib.contextmanager
def with_weights(func: Any, checkpoint: Checkpoint, load: LoadFunction | None = None) -> Iterator[float]:
    """Let a model hold a checkpoint's weights for the length of a `with` block; gives the learning rate.

    Args:
        func: an `nn.Module` or a callable around one.
        checkpoint: of which moment.
        load: (model, source) -> learning rate, which reads a checkpoint of another kind into the model; it writes into
            private copies of the weights. None: files of torch, fastai and Lightning are understood.

    Raises:
        InputError: the file does not fit the model.
    """
    if checkpoint.source is None and load is None:
        yield 1.0 if checkpoint.lr is None else checkpoint.lr
        return
    places = held_by(func)
    if load is not None:
        new = {id(p.tensor): p.tensor.detach().clone() for p in places}
        with other_weights(func, places, new):
            found = load(func, checkpoint.source)
            yield float(found) if isinstance(found, (int, float)) else 1.0
        return
    state, lr = read_state(checkpoint.source)
    by_name = matched(state, {p.path: p.tensor for p in places}, checkpoint.title)
    new = {id(p.tensor): by_name[p.path].to(p.tensor) for p in places if p.path in by_name}
    with other_weights(func, places, new):
        yield checkpoint.lr if checkpoint.lr is not None else (1.0 if lr is None else lr)


def with_rates(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Each with its learning rate, given or read; where one has none, or all are 0, all count 1.

    Files are read for it, one after the other.
    """
    rates = [c.lr if c.lr is not None or c.source is None else read_state(c.source)[1] for c in checkpoints]
    if any(r is None for r in rates) or not any(rates):
        return [replace(c, lr=1.0) for c in checkpoints]
    return [replace(c, lr=r) for c, r in zip(checkpoints, rates)]


def read_state(source: Any) -> tuple[dict[str, Tensor], float | None]:
    """The tensors of a checkpoint by name, and the learning rate it tells of.

    Args:
        source: a file or a mapping: a state dict, or what holds one as `state_dict`, `model` or `model_state_dict`.

    Raises:
        InputError: nothing of the kind.
    """
    whole = _loaded(Path(source)) if isinstance(source, (str, os.PathLike)) else source
    if isinstance(whole, nn.Module):
        return dict(whole.state_dict()), None
    if not isinstance(whole, Mapping):
        raise InputError(f"A checkpoint is a mapping of names to tensors, and this is a {describe(whole)}.")
    for key in _INSIDE:
        if isinstance(whole.get(key), Mapping):
            return _tensors(whole[key]), _rate(whole)
    return _tensors(whole), _rate(whole)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if not found:
        raise InputError(
            f"The checkpoint holds no tensors; its keys: {', '.join(map(str, list(state)[:8])) or 'none'}. Expected a "
            "state dict, alone or as state_dict, model or model_state_dict."
        )
    return found


def _loaded(path: Path) -> Any:
    with decoding(
        InputError,
        f"{path.name} could not be read as weights. Load it yourself, and give the state dict: "
        "checkpoints=[Checkpoint(state_dict, lr=...)]",
    ):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_plain_types()) if _SAFE else contextlib.nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)


_SAFE = hasattr(torch.serialization, "safe_globals")


def _plain_types() -> list[Any]:
    """Types without behaviour that fastai writes among an optimizer's numbers."""
    import numpy as np

    found: list[Any] = [np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32)), type(np.dtype(np.int64))]
    core: Any = getattr(np, "_core", None) or getattr(np, "core")  # noqa: B009 - numpy before 2
    found.append(core.multiarray.scalar)
    with contextlib.suppress(ImportError):
        from fastcore.foundation import L

        found.append(L)
    return found


def _rate(whole: Mapping[str, Any]) -> float | None:
    """The learning rate that a checkpoint tells of."""
    for read in (
        lambda: whole["learning_rate"],
        lambda: whole["opt"]["hypers"][-1]["lr"],
        lambda: whole["optimizer_states"][0]["param_groups"][-1]["lr"],
        lambda: whole["optimizer_state_dict"]["param_groups"][-1]["lr"],
        lambda: whole["optimizer"]["param_groups"][-1]["lr"],
    ):
        with contextlib.suppress(KeyError, IndexError, TypeError):
            return float(read())
    return None


def matched(state: Mapping[str, Tensor], own: Mapping[str, Tensor], title: str) -> dict[str, Tensor]:
    """A checkpoint's tensors by the names that the model gives them.

    Raises:
        InputError: some are missing under every prefix, or have other shapes.
    """
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    best: dict[str, str] = {}
    for rename in _renamings(state, needed):
        names = {name: rename(name) for name in own}
        found = {name: key for name, key in names.items() if key in state}
        if all(name in found for name in needed):
            best = found
            break
        best = max(best, found, key=len)
    missing = [name for name in needed if name not in best]
    if missing:
        raise InputError(
            f"{title} does not fit the model: it has no weights for {', '.join(missing[:4])} ({len(missing)} of "
            f"{len(needed)} are missing); it holds {', '.join(list(state)[:4])}."
        )
    for name, key in best.items():
        if state[key].shape != own[name].shape:
            raise InputError(
                f"{title} does not fit the model: {key} has shape {tuple(state[key].shape)}, the model's {name} "
                f"{tuple(own[name].shape)}."
            )
    return {name: state[key] for name, key in best.items()}


def _renamings(state: Mapping[str, Tensor], own: Sequence[str]) -> Iterator[Callable[[str], str]]:
    """Ways in which a model's names may stand in a file: as they are, behind a prefix, without one."""
    yield lambda name: name
    if not own:
        return
    first = own[0]
    for key in state:
        if key.endswith(f".{first}"):
            prefix = key[: -len(first)]
            yield lambda name, p=prefix: p + name  # type: ignore[misc]
    parts = first.split(".")
    for cut in range(1, len(parts)):
        prefix = ".".join(parts[:cut]) + "."
        if first[len(prefix) :] in state:
            yield lambda name, p=prefix: name.removeprefix(p)  # type: ignore[misc]
