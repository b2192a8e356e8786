"""Whether the rows of a batch feel each other: a probe, once per model and kind of input.

Steps, draws and perturbations of all samples go through a model together, which is right only where a row's output
does not depend on its company. Graphs whose rows are nodes, batch norms without running statistics, attention or means
over the batch break this; so do models that take one row or a fixed number of rows, and arguments that have as many
rows as the batch by accident. So before more than one row goes through, two differing rows are run together, the other
way round, and alone (six rows, no gradient), and `RowFacts` says what came of it. The facts are kept for as long as
weights, hooks and code stay as they are (`remembered`). Random draws of the model are made the same for every row;
a model that cannot be run twice with one result is taken to have rows of their own, since nothing else can be told.

`row_probe(False)` switches the probe off; accelerations have nothing to do with it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from interp_plugins.core.batching import is_out_of_memory
from interp_plugins.core.errors import InterpWarning, ModelError, OutOfMemoryError
from interp_plugins.core.fixed import Fixed, unmarked
from interp_plugins.core.global_random import model_call, noticing_draws
from interp_plugins.core.guard import frozen, modules_below, modules_of
from interp_plugins.core.row_memory import Kind, recall, remember
from interp_plugins.core.tensors import own_tree, take_rows
from interp_plugins.core.wrapper import Wrapper

# How far a row may be from itself in other company, relative to the largest output: rounding of other batch sizes.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
_COARSE = 5e-2  # half precision, TF32
_PAIRS = 4  # arguments with as many rows as the batch, up to which pairs of them are tried as fixed

_probing: ContextVar[bool] = ContextVar("interp_plugins_row_probe", default=True)


class row_probe(contextlib.ContextDecorator):
    """Switch the probe of the rows off (or on again) for the length of a `with` block.

    Without it every row is taken to be independent of its company, and every argument with as many rows as the batch
    to follow it. For models that must not be called more often than needed, where this is known.

    Args:
        on: whether models are probed.

    Example:
        with row_probe(False):
            explain(model, x, "ig", target=3)
    """

    def __init__(self, on: bool):
        self._on, self._tokens = bool(on), []  # type: ignore[var-annotated]

    def __enter__(self) -> None:
        """Switch the probe until the block ends."""
        self._tokens.append(_probing.set(self._on))

    def __exit__(self, *exc: object) -> None:
        """Back to what was before the block."""
        _probing.reset(self._tokens.pop())


@dataclass(frozen=True)
class RowFacts:
    """What the probe found.

    Attributes:
        together: rows feel each other, or only the batch's own size is taken: one copy of the batch per pass, whole.
        single: one row per pass, since the model takes no more.
        fixed: which leaves of the arguments do not follow the batch, though they have as many rows.
        why: how it was seen.
    """

    together: bool = False
    single: bool = False
    fixed: frozenset[int] = field(default_factory=frozenset)
    why: str = ""

    @property
    def described(self) -> str:
        """What was found, in a few words."""
        if self.single:
            return f"one row per pass: {self.why}"
        if self.together:
            return f"one copy of the batch per pass: {self.why}"
        return f"arguments that do not follow the batch: {self.why}" if self.fixed else "independent"


INDEPENDENT = RowFacts()


@dataclass(frozen=True)
class RowQuestion:
    """A model call as the probe sees it.

    Attributes:
        func: the model or callable.
        read: what makes a tensor of that which it returns.
        inputs: the samples, (N, ...) each.
        args: additional positional arguments.
        kwargs: keyword arguments.
    """

    func: Callable[..., Any]
    read: Callable[[Any], Tensor]
    inputs: tuple[Tensor, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def leaves(self) -> list[Any]:
        """The leaves of the arguments, in the order of their numbers."""
        return pytree.tree_leaves((self.args, dict(self.kwargs)))

    def with_fixed(self, fixed: frozenset[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with some leaves marked as fixed."""
        leaves, tree = pytree.tree_flatten((self.args, dict(self.kwargs)))
        args, kwargs = pytree.tree_unflatten([Fixed(v) if i in fixed else v for i, v in enumerate(leaves)], tree)
        return args, kwargs

    def name(self, leaf: int) -> str:
        """How the user calls a leaf."""
        at = 0
        for name, part in (
            *((f"additional_forward_args[{i}]", a) for i, a in enumerate(self.args)),
            *((f"the argument {k!r}", v) for k, v in self.kwargs.items()),
        ):
            at += len(pytree.tree_leaves(part))
            if leaf < at:
                return name
        return f"argument {leaf}"


def row_facts(problem: RowQuestion) -> RowFacts:
    """What is known of a model's rows, or comes of probing them now; a warning says what is not as expected, once."""
    func = problem.func
    while isinstance(func, Wrapper):
        if func.known_rows is not None:
            told: RowFacts = func.known_rows
            return told
        func = getattr(func, "func", None)  # some have another callable inside, or several
    if not _probing.get():
        return INDEPENDENT
    kind = Kind.of(problem.func, problem.read, problem.inputs, problem.args, problem.kwargs)
    known, before = recall(kind)
    if known is None:
        known = INDEPENDENT if _rounds_by_range(problem.func) else _Probe(problem).facts()
        if known != INDEPENDENT and known != before:
            _tell(problem, known)
        remember(kind, known)
    return known


