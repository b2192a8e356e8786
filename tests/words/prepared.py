"""What the code of documents and docstrings is run on: names prepared as a reader's session would have them.

`run` runs a piece of code and checks the results that it states: ``expression  # -> value``. A tensor is compared as a
list, numbers to four digits; what ends in ``...`` is the beginning of the result's text.
"""

from __future__ import annotations

import ast
import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = ("cat", "dog", "tabby")
SIZE = 24


def run(code: str, names: dict[str, Any], where: str = "<example>") -> None:
    """Run code in a namespace, which it may fill, and compare what it says with what comes out."""
    lines = code.splitlines()
    for statement in ast.parse(code, filename=where).body:
        _, arrow, stated = lines[(statement.end_lineno or 1) - 1].partition("# -> ")
        if not arrow:
            exec(compile(ast.Module([statement], []), where, "exec"), names)
            continue
        assert isinstance(statement, ast.Expr), f"{where}: only an expression has a result: {stated}"
        found = eval(compile(ast.Expression(statement.value), where, "eval"), names)
        check(found, stated.strip(), f"{where}: {ast.unparse(statement)}")


def check(found: Any, stated: str, where: str) -> None:
    """Fail where the result is another one than was stated."""
    if stated.endswith("..."):
        assert str(found).startswith(stated.removesuffix("...")), f"{where} gave {found}, not {stated}"
        return
    expected = ast.literal_eval(stated)
    found = found.tolist() if isinstance(found, torch.Tensor) else found
    if isinstance(found, (bool, str, torch.Size)) or (isinstance(found, list) and found and isinstance(found[0], str)):
        assert found == expected, f"{where} gave {found!r}, not {stated}"
    else:
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), 1e-4, 1e-6, err_msg=where)


def public(module: ModuleType) -> dict[str, Any]:
    """What `from module import *` brings."""
    names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
    return {name: getattr(module, name) for name in names if not name.startswith("_")}


def plain() -> dict[str, Any]:
    """A small convolutional net of ten classes and two pictures for it, beside the package's public names."""
    import interp_plugins as ip
    from interp_plugins import attr, metrics, viz
    from interp_plugins.core.target import Probability
    from interp_plugins.store import explain_dataset

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
    ).eval()
    x = torch.rand(2, 3, SIZE, SIZE)
    labels = torch.tensor([3, 1])
    dataset = TensorDataset(torch.rand(20, 3, SIZE, SIZE), torch.arange(20) % 10)
    return {
        **public(attr),
        **public(ip),
        **public(metrics),
        **public(viz),
        "torch": torch,
        "nn": nn,
        "ip": ip,
        "Probability": Probability,
        "explain_dataset": explain_dataset,
        "model": model,
        "x": x,
        "images": x,
        "labels": labels,
        "names": ["zero", "one", "two", "tabby", *"456789"],
        "dataset": dataset,
        "loader": DataLoader(dataset, batch_size=4),
        "exp": (exps := ip.explain(model, x, ("input_x_gradient", "saliency"), target=3))[0],
        "exps": exps,
    }


def three_hundred() -> dict[str, Any]:
    """As `plain`, with a class 281."""
    names = plain()
    names["model"][-1] = nn.Linear(16, 300).eval()
    return names


def features_and_classifier() -> dict[str, Any]:
    """As `plain`, with a model whose parts have the names that torchvision gives them."""
    names = plain()
    *body, head = names["model"]
    parts = OrderedDict(features=nn.Sequential(*body), classifier=head)
    return {**names, "model": nn.Sequential(parts).eval()}


