"""Reading the samples of a data set one by one, so that each depends on its number alone.

Before a sample is read the global generators are seeded from (seed, number): random transforms then give the same in
every run, in whichever process and order. A sample that cannot be read becomes a `Failure`; the others go on.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.global_random import preserved_rng, seed_torch
from interp_plugins.core.random import sample_seed
from interp_plugins.core.tensors import describe
from interp_plugins.store.errors import StoreError

_LOADER_OPTIONS = ("num_workers", "worker_init_fn", "multiprocessing_context", "prefetch_factor", "timeout")


@dataclass(frozen=True)
class Failure:
    """Why a sample has no map."""

    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The kind and the text of an error, in one line."""
        return cls(f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])


class Seeded(Dataset[Any]):
    """A data set whose random transforms depend on the sample's number alone.

    Args:
        data: anything with `__getitem__` and `__len__`.
        seed: the run's seed.
        catch: give a `Failure` for a sample that cannot be read, instead of raising.
    """

    def __init__(self, data: Any, seed: int, catch: bool = True):
        self.data, self.seed, self.catch = data, seed, catch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        """Sample i, or why it cannot be read."""
        own = sample_seed(self.seed, i)
        with preserved_rng():
            random.seed(own)
            np.random.seed(own % 2**32)  # noqa: NPY002 - what transforms draw from
            seed_torch(own)
            try:
                return self.data[i]
            except Exception as error:
                if not self.catch:
                    raise
                return Failure.of(error)


def read_batches(
    data: Seeded, batches: Sequence[Sequence[int]], options: Mapping[str, Any]
) -> Iterator[tuple[list[int], list[Any]]]:
    """The numbers and the samples (or failures) of each batch, read ahead by worker processes where asked for."""
    loader: DataLoader[Any] = DataLoader(data, batch_sampler=[list(b) for b in batches], collate_fn=as_list, **options)
    with _workers(options):
        for numbers, samples in zip(batches, loader, strict=True):
            yield list(numbers), samples


@contextlib.contextmanager
def _workers(options: Mapping[str, Any]) -> Iterator[None]:
    """A clear error where a process that reads samples dies or does not answer."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as err:
        own = isinstance(err, RuntimeError) and not str(err).startswith(("DataLoader worker", "DataLoader timed out"))
        if own or not options.get("num_workers") or str(err).startswith("Caught "):
            raise  # the data set's own error, which a worker hands on as "Caught ..."
        raise StoreError(
            f"A worker process of the data loader (num_workers={options.get('num_workers')}) died or did not answer: "
            f"{err} It may have been out of memory, or a sample ended it; num_workers=0 shows which. Everything that "
            "was committed before is safe: run again with the same arguments."
        ) from err


def as_list(samples: list[Any]) -> list[Any]:
    """Samples as they are (a function with a name, for worker processes)."""
    return samples


@dataclass(frozen=True)
class Source:
    """A map-style data set, how its samples become a batch, and how they are read ahead."""

    data: Any
    collate: Callable[[list[Any]], Any]
    options: Mapping[str, Any]


def as_source(data: Any, n_samples: int | None = None) -> Source:
    """A data set from a `Dataset`, any sequence of samples, or a `DataLoader` (its order is not kept).

    Args:
        data: the data.
        n_samples: only the first so many.

    Raises:
        InputTypeError: a stream, or something that is no data.
        InputError: a loader that leaves samples out or forms its own batches, or no samples.
    """
    collate: Callable[[list[Any]], Any] = torch.utils.data.default_collate
    options: dict[str, Any] = {}
    loader = data if isinstance(data, DataLoader) else None
    data = data if loader is None else loader.dataset
    if isinstance(data, IterableDataset):
        raise InputTypeError(
            "The data set is a stream (IterableDataset). A run that can be resumed needs samples with fixed numbers: "
            "give a data set with __getitem__ and __len__."
        )
    if loader is not None:
        if loader.batch_sampler is None:
            raise InputError(
                "The loader has batch_size=None: its data set gives whole batches. A run of explanations needs "
                "single samples with fixed numbers: give a data set of samples."
            )
        _check_sampler(loader)
        collate = loader.collate_fn
        options = {k: getattr(loader, k) for k in _LOADER_OPTIONS} if loader.num_workers else {}
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise InputTypeError(
            f"data must be a data set with __getitem__ and __len__, or a DataLoader of one, got {describe(data)}."
        )
    if n_samples is not None:
        if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 1:
            raise InputError(f"n_samples must be a positive int or None (all), got {n_samples!r}.")
        data = First(data, n_samples)
    if len(data) == 0:
        raise InputError("The data set is empty: there is nothing to explain.")
    return Source(data, collate, options)


class First(Dataset[Any]):
    """The first n samples of a data set."""

    def __init__(self, data: Any, n: int):
        self.data, self.n = data, min(n, len(data))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        """Sample i of the data set."""
        return self.data[i]


def _check_sampler(loader: DataLoader[Any]) -> None:
    """Refuse samplers that choose: the samples of a run are numbered by the data set."""
    sampler: Any = getattr(loader.batch_sampler, "sampler", None)
    while not isinstance(sampler, (SequentialSampler, RandomSampler)) and _inner(sampler) is not None:
        sampler = _inner(sampler)
    whole = isinstance(sampler, (SequentialSampler, DistributedSampler))
    if isinstance(sampler, RandomSampler):
        n = len(loader.dataset)  # type: ignore[arg-type]
        whole = not sampler.replacement and sampler.num_samples == n
    if not whole:
        raise InputError(
            f"The loader's {type(sampler or loader.batch_sampler).__name__} chooses or orders samples, and a run "
            "numbers them as the data set does. Give torch.utils.data.Subset(dataset, indices) for a part of the data."
        )


def _inner(sampler: Any) -> Any:
    """The sampler inside Lightning's distributed one, which shares it out over the processes."""
    return getattr(getattr(sampler, "dataset", None), "_sampler", None)


def find_names(data: Any) -> Sequence[str] | None:
    """The names of the samples where the data set has a list of files (torchvision's folders): folder and file."""
    base = data.data if isinstance(data, First) else data
    listed = getattr(base, "samples", None) or getattr(base, "imgs", None)
    if not isinstance(listed, (list, tuple)) or len(listed) != len(base):
        return None
    files = [one[0] if isinstance(one, (tuple, list)) and one else one for one in listed]
    if not all(isinstance(f, (str, Path)) for f in files):
        return None
    return ["/".join(Path(f).parts[-2:]) for f in files[: len(data)]]
