"""`Forward`: a model and how to call it, reduced to what every method needs: rows in, one scalar per row out.

    forward.scores(rows)            no gradient
    gradients(forward, inputs, ...) scores and gradients with respect to the inputs (or a layer read on the way)

Rows are numbered: chunk row r belongs to sample rows[r], and batched arguments, keyword arguments and targets are
indexed accordingly. So methods may lay samples, steps and perturbations into one batch in any order and size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core import tensors
from interp_plugins.core.batching import auto_chunk, uncut
from interp_plugins.core.cancel import check_cancelled
from interp_plugins.core.detection import as_table, is_detections, is_table
from interp_plugins.core.differentiate import differentiate, gradient, keeping_values
from interp_plugins.core.errors import InputError, ModelError, did_you_mean
from interp_plugins.core.fixed import marked, unmarked
from interp_plugins.core.global_random import model_call
from interp_plugins.core.interrupts import deliver
from interp_plugins.core.layers import Layer, Neuron, run_and_read
from interp_plugins.core.multi_target import side_by_side
from interp_plugins.core.rows import INDEPENDENT, RowFacts, RowQuestion, row_facts
from interp_plugins.core.target import Target, Whole
from interp_plugins.core.tensors import all_finite, as_tuple, describe, is_float, own_tree, private_rows, take_rows
from interp_plugins.core.unused import zeros_where_unused
from interp_plugins.core.wrapper import Wrapper, called_with, takes_nothing


class Call(Wrapper):
    """A callable with keyword arguments and an output selector bound to it; accepted wherever a `forward_func` is.

    Args:
        func: model or callable.
        kwargs: keyword arguments of every call; batched tensors follow the rows.
        output: which part of a tuple, dict or `ModelOutput` is the output: key, attribute name, position, or a
            function of the whole. None for models that return a tensor.
    """

    def __init__(self, func: Callable[..., Any], kwargs: Mapping[str, Any] | None = None, output: Any = None):
        self.func, self.kwargs, self.output = func, dict(kwargs or {}), output

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The selected output of one call."""
        return select_output(self.func(*args, **unmarked({**self.kwargs, **kwargs})), self.output)

    def identity(self) -> Any:
        """The selector, where that is a key or a position and no keyword arguments are bound."""
        plain = isinstance(self.output, (str, int, type(None)))
        return (self.output,) if plain and not self.kwargs else None


def select_output(output: Any, selector: Any = None) -> Tensor:
    """The tensor that is explained, from whatever the model returned; detections become a table (R, M, 6).

    A future (`torch.futures`, of a model that answers later) is waited for.

    Raises:
        ModelError: no tensor, or several to choose from, with the keys that there are.
    """
    if isinstance(output, torch.futures.Future):
        output = output.wait()
    if callable(selector):
        output = selector(output)
    elif selector is not None:
        keys = list(output) if isinstance(output, Mapping) else []
        try:
            if isinstance(selector, str) and not isinstance(output, Mapping):
                output = getattr(output, selector)
            else:
                output = output[selector]
        except (KeyError, IndexError, AttributeError, TypeError) as err:
            raise ModelError(
                f"The model's output has no part {selector!r}: it is a {describe(output)}."
                + did_you_mean(selector, keys)
            ) from err
    if isinstance(output, Tensor):
        tensors.check_readable(output, "The model's output")
        return output.as_subclass(Tensor)
    if is_detections(output):
        return as_table(output)
    if isinstance(output, (bool, int, float)):
        return torch.tensor(output, dtype=torch.float64 if isinstance(output, float) else None)  # as exact as it is
    if isinstance(output, Mapping):
        hint = f"choose one of its keys, output={next(iter(output), 'key')!r}"
    elif isinstance(output, (tuple, list)):
        hint = "choose a position, output=0"
    elif hasattr(output, "__dict__") and any(isinstance(v, Tensor) for v in vars(output).values()):
        hint = f"choose an attribute, output={next(k for k, v in vars(output).items() if isinstance(v, Tensor))!r}"
    elif type(output).__module__.partition(".")[0] == "numpy":
        raise ModelError(
            f"The model returned a NumPy array of shape {getattr(output, 'shape', ())}, expected a tensor (N, ...). "
            "Wrap it, lambda x: torch.from_numpy(model(x.numpy())), and use methods that only evaluate the model "
            "(occlusion, feature_ablation, lime): no gradient goes through NumPy."
        )
    else:
        hint = "return a tensor"
    raise ModelError(
        f"The model returned a {describe(output)}, expected a tensor (N, ...): {hint} in explain(...), or wrap the "
        "model in a function that returns the tensor."
    )


