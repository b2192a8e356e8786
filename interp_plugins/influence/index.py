"""Training gradients in a file: made at the first question, read at the next, which then costs one product an item.

Of each checkpoint and weight an item keeps its gradient, or where that is long a projection of it: of a linear map or a
convolution input a and gradient d are projected apart by two fixed random matrices,

    P(sum_t d_t a_t') = sum_t (P_d d_t)(P_a a_t)'

(Choe et al. 2024, "What is Your Data Worth to GPT?", section 3: LoGra), of other weights by random signs into buckets.
Dot products of projections have those of the gradients as their means. Vectors lie in the file with length 1 in half
precision, their lengths beside in single.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.fingerprint import model_facts
from interp_plugins.core.batching import progress_bar
from interp_plugins.core.errors import InputError, decoding
from interp_plugins.core.factors import Factors, Outer, Part
from interp_plugins.core.files import check_path, replacing
from interp_plugins.core.random import make_generator, sample_seed
from interp_plugins.influence.methods import Question

NUMBERS = 1024  # that an item keeps of a weight at most
_FORMAT = 1
_KEY = "interp_plugins_influence_index"
_DAMAGED = "{} is no index of training gradients, or it is damaged"
_ROWS = 4096  # items whose vectors are read at once


class Projection:
    """Fixed random maps from gradients to vectors, one for each weight that is long.

    Args:
        seed: of the maps.
        numbers: of a weight at most; shorter gradients stay as they are.
    """

    def __init__(self, seed: int = 0, numbers: int = NUMBERS):
        self.seed, self.numbers = seed, numbers
        self._maps: dict[tuple[Any, ...], Any] = {}

    def __call__(self, factors: Factors) -> Tensor:
        """A vector per sample, (B, K)."""
        return torch.cat([self._of(name, factors) for name in factors.shapes], 1)

    def _of(self, name: str, factors: Factors) -> Tensor:
        size = math.prod(factors.shapes[name])
        if size <= self.numbers:
            return factors.formed(name).reshape(factors.n, -1)
        parts = factors.parts[name]
        if parts and all(isinstance(part, Outer) and part.a.shape[1] == 1 for part in parts):
            return torch.stack([self._apart(name, part) for part in parts]).sum(0)
        if not parts:  # the output does not depend on it
            return factors.values.new_zeros(factors.n, self.numbers)
        bucket, sign = self._buckets(name, size, factors.values)
        out = factors.values.new_zeros(factors.n, self.numbers)
        for begin, end, g in factors.pieces(name):
            out[begin:end].index_add_(1, bucket, g * sign)
        return out

    def _apart(self, name: str, part: Part) -> Tensor:
        assert isinstance(part, Outer)
        a, d = part.a[:, 0], part.d[:, 0]  # (B, T, I), (B, T, O)
        rows = min(d.shape[2], max(math.isqrt(self.numbers), self.numbers // a.shape[2]))
        columns = min(a.shape[2], self.numbers // rows)
        left, right = (
            d @ self._matrix(name, "d", d.shape[2], rows, d),
            a @ self._matrix(name, "a", a.shape[2], columns, a),
        )
        found = (left.transpose(1, 2) @ right).flatten(1)
        return torch.nn.functional.pad(found, (0, self.numbers - found.shape[1]))

    def _generator(self, *names: Any) -> torch.Generator:
        return make_generator(sample_seed(self.seed, str(names)))

    def _matrix(self, name: str, side: str, size: int, rank: int, like: Tensor) -> Tensor:
        """(size, rank), the identity where nothing is lost."""
        key = (name, side, size, rank)
        if key not in self._maps:
            drawn = torch.randn(size, rank, generator=self._generator(*key), dtype=torch.float64) / math.sqrt(rank)
            self._maps[key] = torch.eye(size, dtype=torch.float64) if rank == size else drawn
        return self._maps[key].to(like)

    def _buckets(self, name: str, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        key = (name, "buckets", size)
        if key not in self._maps:
            generator = self._generator(*key)
            bucket = torch.randint(self.numbers, (size,), generator=generator)
            self._maps[key] = bucket, torch.randint(2, (size,), generator=generator) * 2.0 - 1.0
        bucket, sign = self._maps[key]
        return bucket.to(like.device), sign.to(like)


def scores_by_index(question: Question, path: str | Path) -> Tensor:
    """Sum over checkpoints of lr * <gradient of a query, gradient of an item>, with the items' from a file.

    Args:
        question: what is asked; the file is made from its training items where it is not there.
        path: the file.

    Returns:
        (Q, N), positive where training on the item raised what was asked for.

    Raises:
        InputError: the file was made with other weights, checkpoints, items or loss.
    """
    check_path(path)
    project, file = Projection(question.seed), Path(path)
    asked, facts = _queries(question, project)
    if file.is_file():
        _check(file, facts)
    else:
        _write(question, project, facts, file)
    total: Tensor | None = None
    for c, (vectors, rate) in enumerate(asked):
        length = vectors.norm(dim=1, keepdim=True).clamp_min(1e-30) if question.cosine else 1.0
        found = rate * _products(file, c, vectors / length, question.cosine)
        total = found if total is None else total + found
    assert total is not None
    question.notes.append(_kept(question, project))
    return -total


def _queries(question: Question, project: Projection) -> tuple[list[tuple[Tensor, float]], dict[str, Any]]:
    """The queries' vectors and the rate at each checkpoint, and what an index has to be made of."""
    passes = question.passes
    found, prints = [], []
    for checkpoint in passes.checkpoints:
        with passes.at(checkpoint) as (gradients, rate):
            prints.append(model_facts(passes.model)["fingerprint"])
            held = passes.queries(gradients, question.queries, question.asked)
            found.append((torch.cat([project(one) for one in held]).float().cpu(), rate))
    loss = getattr(question.loss, "loss", question.loss)
    facts = {
        "format": _FORMAT,
        "checkpoints": prints,
        "weights": list(passes.chosen),
        "items": len(question.walk),
        "loss": getattr(loss, "__qualname__", None) or type(loss).__qualname__,
        "seed": project.seed,
        "numbers": project.numbers,
    }
    return found, facts


