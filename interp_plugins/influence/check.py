"""Is it true? How well scores foretell what the last layer says when it is fitted to other data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError
from interp_plugins.influence.methods import Question, class_indices, features

HALVES = 32


def ranks(x: Tensor) -> Tensor:
    """Ranks along the last axis; equal values share the mean of theirs."""
    order = x.argsort(-1)
    found = torch.empty_like(x, dtype=torch.float64)
    found.scatter_(-1, order, torch.arange(x.shape[-1], dtype=torch.float64).expand(x.shape).contiguous())
    for row, values in zip(found.reshape(-1, x.shape[-1]), x.reshape(-1, x.shape[-1])):
        _, groups, counts = values.unique(return_inverse=True, return_counts=True)
        if len(counts) < len(values):
            row[:] = (torch.zeros(len(counts), dtype=torch.float64).index_add_(0, groups, row) / counts)[groups]
    return found


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation along the last axis; 0 where one is constant."""
    x, y = (ranks(v) for v in (a, b))
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    return (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1)).clamp_min(1e-30)


def lds(question: Question, scores: Tensor, halves: int = HALVES) -> float:
    """The linear datamodelling score of scores (Q, N), the mean over the queries.

    Spearman's correlation, over random halves of the data, between the sum of the scores of a half and the margin
    log p / (1 - p) of the asked class under the last layer fitted to that half (Park et al. 2023, section 2, there of
    whole trainings).

    Args:
        question: model, data and queries.
        scores: what is checked.
        halves: how many.

    Raises:
        InputError: no classes are asked for.
    """
    if question.classes is None:
        raise InputError("check=True compares classes: give target= a class, 'predicted' or 'label'.")
    train, own = features(question, "check=True"), features(question, "check=True", queries=True).x
    labels = class_indices(train.labels, len(train.x), "check=True")
    generator = torch.Generator().manual_seed(question.seed)
    head = question.needed_head("check=True")
    foretold, found = [], []
    for _ in range(halves):
        half = torch.randperm(len(train.x), generator=generator)[: len(train.x) // 2]
        fitted = fit_head(train.x[half], labels[half], head, question.weight_decay or 1e-4)
        z = nn.functional.linear(own.double(), *fitted)
        at = question.classes.cpu().reshape(-1, 1)
        others = z.scatter(1, at, -torch.inf).logsumexp(1)
        found.append(z.gather(1, at)[:, 0] - others)
        foretold.append(scores[:, half].double().sum(1))
    return float(spearman(torch.stack(foretold, 1), torch.stack(found, 1)).mean())


def fit_head(x: Tensor, labels: Tensor, head: nn.Linear, penalty: float) -> tuple[Tensor, Tensor]:
    """A linear layer fitted to features with a penalty on w^2 / 2, begun at the model's own.

    Args:
        x: (N, I).
        labels: (N,) class indices.
        head: whose weights begin.
        penalty: keeps weights of separable data from growing for ever.

    Returns:
        Weight (C, I) and bias (C,), float64.
    """
    a = x.double()
    w = head.weight.detach().cpu().double().clone().requires_grad_()
    b = (torch.zeros(len(w)) if head.bias is None else head.bias.detach().cpu()).double().clone().requires_grad_()
    optimiser = torch.optim.LBFGS([w, b], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        loss = nn.functional.cross_entropy(a @ w.T + b, labels) + penalty / 2 * w.square().sum()
        w.grad, b.grad = torch.autograd.grad(loss, (w, b))
        return loss.detach()

    with torch.enable_grad():
        optimiser.step(closure)
    return w.detach(), b.detach()
