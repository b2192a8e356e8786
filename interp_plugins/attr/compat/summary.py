"""Running statistics of attributions: `Summarizer([Mean(), StdDev()]).update(map)`, one map after the other.

Each statistic sees a tensor once and keeps a running value (Welford's update for mean and variance), so a whole data
set needs the memory of one map. Names of the results: "mean", "variance", "sample_variance", "std_dev",
"sample_std_dev", "mse", "min", "max", "sum", "count".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import describe, widest

StatValue = Tensor | int | float
Key = TypeVar("Key")


class Stat:
    """A running statistic of tensors of one shape.

    Args:
        name: the key of its result; None: the class's own.
        **kwargs: parameters that tell two statistics of a class apart.
    """

    def __init__(self, name: str | None = None, **kwargs: Any):
        self._name, self.params = name, kwargs

    def init(self) -> None:
        """Called before the first update."""

    def update(self, x: Tensor) -> None:
        """Take in one more tensor."""
        raise NotImplementedError(f"{type(self).__name__} has no update(x).")

    def get(self) -> StatValue | None:
        """The value so far; None before the first update."""
        raise NotImplementedError(f"{type(self).__name__} has no get().")

    def fresh(self) -> Stat:
        """A statistic of this kind and name with nothing taken in."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.reset()
        return new

    def reset(self) -> None:
        """Forget what was taken in."""

    @property
    def name(self) -> str:
        """The key of the result."""
        return self._name or type(self).__name__.lower() + (f"({self.params})" if self.params else "")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Stat) and self.params == other.params

    def __hash__(self) -> int:
        return hash((type(self), frozenset(self.params.items())))


class Count(Stat):
    """How many tensors were taken in."""

    def __init__(self, name: str | None = None):
        super().__init__(name)
        self.reset()

    def reset(self) -> None:
        """Forget what was taken in."""
        self.n: int | None = None

    def update(self, x: Tensor) -> None:
        """Take in a tensor: count it."""
        self.n = (self.n or 0) + 1

    def get(self) -> int | None:
        """The number of tensors so far; None before the first."""
        return self.n


