"""The Hessian of the last linear layer, exactly: what "ekfac_last" approximates by Kronecker factors.

For an output z = W a the Hessian of the mean loss in W is E[B x aa'], B the loss's own Hessian in z: no Gauss-Newton
step is left to make, since z is linear in W. It takes a forward pass, O small backward passes behind the layer, and
(O I)^2 numbers. Its damping is that of EK-FAC: sums of scores foretell retrained heads best with it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, LayerError, ModelError
from interp_plugins.core.factors import Factors
from interp_plugins.core.hooks import hooked
from interp_plugins.core.persample import Measure, SampleGradients
from interp_plugins.influence.curvature import EKFAC_DAMPING, MOST_WEIGHTS, damped, solver
from interp_plugins.influence.methods import Question, method, preconditioned
from interp_plugins.influence.walk import ItemWalk

MOST_BY_ITSELF = 1500  # weights of a last layer whose Hessian is formed without being asked for: below a second


def head_hessian(gradients: SampleGradients, walk: ItemWalk, loss: Measure, head: nn.Linear, size: int = 256) -> Tensor:
    """The Hessian (O, I + 1, O, I + 1) of the mean loss in the last layer's weights, its bias as the last input.

    Args:
        gradients: the model.
        walk: the data.
        loss: of an item.
        head: the layer.
        size: items per pass.

    Raises:
        LayerError: the layer does not see one vector per sample.
        ModelError: the loss does not depend on the layer.
    """
    o, i = head.weight.shape
    total = torch.zeros(o, o, i + 1, i + 1, dtype=torch.float64, device=head.weight.device)
    seen: list[tuple[Tensor, Tensor]] = []
    n = 0
    with hooked() as hooks:
        hooks.behind(head, lambda module, args, output: seen.append((args[0], output)))
        for items in walk:
            for begin in range(0, len(items), size):
                part = items.rows(begin, begin + size)
                seen.clear()
                value = loss(gradients.graph(part.inputs, part.kwargs), part.labels).sum()
                if len(seen) != 1 or seen[0][0].shape != (len(part), i):
                    raise LayerError("The last layer sees no single vector per sample: take method='exact', layers=.")
                a, z = seen[0]
                _add(total, torch.cat([a.detach(), a.new_ones(len(a), 1)], 1).double(), z, value)
                n += len(part)
    return total.permute(0, 2, 1, 3) / n


def _add(total: Tensor, a: Tensor, z: Tensor, value: Tensor) -> None:
    """Add the sum over samples of B x aa'; B is symmetric."""
    (g,) = torch.autograd.grad(value, z, create_graph=True, allow_unused=True)
    if g is None:
        raise ModelError("The loss does not depend on the last layer's output.")
    for row in range(z.shape[1]):
        found = None
        if g.requires_grad:  # else the loss is linear there
            (found,) = torch.autograd.grad(g[:, row].sum(), z, retain_graph=True, allow_unused=True)
        if found is None:
            continue
        for column in range(row, z.shape[1]):
            block = (a * found[:, column, None].double()).T @ a
            total[row, column] += block
            if column > row:
                total[column, row] += block


@method(
    "exact_last",
    title="Influence function (last layer)",
    cost="3 forward passes, and (O I)^2 numbers",
    assumes="the loss is near its minimum, and that the last layer stands for all",
    head=True,
)
def by_head_hessian(question: Question) -> Tensor:
    """Koh and Liang 2017 for the last layer."""
    head = question.needed_head("exact_last")

    def inverse(gradients: SampleGradients) -> Callable[[Factors], dict[str, Tensor]]:
        o, i = head.weight.shape
        if o * (i + 1) > MOST_WEIGHTS:
            raise InputError(
                f"The Hessian of the last layer's {o * (i + 1)} weights has {(o * (i + 1)) ** 2:.1e} numbers; at most "
                f'{MOST_WEIGHTS} weights are taken. method="ekfac_last" needs none of them.'
            )
        whole = head_hessian(gradients, question.walk, question.loss, head)
        places = torch.arange(o * (i + 1)).reshape(o, i + 1)
        kept = torch.cat([places[:, i] if p.ndim == 1 else places[:, :i].flatten() for p in gradients.params.values()])
        h = damped(whole.reshape(o * (i + 1), -1)[kept][:, kept], question, EKFAC_DAMPING)
        return solver(h)

    return preconditioned(question, inverse)
