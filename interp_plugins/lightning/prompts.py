"""`PromptCallback`: why a language model answers the same prompts as it does, epoch by epoch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from interp_plugins.api.callbacks import ON_ERROR, check_choice, check_count, check_folder, contained
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.random import check_seed
from interp_plugins.lightning.loggers import log_numbers
from interp_plugins.lightning.namespace import Callback
from interp_plugins.lightning.sinks import directory_of, logged_step, shown
from interp_plugins.lightning.subject import check_strategy
from interp_plugins.llm import TextExplanation, TextExplanations, explain_text

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import LightningModule, Trainer

Prompt = str | Sequence[Mapping[str, str]]


class PromptCallback(Callback):
    """Explains the same prompts in every n-th validation epoch, and logs scores, similarities and pages.

    For each prompt, `tag/1/...`, these numbers go to the Trainer's loggers: `score` (log probability of the output),
    `first_share` (share of the first feature) and, from the second run on, `cosine_to_previous` (of the attributions).
    A page of all prompts, `tag-epoch.html`, is written into the folder. Nothing of the training changes.

    Args:
        prompts: texts, or lists of messages for the chat template.
        tokenizer: the model's fast tokenizer.
        output: what is explained: one output for all prompts, or one each; None: what the model generates at its first
            run, so that epochs can be compared; of a model that begins untrained this is noise, so name it there.
        method: a method's name; see `interp_plugins.llm.explain_text`.
        every_n_epochs: the first validation epoch of a run is explained and every n-th after it.
        module: dotted name of the language model inside the LightningModule; None: the one part that has input
            embeddings, or the module itself.
        dirpath: folder for pages; None: `attributions` in the logger's directory.
        seed: of all draws, the same in every epoch.
        tag: name of numbers and pages.
        on_error: "warn" = an error in explaining is a warning and training goes on; "raise".
        options: further arguments of `explain_text`, such as {"level": "sentence"}.

    Attributes:
        last: the latest explanations; empty before the first.
        history: a dict per run and prompt: epoch, step, prompt (from 1, as in the loggers), score, first_share,
            cosine_to_previous; `numbers()` is their table.

    Raises:
        InputError: no prompt, or outputs that are not one for each.

    Example:
        watch = PromptCallback(["The capital of France is"], tokenizer, output=" Paris", options={"level": "token"})
        watch.history  # -> []
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        tokenizer: Any,
        output: str | Sequence[str] | None = None,
        method: str | None = None,
        every_n_epochs: int = 1,
        module: str | None = None,
        dirpath: str | None = None,
        seed: int = 0,
        tag: str = "prompts",
        on_error: Literal["warn", "raise"] = "warn",
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        if isinstance(prompts, str) or not len(prompts):
            raise InputError("prompts is a list of texts or chats; give at least one.")
        outputs = [output] * len(prompts) if output is None or isinstance(output, str) else list(output)
        if len(outputs) != len(prompts):
            raise InputError(f"{len(outputs)} outputs came for {len(prompts)} prompts; give one each, or one for all.")
        check_count("every_n_epochs", every_n_epochs, 1)
        check_folder("dirpath", dirpath)
        check_choice("on_error", on_error, ON_ERROR)
        self.prompts, self.tokenizer, self.output = list(prompts), tokenizer, output
        self.method, self.every_n_epochs, self.module, self.dirpath = method, every_n_epochs, module, dirpath
        self.seed, self.tag, self.on_error, self.options = check_seed(seed), tag, on_error, dict(options or {})
        self.last: TextExplanations = TextExplanations()
        self.history: list[dict[str, Any]] = []
        self._outputs: list[Any] = outputs
        self._epochs, self._gave_up, self._told = 0, False, False
        self._directory: str | None = None

    def numbers(self) -> Any:
        """A table (DataFrame) of `history`: a row per run and prompt."""
        import pandas as pd

        return pd.DataFrame(self.history)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle where pages go (on all processes)."""
        check_strategy(trainer)
        self._directory = directory_of(trainer, self.dirpath)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the prompts by the weights that were validated."""
        if trainer.sanity_checking or self._gave_up:
            return
        self._epochs += 1
        if (self._epochs - 1) % self.every_n_epochs or not trainer.is_global_zero:
            return
        with contained(f"PromptCallback(tag={self.tag!r})", self.on_error, self._give_up), torch.inference_mode(False):
            self._run(trainer, language_model(pl_module, self.module))

    def _give_up(self) -> None:
        self._gave_up = True

    def _run(self, trainer: Trainer, model: nn.Module) -> None:
        chosen = {} if self.method is None else {"method": self.method}
        found = []
        for k, prompt in enumerate(self.prompts):
            given = {**chosen, "seed": self.seed, **self.options}
            one: TextExplanation = explain_text(model, self.tokenizer, prompt, self._outputs[k], **given)
            self._outputs[k] = one.output if self._outputs[k] is None else self._outputs[k]
            found.append(one)
        self._log(trainer, found)
        self.last = TextExplanations(found)
        if self._directory is not None:
            self._write(trainer, self._directory)

    def _write(self, trainer: Trainer, folder: str) -> None:
        """The page of this epoch; where pages are is said with the first."""
        if "://" in folder:
            warnings.warn(f"{folder} is no folder here, so no page is written.", InterpWarning, stacklevel=2)
            return
        path = Path(folder) / f"{self.tag}-{trainer.current_epoch}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.last.to_html(path, f"{self.tag}, epoch {trainer.current_epoch}")
        if not self._told:
            trainer.print(f"PromptCallback(tag={self.tag!r}) writes pages to {shown(folder)}.")
        self._told = True

    def _log(self, trainer: Trainer, found: list[TextExplanation]) -> None:
        """One row of `history` for each prompt, and its numbers to the loggers."""
        step, numbers = logged_step(trainer, "validate"), {}
        for k, one in enumerate(found):
            row: dict[str, float] = {"score": one.score, "first_share": one.first_share}
            if k < len(self.last):
                row["cosine_to_previous"] = _cosine(one, self.last[k])
            numbers.update({f"{self.tag}/{k + 1}/{name}": value for name, value in row.items()})
            self.history.append({"epoch": trainer.current_epoch, "step": step, "prompt": k + 1, **row})
        for logger in trainer.loggers:
            log_numbers(logger, numbers, step)


def _cosine(one: TextExplanation, other: TextExplanation) -> float:
    return float(torch.cosine_similarity(one.seq_attr.double(), other.seq_attr.double(), dim=0))


def language_model(pl_module: nn.Module, name: str | None) -> nn.Module:
    """The language model inside a LightningModule: by its dotted name, or the one part that has input embeddings.

    Raises:
        InputError: no part, or several, could be meant.
    """
    if name is not None:
        return pl_module.get_submodule(name)
    found = [m for m in pl_module.children() if callable(getattr(m, "get_input_embeddings", None))]
    if len(found) == 1:
        return found[0]
    if not found and callable(getattr(pl_module, "get_input_embeddings", None)):
        return pl_module
    several = "several parts have" if found else "no part has"
    raise InputError(f"{type(pl_module).__name__}: {several} input embeddings; give module=, the name of the model.")