def _rounds_by_range(func: Callable[..., Any]) -> bool:
    """Whether layers round to int8 by the range of what comes in: what rows share there is rounding, no message."""
    return any(".quantized.dynamic." in type(m).__module__ for m in modules_below(modules_of(func)))


def _tell(problem: RowQuestion, facts: RowFacts) -> None:
    n = len(problem.inputs[0])
    text = ""
    if facts.fixed:
        leaf = problem.leaves()[min(facts.fixed)]
        names = ", ".join(problem.name(i) for i in sorted(facts.fixed))
        text = (
            f"{names} of shape {tuple(leaf.shape)} has as many rows as the batch, but does not follow it ({facts.why})"
            ": it goes whole into every pass. Say so with interp_plugins.Fixed(...) around it."
        )
    elif facts.single:
        text = f"The model takes one row at a time ({facts.why}): every pass has one row."
    elif facts.together:
        text = (
            f"The rows of this model feel each other, or it takes one number of rows only ({facts.why}). One copy of "
            f"the batch ({n} rows) goes through per pass, whole: methods that take gradients explain the sum of all "
            "samples' scores, methods that perturb change one sample among the others as they are. batch_size= "
            "chooses otherwise (1 = each row alone). Where the rows are the nodes of a graph: explain(..., nodes=True)."
        )
    warnings.warn(text, InterpWarning, stacklevel=2)


class _Probe:
    """The runs that tell what rows do to each other.

    Args:
        problem: the model call.
    """

    def __init__(self, problem: RowQuestion):
        self.problem = problem
        self.n = len(problem.inputs[0])
        self.drew = False  # whether the model draws random numbers; then
        self.same: _SameDraws | None = None  # every row gets the same
        first, second, self.who = _two_rows(problem.inputs)
        self.a, self.b = first, second

    def facts(self) -> RowFacts:
        """What came of it; a failure that is none of the rows' business shows itself where the rows are really run."""
        try:
            return self._facts()
        except (OutOfMemoryError, MemoryError):
            return INDEPENDENT
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return INDEPENDENT

    def _facts(self) -> RowFacts:
        why = self._feel(frozenset())
        if why is None:
            return INDEPENDENT
        for fixed in self._candidates():
            if self._feel(fixed) is None:
                return RowFacts(fixed=fixed, why=why if isinstance(why, str) else "the model raised an error")
        if isinstance(why, str):
            return RowFacts(together=True, why=why) if self._repeats() else INDEPENDENT
        return self._of_other_sizes(why)

    def _of_other_sizes(self, error: Exception) -> RowFacts:
        """What a model takes that raised an error for two rows, for one, or for both."""
        said = f"{type(error).__name__}: {error}".split("\n")[0][:100]
        alone = self._result(self.a, self.who[:1])
        if alone is not None and (alone.ndim == 0 or alone.shape[0] == 1):
            return RowFacts(single=True, why=f"two raised {said}")
        if self.n > 1 and self._result(self.problem.inputs, None) is not None:
            return RowFacts(together=True, why=f"other numbers of rows raised {said}")
        return INDEPENDENT

    # -- runs ----------------------------------------------------------------------------------------------

    def _run(
        self,
        rows: Sequence[Tensor],
        who: Tensor | None,
        fixed: frozenset[int] = frozenset(),
        seed: int | None = None,
    ) -> Tensor:
        """The model's output for some rows, each with the arguments of a sample; its state is put back."""
        problem = self.problem
        args, kwargs = problem.with_fixed(fixed)
        args, kwargs = unmarked(take_rows((args, kwargs), who, self.n))

        def call() -> Any:  # on copies: the model may work on them in place
            own_args, own_kwargs = own_tree((args, kwargs))
            return problem.func(*(x.clone() for x in rows), *own_args, **own_kwargs)

        with frozen(problem.func, seed=seed), torch.no_grad(), self.same or contextlib.nullcontext():
            with noticing_draws() as drew:
                output = problem.read(model_call(call)).detach()
            self.drew = self.drew or drew()
            return output

    def _result(self, rows: Sequence[Tensor], who: Tensor | None) -> Tensor | None:
        """The output for some rows, or None where the model raises an error."""
        try:
            return self._run(rows, who)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return None

    def _feel(self, fixed: frozenset[int]) -> str | Exception | None:
        """How two rows feel each other, the error of a number of rows that does not run, or None."""
        a, b, who = self.a, self.b, self.who
        try:
            pair = self._run(_both(a, b), who, fixed)
            if self.drew and self.same is None:
                self.same = _SameDraws()
                pair = self._run(_both(a, b), who, fixed)
            if pair.ndim == 0 or pair.shape[0] != 2:
                if self.n > 1:
                    return None  # one value for the batch: methods know what to do with it
                return ModelError(f"an output of shape {tuple(pair.shape)}")
            swapped = self._run(_both(b, a), who.flip(0), fixed).flip(0)
            alone = [self._run(x, w, fixed) for x, w in ((a, who[:1]), (b, who[1:]))]
            if self.n > 1 and alone[0].shape[:1] not in ((), (1,)) and alone[0].numel() != pair[0].numel():
                return None  # some values for the batch, whatever its size
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return error
        return _apart(pair, swapped, "the other way round") or _apart(pair, alone, "alone")

    def _repeats(self) -> bool:
        """Whether the same rows give the same output once more, whatever is drawn."""
        first, again = (self._run(_both(self.a, self.b), self.who, seed=seed) for seed in (1, 2))
        return _apart(first, again, "again") is None

    def _candidates(self) -> Iterator[frozenset[int]]:
        """Which arguments may not follow the batch: each alone, all, pairs."""
        rows = [i for i, v in enumerate(self.problem.leaves()) if isinstance(v, Tensor) and v.shape[:1] == (self.n,)]
        tried = [frozenset([i]) for i in rows] + [frozenset(rows)]
        tried += [frozenset(pair) for pair in combinations(rows, 2)] if len(rows) <= _PAIRS else []
        yield from dict.fromkeys(t for t in tried if t)


