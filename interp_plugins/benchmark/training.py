"""Small nets for tasks: one way to train them, the same bits from the same seed on one machine and thread count."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def fit(
    net: Net,
    inputs: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    lr: float = 1e-3,
    batch: int = 64,
    weight_decay: float = 0.0,
) -> Net:
    """Train a net on labels (cross entropy) or numbers (squared error) with Adam and one falling learning rate.

    Args:
        net: its parameters were drawn from torch's generator, as the order of the samples is.
        inputs: (N, ...).
        labels: (N,) int64 classes, or float numbers for a net with one output.
        epochs: passes over the data.
        lr: the first learning rate; it falls to nothing as a cosine.
        batch: samples of a step.
        weight_decay: of AdamW.

    Returns:
        The net, in eval mode and without gradients.
    """
    steps = epochs * -(-len(inputs) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    net.train()
    with torch.enable_grad():
        for _ in range(epochs):
            for picked in torch.randperm(len(inputs)).split(batch):
                output = net(inputs[picked])
                loss = (
                    nn.functional.mse_loss(output[:, 0], labels[picked])
                    if labels.is_floating_point()
                    else nn.functional.cross_entropy(output, labels[picked])
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return net.eval().requires_grad_(False)
