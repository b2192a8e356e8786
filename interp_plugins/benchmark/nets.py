"""Architectures of the tasks: plain, small, with rectifiers as modules, so that every method can read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp(columns: int, outputs: int, width: int = 32) -> nn.Sequential:
    """Two hidden layers for rows (N, columns)."""
    return nn.Sequential(
        nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


def cnn(channels: int, outputs: int, side: int, width: int = 12, pools: int = 2) -> nn.Sequential:
    """Convolutions of 3 x 3 with a pooling behind each but the last, then one linear layer over all places.

    Args:
        channels: of the picture.
        outputs: of the net.
        side: pixels of the picture's sides; the poolings halve it.
        width: channels of every convolution.
        pools: number of poolings.
    """
    layers: list[nn.Module] = []
    for i in range(pools + 1):
        layers += [nn.Conv2d(channels if i == 0 else width, width, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i < pools else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (side >> pools) ** 2, outputs))


def series_cnn(channels: int, outputs: int, width: int = 16) -> nn.Sequential:
    """Three convolutions along time for series (N, channels, T), the largest over time, one linear layer."""
    return nn.Sequential(
        nn.Conv1d(channels, width, 7, padding=3),
        nn.ReLU(),
        nn.Conv1d(width, width, 5, padding=2),
        nn.ReLU(),
        nn.Conv1d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(width, outputs),
    )


class TokenLSTM(nn.Module):
    """A word vector per id, an LSTM, its largest state over time, one linear layer: ids (N, T) -> (N, outputs)."""

    def __init__(self, words: int, outputs: int, width: int = 24):
        super().__init__()
        self.vectors = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """Outputs of the whole net, (N, outputs)."""
        return self.head(self.lstm(self.vectors(ids))[0].amax(1))


class AdditiveNet(nn.Module):
    """A net of its own for each column, their outputs added: (N, D) -> (N, outputs)."""

    def __init__(self, columns: int, outputs: int, width: int = 8):
        super().__init__()
        self.columns = columns
        self.spread = nn.Conv1d(columns, columns * width, 1, groups=columns)
        self.bend = nn.ReLU()
        self.gather = nn.Conv1d(columns * width, columns * outputs, 1, groups=columns)

    def each(self, x: Tensor) -> Tensor:
        """What every column adds, (N, D, outputs)."""
        return self.gather(self.bend(self.spread(x[:, :, None]))).reshape(len(x), self.columns, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the whole net, (N, outputs)."""
        return self.each(x).sum(1)


class DecisionList(nn.Module):
    """The first rule that holds decides: rule k asks whether one column lies above a threshold; soft, so it trains.

    Args:
        columns: which column each rule asks about.
        outputs: of the net.
    """

    def __init__(self, columns: tuple[int, ...], outputs: int):
        super().__init__()
        self.columns = columns
        self.thresholds = nn.Parameter(0.1 * torch.randn(len(columns)))
        self.steepness = nn.Parameter(torch.where(torch.rand(len(columns)) < 0.5, -2.0, 2.0))
        self.says = nn.Parameter(0.1 * torch.randn(len(columns) + 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the whole net, (N, outputs)."""
        holds = torch.sigmoid((x[:, list(self.columns)] - self.thresholds) * self.steepness)
        left = torch.cat([torch.ones_like(holds[:, :1]), (1 - holds).cumprod(1)], 1)  # what no earlier rule took
        weight = left * torch.cat([holds, torch.ones_like(holds[:, :1])], 1)
        return weight @ self.says


class CellsApart(nn.Module):
    """A net run on each cell of a grid apart, a head's outputs for every cell: no cell can feel another.

    After the construction of Rao et al. 2022 (arXiv:2205.10435). The features lie in a grid again before the
    heads, so that methods that read a layer of maps find one.

    Args:
        body: pictures -> feature maps (N, C, h, h).
        head: all features of a cell -> outputs; it becomes a convolution that steps from cell to cell.
        grid: cells along a side.
        side: h.
    """

    def __init__(self, body: nn.Module, head: nn.Linear, grid: int, side: int):
        super().__init__()
        self.body, self.grid = body, grid
        self.features = nn.Identity()
        channels = head.in_features // side**2
        self.heads = nn.Conv2d(channels, head.out_features, side, stride=side).requires_grad_(False)
        self.heads.weight.copy_(head.weight.reshape(self.heads.weight.shape))
        self.heads.bias.copy_(head.bias)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, cells * outputs), cell after cell along the rows."""
        n, g = len(x), self.grid
        cells = x.unflatten(3, (g, -1)).unflatten(2, (g, -1)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        found = self.body(cells).unflatten(0, (n, g, g)).permute(0, 3, 1, 4, 2, 5)
        features = self.features(found.flatten(4, 5).flatten(2, 3))
        return self.heads(features).flatten(2).mT.flatten(1)