class _Moments(Stat):
    """Mean and sum of squared deviations (Welford)."""

    def reset(self) -> None:
        """Forget what was taken in."""
        self.n = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Take in a tensor: its share of the mean and of the squared deviations."""
        value = x.detach() if x.is_floating_point() else x.detach().to(widest(x.device))
        self.n += 1
        if self.mean is None or self.squares is None:
            self.mean, self.squares = value.clone(), torch.zeros_like(value)
            return
        step = value - self.mean
        self.mean = self.mean + step / self.n
        self.squares = self.squares + step * (value - self.mean)


class Mean(_Moments):
    """The mean, element by element."""

    def __init__(self, name: str | None = None):
        super().__init__(name)
        self.reset()

    def get(self) -> Tensor | None:
        """The mean of the tensors so far; None before the first."""
        return self.mean


class MSE(_Moments):
    """The sum of squared deviations from the mean, element by element (not divided by the count)."""

    def __init__(self, name: str | None = None):
        super().__init__(name)
        self.reset()

    def get(self) -> Tensor | None:
        """The sum of squares."""
        return self.squares


class Var(_Moments):
    """The variance, element by element, in float64 where the device has it.

    Args:
        name: key of the result.
        order: what is subtracted from the count: 0 for the population's variance, 1 for a sample's.
    """

    def __init__(self, name: str | None = None, order: int = 0):
        super().__init__(name or _ordered("variance", order), order=order)
        self.order = order
        self.reset()

    def get(self) -> Tensor | None:
        """The variance; zeros where there are too few tensors."""
        if self.squares is None:
            return None
        wide = self.squares.to(widest(self.squares.device))
        return wide / (self.n - self.order) if self.n > self.order else torch.zeros_like(self.squares)


class StdDev(Var):
    """The standard deviation, element by element; arguments as in `Var`."""

    def __init__(self, name: str | None = None, order: int = 0):
        super().__init__(name or _ordered("std_dev", order), order)

    def get(self) -> Tensor | None:
        """The square root of the variance."""
        variance = super().get()
        return None if variance is None else variance.sqrt()


def _ordered(name: str, order: int) -> str:
    return {0: name, 1: f"sample_{name}"}.get(order, f"{name}({order})")


class _Fold(Stat):
    """A statistic that combines two tensors into one."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], name: str | None):
        super().__init__(name)
        self.fn = function
        self.reset()

    def reset(self) -> None:
        """Forget what was taken in."""
        self.result: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Take in a tensor: combine it with the result so far."""
        self.result = x.detach().clone() if self.result is None else self.fn(self.result, x.detach())

    def get(self) -> Tensor | None:
        """The combination of all tensors so far; None before the first."""
        return self.result


class Min(_Fold):
    """The smallest value, element by element."""

    def __init__(self, name: str | None = None, min_fn: Callable[[Tensor, Tensor], Tensor] = torch.min):
        super().__init__(min_fn, name)


class Max(_Fold):
    """The largest value, element by element."""

    def __init__(self, name: str | None = None, max_fn: Callable[[Tensor, Tensor], Tensor] = torch.max):
        super().__init__(max_fn, name)


class Sum(_Fold):
    """The sum, element by element."""

    def __init__(self, name: str | None = None, add_fn: Callable[[Tensor, Tensor], Tensor] = torch.add):
        super().__init__(add_fn, name)


def CommonStats() -> list[Stat]:
    """Mean, sample variance, sample standard deviation, smallest and largest value."""
    return [Mean(), Var(order=1), StdDev(order=1), Min(), Max()]


class SummarizerSingleTensor:
    """Some statistics of one series of tensors.

    Args:
        stats: the statistics.
        summary_stats_indices: which of them are in the summary.
    """

    def __init__(self, stats: list[Stat], summary_stats_indices: list[int]):
        self._stats = stats
        self._shown = [stats[i] for i in summary_stats_indices]
        for stat in stats:
            stat.init()

    def update(self, x: Tensor) -> None:
        """One more tensor for each statistic."""
        for stat in self._stats:
            stat.update(x)

    def get(self, stat: Stat) -> Stat | None:
        """The statistic equal to the given one, or None."""
        return next((s for s in self._stats if s == stat), None)

    @property
    def summary(self) -> dict[str, StatValue | None]:
        """The value of each statistic, by its name."""
        return {stat.name: stat.get() for stat in self._shown}


class Summarizer:
    """Statistics of a series of tensors, or of tuples of tensors.

    Args:
        stats: the statistics, such as `CommonStats()`; they serve as templates and stay as they are.
    """

    def __init__(self, stats: list[Stat]):
        if not isinstance(stats, Sequence) or not all(isinstance(s, Stat) for s in stats):
            raise InputTypeError(f"stats must be a list of statistics such as [Mean(), Max()]; got {describe(stats)}.")
        self._stats = list(dict.fromkeys(stats))
        self._series: list[SummarizerSingleTensor] = []
        self._tuple: bool | None = None

    def update(self, x: float | Tensor | tuple[float | Tensor, ...]) -> None:
        """Take in one more tensor (or number), or a tuple of these.

        Raises:
            InputError: a tuple after a tensor, or the other way round, or tuples of other lengths.
        """
        many = x if isinstance(x, tuple) else (x,)
        if self._tuple is None:
            self._tuple = isinstance(x, tuple)
            for _ in many:
                stats = [s.fresh() for s in self._stats]
                self._series.append(SummarizerSingleTensor(stats, list(range(len(stats)))))
        if self._tuple != isinstance(x, tuple) or len(many) != len(self._series):
            raise InputError(
                f"This Summarizer began with {'a tuple of ' if self._tuple else ''}{len(self._series)} tensor(s); got "
                f"{describe(x)}. Use one Summarizer per layout."
            )
        for series, one in zip(self._series, many, strict=True):
            series.update(one if isinstance(one, Tensor) else torch.tensor(one, dtype=torch.float))

    @property
    def summary(self) -> dict[str, StatValue | None] | list[dict[str, StatValue | None]] | None:
        """Values by name; a list of these for tuples; None before the first update."""
        if self._tuple is None:
            return None
        found = [series.summary for series in self._series]
        return found if self._tuple else found[0]


class ClassSummarizer(Summarizer, Generic[Key]):
    """Statistics over all examples and per class.

    Args:
        stats: the statistics, as for `Summarizer`.
    """

    def __init__(self, stats: list[Stat]):
        super().__init__(stats)
        self.summaries: dict[Any, Summarizer] = defaultdict(lambda: Summarizer(stats))

    def update(  # type: ignore[override]
        self, x: float | Tensor | tuple[Tensor, ...], labels: Any = None
    ) -> None:
        """Take in a batch, example by example, with its labels (one, or one per example); or a tensor without labels.

        Raises:
            InputError: numbers of labels and examples that differ.
        """
        if labels is None:
            super().update(x)
            return
        many = x if isinstance(x, tuple) else (x,)
        named = labels.tolist() if isinstance(labels, Tensor) else labels if isinstance(labels, list) else [labels]
        sizes = [t.shape[0] for t in many if isinstance(t, Tensor)]
        if len(named) > 1 and any(n != len(named) for n in sizes):
            raise InputError(
                f"batch size does not equal amount of labels: {len(named)} labels for {sizes} examples. Give one, or "
                "one per example."
            )
        for i in range(sizes[0]):
            row = tuple(t[i] for t in many if isinstance(t, Tensor))
            self.summaries[named[0] if len(named) == 1 else named[i]].update(row)
            super().update(row)

    @property
    def class_summaries(self) -> dict[Any, Any]:
        """The summaries by label."""
        return {key: value.summary for key, value in self.summaries.items()}
