"""What language-model attribution returns: tokens, attributions of the whole output and of each output token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.compat.visualization import drawing
from interp_plugins.attr.language.interpretable import ImageMaskInput, InterpretableInput
from interp_plugins.core.errors import InputError


class LLMAttributionResult:
    """Attributions of a generated (or given) text.

    Args:
        input_tokens: the readable features of the input.
        output_tokens: the tokens of the output.
        seq_attr: attributions of the whole output, (inputs,).
        token_attr: attributions of each output token, (outputs, inputs), or None.
        output_probs: the model's probability of each output token, (outputs,), or None.
        inp: the input that was explained.
        notes: what was shared between passes, or why nothing could be.

    Raises:
        InputError: shapes that do not fit the tokens.
    """

    def __init__(
        self,
        *,
        input_tokens: list[str],
        output_tokens: list[str],
        seq_attr: Any,
        token_attr: Any = None,
        output_probs: Any = None,
        inp: InterpretableInput | None = None,
        notes: tuple[str, ...] = (),
    ):
        self.input_tokens, self.output_tokens, self.inp, self.notes = input_tokens, output_tokens, inp, notes
        self.seq_attr = seq_attr
        self.token_attr = token_attr
        self.output_probs = output_probs

    @staticmethod
    def _fitting(name: str, value: Any, shape: tuple[int, ...], axes: str) -> Tensor | None:
        if value is None:
            return None
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name} must have shape {axes} = {shape}, got {tuple(tensor.shape)}.")
        return tensor

    @property
    def seq_attr(self) -> Tensor:
        """Attributions of the whole output, (inputs,)."""
        assert self._seq_attr is not None
        return self._seq_attr

    @seq_attr.setter
    def seq_attr(self, value: Any) -> None:
        self._seq_attr = self._fitting("seq_attr", value, (len(self.input_tokens),), "(input_tokens,)")

    @property
    def token_attr(self) -> Tensor | None:
        """Attributions of each output token, (outputs, inputs), or None."""
        return self._token_attr

    @token_attr.setter
    def token_attr(self, value: Any) -> None:
        shape = (len(self.output_tokens), len(self.input_tokens))
        self._token_attr = self._fitting("token_attr", value, shape, "(output_tokens, input_tokens)")

    @property
    def output_probs(self) -> Tensor | None:
        """The model's probability of each output token on the unchanged input, (outputs,), or None."""
        return self._output_probs

    @output_probs.setter
    def output_probs(self, value: Any) -> None:
        self._output_probs = self._fitting("output_probs", value, (len(self.output_tokens),), "(output_tokens,)")

    @property
    def seq_attr_dict(self) -> dict[str, float]:
        """Attributions of the whole output by input token (of equal tokens, the last one)."""
        return dict(zip(self.input_tokens, self.seq_attr.tolist()))

    def plot_token_attr(self, show: bool = False) -> Any:
        """A matrix of output and input tokens; returns (figure, axis), or None after showing it."""
        if self.token_attr is None:
            raise InputError(
                "token_attr is None (no token-level attribution was performed), please use plot_seq_attr instead for "
                "the sequence-level attribution plot."
            )
        return drawing("llm").plot_tokens(self.token_attr, self.input_tokens, self.output_tokens, show)

    def plot_seq_attr(self, show: bool = False) -> Any:
        """A bar per input token; returns (figure, axis), or None after showing it."""
        return drawing("llm").plot_sequence(self.seq_attr, self.input_tokens, show)

    def plot_image_heatmap(
        self,
        show: bool = False,
        target_token_pos: int | tuple[int, int] | None = None,
        border_width: int = 2,
        show_legends: bool = True,
    ) -> Any:
        """Attributions over the picture of an `ImageMaskInput`.

        Args:
            show: show the figure instead of returning it.
            target_token_pos: an output token, or a range of them (summed); None: the whole output.
            border_width: width of the segments' rims, pixels.
            show_legends: write the segments' numbers.
        """
        if not isinstance(self.inp, ImageMaskInput):
            raise InputError("plot_image_heatmap is only available for ImageMaskInput.")
        values = self.seq_attr
        if target_token_pos is not None:
            if self.token_attr is None:
                raise InputError(
                    "token_attr is None (no token-level attribution was performed), please use target_token_pos=None "
                    "for sequence-level attribution."
                )
            first, last = (
                (target_token_pos, target_token_pos + 1) if isinstance(target_token_pos, int) else target_token_pos
            )
            values = self.token_attr[first:last].sum(0)
        return drawing("llm").plot_heatmap(self.inp, values, show, border_width, show_legends)

    def __repr__(self) -> str:
        return (
            f"LLMAttributionResult({len(self.input_tokens)} inputs, output {''.join(self.output_tokens)[:40]!r}, "
            f"range=[{float(self.seq_attr.min()):.3g}, {float(self.seq_attr.max()):.3g}])"
        )