def _write(question: Question, project: Projection, facts: dict[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    passes = question.passes
    tensors: dict[str, Tensor] = {}
    with progress_bar(facts["items"] * len(passes.checkpoints), "index", passes.progress) as bar:
        for c, checkpoint in enumerate(passes.checkpoints):
            vectors, lengths = [], []
            with passes.at(checkpoint) as (gradients, _):
                for items in question.walk:
                    for _, found in passes.factors(gradients, items, question.loss):
                        one = project(found).float()
                        length = one.norm(dim=1)
                        vectors.append((one / length.clamp_min(1e-30)[:, None]).half().cpu())
                        lengths.append(length.cpu())
                        bar.update(found.n)
            tensors |= {f"vectors/{c}": torch.cat(vectors), f"lengths/{c}": torch.cat(lengths)}
    with replacing(file) as draft:
        save_file(tensors, draft, metadata={_KEY: json.dumps(facts)})


def _check(file: Path, facts: dict[str, Any]) -> None:
    """Refuse an index of something else."""
    from safetensors import safe_open

    with decoding(InputError, _DAMAGED.format(file)), safe_open(file, framework="pt") as held:
        known = json.loads((held.metadata() or {})[_KEY])
    other = [name for name, value in facts.items() if known.get(name) != value]
    if other:
        raise InputError(
            f"{file} was made of other {', '.join(other)}. Delete it, or name another file: it is made where none is."
        )


def _products(file: Path, c: int, asked: Tensor, unit: bool) -> Tensor:
    """Products of the items' vectors at a checkpoint, of length 1 if `unit`, with those asked for (Q, K): (Q, N)."""
    from safetensors import safe_open

    with decoding(InputError, _DAMAGED.format(file)), safe_open(file, framework="pt") as held:
        vectors, lengths = held.get_slice(f"vectors/{c}"), held.get_tensor(f"lengths/{c}")
        found = [vectors[at : at + _ROWS].float() @ asked.T for at in range(0, len(lengths), _ROWS)]
    return (torch.cat(found) if unit else torch.cat(found) * lengths[:, None]).T


def _kept(question: Question, project: Projection) -> str:
    """How well projections keep the lengths of the queries' gradients, in words."""
    passes = question.passes
    with passes.at(passes.checkpoints[-1]) as (gradients, _):
        held = passes.queries(gradients, question.queries, question.asked)
    true = torch.cat([one.squares() for one in held]).double()
    seen = torch.cat([project(one).square().sum(1) for one in held]).double()
    error = float(((seen - true).abs() / true.clamp_min(1e-30)).mean())
    return f"from an index, whose vectors keep the queries' squared lengths to {error:.1%}"