def _both(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [torch.cat(pair) for pair in zip(a, b, strict=True)]


def _two_rows(inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Two differing rows, (1, ...) per input, and the samples whose arguments they get.

    The second is another sample, or, where there is none, the first one changed: numbers halved, half of the ids 0.
    """
    device = inputs[0].device
    first = [x[:1] for x in inputs]
    for k in range(1, min(len(inputs[0]), 16)):
        if any(not torch.equal(x[k], x[0]) for x in inputs):
            return first, [x[k : k + 1] for x in inputs], torch.tensor([0, k], device=device)
    return first, [_changed(x) for x in first], torch.zeros(2, dtype=torch.long, device=device)


def _changed(x: Tensor) -> Tensor:
    if x.is_floating_point() or x.is_complex():
        return x * 0.5 if bool(x.any()) else torch.full_like(x, 0.5)
    if x.ndim < 2 or x.dtype == torch.bool:
        return x
    changed = x.clone()  # id 0 is in every table; those of another column may not be
    changed[:, x.shape[1] // 2 :] = 0
    return changed


def _apart(rows: Tensor, others: Sequence[Tensor] | Tensor, how: str) -> str | None:
    """How far rows (2, ...) are from the same rows in other company; None: no more than rounding."""
    for row, other in zip(rows, others, strict=True):
        if row.numel() != other.numel():
            return f"beside another, a row's output has shape {tuple(row.shape)}; {how}, {tuple(other.shape)}"
        off, scale = _distance(row, other.reshape(row.shape))
        if off > _tolerance(row) * scale:
            return f"beside another, a row's output is off by {off / scale if scale else 1:.2g} of its size; {how}"
    return None


def _distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The largest difference, and the largest finite value; equal infinities and NaN differ by nothing."""
    if not a.numel():
        return 0.0, 0.0
    if not (a.is_floating_point() or a.is_complex()):
        a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    off = torch.where(same, torch.zeros_like(a), a - b).abs()
    both = torch.cat([a.reshape(-1), b.reshape(-1)]).abs()
    finite = both[both.isfinite()]
    largest = off.max()
    return float("inf") if not bool(largest.isfinite()) else float(largest), float(finite.max()) if len(finite) else 0.0


def _tolerance(t: Tensor) -> float:
    if torch.is_autocast_enabled(t.device.type) or (t.is_cuda and torch.backends.cuda.matmul.allow_tf32):
        return _COARSE
    real = t.real if t.is_complex() else t
    return _ROUNDING.get(real.dtype, _COARSE) if real.is_floating_point() else 0.0


class _SameDraws(TorchDispatchMode):
    """While a model runs, every row draws the same random numbers, and in every run those of the first run.

    What an operation that draws gives for the first row stands for all rows; a dropout, say, then acts alike on a row
    in any company.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first: list[Tensor] = []
        self._at = 0

    def __enter__(self) -> Any:
        """Begin a run: its first draw is next."""
        self._at = 0
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; give all rows the first one's draws."""
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            for t in pytree.tree_leaves(out):
                if isinstance(t, Tensor) and t.ndim and len(t):
                    self._share(t)
        return out

    def _share(self, t: Tensor) -> None:
        k, self._at = self._at, self._at + 1
        if k == len(self._first):
            self._first.append(t[0].clone())
        if self._first[k].shape == t.shape[1:]:
            t.copy_(self._first[k].expand_as(t))
