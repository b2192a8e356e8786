"""`SimilarTo`: how near an embedding is to an anchor, for models whose output is no score of classes.

Retrieval, CLIP, siamese nets and face recognition give an embedding (N, D); what is explained is why it lies near
another one: which part of this picture makes it similar to that picture, to that text, to the mean of a class.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from interp_plugins.core.batching import chunks
from interp_plugins.core.errors import InputTypeError, InterpWarning, TargetError, unknown
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked, Target
from interp_plugins.core.tensors import accumulation_dtype, all_finite, check_inputs, describe

MEASURES = ("cosine", "dot", "distance")
_WORDS = {"cosine": "similar to", "dot": "dot product with", "distance": "near"}
_SAME = 1e-6  # cosine to 1, or distance relative to the anchor's length, below which a sample is its own anchor


class SimilarTo(Target):
    """Similarity of the model's embedding (N, D) to an anchor; the more alike, the higher the score.

    The anchor is a constant: it is not moved by what a method does to the input. Where nothing else is asked for,
    `explain` takes the output for an embedding and names no predicted class.

    Args:
        anchor: an embedding (D,) or (1, D), the same for all samples, or (N, D), one for each. For several
            explanations of a sample, one per anchor, see `SimilarTo.each`.
        by: "cosine" (of the angle, -1 to 1), "dot" (the dot product), or "distance" (minus the Euclidean distance).
        name: of the anchor in titles, or a name for each of (N, D); None: "the anchor".

    Raises:
        InputTypeError: an anchor that is no tensor of real numbers.
        TargetError: an anchor of another shape, with NaN or infinity, or of length zero where the angle is asked for.
        UnknownNameError: another `by`.

    Example:
        prototypes = torch.randn(3, 10)  # as wide as the model's output
        explain(model, x, "saliency", target=SimilarTo(prototypes[0], name="a cup"))
        explain(model, x[:1], "saliency", target=SimilarTo.of(model, x[1:], by="distance"))
    """

    def __init__(self, anchor: Tensor, by: str = "cosine", name: str | Sequence[str] | None = None):
        if not isinstance(anchor, Tensor) or anchor.is_complex():
            raise InputTypeError(
                f"The anchor of SimilarTo must be a tensor of real numbers, an embedding (D,) or (N, D), got "
                f"{describe(anchor)}. SimilarTo.of(model, x) embeds an input; SimilarTo.each(anchors) takes several."
            )
        if by not in MEASURES:
            raise unknown("measure of similarity", by, MEASURES)
        anchor = anchor.detach().as_subclass(Tensor)
        anchor = anchor if anchor.is_floating_point() else anchor.to(torch.get_default_dtype())
        if anchor.ndim not in (1, 2) or not anchor.numel():
            raise TargetError(
                f"The anchor of SimilarTo has shape {tuple(anchor.shape)}; expected an embedding (D,) for all samples, "
                "or (N, D) with one for each."
            )
        self.anchor = (anchor[0] if anchor.ndim == 2 and len(anchor) == 1 else anchor).clone()
        self.by = by
        self.name = name if name is None or isinstance(name, str) else tuple(name)
        self._check_values()

    def _check_values(self) -> None:
        if not all_finite(self.anchor):
            raise TargetError(f"The anchor of SimilarTo, of shape {tuple(self.anchor.shape)}, holds NaN or infinity.")
        if self.by == "cosine" and bool((self.anchor == 0).all(-1).any()):
            raise TargetError(
                "An anchor of SimilarTo is zero everywhere, and its angle to an embedding is not defined. Give "
                'by="dot" or by="distance", or another anchor.'
            )
        if isinstance(self.name, tuple) and (self.anchor.ndim == 1 or len(self.name) != len(self.anchor)):
            count = 1 if self.anchor.ndim == 1 else len(self.anchor)
            raise TargetError(f"{len(self.name)} names came for {count} anchor(s); give a text, or one per anchor.")

    @classmethod
    def of(
        cls,
        model: Any,
        inputs: Any,
        by: str = "cosine",
        name: str | Sequence[str] | None = None,
        *,
        output: Any = None,
        additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> SimilarTo:
        """The anchor that the model itself makes of an input: the model is called once, and left as it was.

        Args:
            model: an `nn.Module` or callable that gives the embedding; for text against pictures, that of the text.
            inputs: tensor or tuple of tensors, batch first: one sample for all that are explained, or one for each.
            by: see `SimilarTo`.
            name: see `SimilarTo`.
            output: which part of the model's output is the embedding, as for `explain`.
            additional_forward_args: further positional arguments.
            forward_kwargs: keyword arguments.

        Raises:
            TargetError: an output that is no embedding (N, D).
        """
        func = Call(model, forward_kwargs, output) if forward_kwargs or output is not None else model
        with frozen(func, seed=0), torch.no_grad():
            xs = check_inputs(inputs)
            n = xs[0].shape[0]
            forward = Forward.of(func, n, additional_forward_args=additional_forward_args)
            forward.samples = xs

            def embed(start: int, stop: int) -> Tensor:
                rows = torch.arange(start, stop, device=xs[0].device)
                return forward.raw([x[start:stop] for x in xs], None if stop - start == n else rows)

            size = forward.samples_per_pass(xs)
            parts = [part.detach().as_subclass(Tensor) for _, _, part in chunks(n, size, embed)]
        _check_embedding(parts[0])
        return cls(torch.cat(parts), by, name)

    @classmethod
    def each(
        cls, anchors: Mapping[str, Tensor] | Sequence[Tensor] | Tensor, by: str = "cosine", names: Any = None
    ) -> list[Target]:
        """A target per anchor, for an explanation per anchor: give the list to `explain`.

        Args:
            anchors: tensors (D,) by name, a list of them, or a tensor (K, D).
            by: see `SimilarTo`.
            names: their K names, where they have none of their own.

        Example:
            texts = torch.randn(2, 10)  # what a text encoder made of two captions
            exps = explain(model, x, "saliency", target=SimilarTo.each(texts, names=["a cup", "a cat"]))
            exps[1].target_label[0]  # -> 'similar to a cat'
        """
        if isinstance(anchors, Mapping):
            names, anchors = list(anchors), list(anchors.values())
        names = [f"anchor {k}" for k in range(len(anchors))] if names is None else list(names)
        if len(names) != len(anchors) or not names:
            raise TargetError(f"{len(names)} names came for {len(anchors)} anchors; give one per anchor.")
        return [cls(anchor, by, str(name)) for anchor, name in zip(anchors, names)]

    def at(self, rows: Tensor | None) -> Target:
        """The anchors of some samples."""
        if rows is None or self.anchor.ndim == 1:
            return self
        rows = rows.to(self.anchor.device)
        name = tuple(self.name[r] for r in rows.tolist()) if isinstance(self.name, tuple) else self.name
        return _with_rows(self, self.anchor.index_select(0, rows), name)

    def __call__(self, output: Tensor) -> Tensor:
        """The similarities (R,), from embeddings (R, D)."""
        _check_embedding(output)
        fits = output.shape[1:] == self.anchor.shape if self.anchor.ndim == 1 else output.shape == self.anchor.shape
        if not fits:
            raise TargetError(
                f"An anchor of shape {tuple(self.anchor.shape)} does not fit the model's embeddings of shape "
                f"{tuple(output.shape)}; expected ({output.shape[1]},) for all samples, or {tuple(output.shape)}, one "
                "for each. SimilarTo.each(anchors) makes one explanation per anchor."
            )
        wide = output.to(accumulation_dtype(output.dtype))
        anchor = self.anchor.to(wide)
        if self.by == "cosine":
            return cosine_similarity(wide, anchor.expand_as(wide), dim=1)
        if self.by == "dot":
            return (wide * anchor).sum(1)
        distance = torch.linalg.vector_norm(wide - anchor, dim=1)
        at_anchor = distance <= _SAME * anchor.norm(dim=-1)  # a kink, where the direction is that of rounding errors
        return -torch.where(at_anchor, distance.detach(), distance)

    def describe(self, i: int) -> str | None:
        """The measure and the anchor in words."""
        name = self.name[i] if isinstance(self.name, tuple) else self.name
        return f"{_WORDS[self.by]} {'the anchor' if name is None else name}"

    def __repr__(self) -> str:
        return f"SimilarTo(an anchor of shape {tuple(self.anchor.shape)}, by={self.by!r})"

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """The similarity of every sample; warns of a sample that is its own anchor."""
        asked = super().resolve(prediction, spec, n)
        same = self._at_anchor(prediction.output)
        if same:
            warnings.warn(
                f"Sample {', '.join(map(str, same[:10]))} has the anchor's own embedding. Nothing is more similar than "
                "the same, so the gradient there is zero, and so is the map of a method that reads no other point; "
                "integrated gradients and methods that perturb say more.",
                InterpWarning,
                stacklevel=5,
            )
        return asked

    def _at_anchor(self, output: Tensor) -> list[int]:
        """Samples at the maximum of the similarity; the dot product has none."""
        if self.by == "dot":
            return []
        with torch.no_grad():
            score = self(output)
            close = score >= 1 - _SAME if self.by == "cosine" else -score <= _SAME * self.anchor.norm(dim=-1).to(score)
        return close.nonzero().flatten().tolist()


def _with_rows(target: SimilarTo, anchor: Tensor, name: Any) -> SimilarTo:
    """The target with other anchors, of rows that were checked; they stay (R, D), also for one row."""
    made = SimilarTo.__new__(SimilarTo)
    made.anchor, made.by, made.name = anchor, target.by, name
    return made


def _check_embedding(output: Tensor) -> None:
    if output.ndim != 2:
        raise TargetError(
            f"SimilarTo needs an embedding per sample, (N, D), and the model's output has shape {tuple(output.shape)}. "
            "Give output= a function that makes one of it (lambda out: out.mean(1) of token vectors (N, T, D), "
            "lambda out: out.flatten(1) of maps)."
        )


def activation_for(target: Any, given: Any) -> Any:
    """`explain`'s activation: the one that was given; else, where only similarities are asked for, "no classes"."""
    return _no_classes if given is None and _of_embeddings(target) else given


def _of_embeddings(target: Any) -> bool:
    """Whether all that is asked for are similarities, also inside other targets."""
    if isinstance(target, list):
        return bool(target) and all(_of_embeddings(one) for one in target)
    if isinstance(target, SimilarTo) or not isinstance(target, Target):
        return isinstance(target, SimilarTo)
    parts: list[bool] = []

    def seen(part: Any) -> Any:
        parts.append(_of_embeddings(part))
        return part

    target.map(seen)
    return bool(parts) and all(parts)


def _no_classes(output: Tensor) -> None:
    return None
