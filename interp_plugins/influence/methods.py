"""The methods by name, what each costs and assumes, and the scores they give.

All scores have one sign: positive where training on the item raised what was asked for. With f the number asked for and
l the loss of an item, that is -<gradient of f, M gradient of l>: M is the sum over checkpoints of learning rates for
TracIn, an inverse curvature over the number of items for influence functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, LayerError, unknown
from interp_plugins.core.factors import Factors, Outer
from interp_plugins.core.forward import select_output
from interp_plugins.core.hooks import hooked
from interp_plugins.core.persample import Measure
from interp_plugins.influence.passes import GradientPasses
from interp_plugins.influence.walk import Items, ItemWalk


@dataclass
class Question:
    """All that a method is given.

    Attributes:
        passes: model, checkpoints, weights that count.
        walk: training items.
        queries: what is asked of; their labels are what `asked` takes.
        loss: of training items.
        asked: of queries; the number whose growth counts.
        head: the last linear layer, or None.
        damping: added to the curvature, as a share of its mean; None: the method's own.
        weight_decay: the factor of the penalty w^2 / 2 in what was minimised.
        seed: of all draws.
        cosine: divide by the lengths of both gradients.
        classes: of queries, for methods that compare classes; None where there are none.
        neighbours: K of KNN-Shapley.
        notes: what has to be said of the result.
    """

    passes: GradientPasses
    walk: ItemWalk
    queries: Sequence[Items]
    loss: Measure
    asked: Measure
    head: nn.Linear | None = None
    damping: float | None = None
    weight_decay: float = 0.0
    seed: int = 0
    cosine: bool = False
    classes: Tensor | None = None
    neighbours: int = 10
    notes: list[str] = field(default_factory=list)

    def needed_head(self, method: str) -> nn.Linear:
        """The last linear layer.

        Raises:
            LayerError: there is none.
        """
        if self.head is None:
            raise LayerError(f"{method} works with the last linear layer, and this model ends in none: name layers=.")
        return self.head


@dataclass(frozen=True)
class InfluenceMethod:
    """A way to score training items.

    Attributes:
        name: by which it is chosen.
        title: in pictures and texts.
        scores: question -> (Q, N).
        cost: in passes over the training data.
        assumes: what it takes for granted.
        head: whether only the last layer's weights count.
        several: whether it takes several checkpoints.
    """

    name: str
    title: str
    scores: Callable[[Question], Tensor]
    cost: str
    assumes: str
    head: bool = False
    several: bool = False


METHODS: dict[str, InfluenceMethod] = {}
ALIASES = {"tracincp": "tracin", "knn": "knn_shapley", "if": "exact", "ek-fac": "ekfac", "cosine": "similarity"}


def method(name: str, **known: Any) -> Callable[[Callable[[Question], Tensor]], Callable[[Question], Tensor]]:
    """Enter a function as a method."""

    def enter(scores: Callable[[Question], Tensor]) -> Callable[[Question], Tensor]:
        METHODS[name] = InfluenceMethod(name, scores=scores, **known)
        return scores

    return enter


def method_named(name: Any) -> InfluenceMethod:
    """The method of a name.

    Raises:
        UnknownNameError: there is none.
    """
    key = str(name).lower().replace("-", "_")
    key = ALIASES.get(str(name).lower(), ALIASES.get(key, key))
    if key not in METHODS:
        raise unknown("influence method", name, [*METHODS, "auto"])
    return METHODS[key]


@method(
    "tracin",
    title="TracIn",
    cost="C passes, forward and backward",
    assumes="training was plain gradient descent, seen at a few moments",
    several=True,
)
@method(
    "fast",
    title="TracIn (last layer)",
    cost="C forward passes",
    assumes="as TracIn, and that the last layer stands for all",
    head=True,
    several=True,
)
def by_products(question: Question) -> Tensor:
    """Pruthi et al. 2020, section 3.2."""
    return -question.passes.products(
        question.walk, question.queries, question.loss, question.asked, cosine=question.cosine
    )


def preconditioned(question: Question, inverse: Callable[[Any], Callable[[Factors], dict[str, Tensor]]]) -> Tensor:
    """-<M grad f, grad l> / N with an inverse curvature M that is fitted at the one checkpoint.

    Args:
        question: what is asked.
        inverse: gradients (`SampleGradients`) -> a function: queries' gradients -> M times them, flat by weight (Q, P).
    """
    passes = question.passes
    (checkpoint,) = passes.checkpoints
    with passes.at(checkpoint) as (gradients, _):
        apply = inverse(gradients)
        rows = []
        for factors in passes.queries(gradients, question.queries, question.asked):
            rows.append(apply(factors))
        held = {name: torch.cat([r[name] for r in rows]) for name in rows[0]}
        columns = []
        for items in question.walk:
            for _, found in passes.factors(gradients, items, question.loss):
                columns.append(sum(found.against(name, v) for name, v in held.items() if found.parts[name]))
    return -torch.cat(columns).T / sum(len(c) for c in columns)  # type: ignore[arg-type,misc]


# -- methods on the features of the last layer -----------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """What the last layer sees.

    Attributes:
        x: (N, I).
        labels: as the data have them, or None.
        output: of the layer's gradients nothing; the model's output (N, ...).
    """

    x: Tensor
    labels: Any
    output: Tensor


def features(question: Question, method: str, queries: bool = False) -> Features:
    """Inputs of the last linear layer, for training items or for queries."""
    head = question.needed_head(method)
    xs: list[Tensor] = []
    labels: list[Any] = []
    outputs: list[Tensor] = []
    seen: list[Tensor] = []
    passes = question.passes
    (checkpoint,) = passes.checkpoints[-1:]
    with passes.at(checkpoint) as (gradients, _), hooked() as hooks, torch.no_grad():
        hooks.before(head, lambda module, args: seen.append(args[0].detach()))
        for items in question.queries if queries else question.walk:
            for begin in range(0, len(items), 256):
                part = items.rows(begin, begin + 256)
                seen.clear()
                output = gradients.called(part.inputs, part.kwargs)
                if len(seen) != 1 or seen[0].shape[0] != len(part) or seen[0].ndim != 2:
                    raise LayerError(f"The last layer sees no single vector per sample, which {method} needs.")
                xs.append(seen[0].cpu())
                outputs.append(select_output(output, getattr(question.loss, "output", None)).detach().cpu())
                labels.append(part.labels)
    known = torch.cat([v.cpu() for v in labels]) if isinstance(labels[0], Tensor) else None
    return Features(torch.cat(xs), known, torch.cat(outputs))


@method(
    "similarity",
    title="Similarity",
    cost="one forward pass",
    assumes="items with like features teach alike; labels are not asked",
    head=True,
)
def by_similarity(question: Question) -> Tensor:
    """Cosine of what the last layer sees."""
    own, theirs = features(question, "similarity", queries=True).x, features(question, "similarity").x
    return nn.functional.normalize(own, dim=1) @ nn.functional.normalize(theirs, dim=1).T


def class_indices(labels: Any, n: int, method: str) -> Tensor:
    """Labels as class indices (N,).

    Raises:
        InputError: they are none.
    """
    if not isinstance(labels, Tensor) or labels.numel() != n or labels.is_floating_point():
        raise InputError(f"{method} needs class indices as labels, one per sample.")
    return labels.reshape(n).long()


@method(
    "knn_shapley",
    title="KNN-Shapley",
    cost="one forward pass",
    assumes="the model is like a vote of the nearest neighbours",
    head=True,
)
def by_knn_shapley(question: Question) -> Tensor:
    """Shapley values of the training items in the game of a K-nearest-neighbour vote for the asked class."""
    if question.classes is None:
        raise InputError("KNN-Shapley asks for a class: give target= a class, 'predicted' or 'label'.")
    train, own = features(question, "knn_shapley"), features(question, "knn_shapley", queries=True).x
    labels = class_indices(train.labels, len(train.x), "knn_shapley")
    x = nn.functional.normalize(train.x, dim=1)
    closeness = nn.functional.normalize(own, dim=1) @ x.T
    return knn_shapley(closeness, labels, question.classes.cpu(), question.neighbours)


def knn_shapley(closeness: Tensor, labels: Tensor, classes: Tensor, k: int) -> Tensor:
    """Shapley values of the utility "share of the K nearest with the query's class" (Jia et al. 2019, theorem 1).

    Args:
        closeness: (Q, N), the larger the nearer; equal ones by number.
        labels: (N,) of the training items.
        classes: (Q,) asked for.
        k: neighbours.

    Returns:
        (Q, N); a row adds up to the utility of all items.
    """
    n = closeness.shape[1]
    order = closeness.sort(dim=1, descending=True, stable=True).indices
    hit = (labels[order] == classes[:, None]).double()
    i = torch.arange(1, n, dtype=torch.float64)  # ranks 1 .. n-1
    steps = (hit[:, :-1] - hit[:, 1:]) / k * i.clamp(max=k) / i
    last = hit[:, -1:] * min(k, n) / (n * k)
    values = torch.cat([steps.flip(1).cumsum(1).flip(1) + last, last], 1)
    return torch.empty_like(values).scatter_(1, order, values)


@method(
    "representer",
    title="Representer points",
    cost="one forward pass, and a small fit",
    assumes="the last layer, fitted anew with a penalty, stands for the model's",
    head=True,
)
def by_representer(question: Question) -> Tensor:
    """Shares of the training items in the output of the refitted last layer."""
    if question.classes is None:
        raise InputError("The representer method asks for a class: give target= a class, 'predicted' or 'label'.")
    train, own = features(question, "representer"), features(question, "representer", queries=True).x
    labels = class_indices(train.labels, len(train.x), "representer")
    penalty = question.weight_decay or 1e-3
    alpha, _, gap = representer(train.x, labels, train.output.shape[1], penalty)
    question.notes.append(f"the head was fitted anew with penalty {penalty:g}; its shares add up to {gap:.1e}")
    a = torch.cat([train.x, torch.ones(len(train.x), 1)], 1).double()
    q = torch.cat([own, torch.ones(len(own), 1)], 1).double()
    return alpha[:, question.classes.cpu()].T * (q @ a.T)


def representer(x: Tensor, labels: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor, float]:
    """Weights of the training items in a head fitted with a penalty (Yeh et al. 2018, theorem 3.1).

    The minimum of mean cross entropy + penalty/2 |W|^2 has W = sum_i alpha_i a_i', alpha_i = (y_i - p_i) / (penalty N):
    the output f(q) = sum_i alpha_i (a_i . q) is a sum over training items.

    Args:
        x: (N, I); a column of ones is added for the bias, which is penalised as well.
        labels: (N,).
        classes: their number C.
        penalty: positive.

    Returns:
        alpha (N, C), W (C, I + 1), and the largest difference between the sums and the outputs, relative.
    """
    a = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1).double()
    w = torch.zeros(classes, a.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [w], max_iter=500, history_size=20, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        loss = nn.functional.cross_entropy(a @ w.T, labels) + penalty / 2 * w.square().sum()
        (w.grad,) = torch.autograd.grad(loss, w)
        return loss.detach()

    with torch.enable_grad():
        optimiser.step(closure)
    fitted = w.detach()
    p = (a @ fitted.T).softmax(1)
    alpha = (nn.functional.one_hot(labels, classes) - p) / (penalty * len(x))
    output = a @ fitted.T
    gap = float(((a @ a.T[:, :64]).T @ alpha - output[:64]).abs().max() / output.abs().max().clamp_min(1e-12))
    return alpha, fitted, gap


def outer_of(factors: Factors, name: str) -> Outer | None:
    """The factors of a weight that is used once, by a call without groups."""
    parts = factors.parts[name]
    return parts[0] if len(parts) == 1 and isinstance(parts[0], Outer) and parts[0].a.shape[1] == 1 else None