def pictures(folder: Path) -> list[Path]:
    """Twelve pictures of three kinds, in a folder for each, and `cat.jpg` beside them."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(12):
        pixels = rng.integers(0, 130, (32, 32, 3), dtype=np.uint8)
        pixels[4:28, 4:28, i % 3] += 100
        made.append(folder / "pictures" / CLASSES[i % 3] / f"{i:02}.png")
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(made[-1])
    Image.open(made[0]).save(folder / "cat.jpg")
    return made


def with_fastai(folder: Path) -> dict[str, Any]:
    """A Learner of pictures and one of table rows, untrained, beside fastai's names."""
    pytest.importorskip("fastai")
    import fastai.callback.progress  # noqa: F401 - gives a Learner no_bar
    import fastai.tabular.all as tabular
    import fastai.vision.all as vision
    import pandas as pd

    import interp_plugins.fastai as adapter

    files = pictures(folder)
    dls = vision.ImageDataLoaders.from_folder(
        folder / "pictures",
        item_tfms=vision.Resize(SIZE),
        batch_tfms=vision.Normalize.from_stats(*vision.imagenet_stats, cuda=False),
        valid_pct=0.7,
        seed=1,
        bs=3,
        num_workers=0,
        device=torch.device("cpu"),
    )
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )
    learn = vision.Learner(dls, net, path=folder, loss_func=vision.CrossEntropyLossFlat())
    learn.remove_cb(vision.ProgressCallback)
    fit = learn.fit_one_cycle
    learn.fit_one_cycle = lambda epochs, *args, **kwargs: fit(1, *args, **kwargs)  # one epoch shows what five show
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"age": rng.normal(size=40), "income": rng.normal(size=40), "job": list("abcd") * 10})
    df["sold"] = np.where(df["age"] > 0, "yes", "no")
    rows = tabular.TabularDataLoaders.from_df(
        df,
        path=folder,
        procs=[tabular.Categorify, tabular.Normalize],
        cat_names=["job"],
        cont_names=["age", "income"],
        y_names="sold",
        valid_idx=list(range(8)),
        bs=8,
        device=torch.device("cpu"),
    )
    table = tabular.tabular_learner(rows, layers=[8])
    return {
        **public(vision),
        **plain(),
        **public(adapter),
        "learn": learn,
        "files": files,
        "items": files[:2],
        "dl": dls.valid,
        "df": df,
        "tabular_learn": table,
        "MySpectrogram": type("MySpectrogram", (vision.TensorImage,), {}),
    }


def with_lightning(folder: Path) -> dict[str, Any]:
    """A LightningModule of small pictures and a Trainer that is quiet, on one process of the CPU."""
    pl = pytest.importorskip("pytorch_lightning")
    from interp_plugins import lightning as adapter

    class Module(pl.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.body(x))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    @functools.wraps(pl.Trainer)
    def quiet(**kwargs: Any) -> Any:
        alone = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "max_epochs": 1, "default_root_dir": folder}
        silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        return pl.Trainer(**{**kwargs, **alone, **dict.fromkeys(silent, False)})

    names = {**plain(), **public(adapter), "tokenizer": with_language_model()["tokenizer"]}
    model = Module()
    return {**names, "model": model, "Trainer": quiet, "train_loader": names["loader"], "val_loader": names["loader"]}


def with_both(folder: Path) -> dict[str, Any]:
    """A Learner, and a LightningModule as `model`."""
    learner = with_fastai(folder)
    lightning = with_lightning(folder)
    own = {name: lightning[name] for name in ("AttributionWriter", "model", "Trainer", "train_loader", "val_loader")}
    return {**learner, **own}


def a_picture() -> dict[str, Any]:
    """As `plain`, with a picture and what brings it into the model's units."""
    from torchvision import transforms as T

    mean, std = [0.5, 0.4, 0.6], [0.2, 0.3, 0.25]
    transform = T.Compose([T.ToTensor(), T.Normalize(mean, std)])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    return {**plain(), "mean": mean, "std": std, "picture": picture, "transform": transform}


def front_page(folder: Path) -> dict[str, Any]:
    """As `with_both`, with a model of prices and one that reads, as the first page shows them."""
    import interp_plugins as ip

    prices = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    reader = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(16, 2))
    names = with_both(folder)
    Image.open(folder / "cat.jpg").save(folder / "coffee.jpg")
    return {
        **names,
        "prices": prices,
        "districts": torch.rand(2, 3),
        "reader": reader,
        "ids": torch.tensor([[1, 2, 3, 4]]),
        "tokens": [["The", "plot", "is", "dull"]],
        "spec": ip.InputSpec("text", vocab=("bad", "good")),
    }


def with_language_model() -> dict[str, Any]:
    """A small random Llama with a tokenizer of words and a chat template."""
    from tests.llm.language_models import WORDS, model, tokenizer

    words = f"{WORDS} The capital of France Italy Every day Alice walks Anna works at bakery. Where does work?"
    return {"model": model("llama", words), "tokenizer": tokenizer(words)}


AREAS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "plain": lambda _: plain(),
    "three hundred classes": lambda _: three_hundred(),
    "features and classifier": lambda _: features_and_classifier(),
    "fastai": with_fastai,
    "lightning": with_lightning,
    "both": with_both,
    "front page": front_page,
    "a picture": lambda _: a_picture(),
    "language model": lambda _: with_language_model(),
}
