"""The log probabilities of one output after many prompts: in few passes, and equal to each prompt alone.

Prompts of different lengths share a pass. A causal model's token feels only those before it, so shorter rows are filled
up on the *right*, behind what is read: no mask and no shifted position is needed, whether positions are absolute,
rotary or relative. What a prompt has in common with the reference from its first token on is not computed again: the
reference goes through once, and each pass begins with a cut of its keys and values, in a cache of its own (a cache
grows in place, so one that is used twice is wrong). The head runs where an output token is predicted, if the model's
`forward` takes `logits_to_keep`.

All of this is checked on the first rows that use it, against the same row alone and in full; a model that disagrees
gets prompts of one length per pass, from their first token.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.attr.language.quantised import quantised
from interp_plugins.attr.language.tokens import logits_of
from interp_plugins.core.batching import chunks
from interp_plugins.core.errors import ModelError
from interp_plugins.core.hooks import hooked
from interp_plugins.core.tensors import accumulation_dtype

_TOKENS = 2048  # that go through together at most, on a CPU; eight times as many elsewhere
_LOGIT_BYTES = 2**27
_CACHE_BYTES = 2**28
_WASTE, _PASS = 1.25, 128  # tokens of a pass for each that is needed, and those that a pass more would cost
_SHARED = "shared prefix: keys and values of the prompt were computed once"
_LEAST = 4  # tokens in common with the reference that are worth a cache
_ROUNDING = {torch.float64: 1e-7, torch.float32: 1e-3}  # of log probabilities on average, relative to 1 + their size
_COARSE = 0.1  # of half precision, where passes of one and of many rows round apart

NO_TOKEN = (
    "A perturbed prompt has no token left, so the model has nothing to go on: this method also asks what it says "
    "without any feature. Take absence='baseline', or bos=True, which keeps the begin-of-text token."
)


def log_probs(logits: Tensor, output: Tensor) -> Tensor:
    """Log probabilities (rows, T) of output tokens (T,) or (rows, T) by logits (rows, T, vocabulary).

    In float32 at least, and never back: log probabilities of a long text need more digits than half precision has.
    """
    wide = accumulation_dtype(logits.dtype)
    ids = output.to(logits.device).expand(logits.shape[:2])
    if logits.requires_grad:
        return logits.to(wide).log_softmax(-1).gather(2, ids[..., None])[..., 0]
    found = [  # row by row: a softmax of all would double the largest tensor of the pass
        row.gather(1, row_ids[:, None])[:, 0].to(wide) - row.to(wide).logsumexp(-1) for row, row_ids in zip(logits, ids)
    ]
    return torch.stack(found) if found else logits.new_zeros(logits.shape[:2], dtype=wide)


def parameters_of(model: Any) -> frozenset[str]:
    """The names that a model's `forward` (or a callable) takes; empty where it does not say."""
    try:
        return frozenset(inspect.signature(getattr(model, "forward", model)).parameters)
    except (TypeError, ValueError):
        return frozenset()


def is_encoder_decoder(model: Any) -> bool:
    """Whether the model reads the prompt in an encoder, as T5 does."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def common(one: Tensor, other: Tensor) -> int:
    """How many tokens two texts have in common from the first on."""
    n = min(len(one), len(other))
    differ = (one[:n] != other[:n]).nonzero()
    return int(differ[0]) if len(differ) else n


class _Positions:
    """A hook before the head: it gets the positions that are read, side by side, and computes no others.

    Cut out of rows and not side by side, they would be a product per row, several times as slow.

    Args:
        rows: rows of the pass.
        kept: positions that are read, from the end.
        at: which of these of each row, (rows, T); None: all.
    """

    def __init__(self, rows: int, kept: int, at: Tensor | None):
        self.rows, self.kept, self.at, self.chosen = rows, kept, at, False

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with the hidden states of these positions; others as they came."""
        states = args[0] if args else None
        if not isinstance(states, Tensor) or states.ndim != 3 or len(states) != self.rows:
            return args
        if states.shape[1] >= self.kept:
            states, self.chosen = states[:, -self.kept :], True
            if self.at is not None:
                at = self.at.to(states.device)[..., None].expand(-1, -1, states.shape[2])
                states = states.gather(1, at)
        return (states.contiguous(), *args[1:])


def _none() -> None:
    """What a model without a head says of it."""