@dataclass
class Forward:
    """A model call reduced to scalars.

    Attributes:
        func: the model or callable.
        target: what of the output is explained.
        n: number of samples in the original batch.
        args: additional positional arguments.
        kwargs: additional keyword arguments.
        output: selector for outputs that are no tensor.
        passes: rows sent forward and backward so far.
        samples: the samples themselves, (N, ...) each, where they are known.
        facts: what is known of the model's rows (`core.rows`); None before anybody asked.
        whole: every pass has one copy of the batch, since rows feel each other and nobody chose otherwise.
    """

    func: Callable[..., Any]
    n: int
    target: Target = field(default_factory=Whole)
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    passes: dict[str, int] = field(default_factory=lambda: {"forward": 0, "backward": 0})
    samples: tuple[Tensor, ...] = ()
    facts: RowFacts | None = None
    whole: bool = False
    marks: bool = False  # whether any argument is marked as fixed

    @classmethod
    def of(
        cls,
        func: Callable[..., Any],
        n: int,
        target: Target | None = None,
        additional_forward_args: Any = None,
    ) -> Forward:
        """From Captum's arguments; unpacks a `Call`."""
        if not callable(func):
            raise InputError(f"forward_func must be an nn.Module or a callable, got {describe(func)}.")
        args = () if additional_forward_args is None else own_tree(as_tuple(additional_forward_args))
        if isinstance(func, Call):
            kwargs = own_tree(func.kwargs)
            marks = marked((args, kwargs))
            return cls(func.func, n, target or Whole(), args, kwargs, func.output, marks=marks)
        return cls(func, n, target or Whole(), args, marks=marked(args))

    def arguments(self, inputs: Sequence[Tensor], rows: Tensor | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of one model call for some rows, on copies: models work on them in place.

        Inputs that stand in a graph were made for the call, and are no copies; a leaf that requires grad, which
        refuses to be written to, is copied.

        Raises:
            ModelError: a part of the batch where rows feel each other.
        """
        check_cancelled()
        if self.whole and rows is not None:
            self._check_whole(rows)
        if not self.args and not self.kwargs and takes_nothing(self.func):
            return (), {}
        if not getattr(self.func, "makes_copies", False):
            inputs = [x if x.grad_fn is not None else x.clone() for x in inputs]
        if not self.args and not self.kwargs:
            return tuple(inputs), {}
        if rows is not None and (self.n > 1 or len(rows) > 1):
            self.row_facts()
        args, kwargs = private_rows((self.args, dict(self.kwargs)), rows, self.n)
        if self.marks:
            args, kwargs = private_rows(unmarked((args, kwargs)), None, self.n)
        return (*inputs, *args), kwargs

    def row_facts(self, inputs: Sequence[Tensor] = ()) -> RowFacts:
        """What is known of the model's rows; where nothing is, the model is probed (`core.rows`)."""
        if self.facts is None:
            asked = RowQuestion(self.func, _Reader(self.output), self.samples or tuple(inputs), self.args, self.kwargs)
            self.facts = row_facts(asked) if asked.inputs else INDEPENDENT
            if self.facts.fixed:
                (self.args, self.kwargs), self.marks = asked.with_fixed(self.facts.fixed), True
        return self.facts

    def rows_apart(self) -> str | None:
        """Why steps and perturbations cannot share a pass, as far as that is known; None: they can."""
        if self.facts is None or not (self.facts.together or self.facts.single):
            return None
        return f"rows cannot share a pass: {self.facts.why}"

    def rows_per_pass(self, inputs: Sequence[Tensor], asked: int | None = None, least: int = 1) -> int:
        """How many rows go through together: as asked, or automatic.

        Args:
            inputs: the batch.
            asked: what the user says; None: automatic.
            least: an automatic size is at least this, unless the model takes one row.
        """
        if asked == 1 and (self.n == 1 or not (self.args or self.kwargs)):
            return asked  # a row alone meets no other, and arguments of one sample are its own
        facts = self.row_facts(inputs)
        if asked is not None:
            return asked
        if facts.single:
            return 1
        if facts.together:
            self.whole = True
            return self.n
        return auto_chunk(list(inputs), self.func).at_least(least)

    def samples_per_pass(self, inputs: Sequence[Tensor], asked: int | None = None) -> int:
        """How many of the samples themselves go through together: no fewer than `uncut`, if memory allows."""
        return 1 if self.n == 1 else self.rows_per_pass(inputs, asked, uncut(inputs))

    def _check_whole(self, rows: Tensor) -> None:
        if len(rows) == self.n and bool((rows.cpu() == torch.arange(self.n)).all()):
            return
        raise ModelError(
            f"The rows of this model feel each other, so every pass needs the whole batch of {self.n}, and {len(rows)} "
            "rows were asked for. Some methods refine, pair or cut samples (tol=, DeepLift, conductance): leave tol "
            "out, choose another method, or give batch_size= (1: each sample alone)."
        )

    def of_rows(self, rows: Tensor) -> Forward:
        """The problem for some of the samples; its passes are counted with those of the whole."""
        args, kwargs = take_rows((self.args, dict(self.kwargs)), rows, self.n)
        samples = tuple(s.index_select(0, rows.to(s.device)) for s in self.samples)
        return replace(self, n=len(rows), target=self.target.at(rows), args=args, kwargs=kwargs, samples=samples)

    def raw(
        self, inputs: Sequence[Tensor], rows: Tensor | None = None, again: Callable[[], None] | None = None
    ) -> Tensor:
        """The model's output tensor for some rows, before the target selects; the graph is kept.

        `again` is called before the pass is repeated (`core.global_random`).
        """
        self.passes["forward"] += inputs[0].shape[0]
        return self.readable(self.called(inputs, rows, again))

    def readable(self, output: Any) -> Tensor:
        """The tensor of what the model returned."""
        return _readable(select_output(output, self.output))

    def called(self, inputs: Sequence[Tensor], rows: Tensor | None, again: Callable[[], None] | None = None) -> Any:
        """What the model returns for some rows: the one place where inputs are sent through it."""
        deliver()
        return model_call(lambda: called_with(self.func, *self.arguments(inputs, rows)), again)

    def read(
        self, inputs: Sequence[Tensor], rows: Tensor | None, layers: Sequence[Layer]
    ) -> tuple[Any, list[tuple[Tensor, ...]]]:
        """`called`, and the layers' tensors, still in the graph."""
        deliver()
        return model_call(lambda: called_with(partial(run_and_read, self.func, layers), *self.arguments(inputs, rows)))

    def selected(self, inputs: Sequence[Tensor], rows: Tensor | None = None) -> Tensor:
        """What the target selects, without gradient: one scalar per row, or a block per row, or one value in all."""
        with torch.no_grad():
            return finite_scores(self.target.at(rows)(self.raw(inputs, rows)).detach())

    def changed(self, inputs: Sequence[Tensor], rows: Tensor) -> Tensor:
        """`selected`, of samples that were changed, (R, ...) for rows (R,).

        Where rows feel each other, each stands in a pass of its own among the other samples as they are.
        """
        if not self.whole:
            return self.selected(inputs, rows)
        found = []
        for r, i in enumerate(rows.tolist()):
            batch = [torch.cat([s[:i], x[r : r + 1], s[i + 1 :]]) for s, x in zip(self.samples, inputs, strict=True)]
            found.append(self.selected(batch)[i])
        return torch.stack(found)

    def select(self, output: Tensor, rows: Tensor) -> Tensor:
        """`selected`, of outputs (R, ...) that were computed elsewhere."""
        self.passes["forward"] += output.shape[0]
        with torch.no_grad():
            return finite_scores(self.target.at(rows)(_readable(output)).detach())

    def scores(self, inputs: Sequence[Tensor], rows: Tensor | None = None) -> Tensor:
        """One scalar per row (R,), without gradient; of several targets all, (R * K,)."""
        return one_per_row(self.selected(inputs, rows), inputs[0].shape[0], self.target.count)


@dataclass(frozen=True)
class _Reader:
    """`select_output` with its selector; a detector's pictures are not compared, since it pads them and its boxes."""

    selector: Any

    def __call__(self, output: Any) -> Tensor:
        found = select_output(output, self.selector)
        return found.new_zeros(len(found)) if is_table(found) else found


def _readable(output: Tensor) -> Tensor:
    """Refuse NaN and infinity; -inf may stand where nothing is explained: models rule classes out with it."""
    if not all_finite(output):
        bad = output.detach().isnan() | (output.detach() == torch.inf if not output.is_complex() else False)
        if bool(bad.any()):
            raise _not_finite("The model returned", output, bad)
    return output


def finite_scores(scores: Tensor) -> Tensor:
    """What a target selected, refused where it is NaN or infinite: there is no change of it to explain."""
    if all_finite(scores):
        return scores
    raise _not_finite("The score that is explained is", scores, ~scores.detach().isfinite())


def _not_finite(said: str, values: Tensor, bad: Tensor) -> ModelError:
    kind = "NaN" if bool(values.detach()[bad].isnan().any()) else "infinite"
    rows = int(bad.reshape(bad.shape[0], -1).any(1).sum()) if bad.ndim else 1
    where = f" in {rows} of {bad.shape[0]} rows" if bad.ndim else ""
    return ModelError(
        f"{said} {kind}{where} (shape {tuple(values.shape)}). Its inputs are finite on the way in, so look for "
        "overflow, a division by zero or a log of zero in the model, for weights that are NaN, or for a baseline "
        "outside the data's range."
    )


def one_per_row(selected: Tensor, rows: int, targets: int = 1) -> Tensor:
    """What a target selected, as one scalar per row (R,); of K targets at once (R * K,).

    Raises:
        InputError: several values per row are left.
        ModelError: the values do not belong to rows.
    """
    if targets > 1 and selected.ndim == 2 and selected.shape[0] == rows:
        return selected.reshape(-1)
    if selected.numel() == rows and (selected.ndim == 0 or selected.shape[0] == rows):
        return selected.reshape(rows)
    shape = tuple(selected.shape)
    if selected.ndim and selected.shape[0] == rows:
        raise InputError(
            "Target not provided when necessary, cannot take gradient with respect to multiple outputs: "
            f"{selected[0].numel()} values per example are left (shape {shape}). Give a target that selects one, "
            "such as a class index, or a tuple with one index per dimension."
        )
    raise ModelError(
        f"The model gave an output of shape {shape} for {rows} rows; expected one value per row. The first dimension "
        "of the output must be the batch (a model that merges the batch cannot be explained per example; squeeze() "
        "also takes away a batch of one: write squeeze(-1))."
    )


@dataclass
class Gradients:
    """What one pass each way gave: scores (R,), gradients, a layer's tensors; of K targets R * K rows of each."""

    scores: Tensor
    grads: tuple[Tensor, ...]
    activations: tuple[Tensor, ...] = ()
    counts: tuple[int, ...] = ()  # tensors per layer read


@zeros_where_unused(Gradients)
@keeping_values
def gradients(
    forward: Forward,
    inputs: Sequence[Tensor],
    rows: Tensor | None = None,
    *,
    wrt: Sequence[Layer] | None = None,
) -> Gradients:
    """Gradient of the scores with respect to the inputs, or to layers read while the inputs go through.

    Several targets share the forward pass; each has a backward pass of its own.

    Args:
        forward: what to differentiate.
        inputs: rows (R, ...) of every input.
        rows: the sample each row belongs to; None when the rows are the batch itself.
        wrt: layers; their gradients and activations are returned, flat over all layers.

    Raises:
        ModelError: nothing connects the inputs to the score.
    """
    leaves = [x.detach().requires_grad_(is_float(x)) for x in inputs]
    forward.passes["forward"] += inputs[0].shape[0]
    if wrt is None:
        output = forward.readable(forward.called(leaves, rows))
        return gradients_of(forward, output, leaves, "input", len(inputs[0]), rows)
    given, found = forward.read(leaves, rows, wrt)
    output, activations = forward.readable(given), [t for tensors in found for t in tensors]
    got = gradients_of(forward, output, activations, "layer", len(inputs[0]), rows)
    return replace(got, counts=tuple(len(tensors) for tensors in found))


def gradients_of(
    forward: Forward,
    output: Tensor,
    sources: Sequence[Tensor],
    what: str,
    total: int,
    rows: Tensor | None = None,
    *,
    retain: bool = False,
) -> Gradients:
    """Scores of an output that is still in its graph, and their gradients with respect to tensors of that graph.

    Args:
        forward: whose target is differentiated; counts the rows that go backward.
        output: the model's output, (R, ...).
        sources: tensors that the output was made from; a layer's may fold the rows with another axis.
        what: what they are, "input" or "layer"; a layer's are returned as activations.
        total: the number of rows R.
        rows: the sample each row belongs to; None when the rows are the batch itself.
        retain: keep the graph for a next time.
    """
    count = forward.target.count
    forward.passes["backward"] += total * count
    selected = forward.target.at(rows)(output)
    if rows is None and total > 1 and selected.numel() == 1:  # a value for the batch: its gradient, in equal shares
        selected = selected.reshape(1).expand(total) / total
    scores = finite_scores(one_per_row(selected, total, count))
    if count == 1:
        grads = differentiate(scores, sources, what, retain=retain)
    else:
        columns = scores.reshape(total, count).unbind(1)
        grads = side_by_side([differentiate(c, sources, what, retain=True) for c in columns], total)
    read = [a.detach() for a in sources] if what == "layer" else []
    read = list(side_by_side([read] * count, total)) if count > 1 and read else read
    return Gradients(scores.detach(), grads, tuple(read))


@keeping_values
def gradients_through(forward: Forward, inputs: Sequence[Tensor], rows: Tensor, neuron: Neuron) -> tuple[Tensor, ...]:
    """dF/dy_j * dy_j/dx per input, for the neuron (or block of neurons) y_j: the part of dF/dx that runs through it."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    forward.passes["forward"] += leaves[0].shape[0]
    forward.passes["backward"] += 2 * leaves[0].shape[0]
    output, (tensors,) = forward.read(leaves, rows, [neuron.layer])
    selected = forward.target.at(rows)(forward.readable(output))
    scores = one_per_row(selected, leaves[0].shape[0])
    found = gradient(scores, tensors, retain_graph=True)
    outer = tuple(torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors))
    block = neuron.select_block(tensors)
    through = (block * neuron.select_block(outer).detach()).reshape(leaves[0].shape[0], -1).sum(1)
    return differentiate(through, leaves, "input")
