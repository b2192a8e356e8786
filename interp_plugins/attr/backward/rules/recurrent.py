"""LSTM, GRU and plain recurrent networks written out step by step, with the numbers of torch's own.

`nn.LSTM` and its kin are one call of a compiled function. Here they are calls of `linear`, `sigmoid`, `tanh`, products
and sums: any number of layers, both directions, packed sequences, projections, and the single cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, "list[Tensor | None]"], State]


def _lstm_step(projected: Tensor, state: State, w: list[Tensor | None]) -> State:
    h, c = state
    i, f, g, o = (projected + F.linear(h, _given(w[1]), w[3])).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w[4] is None else F.linear(h, w[4])), c


def _gru_step(projected: Tensor, state: State, w: list[Tensor | None]) -> State:
    (h,) = state
    r_x, z_x, n_x = projected.chunk(3, 1)
    r_h, z_h, n_h = F.linear(h, _given(w[1]), w[3]).chunk(3, 1)
    z = (z_x + z_h).sigmoid()
    n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return ((1 - z) * n + z * h,)


def _tanh_step(projected: Tensor, state: State, w: list[Tensor | None]) -> State:
    return ((projected + F.linear(state[0], _given(w[1]), w[3])).tanh(),)


def _relu_step(projected: Tensor, state: State, w: list[Tensor | None]) -> State:
    return ((projected + F.linear(state[0], _given(w[1]), w[3])).relu(),)


def _given(weight: Tensor | None) -> Tensor:
    assert weight is not None
    return weight


def _direction(
    step: Step, slices: Sequence[Tensor], state: State, weights: list[Tensor | None], reverse: bool
) -> tuple[list[Tensor], State]:
    """One layer in one direction over slices (rows still running, features); the longest sequences come first."""
    projected = [F.linear(x, _given(weights[0]), weights[2]) for x in slices]
    outputs: list[Tensor] = []
    now = tuple(s[: slices[-1 if reverse else 0].shape[0]] for s in state)
    ended: list[State] = []
    for x in reversed(projected) if reverse else projected:
        running, rows = now[0].shape[0], x.shape[0]
        if rows > running:  # backwards: shorter sequences begin
            now = tuple(torch.cat([s, first[running:rows]]) for s, first in zip(now, state, strict=True))
        elif rows < running:
            ended.append(tuple(s[rows:] for s in now))
            now = tuple(s[:rows] for s in now)
        now = step(x, now, weights)
        outputs.append(now[0])
    last = tuple(torch.cat(parts) for parts in zip(now, *reversed(ended), strict=True)) if ended else now
    return (outputs[::-1] if reverse else outputs), last


def _layers(
    step: Step,
    slices: list[Tensor],
    states: State,
    flat: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> tuple[list[Tensor], State]:
    directions = 2 if bidirectional else 1
    count = len(flat) // (num_layers * directions)
    final: list[State] = []
    for layer in range(num_layers):
        found = []
        for d in range(directions):
            k = layer * directions + d
            own = list(flat[k * count : (k + 1) * count])
            biases = own[2:4] if has_biases else [None, None]
            projection: list[Tensor | None] = [*own[4 if has_biases else 2 :], None]
            weights = [*own[:2], *biases, projection[0]]
            outputs, last = _direction(step, slices, tuple(s[k] for s in states), weights, reverse=d == 1)
            found.append(outputs)
            final.append(last)
        slices = [torch.cat(parts, 1) for parts in zip(*found, strict=True)] if directions == 2 else found[0]
        if dropout and train and layer < num_layers - 1:
            slices = [F.dropout(x, dropout, train) for x in slices]
    return slices, tuple(torch.stack(parts) for parts in zip(*final, strict=True))


def _network(step: Step, n_states: int) -> Callable[..., Any]:
    """The function with torch's arguments: (input, hx, weights, ...) or (data, batch_sizes, hx, weights, ...)."""

    def run(input: Tensor, second: Any, third: Any, *rest: Any) -> Any:
        packed = isinstance(second, Tensor) and not second.is_floating_point()
        if packed:
            hx, flat, settings = third, rest[0], rest[1:]
            slices = list(input.split([int(b) for b in second]))
        else:
            hx, flat, settings = second, third, rest[:-1]
            slices = list(input.unbind(1 if rest[-1] else 0))
        states = tuple(hx) if n_states == 2 else (hx,)
        outputs, final = _layers(step, slices, states, flat, *settings)
        joined = torch.cat(outputs) if packed else torch.stack(outputs, 1 if rest[-1] else 0)
        return (joined, *final)

    return run


def _cell(step: Step, n_states: int) -> Callable[..., Any]:
    def run(
        input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
    ) -> Any:
        now = step(F.linear(input, w_ih, b_ih), tuple(hx) if n_states == 2 else (hx,), [w_ih, w_hh, b_ih, b_hh, None])
        return now if n_states == 2 else now[0]

    return run


RECURRENT: dict[str, Callable[..., Any]] = {
    "lstm": _network(_lstm_step, 2),
    "gru": _network(_gru_step, 1),
    "rnn_tanh": _network(_tanh_step, 1),
    "rnn_relu": _network(_relu_step, 1),
    "lstm_cell": _cell(_lstm_step, 2),
    "gru_cell": _cell(_gru_step, 1),
    "rnn_tanh_cell": _cell(_tanh_step, 1),
    "rnn_relu_cell": _cell(_relu_step, 1),
}