class Prefix:
    """What the model remembers of a text: keys and values, cut and copied for each pass."""

    def __init__(self, ids: Tensor, cache: Any):
        self.ids, self._cache = ids, cache

    @classmethod
    def of(cls, model: Any, ids: Tensor) -> Prefix | None:
        """Send a text (P,) through the model, without gradient; None where its cache is no plain list of layers.

        Caches of a fixed size and sliding windows cannot be cut, and recurrent states not at all.
        """
        if "past_key_values" not in parameters_of(model) or is_encoder_decoder(model) or not len(ids):
            return None
        few = {"logits_to_keep": 1} if "logits_to_keep" in parameters_of(model) else {}
        with torch.no_grad():
            cache = getattr(model(input_ids=ids[None], use_cache=True, **few), "past_key_values", None)
        layers = getattr(cache, "layers", None)
        if not layers or any(type(layer).__name__ != "DynamicLayer" for layer in layers):
            return None
        return cls(ids, cache)

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token of one row."""
        tensors = [t for layer in self._cache.layers for t in (layer.keys, layer.values)]
        return sum(t.numel() // max(t.shape[-2], 1) * t.element_size() for t in tensors)

    def cut(self, tokens: int, rows: int) -> Any:
        """A cache of its own with the first tokens, for so many rows."""
        new = copy.copy(self._cache)
        new.layers = [copy.copy(layer) for layer in self._cache.layers]
        for layer in new.layers:
            layer.keys = layer.keys[..., :tokens, :].expand(rows, -1, -1, -1)
            layer.values = layer.values[..., :tokens, :].expand(rows, -1, -1, -1)
        return new


class OutputScorer:
    """The log probabilities of one output after any prompts.

    Args:
        model: causal or encoder-decoder language model with Hugging Face's `forward`.
        output: its token ids, (T,).
        device: where prompts go.
        reference: the prompt (P,) that most others share their beginning with; None: nothing is shared.

    Attributes:
        notes: what was shared, or why nothing could be.
        raw: let `in_graph` give the tokens' logits instead of their log probabilities.
    """

    raw = False

    def __init__(self, model: Any, output: Tensor, device: torch.device, reference: Tensor | None = None):
        self.model, self.device = model, device
        self.output = output.to(device)
        self.reference = None if reference is None else reference.to(device)
        self.takes, self.notes = parameters_of(model), list[str]()
        self._head: Any = getattr(model, "get_output_embeddings", _none)()
        self._prefix: Prefix | None = None
        self._lead: Prefix | None = None
        self._whole: Tensor | None = None
        self._asked_prefix = self._checked = False
        self._quantised, self._alone = quantised(model), False
        self._plain = is_encoder_decoder(model) and "attention_mask" not in self.takes
        self._vocabulary = int(getattr(getattr(model, "config", None), "vocab_size", 0) or 2**15)

    def __call__(self, prompts: Sequence[Tensor]) -> Tensor:
        """Log probabilities (rows, T) in float32 at least, without gradient.

        Args:
            prompts: token ids, (P,) each.
        """
        distinct: dict[tuple[int, ...], int] = {}
        which = [distinct.setdefault(tuple(p.tolist()), len(distinct)) for p in prompts]
        rows = [torch.tensor(key, dtype=torch.long, device=self.device) for key in distinct]
        if any(not len(row) for row in rows) and not is_encoder_decoder(self.model):
            raise ModelError(NO_TOKEN)
        if len(rows) == 1 and self._is_reference(rows[0]):  # methods ask for it again and again
            with torch.no_grad():
                if self._whole is None:
                    self._whole = self._scores(rows, 0)
            return self._whole[which]
        found = torch.empty(0)
        with torch.no_grad():
            starts = self._starts(rows)
            order = sorted(range(len(rows)), key=lambda i: (-starts[i], len(rows[i])))
            for chunk in self._cut(rows, starts, order):
                values = self._scores([rows[i] for i in chunk], min(starts[i] for i in chunk))
                if not len(found):
                    found = values.new_empty(len(rows), len(self.output))
                found[chunk] = values
        return found[which]

    def _is_reference(self, row: Tensor) -> bool:
        return self.reference is not None and torch.equal(row, self.reference)

    def _starts(self, rows: list[Tensor]) -> list[int]:
        """The first token of each row that has to go through the model."""
        none = [0] * len(rows)
        if self._plain or self.reference is None or len(rows) < 2:
            return none
        shared = [min(common(row, self.reference), len(row) - 1) for row in rows]
        shared = [n if n >= _LEAST else 0 for n in shared]
        if not self._asked_prefix and sum(shared) > len(self.reference) + 2 * _PASS:
            self._prefix, self._asked_prefix = Prefix.of(self.model, self.reference), True
            if self._prefix is not None:
                self.notes.append(_SHARED)
        return none if self._prefix is None else shared

    def _cut(self, rows: list[Tensor], starts: list[int], order: list[int]) -> list[list[int]]:
        """The rows in passes that fit."""
        out: list[list[int]] = []
        for i in order:
            if not (out and self._fits([rows[k] for k in [*out[-1], i]], [starts[k] for k in [*out[-1], i]])):
                out.append([])
            out[-1].append(i)
        return out

    def _fits(self, rows: list[Tensor], starts: list[int]) -> bool:
        lengths = [len(row) for row in rows]
        if self._plain and len(set(lengths)) > 1:
            return False
        count, start, longest, more = len(rows), min(starts), max(lengths), len(self.output) - 1
        tokens = count * (longest + more - start)
        needed = sum(n + more - s for n, s in zip(lengths, starts))
        spread = 0 if isinstance(self._head, nn.Module) else longest - min(lengths)
        logits = count * (spread + more + 1) * self._vocabulary * 4
        cache = count * (longest + more) * self._prefix.bytes_per_token if self._prefix is not None and start else 0
        return (
            tokens <= (_TOKENS if self.device.type == "cpu" else 8 * _TOKENS)
            and tokens <= _WASTE * needed + _PASS
            and logits <= _LOGIT_BYTES
            and cache <= _CACHE_BYTES
        )

    def _scores(self, rows: list[Tensor], start: int) -> Tensor:
        """One pass; the first one that shares anything is checked."""
        lengths = [len(row) for row in rows]
        if self._plain:
            return self._by_length(rows)
        found = self._fitting(rows, start)
        shares = bool(start) or len(set(lengths)) > 1 or (self._quantised and len(rows) > 1)
        if self._checked or not shares:
            return found
        self._checked = True
        odd = lengths.index(min(lengths))
        alone, together = self._pass([rows[odd]], 0)[0], found[odd]
        error, most = (alone - together).abs(), _ROUNDING.get(getattr(self.model, "dtype", alone.dtype), _COARSE)
        if float(error.mean()) <= most * (1 + float(alone.abs().mean())):
            return found
        why = f"a row differs by {float(error.max()):.2g} from itself alone"
        self.notes[:] = [f"prompts of one length per pass, in full: {why}"]
        self._plain, self._prefix, self._alone = True, None, self._quantised
        if self._alone:
            self.notes[:] = [f"a prompt per pass, in full: the model is quantised by what goes together, and {why}"]
        return self._by_length(rows)

    def _by_length(self, rows: list[Tensor]) -> Tensor:
        """Rows of one length together (of a model whose rows feel each other, each alone), from their first token."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault((len(row), i if self._alone else 0), []).append(i)
        found = {i: value for g in groups.values() for i, value in zip(g, self._fitting([rows[i] for i in g], 0))}
        return torch.stack([found[i] for i in range(len(rows))])

    def _fitting(self, rows: list[Tensor], start: int) -> Tensor:
        parts = [values for _, _, values in chunks(len(rows), len(rows), lambda a, b: self._pass(rows[a:b], start))]
        return torch.cat(parts)

    def _pass(self, rows: list[Tensor], start: int) -> Tensor:
        if is_encoder_decoder(self.model):
            return self._encoded(rows)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        more, shortest = self.output[:-1], int(lengths.min())
        width = int(lengths.max()) + len(more) - start
        ids = self.output[:1].expand(len(rows), width).clone()
        for r, row in enumerate(rows):
            text = torch.cat([row[start:], more])
            ids[r, : len(text)] = text
        cache = self._prefix.cut(start, len(rows)) if start and self._prefix is not None else None
        first = shortest - 1 - start  # where the shortest row predicts its first output token
        at = (lengths - shortest)[:, None] + torch.arange(len(self.output), device=self.device)
        return log_probs(self.logits(ids, width - first, cache, at), self.output).to(self.device)

    def logits(self, ids: Tensor, kept: int, cache: Any = None, at: Tensor | None = None) -> Tensor:
        """The logits (rows, kept, vocabulary) at the last positions of token ids (rows, L), in the model's graph.

        With `at`, (rows, T), those of each row's own positions among the kept: (rows, T, vocabulary).
        """
        known: dict[str, Any] = {"past_key_values": cache} if cache is not None else {}
        if "use_cache" in self.takes:
            known["use_cache"] = False
        if "logits_to_keep" in self.takes:
            known["logits_to_keep"] = kept
        positions = _Positions(len(ids), kept, at)
        with hooked() as hooks:
            if isinstance(self._head, nn.Module):
                hooks.before(self._head, positions)
            logits = logits_of(self.model(input_ids=ids, **known))
        if logits.ndim == 4:  # several heads: the first predicts the next token
            logits = logits[:, 0]
        if positions.chosen:
            return logits
        self._head = None  # it gets something else, so all logits come
        logits = logits[:, -kept:]
        return logits if at is None else torch.stack([row[one.to(row.device)] for row, one in zip(logits, at)])

    def _encoded(self, rows: list[Tensor]) -> Tensor:
        """The prompt in the encoder, filled up behind a mask, and the output in the decoder."""
        width = max(max(len(row) for row in rows), 1)
        ids = self.output[:1].expand(len(rows), width).clone()
        mask = torch.zeros_like(ids)
        for r, row in enumerate(rows):
            ids[r, : len(row)], mask[r, : len(row)] = row, 1
        known = {"attention_mask": mask} if "attention_mask" in self.takes else {}
        logits = logits_of(self.model(input_ids=ids, decoder_input_ids=self.decoded_with(len(rows)), **known))
        return log_probs(logits, self.output).to(self.device)

    def decoded_with(self, rows: int) -> Tensor:
        """What an encoder-decoder's decoder reads, (rows, T): its begin, and the output but for its last token.

        Raises:
            ModelError: the model's config does not say how a text begins.
        """
        begin = getattr(self.model.config, "decoder_start_token_id", None)
        if begin is None:
            raise ModelError(
                f"{type(self.model).__name__} has an encoder and a decoder, but its config has no "
                "decoder_start_token_id: set it to the token that its outputs begin with."
            )
        return torch.cat([self.output.new_tensor([begin]), self.output[:-1]]).expand(rows, -1)

    def share(self, ids: Tensor, logs: Tensor, lead: int) -> int:
        """Keep the first tokens of a prompt (1, P) for `in_graph`, which then takes those behind them.

        Args:
            ids: the prompt.
            logs: its log probabilities (T,), computed in full.
            lead: how many tokens never change.

        Returns:
            How many are kept: `lead`, or 0 where they are few, or what comes of it is not `logs`.
        """
        if lead < _LEAST:
            return 0
        self._lead = Prefix.of(self.model, ids[0, :lead])
        if self._lead is None:
            return 0
        with torch.no_grad():
            error = float((self.in_graph(ids[:, lead:])[0] - logs).abs().mean())
        if error > _ROUNDING.get(getattr(self.model, "dtype", logs.dtype), _COARSE) * (1 + float(logs.abs().mean())):
            self._lead = None
            self.notes.append(f"no shared prefix: the output differs by {error:.2g} behind it")
            return 0
        self.notes.append(_SHARED)
        return lead

    def read_by_model(self, ids: Tensor) -> Tensor:
        """What the model's embedding reads for prompts (rows, P): with all but the last token of the output."""
        return torch.cat([ids, self.output[:-1].to(ids.device).expand(len(ids), -1)], 1)

    def _read(self, logits: Tensor) -> Tensor:
        """What is explained of logits (rows, T, vocabulary), (rows, T)."""
        if not self.raw:
            return log_probs(logits, self.output)
        ids = self.output.to(logits.device).expand(logits.shape[:2])
        return logits.gather(2, ids[..., None])[..., 0]

    def in_graph(self, ids: Tensor) -> Tensor:
        """Token ids (rows, P) of prompts of one length -> log probabilities (rows, T), in the graph of the model."""
        if is_encoder_decoder(self.model):
            given = {"input_ids": ids, "decoder_input_ids": self.decoded_with(len(ids))}
            return self._read(logits_of(self.model(**given)))
        whole = self.read_by_model(ids)
        cache = None if self._lead is None else self._lead.cut(len(self._lead.ids), len(ids))
        return self._read(self.logits(whole, len(self.output), cache))
