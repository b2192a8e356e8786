"""`PromptCallback`: the same prompts, epoch by epoch, in a real training that it does not change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.lightning import PromptCallback
from tests.llm.language_models import ids, model, tokenizer

TEXTS = ["the cat sat on a mat", "the dog ran in Rome ."]


class Writer(LightningModule):
    """A small language model that learns two sentences."""

    def __init__(self) -> None:
        super().__init__()
        self.model = copy.deepcopy(model("llama")).float()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.model(input_ids=batch, labels=batch).loss
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.model(input_ids=batch, labels=batch).loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


def fit(folder: Path, *callbacks: Any, epochs: int = 3) -> Writer:
    torch.manual_seed(0)
    data = DataLoader([ids(text) for text in TEXTS], batch_size=2)
    net = Writer()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(max_epochs=epochs, default_root_dir=folder, logger=False, callbacks=list(callbacks), **quiet).fit(
        net, data, data
    )
    return net


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:Found .* in eval mode")
def test_prompts_are_explained_in_every_nth_epoch_and_the_training_is_the_same(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "the cat sat on a"}]
    watch = PromptCallback(
        ["the cat sat", chat], tokenizer(), [" on", " mat"], every_n_epochs=2, options={"level": "token"}
    )
    with_it, without = fit(tmp_path, watch), fit(tmp_path)
    for a, b in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [(row["epoch"], row["prompt"]) for row in watch.history] == [(0, 1), (0, 2), (2, 1), (2, 2)]
    assert watch.numbers()["prompt"].tolist() == [1, 2, 1, 2]
    assert watch.history[2]["score"] > watch.history[0]["score"]  # it learns the sentence
    assert "cosine_to_previous" not in watch.history[0] and -1 <= watch.history[3]["cosine_to_previous"] <= 1
    assert [one.output.strip() for one in watch.last] == ["on", "mat"]
    pages = sorted((tmp_path / "attributions").glob("*.html"))
    assert [page.name for page in pages] == ["prompts-0.html", "prompts-2.html"]


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:Found .* in eval mode")
def test_a_fault_is_a_warning_and_training_goes_on(tmp_path: Path) -> None:
    watch = PromptCallback(["the cat"], tokenizer(), " sat", method="shapley_values")
    with pytest.warns(InterpWarning, match="no token left"):
        fit(tmp_path, watch, epochs=2)
    assert watch.history == []


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(InputError, match="list of texts"):
        PromptCallback("the cat", tokenizer())
    with pytest.raises(InputError, match="2 outputs came for 1 prompts"):
        PromptCallback(["the cat"], tokenizer(), ["a", "b"])
